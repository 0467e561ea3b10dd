"""history.jsonl in the run folder: when a run was started and ended, how, and what it cost.

One JSON object per line, for every start and every end. Lines are only ever added. A process that
was killed leaves no end; the next start adds it, as cause "killed", from metrics.jsonl. A line cut
short by a crash stays, is passed over when reading, and the next one begins on a line of its own.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

import spacescale
from spacescale.errors import UserError
from spacescale.files import sync_entries
from spacescale.metrics.writer import METRICS_FILE, read_metrics

HISTORY_FILE = "history.jsonl"
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
GIT_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)

    format_version: Literal[1] = 1
    start: str  # names a start; its end carries the same name
    time: AwareDatetime  # UTC


class Start(_Event):
    """A run begins, or goes on, in this folder."""

    event: Literal["start"] = "start"
    first_step: int  # optimiser steps done before it
    resumed_from: str | None  # the checkpoint
    steps_lost: int  # done before, behind that checkpoint: this start repeats them
    world_size: int
    host: str  # of rank 0, as the pid
    pid: int
    job: str | None  # of Slurm, PBS or LSF
    job_restarts: int | None  # how often Slurm had restarted the job
    version: str  # of spacescale
    commit: str | None  # of its checkout; "-dirty" at the end where files were changed


class End(_Event):
    """A start came to its end. The last of the steps are lost if no checkpoint holds them."""

    event: Literal["end"] = "end"
    cause: Literal["done", "stopped", "failed", "killed"]
    signal: str | None = None  # that stopped it
    error: str | None = None  # that it failed by
    first_step: int
    step: int  # optimiser steps done
    saved_step: int | None  # of its newest checkpoint; None: it saved none
    training_s: float  # from the first step on, seconds


_EVENT: TypeAdapter[Start | End] = TypeAdapter(Annotated[Start | End, Field(discriminator="event")])


class Record:
    """What a process knows of the run's progress; one of them writes its start and its end."""

    def __init__(self, folder: Path, start: Start) -> None:
        """Write nothing yet: `begin` does, on the rank that writes."""
        self.folder, self.start = folder, start
        self.step = start.first_step
        self.saved_step: int | None = None
        self._training_since: float | None = None

    def begin(self) -> None:
        """Add the start, and before it the end of an earlier run that was killed.

        Before metrics.jsonl is cut back. Raises OSError where the file cannot be written.
        """
        past = _past(self.folder)
        if past and past[-1].end is None:
            append(self.folder, progress(self.folder, past[-1].start))
        append(self.folder, self.start)

    def begin_training(self) -> None:
        """Count the time of training from now on."""
        self._training_since = time.monotonic()

    def end(
        self,
        cause: Literal["done", "stopped", "failed"],
        signal: str | None = None,
        error: str | None = None,
    ) -> None:
        """Add the end of the run, which has begun.

        For one rank; raises OSError where the file cannot be written.
        """
        since = self._training_since
        append(
            self.folder,
            End(
                start=self.start.start,
                time=_now(),
                cause=cause,
                signal=signal,
                error=error,
                first_step=self.start.first_step,
                step=self.step,
                saved_step=self.saved_step,
                training_s=0.0 if since is None else round(time.monotonic() - since, 3),
            ),
        )


def new_start(folder: Path, first_step: int, resumed_from: Path | None, world_size: int) -> Start:
    """The start of a run of this process, rank 0, in a folder that may hold its past."""
    past = _past(folder)
    ends = [past[-1].end] if past and past[-1].end else []
    steps_done = max([0, *(e.step for e in ends), *(r["step"] for r in _metrics(folder))])
    return Start(
        start=secrets.token_hex(4),
        time=_now(),
        first_step=first_step,
        resumed_from=str(resumed_from) if resumed_from else None,
        steps_lost=max(0, steps_done - first_step),
        world_size=world_size,
        host=socket.gethostname(),
        pid=os.getpid(),
        job=next((os.environ[name] for name in JOB_VARIABLES if name in os.environ), None),
        job_restarts=_job_restarts(),
        version=spacescale.__version__,
        commit=_commit(),
    )


def _past(folder: Path) -> list[Run]:
    """Earlier runs in a folder; none where the history cannot be read, so that training goes on."""
    try:
        return runs(read_history(folder))
    except UserError as error:
        logger.warning("%s", error)
        return []


