"""The networks of the paper, and how they are learnt."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from small_tasks import motif_task
from torch import nn

from spacescale.probing import fit as fitting
from spacescale.probing.features import OneHot, Vectors
from spacescale.probing.fit import SplicingLoss, fit_head, fit_ridge
from spacescale.probing.heads import HEADS_OF, Recipe, cnn, mlp, residual_bind

CPU = torch.device("cpu")


def layers(network, kind):
    return [module for module in network.modules() if isinstance(module, kind)]


def convolutions(network):
    return [(c.out_channels, c.kernel_size[0]) for c in layers(network, nn.Conv1d)]


def widths(network):
    return [layer.out_features for layer in layers(network, nn.Linear)]


AS_PUBLISHED = [
    ("lentimpra", True, [(196, 1), (196, 7), (256, 7)], [512, 256, 3], (1e-4, 64, 100)),
    ("lentimpra", False, [(196, 7), (256, 7)], [512, 256, 3], (1e-3, 128, 100)),
    ("chip", True, [(512, 1), (64, 7), (96, 5), (128, 5)], [256, 3], (1e-3, 256, 100)),
    ("chip", False, [(64, 7), (96, 5), (128, 5)], [256, 3], (1e-3, 256, 100)),
    ("splicing", True, [(128, 7), (128, 7), (164, 5), (256, 5)], [256, 256, 3], (1e-3, 256, 100)),
    ("insertseq", True, [(48, 1), (96, 19), *[(96, 3)] * 3, (128, 7)], [128, 3], (1e-4, 128, 200)),
    ("insertseq", False, [(96, 19), *[(96, 3)] * 3, (128, 7)], [128, 3], (1e-3, 128, 200)),
]


@pytest.mark.parametrize("of, embedded, convs, dense, learning", AS_PUBLISHED)
def test_networks_are_as_published(of, embedded, convs, dense, learning):
    recipe = cnn(of, embedded)
    network = recipe.build((12, 230), 3)
    assert convolutions(network) == convs and widths(network) == dense
    assert (recipe.lr, recipe.batch_size, recipe.epochs) == learning


def test_residual_bind_is_as_published():
    network = residual_bind().build((4, 230), 1)
    assert convolutions(network) == [(196, 19), *[(196, 3)] * 6, (256, 7), (256, 1)]
    dilations = [c.dilation[0] for c in layers(network, nn.Conv1d)]
    assert dilations == [1, 1, 1, 2, 4, 8, 16, 1, 1]
    assert layers(network, nn.Linear)[0].in_features == 4 * 256  # 230 // 5 // 5 // 2


def test_mlp_is_as_published():
    assert widths(mlp("chip").build((7,), 2)) == [512, 256, 2]
    assert [mlp(of).lr for of in HEADS_OF] == [1e-4, 1e-3, 1e-3, 1e-4]


@pytest.mark.parametrize("positions", [1, 2, 3, 7, 230])
@pytest.mark.parametrize("of", HEADS_OF)
def test_few_positions_are_enough(of, positions):
    network = cnn(of, True).build((12, positions), 3).train()
    assert network(torch.randn(4, 12, positions)).shape == (4, 3)
    assert residual_bind().build((4, positions), 3)(torch.randn(4, 4, positions)).shape == (4, 3)


def test_each_half_of_a_splicing_sequence_has_its_own_tower():
    network = cnn("splicing", False).build((4, 80), 2).eval()
    x = torch.zeros(1, 4, 80)
    with torch.no_grad():
        network.left[0].weight.zero_()
        before, x[..., :40] = network(x), 1.0
        assert torch.equal(network(x), before)
        x[..., 40:] = 1.0
        assert not torch.equal(network(x), before)


def test_loss_of_splicing_is_the_divergence_of_shares():
    targets = np.array([[[1.0, -0.5], [np.nan, 0.2]]], dtype=np.float32)
    loss, outputs = SplicingLoss(), torch.tensor([[0.3, 9.0]])
    p, q = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.2))
    wanted = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert loss.weight(targets) == 1
    assert float(loss.total(outputs, targets)) == pytest.approx(wanted, rel=1e-4)
    assert float(loss.total(torch.tensor([[1.0, 0.0]]), targets)) == pytest.approx(0, abs=1e-6)


def bases(task):
    return {split: OneHot(found, 64) for split, found in task.splits.items()}


def test_a_network_learns_a_motif_and_its_best_epoch_is_kept():
    torch.set_num_threads(1)
    task = motif_task("classes", (192, 64, 64))
    inputs = bases(task)
    fitted = fit_head(task, inputs, cnn("chip", False), 0, "mcc", CPU)
    found = fitted.answers(inputs["test"], 64)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert fitted.valid > 0.8 and (found.argmax(1) == task.splits["test"].targets).mean() > 0.85
    done, best = fitted.settings["epochs_done"], fitted.settings["best_epoch"]
    assert done == min(best + fitting.PATIENCE, 100)


def linear(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], outputs))


def test_training_ends_without_gain_and_the_rate_falls_before(monkeypatch):
    task = motif_task("values", (32, 16, 16))
    losses = iter([3.0, 2.0, *[2.5] * 50])
    rates = []

    def mean_loss(network, *_):
        rates.append(optimizers[0].param_groups[0]["lr"])
        return next(losses)

    optimizers, adam = [], torch.optim.Adam
    monkeypatch.setattr(
        torch.optim, "Adam", lambda *a, **k: optimizers.append(adam(*a, **k)) or optimizers[-1]
    )
    monkeypatch.setattr(fitting, "_mean_loss", mean_loss)
    fitted = fit_head(task, bases(task), Recipe(linear, 1e-2, 16), 0, "pearson", CPU)
    assert fitted.settings["best_epoch"] == 2 and fitted.settings["epochs_done"] == 12
    np.testing.assert_allclose(rates, [1e-2] * 7 + [2e-3] * 5)  # 5 epochs without gain


def test_a_seed_gives_the_same_answers():
    task = motif_task("values", (48, 16, 16))
    inputs, recipe = bases(task), Recipe(linear, 1e-2, 16, 3)
    first, same, other = (
        fit_head(task, inputs, recipe, seed, "pearson", CPU).answers(inputs["test"], 16)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def vectors(task, seed=0):
    random = np.random.default_rng(seed)
    return {
        s: Vectors(random.normal(size=(len(e), 5)).astype("f4")) for s, e in task.splits.items()
    }


def test_ridge_is_that_of_scikit_learn():
    task = motif_task("values")
    found, inputs = fit_ridge(task, vectors(task), "pearson", CPU), vectors(task)
    targets = task.splits["train"].targets
    for column in range(2):
        known = ~np.isnan(targets[:, column])
        model = Ridge(1e-3).fit(inputs["train"].values[known], targets[known, column])
        wanted = model.predict(inputs["test"].values)
        np.testing.assert_allclose(found.answers(inputs["test"], 64)[:, column], wanted, rtol=1e-3)


def test_of_classes_it_is_logistic_regression():
    task = motif_task("classes")
    inputs = vectors(task)
    found = fit_ridge(task, inputs, "mcc", CPU).answers(inputs["test"], 64)
    model = LogisticRegression().fit(inputs["train"].values, task.splits["train"].targets)
    np.testing.assert_allclose(found, model.predict_proba(inputs["test"].values), atol=2e-3)
