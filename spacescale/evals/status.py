"""How a run stands, from its folder alone: while it runs, after it ended, on any machine.

Nothing here opens a checkpoint's tensors or asks the run's processes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from spacescale.checkpoint import layout
from spacescale.checkpoint.found import list_checkpoints
from spacescale.config import VALIDATION_LOSS
from spacescale.errors import UserError
from spacescale.files import describe_size, read_json, size_below
from spacescale.metrics.history import Run, read_history, runs, summarise
from spacescale.metrics.writer import METRICS_FILE, json_safe, read_metrics
from spacescale.objectives import OBJECTIVES, Score
from spacescale.parallel.run_folder import is_held

TREND_POINTS = 20  # logged points of speed whose median the latest is compared with
SILENT_AFTER_S = 900.0  # a run that logged nothing for so long is said to be silent


@dataclass(frozen=True)
class Status:
    """How a run stands; numbers that are not known (yet) are None. Times in s, sizes in bytes.

    objective: what it optimises. state: running, silent, done, stopped, failed or killed. losses:
    as logged last; `train/loss` is the sum that is differentiated. windows_per_s_trend: of the
    speed, against the median of the points before it, as a fraction. useful_share: of the time
    since the first start, the part that went into optimiser steps that count. next: what to do.
    """

    run: str
    objective: str
    state: str
    cause: str | None
    step: int
    max_steps: int
    losses: dict[str, float | None]
    validation_step: int | None
    validation: dict[str, float | None]
    time_left_s: float | None
    windows_per_s: float | None
    windows_per_s_trend: float | None
    data_wait_share: float | None
    last_log_age_s: float | None
    checkpoint: str | None
    checkpoint_age_s: float | None
    restarts: int
    steps_lost: int
    steps_skipped: int
    useful_share: float | None
    disk_used_bytes: int
    disk_free_bytes: int
    next: str


def read_status(run: Path, now: float | None = None) -> Status:
    """Return how the run in a folder stands at `now`, s since 1970 (default: the present).

    Raises UserError where `run` holds no run, or a file of it is damaged.
    """
    now = time.time() if now is None else now
    if not (run / layout.CONFIG).is_file():
        raise UserError(f"{run}: no run was started here (no {layout.CONFIG})")
    objective, max_steps, windows_per_step = _plan(run / layout.CONFIG)
    score = OBJECTIVES[objective].score
    metrics = run / METRICS_FILE
    records = read_metrics(metrics) if metrics.is_file() else []
    past, summary = runs(read_history(run)), summarise(run)
    steps = [r for r in records if "train/loss" in r]
    last: dict[str, Any] = steps[-1] if steps else {}
    scored: dict[str, Any] = next((r for r in reversed(records) if _scores(r, score)), {})
    step = max([last.get("step", 0), *(one.end.step for one in past[-1:] if one.end)])
    speed = last.get("speed/windows_per_s")
    age = now - records[-1].get("time", now) if records else None
    state, cause = _state(run, past, age)
    checkpoints = list_checkpoints(layout.checkpoints_folder(run))
    newest = checkpoints[-1] if checkpoints else None
    age_s = None
    if newest is not None:
        with contextlib.suppress(OSError):  # removed since, or damaged
            age_s = now - (newest / layout.STATE).stat().st_mtime
    return Status(
        run=str(run),
        objective=objective,
        state=state,
        cause=cause,
        step=step,
        max_steps=max_steps,
        losses={name: v for name, v in last.items() if name.startswith("train/")},
        validation_step=scored.get("step"),
        validation=_scores(scored, score),
        time_left_s=(max_steps - step) * windows_per_step / speed if speed else None,
        windows_per_s=speed,
        windows_per_s_trend=_trend([r.get("speed/windows_per_s") for r in steps]),
        data_wait_share=last.get("speed/data_wait_share"),
        last_log_age_s=age,
        checkpoint=newest.name if newest else None,
        checkpoint_age_s=age_s,
        restarts=max(summary.starts - 1, 0),
        steps_lost=summary.steps_lost,
        steps_skipped=len({r["step"] for r in records if any(map(_tells_of_skipping, r))}),
        useful_share=summary.useful_share if summary.total_s else None,
        disk_used_bytes=size_below(run),
        disk_free_bytes=shutil.disk_usage(run).free,
        next=_advice(run, state),
    )


def as_json(status: Status) -> str:
    """Return a status as one JSON object, for programs."""
    return json.dumps(json_safe(asdict(status)), indent=1)


def as_text(status: Status) -> str:
    """Return a status as a few lines, for a person."""
    share = status.step / status.max_steps
    lines = [
        ("run", f"{status.run}: {status.state}{f' ({status.cause})' if status.cause else ''}"),
        ("step", f"{status.step:,} of {status.max_steps:,} ({share:.1%}){_left(status)}"),
        ("loss", _losses(status)),
        ("validation", _validation(status)),
        ("speed", _speed(status)),
        ("checkpoint", _checkpoint(status)),
        (
            "restarts",
            f"{status.restarts}; steps lost {status.steps_lost}, skipped {status.steps_skipped}"
            + (f"; useful {status.useful_share:.1%}" if status.useful_share is not None else ""),
        ),
        (
            "disk",
            f"{describe_size(status.disk_used_bytes)} used, "
            f"{describe_size(status.disk_free_bytes)} free",
        ),
        ("next", status.next),
    ]
    return "\n".join(f"{name:<12} {text}" for name, text in lines)


def follow(run: Path, every_s: float) -> Iterator[Status]:
    """Yield the status every so many seconds, until the run is at rest: done, stopped, failed."""
    while True:
        status = read_status(run)
        yield status
        if status.state not in ("running", "silent"):
            return
        time.sleep(every_s)


def _tells_of_skipping(name: str) -> bool:
    """Whether this is logged of steps that were skipped; one with bad statistics alone is not."""
    return name.startswith(("nonfinite/loss", "nonfinite/gradient_norm", "spike/skipped"))


def _scores(record: dict[str, Any], score: Score) -> dict[str, float | None]:
    """The validation's scores and losses: in all, and of each species."""
    prefixes = score.name, VALIDATION_LOSS
    return {n: v for n, v in record.items() if n.startswith(prefixes) and n.count("/") <= 2}


