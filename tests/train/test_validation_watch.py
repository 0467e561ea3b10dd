import math

import pytest

from spacescale.config import RunConfig
from spacescale.objectives import ProfilesObjective
from spacescale.train.interval_losses import LossSum
from spacescale.train.validation_watch import ValidationWatch

LOSS, PEARSON = "valid/loss/finch", "valid/pearson_log1p"


def same_loss(species: str) -> bool:
    return True


def watch_of(**run) -> ValidationWatch:
    return ValidationWatch(RunConfig(**run), ProfilesObjective.score)


def validate(watch: ValidationWatch, valid: float, train: float = 1.0, **others) -> list[str]:
    """One validation of a species; what is said. others: scores."""
    scores = {LOSS: valid, **others}
    watch.gaps(scores, {"finch": LossSum(4 * train, 4.0, 4)}, same_loss)
    watch.note(scores)
    return watch.lines(20, scores)


@pytest.mark.parametrize(
    "metric, scores, best",
    [
        (PEARSON, [0.1, 0.3, 0.3, 0.2, math.nan, 0.4], [True, True, False, False, False, True]),
        (LOSS, [0.5, 0.3, 0.3, 0.4, -0.1, math.nan], [True, True, False, False, True, False]),
    ],
)
def test_the_best_is_higher_of_a_correlation_and_lower_of_a_loss(metric, scores, best):
    watch = watch_of(best_metric=metric)
    assert [watch.note({metric: score}) for score in scores] == best


def test_patience_counts_validations_since_the_best_and_survives_a_resume():
    run = RunConfig(patience=2)
    watch = ValidationWatch(run, ProfilesObjective.score)
    for score in (math.nan, math.nan, math.nan, 0.3, 0.2, 0.4, 0.4):
        watch.note({PEARSON: score})
        assert watch.early_stop is None
    resumed = ValidationWatch(run, ProfilesObjective.score)
    resumed.restore(watch.state(), watch.best_score)
    resumed.note({PEARSON: math.nan})
    assert resumed.early_stop == (
        "valid/pearson_log1p was not better than 0.4 in 2 validations (run.patience=2)"
    )
    without = watch_of()
    without.restore(resumed.state(), resumed.best_score)
    assert without.early_stop is None


def test_another_metric_begins_its_count_anew():
    watch = watch_of(patience=1)
    watch.note({PEARSON: 0.5})
    watch.note({PEARSON: 0.4})
    other = watch_of(patience=1, best_metric=LOSS)
    other.restore(watch.state(), None)
    assert other.early_stop is None
    assert other.note({LOSS: 9.0})


def test_the_gap_is_trainings_loss_less_validations():
    watch = watch_of()
    training = {"finch": LossSum(3.0, 4.0, 4), "perch": LossSum()}
    scores = {LOSS: 1.0, "valid/loss/perch": 1.0}
    found = watch.gaps(scores, training, same_loss)
    assert found == {"valid/gap/finch": pytest.approx(-0.25)}
    assert watch.gaps(scores, training, lambda name: name != "finch") == {}


def test_another_phase_begins_anew():
    watch = watch_of(patience=2)
    for score in (0.5, 0.4, 0.3):
        watch.note({PEARSON: score})
    assert watch.early_stop
    watch.begin_phase()
    assert watch.early_stop is None
    assert [watch.note(scores) for scores in ({}, {}, {}, {PEARSON: 0.1}, {PEARSON: 0.2})] == [
        False, False, False, True, True,
    ]  # fmt: skip
    assert watch.early_stop is None and watch.best_score == 0.2


def test_what_overfitted_in_another_phase_is_not_said():
    watch = watch_of()
    for loss in (0.5, 0.6, 0.7):
        validate(watch, loss, 1 - loss)
    watch.begin_phase()
    assert len(validate(watch, 0.8, 0.2)) == 1


def test_a_loss_that_is_not_trained_stands_alone():
    watch = watch_of()
    validate(watch, 0.5)
    watch.gaps({}, {"finch": LossSum(4.0, 4.0, 4)}, same_loss)
    (line,) = watch.lines(20, {LOSS: 0.5})
    assert line.endswith("loss (in training): finch 0.5")


@pytest.mark.parametrize(
    "score, said",
    [
        ({f"{PEARSON}/finch": 0.25}, "finch 0.250, 0.5 (0.4)"),
        ({f"{PEARSON}/finch": math.nan}, "finch nan, 0.5 (0.4)"),
        ({}, "finch 0.5 (0.4)"),  # of a species without tracks
    ],
)
def test_a_line_says_accuracy_and_both_losses(score, said):
    (line,) = validate(watch_of(), 0.5, 0.4, **score)
    assert line == f"step 20: validation, Pearson (log1p) and loss (in training): {said}"


@pytest.mark.parametrize(
    "valid, train, said",
    [
        ([0.5, 0.6, 0.7, 0.8], [1.0, 0.9, 0.95, 0.8], True),
        ([0.5, 0.6, 0.7], [1.0, 0.9, 0.8], False),
        ([0.5, 0.6, 0.59, 0.8], [1.0, 0.9, 0.8, 0.7], False),
        ([0.5, 0.6, 0.7, 0.8], [1.0, 0.9, 0.8, 1.1], False),  # training does not learn either
        ([0.9, 0.5, 0.6, 0.7, 0.8], [2.0, 1.0, 0.9, 0.8, 0.7], True),
    ],
)
def test_overfitting_is_said_after_three_rises(valid, train, said):
    watch = watch_of()
    lines = [validate(watch, v, t) for v, t in zip(valid, train, strict=True)]
    assert [len(each) for each in lines[:3]] == [1, 1, 1]
    assert len(lines[-1]) == 1 + said
    if said:
        assert "finch overfits: over 3 validations its loss rose from 0.5 to 0.8" in lines[-1][1]
