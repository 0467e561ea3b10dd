"""The last steps to a dataset, however its targets came: scratch -> shards -> a folder in place."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from zarr.errors import ContainsArrayError

from spacescale.dataset.folder import file_entry, size_fault
from spacescale.dataset.interval_table import write_intervals
from spacescale.dataset.schema import FileEntry, Manifest, Storage
from spacescale.errors import UserError
from spacescale.files import PARTIAL, put_in_place, sync, write_json
from spacescale.genome.intervals import Interval, windows_per_split
from spacescale.genome.tracks import Track, write_tracks
from spacescale.prepare.jobs import Notify, run_rest
from spacescale.prepare.options import OutputOptions
from spacescale.prepare.scratch import Scratch
from spacescale.prepare.work_folder import WorkFolder, refuse_changed_inputs
from spacescale.prepare.writer import (
    create_targets,
    created_with,
    num_shards,
    rows_of,
    shard_file,
    write_manifest,
    write_targets_shard,
)


@dataclass(frozen=True)
class Shards:
    """The shards of `targets`, once all of the scratch is filled.

    rows: windows of the scratch that the dataset holds, int, ascending.
    """

    work: WorkFolder
    scratch: Scratch
    storage: Storage
    rows: np.ndarray

    @property
    def number(self) -> int:
        """How many there are."""
        return num_shards(self.rows.size, self.storage)

    def write(self, mine: Sequence[int], executor: Executor | None, notify: Notify) -> None:
        """Write those of `mine` that are not written yet, and mark each."""
        if not (self.work.dataset / "targets" / "zarr.json").is_file():
            shape = (self.rows.size, self.scratch.num_bins, self.scratch.num_tracks)
            with suppress(ContainsArrayError):  # another part was faster
                create_targets(self.work.dataset, shape, self.storage)
        jobs = [
            (self.work, self.scratch, shard, self.rows[rows_of(shard, self.storage)])
            for shard in mine
            if self._entry(shard) is None
        ]
        run_rest(executor, _write_shard, jobs, len(mine), "shards are written", notify)

    def entries(self) -> dict[str, FileEntry]:
        """Return size and SHA-256 of every shard by path; UserError when one is not written."""
        found = {shard_file(shard): self._entry(shard) for shard in range(self.number)}
        written = {name: entry for name, entry in found.items() if entry is not None}
        if missing := len(found) - len(written):
            raise UserError(
                f"{self.work.path}: {missing} of {self.number} shards are not written; run "
                "--stage shards again, with every --part"
            )
        return written

    def _entry(self, shard: int) -> FileEntry | None:
        """Return size and SHA-256; None if it is not written, or not as it was marked."""
        if not self.work.shard(shard).is_file():
            return None
        entry = FileEntry.model_validate_json(self.work.shard(shard).read_bytes())
        return None if size_fault(self.work.dataset / shard_file(shard), entry) else entry


def _write_shard(work: WorkFolder, scratch: Scratch, shard: int, rows: np.ndarray) -> None:
    # zarr would read what lies there, and a power failure may have cut it.
    (work.dataset / shard_file(shard)).unlink(missing_ok=True)
    file = write_targets_shard(work.dataset, shard, scratch.read(rows))
    sync(file)
    write_json(work.shard(shard), file_entry(file).model_dump())


def refuse_emptied_splits(windows: Sequence[Interval], rows: np.ndarray) -> None:
    """Raise UserError where none of a split's windows is among `rows`, those that a track has."""
    kept = {windows[row].split for row in rows.tolist()}
    if empty := [split for split in windows_per_split(windows) if split not in kept]:
        raise UserError(
            f"split {', '.join(empty)} has no window left: no track has a value in any of them"
        )


def complete(
    shards: Shards,
    options: OutputOptions,
    windows: Sequence[Interval],
    tracks: Sequence[Track],
    **others: Any,
) -> None:
    """Write tables and manifest beside the shards.

    windows: of the shards' rows. tracks: complete rows of tracks.tsv. others: fields of the
    manifest that these three do not tell.
    """
    folder, entries = shards.work.dataset, shards.entries()
    num_windows = windows_per_split(windows)
    manifest = Manifest(
        species=options.species,
        missing=options.missing,
        storage=options.storage,
        num_windows=num_windows,
        num_tracks=len(tracks),
        mean_over="train" if "train" in num_windows else "all",
        files={},
        created_with=created_with(),
        **others,
    )
    remove_leftovers(folder)
    write_intervals(folder / "windows.bed", windows)
    write_tracks(folder / "tracks.tsv", tracks)
    write_manifest(folder, manifest, entries)


def remove_leftovers(folder: Path) -> None:
    """Remove what is left of files that were being written when a run was killed."""
    for leftover in folder.rglob(f"*{PARTIAL}"):
        leftover.unlink()


def publish(work: WorkFolder, request: Mapping[str, str], target: Path) -> None:
    """Put the complete dataset in place; UserError when the request is not what it was at first."""
    refuse_changed_inputs(work, request)
    put_in_place(work.dataset, target)
    work.remove()