def _plan(path: Path) -> tuple[str, int, int]:
    """What the run optimises, its steps, and windows per step, from its config.json."""
    config = read_json(path)
    try:
        settings = config["spacescale"]
        objective = str(settings.get("objective", "profiles"))  # before there was a choice
        found = settings["optim"]["max_steps"], config["deepspeed"]["train_batch_size"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or of another program: lacks {error}") from None
    if objective not in OBJECTIVES:
        raise UserError(f"{path}: objective={objective!r}; known are {', '.join(OBJECTIVES)}")
    if not all(isinstance(number, int) and number > 0 for number in found):
        raise UserError(f"{path}: damaged: steps and windows per step are {found}")
    return objective, *found


def _state(run: Path, past: Sequence[Run], silent_s: float | None) -> tuple[str, str | None]:
    """The state of a run with this history, and why it is so."""
    last = past[-1] if past else None
    if last and last.end:
        return last.end.cause, last.end.error or last.end.signal or last.end.early_stop
    if last and last.start.host == socket.gethostname() and not is_held(run):
        return "killed", "its processes are gone, and said nothing at their end"
    if silent_s is not None and silent_s > SILENT_AFTER_S:
        return "silent", f"nothing was logged for {_duration(silent_s)}"
    return "running", None


def _trend(speeds: Sequence[float | None]) -> float | None:
    known = [speed for speed in speeds if speed]
    if len(known) < 3:
        return None
    return known[-1] / statistics.median(known[:-1][-TREND_POINTS:]) - 1


def _advice(run: Path, state: str) -> str:
    return {
        "running": "nothing; it runs",
        "silent": "look at its log and its processes; it ends by itself if it hangs "
        "(run.hang_timeout_s), else start the same command again with --resume auto",
        "done": f"spacescale evaluate {run}; spacescale convert {run} --out …",
        "stopped": "start the same command again with --resume auto",
        "killed": "start the same command again with --resume auto",
        "failed": "mend what it names, then start the same command again with --resume auto",
    }.get(state, "")


def _numbers(values: dict[str, float | None], prefix: str) -> str:
    shown = (
        f"{name.removeprefix(prefix)} {'not finite' if v is None else f'{v:.4g}'}"
        for name, v in values.items()
    )
    return ", ".join(shown) or "none yet"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _losses(status: Status) -> str:
    """The sum and that of each species; the routing losses are for the curves."""
    shown = {n: v for n, v in status.losses.items() if n.startswith("train/loss")}
    return _numbers({n.replace("train/loss/", "train/"): v for n, v in shown.items()}, "train/")


def _left(status: Status) -> str:
    if not status.time_left_s or status.state != "running":
        return ""
    return f", {_duration(status.time_left_s)} left"


def _validation(status: Status) -> str:
    if status.validation_step is None:
        return "none yet"
    score = OBJECTIVES[status.objective].score
    values, loss = (
        _numbers({n: v for n, v in status.validation.items() if n.startswith(of)}, of)
        for of in (f"{score.name}/", f"{VALIDATION_LOSS}/")
    )
    return f"{score.words} at step {status.validation_step:,}: {values}; loss: {loss}"


def _speed(status: Status) -> str:
    if status.windows_per_s is None:
        return "not known yet"
    text = f"{status.windows_per_s:.3g} windows/s"
    if status.windows_per_s_trend is not None:
        text += f" ({status.windows_per_s_trend:+.0%} against the points before)"
    if status.data_wait_share is not None:
        text += f", {status.data_wait_share:.0%} of the time waiting for data"
    if status.last_log_age_s is not None:
        text += f"; logged {_duration(status.last_log_age_s)} ago"
    return text


def _checkpoint(status: Status) -> str:
    if status.checkpoint is None:
        return "none yet"
    if status.checkpoint_age_s is None:
        return f"{status.checkpoint}, of unknown age: it lacks {layout.STATE}"
    return f"{status.checkpoint}, {_duration(status.checkpoint_age_s)} old"
