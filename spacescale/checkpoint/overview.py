"""The checkpoints of a run for the person on duty: list, verify, prune, go back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spacescale.checkpoint import found, layout
from spacescale.console import aligned
from spacescale.errors import UserError
from spacescale.files import describe_size, size_below
from spacescale.parallel.run_folder import lock_run

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


@dataclass(frozen=True)
class Row:
    """What a table says of one checkpoint."""

    path: Path
    age_s: float
    num_bytes: int
    score: float | None  # by the run's metric, of a validation at its step
    marks: tuple[str, ...]  # newest, best, set aside
    problem: str = ""  # what is wrong with it, as far as it was looked at


def look(run: Path, verify: bool = False) -> list[Row]:
    """Look at all checkpoints of a run, also those set aside, oldest first.

    verify: read all of each. Without it only their states are held against the manifests.
    """
    folder = _folder(run)
    in_use, aside = found.list_checkpoints(folder), found.list_set_aside(folder)
    try:
        best = found.best_of(folder)
    except UserError:  # told in its row
        best = None
    rows = []
    for checkpoint in in_use + aside:
        score, problem = None, ""
        try:
            state = layout.read_state(checkpoint)
            metric = layout.read_config(checkpoint, state).run.best_metric
            score = found.own_score(state, metric)
            if verify:
                found.require_sound(checkpoint)
        except UserError as error:
            problem = str(error)
        marks = {
            "newest": in_use and checkpoint == in_use[-1],
            "best": checkpoint == best,
            "set aside": checkpoint in aside,
        }
        rows.append(
            Row(
                path=checkpoint,
                age_s=time.time() - checkpoint.stat().st_mtime,
                num_bytes=size_below(checkpoint),
                score=score,
                marks=tuple(mark for mark, holds in marks.items() if holds),
                problem=problem,
            )
        )
    return rows


def table(rows: Sequence[Row], verified: bool = False) -> str:
    """The rows as text; whether a checkpoint is sound is said only if all of it was read."""
    cells = [("checkpoint", "age", "size", "validation", "state")]
    for row in rows:
        sound = "sound" if verified else ""
        state = (*row.marks, f"damaged: {row.problem}" if row.problem else sound)
        score = "-" if row.score is None else f"{row.score:.4f}"
        size = describe_size(row.num_bytes)
        cells.append((row.path.name, _age(row.age_s), size, score, ", ".join(filter(None, state))))
    return "\n".join(aligned(cells, left=(0, -1)))


def prune(run: Path, keep_last: int | None = None, set_aside: bool = False) -> list[Path]:
    """Remove the checkpoints that the run's settings do not keep; returns them.

    The newest sound one stays in any case, and so do damaged ones and those of another line of
    steps. keep_last: in place of the run's. set_aside: remove also all that were set aside.
    Raises UserError, having removed nothing, if none is sound or the run goes on.
    """
    folder = _folder(run)
    with lock_run(run, wait_s=0):
        newest, _ = found.newest_sound(found.list_checkpoints(folder))
        state = layout.read_state(newest)
        keeping = layout.read_config(newest, state).run
        if keep_last is not None:
            keeping = keeping.model_copy(update={"keep_last": keep_last})
        old = found.superfluous(folder, state.get("lineage", []), keeping)
        going = [path for path in old if path != newest]
        going += found.list_set_aside(folder) if set_aside else []
        return [checkpoint for checkpoint in going if found.remove(checkpoint)]


def go_back(run: Path, which: str) -> Path:
    """Make a checkpoint, named by its step or its name, the one that the run goes on from.

    What lies beyond it is set aside. Returns the checkpoint. Raises UserError, having changed
    nothing, if there is none of that name, it is damaged, or the run goes on.
    """
    folder = _folder(run)
    name = layout.step_name(int(which)) if which.isdecimal() else which
    known = [path.name for path in found.list_checkpoints(folder) + found.list_set_aside(folder)]
    if name not in known:
        raise UserError(f"{folder}: no checkpoint {name}; there are: {', '.join(known)}")
    with lock_run(run, wait_s=0):
        found.require_sound(folder / name)
        return found.settle_on(folder / name)


def _folder(run: Path) -> Path:
    folder = layout.checkpoints_folder(run)
    if not (found.list_checkpoints(folder) or found.list_set_aside(folder)):
        raise UserError(f"{run}: no run folder with checkpoints")
    return folder


def _age(seconds: float) -> str:
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
