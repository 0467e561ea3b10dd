import math
from types import SimpleNamespace

import pytest

from spacescale.config import RunConfig
from spacescale.dataset.sampler import Draw
from spacescale.errors import UserError
from spacescale.train.step_report import StepSummary
from spacescale.train.step_watch import REPORT, StepWatch

STEADY = 100


def summary(loss: float, bad_ranks: tuple[int, ...] = (), bad_buffers: bool = False) -> StepSummary:
    return StepSummary({"train/loss": loss}, {}, 2, [*bad_ranks], bad_buffers, True, 0, True, 0)


def a_watch(tmp_path, **settings) -> StepWatch:
    """A watch over a run of two micro-steps of one window, after STEADY steps."""
    windows = SimpleNamespace(
        order=SimpleNamespace(
            draws=lambda micro_step, rank: [Draw("moth", 10 * micro_step + rank, 0, False, 0)]
        ),
        place=lambda draw: f"chr1:{draw.window}-{draw.window + 1}",
    )
    watch = StepWatch(tmp_path, RunConfig(**settings), SimpleNamespace(windows=windows), 2)
    for step in range(STEADY):
        assert judge(watch, step, 1.0 + 0.1 * (step % 2), 2.0).lines == []
    return watch


def judge(watch, step, loss, norm, **more):
    one = summary(loss, **more)
    watch.begin(one)
    return watch.judge(step, one, norm)


def test_a_step_that_is_not_finite_names_the_windows_of_its_rank(tmp_path):
    watch = a_watch(tmp_path)
    verdict = judge(watch, 100, math.nan, math.nan, bad_ranks=(1,))
    assert verdict.lines == [
        "step 101: loss not finite on rank 1; the step was skipped; "
        "windows moth chr1:2001-2002, moth chr1:2011-2012"
    ]
    assert verdict.scalars == {"nonfinite/loss/rank1": 1.0} and verdict.restore
    rows = (tmp_path / REPORT).read_text().splitlines()
    assert rows[1:] == [
        f"101\tloss not finite on rank 1\t1\tmoth\tchr1:{n}-{n + 1}" for n in (2001, 2011)
    ]


def test_a_spike_is_reported_and_counts(tmp_path):
    watch = a_watch(tmp_path)
    verdict = judge(watch, 100, 9.0, 2.0)
    assert "loss 9, 159 standard deviations above 1.05; the step counts;" in verdict.lines[0]
    assert verdict.scalars == {"spike/loss": 1.0} and not verdict.restore
    assert not watch.skipped


def test_a_spike_may_be_skipped(tmp_path):
    watch = a_watch(tmp_path)
    watch.begin(summary(1.0))
    assert not watch.refuses(2.0) and watch.refuses(99.0)
    verdict = watch.judge(100, summary(1.0), math.nan)  # DeepSpeed says nothing of such a step
    assert (
        "gradient norm 99, inf standard deviations above 2; the step was skipped"
        in (verdict.lines[0])
    )
    assert verdict.restore and list(watch.skipped) == [100] and not watch.nonfinite_in_a_row


def test_too_many_in_a_row_or_of_a_thousand_end_the_run(tmp_path):
    watch = a_watch(tmp_path, max_nonfinite_steps=2, max_skipped_steps=3)
    for step, loss in enumerate([math.nan, 1.0] * 3, start=100):
        bad = () if math.isfinite(loss) else (0,)
        judge(watch, step, loss, 2.0 if not bad else math.nan, bad_ranks=bad)
        watch.require_few(step)
    judge(watch, 106, math.nan, math.nan, bad_ranks=(0,))
    with pytest.raises(UserError, match=r"4 of the last 1000 steps .*run.max_skipped_steps=3"):
        watch.require_few(106)
    judge(watch, 1102, math.nan, math.nan, bad_ranks=(0,))
    with pytest.raises(UserError, match="2 steps in a row were not finite"):
        watch.require_few(1102)
    judge(watch, 1103, 1.0, 2.0)
    watch.require_few(1103)  # those of step 100 and 102 are more than a thousand steps ago


def test_another_phase_has_no_spikes_at_first(tmp_path):
    watch = a_watch(tmp_path)
    watch.begin_phase()
    watch.begin(summary(9.0))
    assert not watch.refuses(99.0)
    assert judge(watch, 100, 9.0, 99.0).lines == []
    assert watch.spikes.state() == {"loss": [9.0], "gradient norm": [99.0]}


def test_a_resumed_watch_judges_alike(tmp_path):
    watch, resumed = a_watch(tmp_path), StepWatch(tmp_path, RunConfig(), None, 1)
    judge(watch, 100, math.nan, math.nan, bad_ranks=(0,))
    resumed.restore(watch.state())
    assert resumed.state() == watch.state()
    resumed.begin(summary(9.0))
    assert resumed.refuses(2.0)
