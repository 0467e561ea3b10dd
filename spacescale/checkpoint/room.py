"""Whether the disk has room for checkpoints, before training starts and before each save.

What is free is what the file system says; it knows nothing of quotas.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from spacescale.checkpoint import found
from spacescale.config import RunConfig
from spacescale.errors import UserError
from spacescale.files import describe_size

logger = logging.getLogger(__name__)


def require_room_for_run(folder: Path, num_bytes: int, run: RunConfig) -> None:
    """Refuse to train where the checkpoints that are kept at a time do not fit.

    num_bytes: of one. Those that are there already count as room, as far as others replace them.
    Raises UserError saying what is needed and what is there.
    """
    kept = run.keep_last + run.keep_best
    there = min(len(found.list_checkpoints(folder)), kept)
    needed, free = (kept + 1 - there) * num_bytes, _free(folder)
    if free < needed:
        raise UserError(
            f"{folder}: {describe_size(needed)} needed, {describe_size(free)} free; a checkpoint "
            f"takes {describe_size(num_bytes)}, and up to {kept + 1} lie there at a time "
            f"(run.keep_last={run.keep_last}, run.keep_best={run.keep_best}, and the one being "
            f"written), {there} of them already; make room, or keep fewer"
        )


def make_room_for_save(
    folder: Path, num_bytes: int, lineage: found.Lineage, run: RunConfig
) -> None:
    """See that there is room for one more checkpoint, of `num_bytes`.

    Where there is not, those go first that would go after it, once the newest has been read and
    found sound. Raises UserError, before anything is written, if that is not enough.
    """
    if _free(folder) >= num_bytes:
        return
    for old in _going(folder, lineage, run):
        logger.warning("%s: removed before the next save, for want of room", old)
        found.remove(old)
    if (free := _free(folder)) < num_bytes:
        raise UserError(
            f"{folder}: no room for a checkpoint: {describe_size(num_bytes)} needed, "
            f"{describe_size(free)} free; make room and go on with --resume auto"
        )


def _going(folder: Path, lineage: found.Lineage, run: RunConfig) -> list[Path]:
    """What will be superfluous with one more checkpoint; nothing if the newest is damaged."""
    if run.keep_last == 1:  # only the newest would go
        return []
    fewer = run.model_copy(update={"keep_last": run.keep_last - 1})
    going = found.superfluous(folder, lineage, fewer)
    try:
        if going:
            found.require_sound(found.list_checkpoints(folder)[-1])
    except UserError as error:
        logger.warning("%s; nothing is removed for want of room", error)
        return []
    return going


def _free(folder: Path) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
