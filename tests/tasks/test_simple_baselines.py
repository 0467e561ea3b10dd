"""Baselines that take seconds find what they can see, and nothing where there is nothing."""

import time

import numpy as np
import pytest
from made_up_tasks import examples_of, motif_task, random_sequences, task_of

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.tasks import simple_baselines
from spacescale.tasks.linear import PENALTIES, fit_linear
from spacescale.tasks.scores import score, score_outputs
from spacescale.tasks.simple_baselines import (
    LONGEST_WORD,
    fit_kmers,
    fit_length_and_gc,
    fit_majority,
    length_and_gc,
    word_frequencies,
)

SIZES = {"train": 300, "valid": 150, "test": 150}


def task_by(make, kind="classes", outputs=("no", "yes")):
    """Splits of what `make` gives for a generator and a size."""
    random = np.random.default_rng(0)
    splits = {name: examples_of(*make(random, size)) for name, size in SIZES.items()}
    return task_of(kind, splits, outputs)


def two_groups(random, size, first, second):
    """Half the sequences as one set of arguments of random_sequences says, half as the other."""
    codes = random_sequences(random, size // 2, **first)
    codes += random_sequences(random, size - size // 2, **second)
    targets = np.arange(size) >= size // 2
    return codes, targets.astype(np.int64)


def of_lengths(random, size):
    return two_groups(random, size, {"low": 40, "high": 60}, {"low": 61, "high": 90})


def of_gc(random, size):
    return two_groups(random, size, {"gc": 0.4}, {"gc": 0.6})


def on_test(fitted, task):
    test = task.splits["test"]
    return score(task.kind, test.targets, fitted.predict(test))


def test_the_majority_is_predicted_for_all():
    task = task_by(lambda random, size: (random_sequences(random, size), np.arange(size) % 3 // 2))
    fitted = fit_majority(task)
    predictions = fitted.predict(task.splits["test"])
    np.testing.assert_allclose(predictions, np.tile([2 / 3, 1 / 3], (SIZES["test"], 1)))
    assert on_test(fitted, task)["mcc"] == 0 == fitted.valid_score


def test_the_mean_is_over_what_is_known():
    targets = np.array([[1, np.nan], [3, np.nan]], dtype=np.float32)
    split = examples_of([dna.encode("ACGT")] * 2, targets)
    fitted = fit_majority(task_of("values", {"train": split, "valid": split}, ("a", "b")))
    assert fitted.predict(split).tolist() == [[2, 0], [2, 0]]


def test_length_and_gc_by_hand():
    split = examples_of([dna.encode("GGCA"), dna.encode("NNAT")], [0, 1])
    expected = [[4, np.log(5), 0.75, 0.5625], [4, np.log(5), 0, 0]]
    np.testing.assert_allclose(length_and_gc(split), expected)


@pytest.mark.parametrize("make", [of_lengths, of_gc])
def test_length_or_gc_alone_are_found(make):
    task = task_by(make)
    fitted = fit_length_and_gc(task)
    assert on_test(fitted, task)["auroc"] > 0.9
    assert np.allclose(fitted.predict(task.splits["test"]).sum(1), 1)


def test_values_and_labels_that_are_partly_known():
    def numbers(random, size):
        codes = random_sequences(random, size, gc=0.5)
        gc = np.array([np.isin(c, (dna.G, dna.C)).mean() for c in codes])
        targets = np.stack([10 * gc, -gc, random.normal(size=size)], axis=1).astype(np.float32)
        targets[::4, 0] = np.nan
        return codes, targets

    def labels(random, size):
        codes, targets = numbers(random, size)
        limits = [5, -0.5, 0]
        return codes, np.where(np.isnan(targets), np.nan, targets > limits).astype(np.float32)

    for kind, make, metric in (("values", numbers, "pearson"), ("labels", labels, "auroc")):
        task = task_by(make, kind, ("gc", "at", "noise"))
        for fit in (fit_length_and_gc, fit_kmers):
            test = task.splits["test"]
            predictions = fit(task).predict(test)
            found = score_outputs(kind, test.targets, predictions, metric)
            assert (found[:2] > 0.9).all() and found[2] < 0.7


def test_labels_that_never_differ_or_are_not_known_are_predicted_alike():
    def make(random, size):
        codes = random_sequences(random, size)
        targets = np.stack([np.zeros(size), np.full(size, np.nan)], axis=1)
        return codes, targets.astype(np.float32)

    task = task_by(make, "labels", ("never", "unknown"))
    predictions = fit_length_and_gc(task).predict(task.splits["test"])
    assert (predictions == predictions[0]).all()
    assert predictions[0, 0] < 0.01 and predictions[0, 1] == 0.5


@pytest.mark.parametrize("present", [(0, 2), (1,)])
def test_classes_that_do_not_occur_in_training_are_never_predicted(present):
    def make(random, size):
        return random_sequences(random, size), np.array(present)[np.arange(size) % len(present)]

    task = task_by(make, outputs=("a", "b", "c"))
    predictions = fit_length_and_gc(task).predict(task.splits["test"])
    assert predictions.shape == (SIZES["test"], 3)
    absent = [c for c in range(3) if c not in present]
    assert (predictions[:, absent] < 1e-12).all()


def test_words_are_shares_of_their_length_and_those_with_n_do_not_count():
    split = examples_of([dna.encode("ACACN"), dna.encode("T")], [0, 1])
    found = word_frequencies(split).toarray()
    assert found.shape == (2, sum(4**k for k in range(1, LONGEST_WORD + 1)))
    assert found[0, :4].tolist() == [0.5, 0.5, 0, 0]
    ac, ca = 4 + 1, 4 + 4
    assert found[0, [ac, ca]] == pytest.approx([2 / 3, 1 / 3])
    assert found[1].nonzero()[0].tolist() == [3]


def test_on_both_strands_a_sequence_and_its_reverse_complement_are_one():
    codes = random_sequences(np.random.default_rng(1), 1)[0]
    split = examples_of([codes, dna.reverse_complement(codes)], [0, 1])
    one, other = word_frequencies(split, both_strands=True).toarray()
    np.testing.assert_array_equal(one, other)
    one, other = word_frequencies(split).toarray()
    assert (one != other).any()


def test_words_find_a_motif():
    task = motif_task()
    assert on_test(fit_kmers(task), task)["auroc"] > 0.8
    assert abs(on_test(fit_length_and_gc(task), task)["mcc"]) < 0.25


def test_shuffled_labels_are_not_predicted():
    task = motif_task(shuffled=True)
    for fit in (fit_kmers, fit_length_and_gc):
        assert abs(on_test(fit(task), task)["mcc"]) < 0.25


def test_validation_chooses_the_strands():
    def strand_matters(random, size):
        targets = random.integers(2, size=size)
        codes = [random.choice(4, size=60, p=[0.35, 0.15, 0.15, 0.35]) for _ in targets]
        for one, target in zip(codes, targets, strict=True):
            motif = dna.encode("GGGGG")
            one[10:15] = motif if target else dna.reverse_complement(motif)
        return [one.astype(np.uint8) for one in codes], targets

    def either_strand(random, size):
        targets = random.integers(2, size=size)
        codes = random_sequences(random, size)
        for one, target in zip(codes, targets, strict=True):
            if target:
                one[10:16] = dna.encode("TGACCT")
        return [dna.reverse_complement(c) if random.integers(2) else c for c in codes], targets

    assert "one strand" in fit_kmers(task_by(strand_matters)).settings
    assert "both strands" in fit_kmers(task_by(either_strand)).settings


def test_penalties_are_chosen_on_validation():
    random = np.random.default_rng(2)
    features, targets = random.normal(size=(60, 40)), random.integers(2, size=60)
    # What fits training best is best where validation is training, and useless elsewhere.
    same = fit_linear("classes", 2, (features, targets), (features, targets), "mcc")
    assert same.penalty < 0.1 and same.score > 0.9
    turned = fit_linear("classes", 2, (features, targets), (features, 1 - targets), "mcc")
    assert turned.score < -0.5 or turned.penalty == PENALTIES[0]


def test_of_many_bases_some_are_drawn_by_the_seed(monkeypatch):
    task = motif_task()
    monkeypatch.setattr(simple_baselines, "MOST_BASES", 20_000)
    fitted = fit_kmers(task, seed=1)
    number = int(fitted.settings.split(",")[-1].split()[0])
    assert 250 < number < 450 and "of 600 training sequences" in fitted.settings
    test = task.splits["test"]
    np.testing.assert_array_equal(fitted.predict(test), fit_kmers(task, seed=1).predict(test))
    assert (fitted.predict(test) != fit_kmers(task, seed=2).predict(test)).any()


def test_another_metric_is_checked_and_reported():
    task = motif_task(sizes=(200, 100, 100))
    valid = task.splits["valid"]
    fitted = fit_length_and_gc(task, metric="auroc")
    found = score("classes", valid.targets, fitted.predict(valid))["auroc"]
    assert fitted.valid_score == pytest.approx(found)
    with pytest.raises(UserError, match="metric 'r2'"):
        fit_length_and_gc(task, metric="r2")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_missing_split_is_named(split):
    task = motif_task(sizes=(20, 20, 20))
    del task.splits[split]
    for fit in (fit_majority, fit_length_and_gc, fit_kmers):
        with pytest.raises(UserError, match=f"made_up: .*no sequences of split {split}"):
            fit(task)


def test_thousands_of_sequences_take_seconds():
    task = motif_task(sizes=(4000, 500, 500))
    began = time.process_time()
    fit_kmers(task)
    assert time.process_time() - began < 20
