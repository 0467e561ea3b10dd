"""What fine-tuning learns of a made-up task, what it keeps, and that it says so honestly."""

import dataclasses

import numpy as np
import pytest
import torch
from small_tasks import motif_task
from tiny_models import tiny_model

from spacescale.errors import UserError
from spacescale.parallel.engine import init_distributed, leave, resolve_deepspeed_config
from spacescale.tasks.scores import score
from spacescale.tuning.criterion import Criterion
from spacescale.tuning.fit import answers, fit, reader_of, readers_of
from spacescale.tuning.pretrained import PretrainedSpace
from spacescale.tuning.rows import Rows
from spacescale.tuning.run import Method, Plan, TaskRun
from spacescale.tuning.sequence_model import SequenceModel
from spacescale.tuning.settings import TuningSettings
from spacescale.tuning.space_trunk import SpaceTrunk
from spacescale.tuning.suite import DEEPSPEED
from spacescale.tuning.tuned_model import load_tuned, save_tuned

CPU = torch.device("cpu")
SETTINGS = TuningSettings(lr=3e-3, head_lr=3e-3, epochs=12, patience=0, batch_size=16)


@pytest.fixture(scope="module", autouse=True)
def process_group():
    init_distributed()


def learn(task, settings=SETTINGS, pool="max", layer="conv_tower.1"):
    torch.manual_seed(settings.seed)
    model = SequenceModel(SpaceTrunk(tiny_model(), "finch", layer, pool), len(task.outputs))
    config = resolve_deepspeed_config(DEEPSPEED, "a test", settings.batch_size)
    readers = readers_of(task, model, settings, CPU)
    return model, fit(model, task, readers, settings, config, CPU)


def answers_to(model, task, split="test", weigh=False):
    criterion = Criterion.of(task, weigh)
    return answers(model, reader_of(task, split, model, False), criterion, False, CPU)


@pytest.mark.parametrize(
    "kind, lengths", [("classes", (64, 64)), ("labels", (40, 70)), ("values", (64, 64))]
)
def test_a_motif_is_learnt_and_the_best_state_is_kept(kind, lengths, tmp_path):
    task = motif_task(kind, low=lengths[0], high=lengths[1])
    model, fitted = learn(task)
    assert [epoch.number for epoch in fitted.epochs] == list(range(1, 13))
    assert fitted.best.score == max(epoch.score for epoch in fitted.epochs)
    main = {"classes": "mcc", "labels": "auroc", "values": "pearson"}[kind]
    assert fitted.metric == main
    again = score(kind, task.splits["valid"].targets, answers_to(model, task, "valid"))[main]
    assert again == pytest.approx(fitted.best.score)
    found = answers_to(model, task)
    assert score(kind, task.splits["test"].targets, found)[main] > 0.6
    if kind == "values":
        assert 4 < found.mean() < 9

    folder = tmp_path / "tuned"
    encoding = reader_of(task, "test", model, False).encoding
    save_tuned(folder, model, Criterion.of(task, False), encoding, task, False, {})
    tuned = load_tuned(folder)
    assert tuned.outputs == task.outputs
    np.testing.assert_allclose(tuned.answers(task.splits["test"].codes), found, atol=1e-6)


def test_training_ends_without_a_better_score():
    settings = TuningSettings(mode="head", lr=1e-9, head_lr=1e-9, epochs=9, patience=2)
    _, fitted = learn(motif_task(sizes=(32, 16, 16)), settings)
    assert fitted.best.number == 1 and len(fitted.epochs) == 3


@pytest.mark.parametrize("strands", ["one", "both"])
def test_a_frozen_trunk_is_run_once_and_gives_the_same_head(strands, monkeypatch):
    task = motif_task(sizes=(64, 24, 24), low=40, high=70)
    settings = TuningSettings(mode="head", head_lr=1e-2, epochs=4, batch_size=16, strands=strands)
    calls, features = [], SequenceModel.features

    def counted(self, codes):
        calls.append(len(codes))
        return features(self, codes)

    monkeypatch.setattr(SequenceModel, "features", counted)
    once, fitted = learn(task, settings)
    strands_read = 2 if strands == "both" else 1
    assert sum(calls) == 112 * strands_read
    calls.clear()
    monkeypatch.setattr("spacescale.tuning.fit.KEPT_SHARE", 0)
    again, wanted = learn(task, settings)
    assert sum(calls) == 4 * (64 + 24 * strands_read)
    assert [e.score for e in fitted.epochs] == pytest.approx([e.score for e in wanted.epochs])
    torch.testing.assert_close(once.head.weight, again.head.weight, rtol=1e-4, atol=1e-5)


