import json
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spacescale.metrics.writer import RunLog, TrainingProgress, read_metrics


def log_steps(log: RunLog, steps, offset=0.0) -> None:
    for step in steps:
        log.scalars(step, {"train/loss": step + offset})
    log.close()


def tensorboard_points(folder) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars("train/loss")]


def json_points(folder) -> list[tuple[int, float]]:
    return [(r["step"], r["train/loss"]) for r in read_metrics(folder / "metrics.jsonl")]


def wait_for_the_next_second():
    """TensorBoard reads files by name: seconds, and a number whose tenth sorts before its ninth."""
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.02)


def test_resuming_drops_later_points(tmp_path):
    log_steps(RunLog(tmp_path), range(1, 6))
    wait_for_the_next_second()
    log_steps(RunLog(tmp_path, resume_step=3), range(4, 7), offset=0.5)
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5), (5, 5.5), (6, 6.5)]
    assert json_points(tmp_path) == expected
    assert tensorboard_points(tmp_path) == expected
    assert not list(tmp_path.glob("*.partial"))


def test_a_new_run_in_an_old_folder_starts_afresh(tmp_path):
    log_steps(RunLog(tmp_path), range(1, 4))
    wait_for_the_next_second()
    log_steps(RunLog(tmp_path), [1], offset=0.5)
    assert json_points(tmp_path) == tensorboard_points(tmp_path) == [(1, 1.5)]


def test_a_line_cut_short_is_dropped(tmp_path):
    log_steps(RunLog(tmp_path), range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    log_steps(RunLog(tmp_path, resume_step=4), [5])
    assert [step for step, _ in json_points(tmp_path)] == [1, 2, 3, 5]


def test_numbers_json_does_not_have_become_null(tmp_path):
    log = RunLog(tmp_path)
    log.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 1.5})
    log.text("config", "some text")
    log.close()
    log.scalars(3, {"a": 1.0})  # closed: nothing happens
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=pytest.fail)
    assert record.pop("time") > 1.6e9
    assert record == {"step": 1, "a": None, "b": None, "c": 1.5}


def test_other_ranks_write_nothing(tmp_path):
    log = RunLog(tmp_path / "run", enabled=False)
    log.scalars(1, {"a": 1.0})
    log.text("a", "b")
    log.close()
    assert not list(tmp_path.iterdir())


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys):
    progress = TrainingProgress(total=25, initial=5, log_every=10)
    for step in range(6, 26):
        progress.update(step, {"total": 1 / step, "mi": 0.5}, 3.0, time_left_s=120.0)
    progress.say("saved")
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "step 10/25", "step 20/25", "step 25/25", "saved",
    ]  # fmt: skip
    assert lines[0] == "step 10/25: total 0.1, mi 0.5, 3.0 windows/s, 2 min left"


def test_progress_of_other_ranks_is_silent(capsys):
    progress = TrainingProgress(total=2, log_every=1, enabled=False)
    progress.update(1, {"total": 1.0}, 3.0)
    progress.say("hello")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_without_tensorboard_a_run_is_logged_all_the_same(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLog(tmp_path)
    log.text("config", "text")
    log_steps(log, [1, 2])
    assert json_points(tmp_path) == [(1, 1.0), (2, 2.0)]
    assert [record.message.partition(" (")[0] for record in caplog.records] == ["no TensorBoard"]
