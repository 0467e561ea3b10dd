"""Scores of tasks are scikit-learn's and scipy's, and say where there is nothing to score."""

import sys

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from spacescale.errors import UserError
from spacescale.tasks.scores import (
    METRICS,
    main_metric,
    main_score,
    probabilities,
    remarks,
    score,
    score_outputs,
)


def some_classes(classes, size=200, seed=0):
    random = np.random.default_rng(seed)
    targets = random.integers(classes, size=size)
    predictions = random.normal(size=(size, classes))
    predictions[np.arange(size), targets] += 1
    return targets, predictions


def test_two_classes():
    targets, logits = some_classes(2)
    found, decided, odds = score("classes", targets, logits), logits.argmax(1), logits @ [-1, 1]
    assert found == {
        "mcc": pytest.approx(metrics.matthews_corrcoef(targets, decided)),
        "macro_f1": pytest.approx(metrics.f1_score(targets, decided, average="macro")),
        "accuracy": pytest.approx((targets == decided).mean()),
        "auroc": pytest.approx(metrics.roc_auc_score(targets, odds)),
        "auprc": pytest.approx(metrics.average_precision_score(targets, odds)),
        "constant": 0,
        "undefined": 0,
    }
    assert remarks("classes", targets, logits, ("no", "yes")) == []


def test_by_hand():
    targets = np.array([0, 0, 0, 1, 1, 1])
    decided = np.array([0, 0, 1, 1, 1, 0])
    found = score("classes", targets, np.eye(2)[decided])
    assert found["mcc"] == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert found["accuracy"] == pytest.approx(4 / 6)


def test_more_classes_are_ranked_each_against_the_rest():
    targets, logits = some_classes(4)
    chances = probabilities(logits)
    found = score("classes", targets, logits)
    assert found["auroc"] == pytest.approx(
        metrics.roc_auc_score(targets, chances, multi_class="ovr", average="macro")
    )
    assert found["auprc"] == pytest.approx(
        metrics.average_precision_score(np.eye(4)[targets], chances, average="macro")
    )
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(targets, logits.argmax(1)))
    assert score("classes", targets, chances) == pytest.approx(found)


def test_probabilities_are_taken_as_they_are_and_logits_are_not():
    chances = np.array([[0.25, 0.75], [1.0, 0.0]])
    assert (probabilities(chances) == chances).all()
    assert probabilities(np.array([[0.0, np.log(3)]])) == pytest.approx(np.array([[0.25, 0.75]]))


def test_labels_that_are_not_known_do_not_count():
    random = np.random.default_rng(1)
    targets = (random.random((150, 2)) < 0.4).astype(np.float32)
    predictions = random.normal(size=(150, 2)) + targets
    targets[::3, 1] = np.nan
    known = ~np.isnan(targets[:, 1])
    expected = [
        metrics.roc_auc_score(targets[:, 0], predictions[:, 0]),
        metrics.roc_auc_score(targets[known, 1], predictions[known, 1]),
    ]
    assert score_outputs("labels", targets, predictions, "auroc") == pytest.approx(expected)
    assert score("labels", targets, predictions)["auroc"] == pytest.approx(np.mean(expected))


def test_values():
    random = np.random.default_rng(2)
    targets = random.normal(size=(80, 2)).astype(np.float32)
    predictions = np.exp(random.normal(size=(80, 2)) + targets)
    targets[5:20, 0] = np.nan
    known = ~np.isnan(targets[:, 0])
    pairs = (targets[known, 0], predictions[known, 0]), (targets[:, 1], predictions[:, 1])
    found = score("values", targets, predictions)
    assert found["pearson"] == pytest.approx(np.mean([stats.pearsonr(*p)[0] for p in pairs]))
    assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(*p)[0] for p in pairs]))


