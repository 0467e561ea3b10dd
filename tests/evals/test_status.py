import json
import time

import pytest

from spacescale.checkpoint import layout
from spacescale.errors import UserError
from spacescale.evals.status import as_json, as_text, follow, read_status
from spacescale.files import write_json
from spacescale.metrics.history import Record, append, new_start, read_history
from spacescale.metrics.writer import METRICS_FILE, RunLog
from spacescale.parallel.run_folder import lock_run


@pytest.fixture
def run(tmp_path):
    """A run of 100 steps of 8 windows, begun, of which 40 were logged, with one checkpoint."""
    folder = tmp_path / "run"
    write_json(
        tmp_path / layout.CONFIG,
        {"spacescale": {"optim": {"max_steps": 100}}, "deepspeed": {"train_batch_size": 8}},
    )
    folder.mkdir()
    (tmp_path / layout.CONFIG).rename(folder / layout.CONFIG)
    Record(folder, new_start(folder, 0, None, 2)).begin()
    log = RunLog(folder)
    for step, speed in ((10, 16.0), (20, 20.0), (30, 24.0), (40, 10.0)):
        log.scalars(
            step,
            {
                "train/loss": 1.0 / step,
                "train/loss/finch": 0.5,
                "train/encoder_mi": -0.1,
                "speed/windows_per_s": speed,
                "speed/data_wait_share": 0.25,
            },
        )
    log.scalars(
        20,
        {
            "valid/pearson_log1p": 0.5,
            "valid/pearson_log1p/finch": 0.625,
            "valid/pearson_log1p/finch/cage": 0.25,
            "valid/loss": 0.875,
            "valid/loss/finch": 0.875,
        },
    )
    log.scalars(33, {"nonfinite/loss/rank1": 1.0})
    log.scalars(33, {"nonfinite/gradient_norm": 1.0})
    log.scalars(34, {"nonfinite/statistics": 1.0})  # counts
    log.scalars(35, {"spike/loss": 1.0})  # counts
    log.scalars(36, {"spike/loss": 1.0, "spike/skipped": 1.0})
    log.close()
    checkpoint = layout.checkpoints_folder(folder) / layout.step_name(30)
    checkpoint.mkdir(parents=True)
    (checkpoint / layout.STATE).write_text("{}")
    return folder


def test_a_run_that_goes_on(run):
    with lock_run(run):
        status = read_status(run, now=time.time() + 60)
    assert (status.state, status.cause) == ("running", None)
    assert (status.step, status.max_steps) == (40, 100)
    assert status.time_left_s == 60 * 8 / 10.0
    assert status.windows_per_s_trend == -0.5  # against 20, the median of what was before
    assert status.data_wait_share == 0.25
    assert status.losses["train/loss"] == 0.025
    assert status.validation_step == 20
    assert status.validation["valid/pearson_log1p/finch"] == 0.625
    assert status.checkpoint == "step-00000030"
    assert status.checkpoint_age_s == pytest.approx(60, abs=10)
    assert status.steps_skipped == 2
    assert status.disk_used_bytes > 500 and status.disk_free_bytes > 0
    text = as_text(status)
    assert "step         40 of 100 (40.0%), 0:00:48 left" in text
    assert "loss         loss 0.025, finch 0.5" in text
    assert "Pearson (log1p) at step 20: finch 0.625; loss: finch 0.875\n" in text
    assert "10 windows/s (-50% against the points before), 25% of the time waiting" in text
    assert json.loads(as_json(status))["step"] == 40


def test_a_run_whose_processes_are_gone_without_a_word(run):
    status = read_status(run)
    assert status.state == "killed" and "--resume auto" in status.next


def test_a_run_elsewhere_that_logs_nothing(run):
    (start,) = read_history(run)
    append(run, start.model_copy(update={"host": "another", "start": "b"}))
    assert read_status(run).state == "running"
    assert read_status(run, now=time.time() + 3600).state == "silent"


def begun(run):
    """The record of the run whose start stands in its history."""
    return Record(run, *read_history(run))


@pytest.mark.parametrize(
    "end, state, cause, advice",
    [
        ({"cause": "done"}, "done", None, "spacescale evaluate"),
        ({"cause": "stopped", "signal": "SIGUSR1"}, "stopped", "SIGUSR1", "--resume auto"),
        ({"cause": "failed", "error": "rank 1: full"}, "failed", "rank 1: full", "mend what"),
    ],
)
def test_a_run_that_ended(run, end, state, cause, advice):
    record = begun(run)
    record.step = 44  # beyond what was logged
    record.end(**end)
    status = read_status(run)
    assert (status.state, status.cause, status.step) == (state, cause, 44)
    assert advice in status.next
    assert [one.state for one in follow(run, every_s=99)] == [state]


def test_a_checkpoint_that_lost_its_state_is_still_a_status(run):
    (run / "checkpoints/step-00000030/spacescale.json").unlink()
    assert "step-00000030, of unknown age: it lacks spacescale.json" in as_text(read_status(run))


def test_restarts_and_lost_steps(run):
    begun(run).end("failed", error="rank 0: x")
    second = Record(run, new_start(run, 30, None, 2))
    second.begin()
    second.end("done")
    status = read_status(run)
    assert (status.restarts, status.steps_lost) == (1, 10)
    assert 0 <= (status.useful_share or 0) <= 1


def test_what_is_no_run_or_is_damaged_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"no run was started here \(no config.json\)"):
        read_status(tmp_path)
    (run / layout.CONFIG).write_text('{"spacescale": {}, "deepspeed": {}}')
    with pytest.raises(UserError, match=r"config.json: damaged.*lacks 'optim'"):
        read_status(run)
    (run / layout.CONFIG).write_bytes(b"\xff{")
    with pytest.raises(UserError, match=r"config.json: damaged"):
        read_status(run)


def test_a_run_that_has_only_begun(run):
    (run / METRICS_FILE).unlink()
    with lock_run(run):
        text = as_text(read_status(run))
    assert "step         0 of 100 (0.0%)" in text and "not known yet" in text
