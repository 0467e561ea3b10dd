"""Which checkpoints a run folder holds, where a run begins from them, and which line they are of.

The checkpoints say themselves which is newest and which is best. `latest` and `best` are written
for people and scripts, and never read.

Every start of training has an id. A checkpoint's lineage names the starts that led to it, each with
the step that it began from, so that of any other checkpoint it can be told whether it lies on the
same line of steps or on one that was left.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacescale.checkpoint import layout
from spacescale.checkpoint.pieces import require_finite_buffers
from spacescale.config import RunConfig
from spacescale.errors import UserError
from spacescale.files import sync_entries, write_text

Lineage = Sequence[Mapping[str, Any]]  # {"id": of a start, "step": it began from}, oldest first

logger = logging.getLogger(__name__)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder of them, oldest first; none that was set aside."""
    return [path for path in _list_all(folder) if not layout.is_set_aside(path)]


def list_set_aside(folder: Path) -> list[Path]:
    """The checkpoints that were set aside, ordered by step."""
    return [path for path in _list_all(folder) if layout.is_set_aside(path)]


def _list_all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if layout.step_of(path) is not None]
    return sorted((path for path in found if path.is_dir()), key=lambda p: (_step(p), p))


def _step(checkpoint: Path) -> int:
    """The step in a checkpoint's name; 0 where it was given another one."""
    return layout.step_of(checkpoint) or 0


# ---- Which one is meant --------------------------------------------------------------------------


def find_checkpoint(path: Path) -> Path | None:
    """Resolve a checkpoint folder, a run folder, or its checkpoints folder to one checkpoint.

    A run stands for its newest. None where there is no checkpoint. Nothing is verified.
    """
    if _is_checkpoint(path):
        return path
    return next(reversed(list_checkpoints(_folder_of(path))), None)


def find_best(path: Path) -> Path | None:
    """The same, but a run stands for its best checkpoint, or its newest where none has a score.

    Raises UserError where the score of one cannot be read.
    """
    if _is_checkpoint(path):
        return path
    try:
        return best_of(_folder_of(path)) or find_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error}; which is the best is not known, so name a checkpoint") from None


def best_of(folder: Path) -> Path | None:
    """The best checkpoint in a run's folder of them by the run's metric; None without scores.

    Raises UserError where one cannot be read.
    """
    states = {c: layout.read_state(c) for c in list_checkpoints(folder)}
    if not states:
        return None
    newest = next(reversed(states))
    return next(iter(by_score(states, layout.read_config(newest, states[newest]).run)), None)


def _is_checkpoint(path: Path) -> bool:
    named = layout.step_of(path.absolute()) is not None and path.is_dir()
    return named or (path / layout.STATE).is_file()


def _folder_of(path: Path) -> Path:
    folder = layout.checkpoints_folder(path)
    return folder if folder.is_dir() else path


def by_score(states: Mapping[Path, Mapping[str, Any]], run: RunConfig) -> list[Path]:
    """The checkpoints that were validated when they were saved, best first, older before equal.

    states: of each checkpoint, oldest first.
    """
    scores = {path: own_score(state, run.best_metric) for path, state in states.items()}
    known = {path: score for path, score in scores.items() if score is not None}
    return sorted(known, key=known.__getitem__, reverse=True)


def own_score(state: Mapping[str, Any], metric: str) -> float | None:
    """The score that a checkpoint had when it was saved; None if it was not validated then."""
    metrics = state["metrics"]
    return metrics.get(metric) if metrics.get("step") == state["step"] else None


# ---- Sound and damaged ---------------------------------------------------------------------------


def require_sound(checkpoint: Path) -> None:
    """Raise UserError unless all files are as they were written, and the buffers finite."""
    layout.verify(checkpoint)
    require_finite_buffers(checkpoint)


def newest_sound(checkpoints: Sequence[Path]) -> tuple[Path, list[str]]:
    """The newest that is sound, and what is wrong with those that are newer.

    Raises UserError, naming all of them, if none is sound.
    """
    problems = []
    for checkpoint in sorted(checkpoints, key=_step, reverse=True):
        try:
            require_sound(checkpoint)
        except UserError as error:
            problems.append(str(error))
        else:
            return checkpoint, problems
    raise UserError(f"no sound checkpoint to resume from: {'; '.join(problems)}")


@dataclass(frozen=True)
class Start:
    """Where a run begins: a verified checkpoint, or step 0 without one."""

    checkpoint: Path | None = None
    problems: tuple[str, ...] = ()  # of newer checkpoints, which were passed over


def find_start(output: Path, resume: str | None) -> Start:
    """Where `--resume` says that a run in the folder `output` begins. Nothing is changed.

    'auto' and 'must' take the newest sound checkpoint of `output`, and so does its own path;
    'auto' begins at step 0 where there never was one. A checkpoint of `output` goes back to it, one
    from elsewhere branches off from it, or from the newest sound one of a run; given again, as when
    a job is requeued, the branch goes on from its own newest. Raises UserError where there is none,
    or `output` holds a run that would be lost.
    """
    folder = layout.checkpoints_folder(output)
    if resume is None:
        if layout.holds_run(output):
            raise UserError(
                f"{output}: holds a run already; continue it with --resume auto or choose "
                "another --output"
            )
        return Start()
    source = output if resume in ("auto", "must") else Path(resume)
    checkpoints = [source] if _is_checkpoint(source) else list_checkpoints(_folder_of(source))
    if not checkpoints:
        if resume == "auto":
            _require_fresh(folder)
            return Start()
        raise UserError(f"{source}: no checkpoint to resume from (--resume {resume})")
    chosen, problems = newest_sound(checkpoints)
    if chosen.resolve().parent != folder.resolve() and layout.holds_run(output):
        own = list_checkpoints(folder)
        if not own:  # stopped before its first save
            _require_fresh(folder)
        elif any(_is_branch_of(own[-1], origin) for origin in checkpoints):
            chosen, problems = newest_sound(own)
        else:
            raise UserError(
                f"{output}: holds a run, which {chosen} is not of; choose another --output to "
                "branch off"
            )
    return Start(chosen, tuple(problems))