def test_one_decision_for_all_is_told():
    targets = np.array([0, 1, 0, 1])
    predictions = np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    found = score("classes", targets, predictions)
    assert (found["mcc"], found["constant"], found["undefined"]) == (0, 1, 0)
    assert found["auroc"] == 0.75  # ranks are still there
    (remark,) = remarks("classes", targets, predictions, ("enhancer", "promoter"))
    assert "promoter" in remark and "MCC is 0" in remark


def test_one_class_alone_in_the_test_set_is_told():
    targets, predictions = np.zeros(4, dtype=np.int64), some_classes(2, 4)[1]
    found = score("classes", targets, predictions)
    assert np.isnan(found["auroc"]) and found["mcc"] == 0 and found["undefined"] == 1
    assert any(
        "auroc and auprc are not defined for yes" in remark
        for remark in remarks("classes", targets, predictions, ("no", "yes"))
    )


def test_a_class_that_does_not_occur_is_left_out_and_named():
    targets, predictions = some_classes(3)
    targets[targets == 2] = 0
    found = score("classes", targets, predictions)
    chances = probabilities(predictions)
    of_two = [metrics.roc_auc_score(targets == c, chances[:, c]) for c in (0, 1)]
    assert found["auroc"] == pytest.approx(np.mean(of_two)) and found["undefined"] == 1
    assert "not defined for c" in remarks("classes", targets, predictions, "abc")[0]


def test_constant_predictions_of_values_count_as_no_correlation_and_are_named():
    random = np.random.default_rng(3)
    targets, predictions = random.normal(size=(2, 30, 2)).astype(np.float32)
    targets[20:, 0] = np.nan
    predictions[:20, 0] = 7  # what is said of unknown ones does not matter
    found = score("values", targets, predictions)
    other = stats.pearsonr(targets[:, 1], predictions[:, 1])[0]
    assert found["pearson"] == pytest.approx(other / 2)
    assert (found["constant"], found["undefined"]) == (1, 0)
    (remark,) = remarks("values", targets, predictions, ("HepG2", "K562"))
    assert "the same is predicted" in remark and "HepG2" in remark and "K562" not in remark


def test_constant_values_are_left_out_and_named():
    random = np.random.default_rng(4)
    targets, predictions = random.normal(size=(2, 30, 2)).astype(np.float32)
    targets[:, 0] = 7
    found = score("values", targets, predictions)
    assert found["pearson"] == pytest.approx(stats.pearsonr(targets[:, 1], predictions[:, 1])[0])
    assert (found["constant"], found["undefined"]) == (0, 1)
    (remark,) = remarks("values", targets, predictions, ("HepG2", "K562"))
    assert "pearson and spearman are not defined for HepG2" in remark
    nothing = score("values", targets[:, :1], predictions[:, :1])
    assert np.isnan(nothing["pearson"]) and nothing["undefined"] == 1
    assert main_score("values", targets[:, :1], predictions[:, :1], "pearson") == 0


def test_the_main_metric_is_the_kinds_first_or_another_of_it():
    assert [main_metric(kind) for kind in METRICS] == ["mcc", "auroc", "pearson"]
    assert main_metric("classes", "macro_f1") == "macro_f1"
    with pytest.raises(UserError, match=r"'pearson'.*tasks of classes are scored by mcc"):
        main_metric("classes", "pearson")


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (np.zeros((3, 2)), r"predictions of shape \(3, 2\)"),
        (np.zeros((4, 2)), "class 2 occurs"),
        (np.full((4, 3), np.nan), "prediction 1 is .*finite"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predictions, message):
    with pytest.raises(UserError, match=message):
        score("classes", np.array([0, 1, 2, 0]), predictions)


def test_no_sequences_are_refused():
    with pytest.raises(UserError, match="no sequences"):
        score("classes", np.zeros(0, dtype=np.int64), np.zeros((0, 2)))


def test_without_scikit_learn_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"sklearn.*pip install 'spacescale\[tasks\]'"):
        score("classes", *some_classes(2))