def test_seeds_rates_and_shares_have_the_features_of_the_same_weights(tmp_path, monkeypatch):
    settings = TuningSettings(mode="head", epochs=1, batch_size=16)
    pretrained = PretrainedSpace("tiny", tiny_model(), "digest", "finch", None)
    shares = (25.0, 100.0)
    plan = Plan(pretrained, settings, (1e-3, 1e-2), ("one",), (0, 1), ("random frozen",), shares)
    calls, features = [], SequenceModel.features
    monkeypatch.setattr(
        SequenceModel, "features", lambda self, x: calls.append(len(x)) or features(self, x)
    )
    config = resolve_deepspeed_config(DEEPSPEED, "a test", 16)
    rows = Rows(tmp_path)
    TaskRun(motif_task(sizes=(32, 16, 16)), plan, rows, config, CPU).run()
    assert sum(calls) == 64 * 3  # fresh weights differ between seeds
    assert [row.num["train"] for row in rows.rows] == [8, 32] * 4
    first, second = (rows.answers(row) for row in rows.of("random frozen", (0, 1)))
    assert not np.allclose(first, second)


def test_trying_strands_runs_a_frozen_trunk_three_or_four_times(tmp_path, monkeypatch):
    """As `plan --finetune head` says: one, both, and one again if that is chosen."""
    settings = TuningSettings(mode="head", epochs=1, batch_size=16)
    pretrained = PretrainedSpace("tiny", tiny_model(), "digest", "finch", None)
    plan = Plan(pretrained, settings, (1e-3, 1e-2), ("one", "both"), (0, 1, 2), ())
    calls, features = [], SequenceModel.features
    monkeypatch.setattr(
        SequenceModel, "features", lambda self, x: calls.append(len(x)) or features(self, x)
    )
    rows = Rows(tmp_path)
    config = resolve_deepspeed_config(DEEPSPEED, "a test", 16)
    TaskRun(motif_task(sizes=(32, 16, 16)), plan, rows, config, CPU).run()
    again = rows.rows[0].settings["strands"] == "one"
    assert sum(calls) == 64 * (3 + again)


def test_rare_classes_count_as_much_as_frequent_ones():
    task = motif_task()
    targets = task.splits["train"].targets.copy()
    targets[:160] = 0
    task.splits["train"] = type(task.splits["train"])(
        task.splits["train"].codes, targets, task.splits["train"].names
    )
    weighted = Criterion.of(task, True)
    of_class = [weighted.weight(targets[targets == c]) for c in (0, 1)]
    assert of_class[0] == pytest.approx(of_class[1])
    outputs = torch.randn(192, 2)
    expected = torch.nn.functional.cross_entropy(
        outputs, torch.from_numpy(targets), weighted.class_weights
    )
    mean = weighted.total(outputs, targets) / weighted.weight(targets)
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_what_is_not_known_counts_nothing(kind):
    task = motif_task(kind)
    targets = task.splits["train"].targets
    criterion = Criterion.of(task, False)
    outputs = torch.randn(*targets.shape, requires_grad=True)
    criterion.total(outputs, targets).backward()
    assert outputs.grad is not None
    np.testing.assert_array_equal(outputs.grad.numpy() == 0, np.isnan(targets))
    assert criterion.weight(targets) == (~np.isnan(targets)).sum()


def test_a_loss_that_is_not_finite_ends_it():
    settings = TuningSettings(lr=1e30, head_lr=1e30, epochs=2, batch_size=16)
    with pytest.raises(UserError, match="epoch 1: the loss is not finite; take a lower"):
        learn(motif_task(sizes=(64, 16, 16)), settings)


@pytest.mark.parametrize(
    ("mode", "rates", "different"),
    [
        ("full", (3e-5, 3e-4), (3e-5, 3e-4)),
        ("head", (3e-5, 3e-4), (3e-5,)),  # the last layer learns at 1e-3 with both
        ("head", (3e-4, 1e-2, 3e-3, 1e-3), (3e-4, 1e-2, 3e-3)),
    ],
)
def test_rates_that_train_alike_are_tried_once(mode, rates, different):
    method = Method("m", "random", TuningSettings(mode=mode, head_lr=1e-3))
    assert method.different(rates) == different


def test_a_run_learns_in_a_process_that_another_has_left_its_group():
    task = motif_task()
    learn(task, dataclasses.replace(SETTINGS, epochs=1))
    leave()
    init_distributed()
    _, fitted = learn(task, dataclasses.replace(SETTINGS, epochs=1))
    assert len(fitted.epochs) == 1
