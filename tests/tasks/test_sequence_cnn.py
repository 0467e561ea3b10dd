"""The plain network of tasks: no padding shows, seeds decide all, planted signals are found."""

import time

import numpy as np
import pytest
import torch
from made_up_tasks import MOTIF, examples_of, motif_task, planted, random_sequences, task_of

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.tasks import cnn
from spacescale.tasks.cnn import SequenceCnn, fit_cnn
from spacescale.tasks.scores import score, score_outputs


@pytest.fixture(autouse=True)
def small_and_in_one_thread(monkeypatch):
    monkeypatch.setattr(cnn, "CHANNELS", (32, 32, 32))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def padded(codes, to):
    lengths = torch.tensor([len(one) for one in codes])
    out = torch.full((len(codes), to), dna.N, dtype=torch.uint8)
    for row, one in zip(out, codes, strict=True):
        row[: len(one)] = torch.from_numpy(one)
    return out, lengths


@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(training):
    torch.manual_seed(0)
    model = SequenceCnn(3).train(training)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
        if isinstance(part, torch.nn.BatchNorm1d):  # a shift lifts padding, were it not masked
            torch.nn.init.normal_(part.bias)
    codes = random_sequences(np.random.default_rng(0), 6, low=1, high=60)
    lengths = max(len(one) for one in codes)
    outputs = [model(*padded(codes, to)) for to in (lengths, lengths + 1, lengths + 40)]
    for other in outputs[1:]:
        torch.testing.assert_close(outputs[0], other, atol=1e-5, rtol=1e-5)
    assert outputs[0].std(0).min() > 1e-4


def test_sequences_of_one_length_are_computed_as_among_others():
    torch.manual_seed(0)
    model = SequenceCnn(2).eval()
    codes = random_sequences(np.random.default_rng(1), 5, low=30, high=60)
    together = model(*padded(codes, 60))
    for row, one in zip(together, codes, strict=True):
        alone = model(*padded([one], len(one)))[0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)


def test_predictions_come_in_the_order_of_the_sequences(monkeypatch):
    task = motif_task(sizes=(64, 32, 50))
    fitted, test = fit_cnn(task, epochs=1), task.splits["test"]
    predictions = fitted.predict(test)
    assert predictions.shape == (50, 2) and predictions.dtype == np.float64
    np.testing.assert_allclose(predictions.sum(1), 1)
    monkeypatch.setattr(cnn, "PREDICTED_AT_ONCE", 7)
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(fitted.predict(test.take(order)), predictions[order], atol=1e-5)


def test_a_seed_gives_the_same_bits():
    task = motif_task(sizes=(96, 32, 32))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (fit_cnn(task, seed, epochs=2) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (fitted.predict(task.splits["test"]) for fitted in (one, same, other))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.long
def test_few_sequences_are_read_until_they_are_learnt():
    assert [cnn.passes_of(n, 300) for n in (49, 640, 1920, 5000)] == [30, 3, 1, 1]
    task = motif_task(sizes=(96, 200, 300))
    few, more = (
        score("classes", task.splits["test"].targets, one.predict(task.splits["test"]))["mcc"]
        for one in (fit_cnn(task, epochs=4), fit_cnn(task, epochs=4, passes=15))
    )
    assert few < 0.2 and more > 0.4


@pytest.mark.long
def test_a_motif_is_found_and_shuffled_labels_are_not():
    began = time.process_time()
    for shuffled in (False, True):
        task = motif_task(sizes=(800, 300, 300), shuffled=shuffled)
        test = task.splits["test"]
        found = score("classes", test.targets, fit_cnn(task, epochs=5).predict(test))["mcc"]
        assert abs(found) < 0.2 if shuffled else found > 0.9
    assert time.process_time() - began < 40


def copies_task(kind, seed=0):
    """Outputs: how often one motif and another are there, and noise; some of it not known."""
    random = np.random.default_rng(seed)
    other = dna.encode("CCGGAAGT")

    def split(number):
        codes, counts = random_sequences(random, number), random.integers(2, size=(number, 2))
        for i, row in enumerate(counts):
            for motif, count in zip((MOTIF, other), row, strict=True):
                codes[i] = planted(random, codes[i], motif) if count else codes[i]
        noise = random.integers(2, size=(number, 1))
        targets = np.concatenate([counts, noise], axis=1).astype(np.float32)
        if kind == "values":
            targets = targets * [100, -0.01, 1] + [1000, 0, 0]
        targets[random.random(targets.shape) < 0.3] = np.nan
        return examples_of(codes, targets.astype(np.float32))

    splits = dict(zip(("train", "valid", "test"), map(split, (800, 250, 250)), strict=True))
    return task_of(kind, splits, ("one", "other", "noise"))


@pytest.mark.long
@pytest.mark.parametrize(("kind", "metric"), [("labels", "auroc"), ("values", "pearson")])
def test_labels_and_values_that_are_partly_known(kind, metric):
    task = copies_task(kind)
    fitted, test = fit_cnn(task, epochs=12), task.splits["test"]
    predictions = fitted.predict(test)
    found = score_outputs(kind, test.targets, predictions, metric)
    assert (found[:2] > 0.7).all() and found[2] < 0.65
    mean = np.nanmean(test.targets, axis=0)
    spread = np.nanstd(test.targets, axis=0)
    assert (np.abs(predictions.mean(0) - mean) < 0.5 * spread).all()


@pytest.mark.parametrize(
    ("scores", "best", "settings"),
    [
        ([0.1, 0.7, 0.3, 0.2, 0.7, 0.6], 1, "one strand, epoch 2 of 3, seed 0"),
        ([0.1, 0.7, 0.3, 0.2, 0.4, 0.8], 5, "both strands, epoch 3 of 3, seed 0"),
    ],
)
def test_the_best_epoch_and_strands_are_kept(monkeypatch, scores, best, settings):
    task, seen = motif_task(sizes=(64, 32, 32)), []

    def scored(kind, targets, predictions, metric):
        seen.append(predictions)
        return scores[len(seen) - 1]

    monkeypatch.setattr(cnn, "main_score", scored)
    fitted = fit_cnn(task, epochs=3)
    assert (fitted.settings, fitted.valid_score) == (settings, scores[best])
    np.testing.assert_array_equal(fitted.predict(task.splits["valid"]), seen[best])
    assert all((seen[best] != other).any() for i, other in enumerate(seen) if i != best)


def test_of_both_strands_a_reverse_complement_is_predicted_alike():
    torch.manual_seed(0)
    codes = random_sequences(np.random.default_rng(2), 5)
    turned = examples_of([dna.reverse_complement(one) for one in codes], np.zeros(5, dtype=int))
    for both in (False, True):
        answers = cnn._Answers.of("classes", turned.targets)
        network = cnn._Network(SequenceCnn(2), answers, both)
        one, other = (network.predict(x) for x in (examples_of(codes, turned.targets), turned))
        assert np.allclose(one, other, atol=1e-6) == both


def test_a_missing_split_and_an_unknown_metric_are_named():
    task = motif_task(sizes=(20, 20, 20))
    with pytest.raises(UserError, match="metric 'pearson'"):
        fit_cnn(task, metric="pearson")
    del task.splits["valid"]
    with pytest.raises(UserError, match="no sequences of split valid"):
        fit_cnn(task)