def _is_branch_of(checkpoint: Path, origin: Path) -> bool:
    """Whether a checkpoint is of a run that branched off from `origin`, as far as they can tell."""
    try:
        state, before = layout.read_state(checkpoint), layout.read_state(origin)
    except UserError:
        return False
    line, line_before = state.get("lineage", []), before.get("lineage", [])
    since = line[len(line_before) :]
    return (
        line[: len(line_before)] == line_before
        and since != []
        and since[0]["step"] == before["step"]
    )


def _require_fresh(folder: Path) -> None:
    """Refuse a folder whose checkpoints are gone: a run that begins again would be mistaken."""
    traces = [folder / name for name in ("latest", "best") if (folder / name).exists()]
    traces += list_set_aside(folder)
    if traces:
        raise UserError(
            f"{folder}: held checkpoints ({', '.join(path.name for path in traces)}) and holds "
            "none to resume from; bring one back, or choose another --output to start anew"
        )


# ---- Lines of steps ------------------------------------------------------------------------------


def begin_line(came_from: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The lineage of a start from a checkpoint's state, or from nothing: one start more."""
    before = came_from.get("lineage", []) if came_from else []
    step = came_from["step"] if came_from else 0
    return [*(dict(start) for start in before), {"id": secrets.token_hex(8), "step": step}]


def is_on_line(state: Mapping[str, Any], lineage: Lineage) -> bool:
    """Whether the checkpoint of this state is one that the line of steps came by.

    Earlier versions wrote no lineage: their checkpoints are taken for what came before the first
    start that is known.
    """
    own = state.get("lineage", [])
    passed = [start["id"] for start in lineage if start["step"] < state["step"]]
    return (own[-1]["id"] if own else None) == (passed[-1] if passed else None)


def set_aside(checkpoint: Path) -> Path:
    """Give a checkpoint a name under which no run goes on from it or removes it; returns it."""
    stem = checkpoint.name.partition(".")[0]
    number = 1
    while (aside := checkpoint.with_name(f"{stem}.aside-{number}")).exists():
        number += 1
    checkpoint.rename(aside)
    sync_entries(aside.parent)
    return aside


def settle_on(checkpoint: Path) -> Path:
    """Make a sound checkpoint the newest of its folder; returns it under its proper name.

    What lies beyond it or is of another line is set aside. One that was set aside itself is
    brought back.
    """
    state = layout.read_state(checkpoint)
    folder, name = checkpoint.parent, layout.step_name(state["step"])
    for other in list_checkpoints(folder):
        if other.name != checkpoint.name and not _leads_to(other, state):
            logger.info("%s: set aside as %s", other, set_aside(other).name)
    proper = folder / name
    if checkpoint.name != name:
        checkpoint.rename(proper)
    write_text(folder / "latest", name)
    with contextlib.suppress(UserError):  # a damaged one may have been the best
        if best := best_of(folder):
            write_text(folder / "best", best.name)
    return proper


def _leads_to(other: Path, state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is earlier and, as far as is known, of the same line."""
    if _step(other) >= state["step"]:
        return False
    try:
        return is_on_line(layout.read_state(other), state.get("lineage", []))
    except UserError:
        return True  # damaged: it stays what it is until somebody looks


# ---- What is kept --------------------------------------------------------------------------------


def superfluous(folder: Path, lineage: Lineage, run: RunConfig) -> list[Path]:
    """Which checkpoints of this line of steps are not to be kept, by what `run` says is.

    Those of other lines, set aside or damaged are not among them.
    """
    states = {}
    for checkpoint in list_checkpoints(folder):
        with contextlib.suppress(UserError):  # it stays until somebody looks
            state = layout.read_state(checkpoint)
            if is_on_line(state, lineage):
                states[checkpoint] = state
    keep = {*list(states)[-run.keep_last :], *by_score(states, run)[: run.keep_best]}
    if run.keep_every_steps:
        keep |= {p for p, state in states.items() if state["step"] % run.keep_every_steps == 0}
    if run.keep_every_hours:
        keep |= set(_spaced(states, 3600 * run.keep_every_hours))
    return [path for path in states if path not in keep]


def remove(checkpoint: Path) -> bool:
    """Remove a checkpoint; whether that went well. A warning says so if not.

    It first gets a name under which nobody takes it for a checkpoint: a kill may leave half of it.
    """
    going = checkpoint.with_name(checkpoint.name + layout.PARTIAL)
    try:
        checkpoint.rename(going)
        shutil.rmtree(going)
    except OSError as error:  # open on a network disk, or another user's: no reason to end a run
        logger.warning("%s: cannot be removed: %s", checkpoint, error)
        return False
    return True


def sweep(folder: Path) -> None:
    """Remove what killed saves and removals have left in a run's folder of checkpoints."""
    for partial in folder.glob(f"step-*{layout.PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def _spaced(states: Mapping[Path, Mapping[str, Any]], seconds: float) -> Iterator[Path]:
    """The first of all, and then the first that is as much later as `seconds` say."""
    last = -math.inf
    for path, state in states.items():
        if "time" in state and state["time"] >= last + seconds:
            last = state["time"]
            yield path