def progress(folder: Path, start: Start) -> End:
    """How far a run without an end had come, by its last line in metrics.jsonl.

    That of one which was killed; but also of one that still runs.
    """
    records = [r for r in _metrics(folder) if r["time"] >= start.time.timestamp()]
    first, last = (records[0], records[-1]) if records else (None, None)
    training_s = 0.0
    if first and last:
        num_steps, between = last["step"] - start.first_step, last["step"] - first["step"]
        # The time before the first line is known as well as that of the steps after it.
        seconds = last["time"] - first["time"]
        training_s = seconds / between * num_steps if between > 0 else 0.0
    ended = datetime.fromtimestamp(last["time"], UTC) if last else start.time
    return End(
        start=start.start,
        time=ended,
        cause="killed",
        first_step=start.first_step,
        step=last["step"] if last else start.first_step,
        saved_step=None,
        training_s=round(training_s, 3),
    )


def _metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl that can be used; the file may be damaged, or not be there."""
    try:
        records = read_metrics(folder / METRICS_FILE)
    except (OSError, ValueError):
        return []
    return [r for r in records if isinstance(r, dict) and {"step", "time"} <= r.keys()]


def _now() -> datetime:
    return datetime.now(UTC)


def _job_restarts() -> int | None:
    count = os.environ.get("SLURM_RESTART_COUNT", "0" if "SLURM_JOB_ID" in os.environ else "")
    return int(count) if count.isdecimal() else None


def _commit() -> str | None:
    """The commit of the checkout that this package is run from; None outside of one."""
    root = Path(spacescale.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(
            [*command, "--abbrev=12"], capture_output=True, text=True, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


# ---- The file -----------------------------------------------------------------------------------


def append(folder: Path, event: Start | End) -> None:
    """Add a line, and force it onto the disk."""
    path = folder / HISTORY_FILE
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        line = event.model_dump_json().encode() + b"\n"
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        os.fsync(file.fileno())
    if is_new:
        sync_entries(folder)


def read_history(folder: Path) -> list[Start | End]:
    """All starts and ends of the runs in a folder, in the order of the file; [] where it has none.

    A line cut short by a crash is passed over. Raises UserError for any other line that is not as
    it was written.
    """
    path = folder / HISTORY_FILE
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        line = line.rstrip(b"\0")  # left by a power failure
        if not line or (line.startswith(b"{") and not line.endswith(b"}")):  # cut short
            continue
        try:
            found.append(_EVENT.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{path}, line {number}: damaged, or written by a later spacescale: "
                f"{place + ': ' if place else ''}{first['msg']}. Put it aside to go on without it"
            ) from None
    return found


# ---- What it tells ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A start and its end; None while it runs, or where it was killed and not started again."""

    start: Start
    end: End | None


def runs(events: list[Start | End]) -> list[Run]:
    """Starts with their ends, in the order of the starts.

    Two ranks may write them where one fails while it starts: of two alike the first counts.
    """
    starts: dict[str, Start] = {}
    ends: dict[str, End] = {}
    for event in events:
        if isinstance(event, Start):
            starts.setdefault(event.start, event)
        else:
            ends.setdefault(event.start, event)
    return [Run(start, ends.get(name)) for name, start in starts.items()]


@dataclass(frozen=True)
class Summary:
    """What a run's history comes to. Times in seconds."""

    starts: int
    steps_lost: int  # done, and done again after a restart
    useful_s: float  # training that was not lost
    total_s: float  # from the first start to the last end, pauses between runs included
    pauses_s: float  # between the end of a run and the next start

    @property
    def useful_share(self) -> float:
        """Of the whole time since the first start; 0 before there is any."""
        return self.useful_s / self.total_s if self.total_s > 0 else 0.0


def summarise(folder: Path) -> Summary:
    """Sum up the history of a run folder; a run without an end counts up to its last logged step.

    Raises UserError as `read_history` does.
    """
    done = [
        (run.start, run.end or progress(folder, run.start)) for run in runs(read_history(folder))
    ]
    useful_s = sum(end.training_s for _, end in done)
    pauses_s = 0.0
    for (_, before), (start, _) in itertools.pairwise(done):
        pauses_s += (start.time - before.time).total_seconds()
        if num_steps := before.step - before.first_step:
            useful_s -= before.training_s / num_steps * min(start.steps_lost, num_steps)
    return Summary(
        starts=len(done),
        steps_lost=sum(start.steps_lost for start, _ in done),
        useful_s=useful_s,
        total_s=(done[-1][1].time - done[0][0].time).total_seconds() if done else 0.0,
        pauses_s=pauses_s,
    )
