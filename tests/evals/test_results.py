"""What an evaluation says of a model and its baselines."""

from spacescale.evals.intervals import Interval
from spacescale.evals.results import AssayResult, Beside, not_beaten


def row(**baselines):
    return AssayResult(
        species="finch", assay="cage", tracks=4, pearson_log1p=0.3, interval=Interval(0.2, 0.4),
        pearson_raw=0.2, median_log1p=0.2, median_raw=0.2, peaks=0.1, across_tracks=None,
        train=None, baselines=baselines,
        left_out={}, beaten_on=2,
    )  # fmt: skip


def test_a_model_is_told_what_it_does_not_beat():
    profile = Beside(0.0, 0.3, Interval(0.2, 0.4))
    below = row(profile=profile, ridge=Beside(0.4, -0.1, Interval(-0.15, -0.05)))
    assert not_beaten(below) == (
        "finch, cage: the model is below ridge (0.300 and 0.400, difference -0.100 "
        "[-0.150, -0.050]; 2 of 4 tracks not above the best baseline)"
    )
    even = row(profile=profile, ridge=Beside(0.29, 0.01, Interval(-0.04, 0.05)))
    assert "is not told apart from ridge" in not_beaten(even)


def test_nothing_is_said_of_what_is_beaten_or_was_not_there():
    assert not_beaten(row(ridge=Beside(0.2, 0.1, Interval(0.05, 0.15)))) == ""
    assert not_beaten(row()) == ""
