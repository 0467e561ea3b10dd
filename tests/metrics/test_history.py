"""The history of a run: what is written at starts and ends, what is read back, what it comes to."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from spacescale.errors import UserError
from spacescale.metrics.history import (
    HISTORY_FILE,
    End,
    Record,
    Start,
    append,
    new_start,
    progress,
    read_history,
    runs,
    summarise,
)
from spacescale.metrics.writer import METRICS_FILE

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def start(name="a", at=0.0, first_step=0, steps_lost=0):
    return Start(
        start=name,
        time=EPOCH + timedelta(seconds=at),
        first_step=first_step,
        resumed_from=None,
        steps_lost=steps_lost,
        world_size=2,
        host="here",
        pid=1,
        job=None,
        job_restarts=None,
        version="1",
        commit=None,
    )


def begin(folder, *arguments, **named):
    record = Record(folder, new_start(folder, *arguments, **named))
    record.begin()
    return record.start


def end(name="a", at=100.0, step=10, first_step=0, training_s=80.0, cause="failed"):
    return End(
        start=name,
        time=EPOCH + timedelta(seconds=at),
        cause=cause,
        error="rank 1: gone" if cause == "failed" else None,
        first_step=first_step,
        step=step,
        saved_step=None,
        training_s=training_s,
    )


def log(folder, *points):
    """metrics.jsonl with (step, seconds) points."""
    lines = [
        json.dumps({"step": step, "time": (EPOCH + timedelta(seconds=at)).timestamp()})
        for step, at in points
    ]
    (folder / METRICS_FILE).write_text("\n".join(lines) + "\n")


def test_a_start_and_its_end_come_back_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert read_history(tmp_path) == [] and summarise(tmp_path).starts == 0
    written = begin(tmp_path, 4, tmp_path / "checkpoints/step-00000004", world_size=8)
    record = Record(tmp_path, written)
    record.begin_training()
    record.step, record.saved_step = 9, 8
    record.end("stopped", signal="SIGUSR1")
    first, last = read_history(tmp_path)
    assert first == written and (first.job, first.job_restarts) == ("77", 2)
    assert (first.first_step, first.world_size) == (4, 8)
    assert (last.start, last.cause, last.signal) == (first.start, "stopped", "SIGUSR1")
    assert (last.first_step, last.step, last.saved_step) == (4, 9, 8)
    assert last.time >= first.time and last.training_s >= 0
    assert runs([first, last])[0].end == last


def test_a_run_that_left_no_end_was_killed_and_the_next_start_says_so(tmp_path):
    append(tmp_path, start())
    log(tmp_path, (1, -5), (1, 11), (5, 15), (9, 19))  # the first before this start
    second = begin(tmp_path, 6, None, world_size=2)
    events = read_history(tmp_path)
    assert [event.event for event in events] == ["start", "end", "start"]
    killed = events[1]
    assert (killed.start, killed.cause, killed.step) == ("a", "killed", 9)
    assert killed.time == EPOCH + timedelta(seconds=19) and killed.training_s == 9
    assert second.steps_lost == 3
    log(tmp_path, (1, 11), (5, 15))  # the run has cut them back to where it went on
    assert begin(tmp_path, 6, None, world_size=2).steps_lost == 0


def test_a_run_killed_before_its_first_line_had_done_nothing(tmp_path):
    (tmp_path / METRICS_FILE).write_bytes(b"\xff\n")
    found = progress(tmp_path, start(first_step=7))
    assert (found.step, found.training_s, found.time) == (7, 0, EPOCH)


def test_a_line_cut_short_stays_and_is_passed_over(tmp_path):
    append(tmp_path, start())
    whole = (tmp_path / HISTORY_FILE).read_bytes()
    for length in range(1, len(whole)):
        torn = whole + whole[:length]
        (tmp_path / HISTORY_FILE).write_bytes(torn.rstrip(b"\n"))
        expected = [start()] * (2 if length >= len(whole) - 1 else 1)
        assert read_history(tmp_path) == expected
        append(tmp_path, end())
        assert (tmp_path / HISTORY_FILE).read_bytes().startswith(torn)
        assert read_history(tmp_path) == [*expected, end()]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format_version":1', b'"format_version":2', "format_version"),
        (b'"first_step":0', b'"first_step":"x"', "first_step"),
        (b'"event":"start"', b'"event":"pause"', "event"),
        (b'{"format', b'["format', "JSON"),
        (b'"here"', b'"\xff"', ""),
    ],
)
def test_a_damaged_line_is_refused_by_number_but_does_not_keep_a_run_from_starting(
    tmp_path, caplog, old, new, message
):
    for name in "ab":
        append(tmp_path, start(name))
    path = tmp_path / HISTORY_FILE
    lines = path.read_bytes().split(b"\n")
    damaged = b"\n".join([lines[0], lines[1].replace(old, new), b""])
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{HISTORY_FILE}, line 2: damaged.*{message}"):
        read_history(tmp_path)
    begin(tmp_path, 0, None, world_size=1)
    assert "line 2: damaged" in caplog.text
    assert path.read_bytes().startswith(damaged)


def test_the_summary_counts_what_was_done_twice_and_the_pauses(tmp_path):
    events = [
        start("a", at=0),
        end("a", at=100, step=10, training_s=80),
        start("b", at=130, first_step=5, steps_lost=5),
        end("b", at=230, step=20, first_step=5, training_s=90, cause="stopped"),
        end("b", at=231, step=20, first_step=5, training_s=90),  # it then failed while leaving
        start("c", at=300, first_step=20),
    ]
    for event in events:
        append(tmp_path, event)
    log(tmp_path, (21, 310), (25, 320))
    found = summarise(tmp_path)
    assert (found.starts, found.steps_lost) == (3, 5)
    assert found.useful_s == 80 / 2 + 90 + 10 * 5 / 4
    assert found.total_s == 320 and found.pauses_s == 30 + 70
    assert found.useful_share == found.useful_s / 320
