"""The training sets of Basenji, Enformer and Borzoi: a folder of TFRecords.

    statistics.json            num_targets, seq_length, pool_width, target_length, {split}_seqs …
    tfrecords/{split}-{i}.tfr  features `sequence` and `target`; a shard may hold no record
    sequences.bed              chrom start end split, the records of each split in this order

A folder of nothing but shards is read, too, in `tfrecords/` or not, when its sizes are given.
`seq_1hot` in statistics.json does not tell the encoding of the bases: current tools write true
and one byte a base, older sets four bytes a base. The size of the feature tells.
"""

import json
import re
from collections.abc import Collection, Iterator
from concurrent.futures import Executor
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import files_below
from spacescale.prepare.importers.encodings import decode_bases, decode_targets
from spacescale.prepare.importers.source import Block, Geometry, Record
from spacescale.prepare.importers.tf_example import parse_example
from spacescale.prepare.importers.tfrecord import read_records
from spacescale.prepare.jobs import run_jobs

STATISTICS = "statistics.json"
SIZE_OPTIONS = "--record-length, --bin-size and --target-length"
FLOAT_BYTES = {"float16": 2, "float32": 4, "float64": 8}
# Beside sequence and targets a record holds names, lengths and at most a mask of the bins.
_OTHER_BYTES = 2**20


class BasenjiSet:
    """An ImportSource on such a folder. Raises UserError where the files do not fit each other."""

    def __init__(
        self,
        folder: Path,
        sizes: Geometry | None = None,
        num_tracks: int = 0,
        float_bytes: int | None = None,
    ):
        """sizes, num_tracks, float_bytes (of a target): of a set without statistics.json.

        The records of such a set are counted here.
        """
        self.folder, self._float_bytes = folder, float_bytes
        self._statistics = folder / STATISTICS
        self._count_of: dict[Path, int] = {}
        if sizes is None:
            self._read_sizes(_read_statistics(self._statistics))
            self._shards = _find_shards(folder / "tfrecords", self.num_records)
        else:
            self._take_sizes(sizes, num_tracks)

    def _read_sizes(self, statistics: dict[str, Any]) -> None:
        path, self._told_by = self._statistics, STATISTICS
        self.geometry = Geometry(
            seq_length=_integer(path, statistics, "seq_length"),
            bin_size=_integer(path, statistics, "pool_width"),
            target_length=_integer(path, statistics, "target_length"),
        )
        self.geometry.check(str(path))
        if "crop_bp" in statistics and statistics["crop_bp"] != self.geometry.margin:
            raise UserError(
                f"{path}: crop_bp {statistics['crop_bp']} does not fit seq_length, pool_width and "
                f"target_length, which leave {self.geometry.margin} bp on each side"
            )
        self.num_tracks = _integer(path, statistics, "num_targets")
        self.num_records = {
            key.removesuffix("_seqs"): _integer(path, statistics, key)
            for key in statistics
            if key.endswith("_seqs")
        }

    def _take_sizes(self, sizes: Geometry, num_tracks: int) -> None:
        if self._statistics.is_file():
            raise UserError(
                f"{self._statistics} tells the sizes of the records: leave out {SIZE_OPTIONS}"
            )
        sizes.check(SIZE_OPTIONS)
        self.geometry, self.num_tracks, self._told_by = sizes, num_tracks, SIZE_OPTIONS
        shards = self.folder / "tfrecords"
        self._shards = _find_shards(shards if shards.is_dir() else self.folder, None)
        self._count_records(None)
        self.num_records = {
            split: sum(self._count_of[path] for path in paths)
            for split, paths in self._shards.items()
        }

    @property
    def files(self) -> list[Path]:
        """statistics.json and the shards, split by split, each in the order of its records."""
        told = [self._statistics] if self._told_by == STATISTICS else []
        return [*told, *chain.from_iterable(self._shards.values())]

    def blocks(self, executor: Executor | None) -> list[Block]:
        """Return a block a shard; UserError if a split has not as many records as was said.

        Every shard is read to the end, so damage is found now. What a shard holds is not known
        before, and a record's place is known by its number in the split.
        """
        if not self._count_of:
            self._count_records(executor)
        count_of = self._count_of
        for split, expected in self.num_records.items():
            found = sum(count_of[path] for path in self._shards[split])
            if found != expected:
                raise UserError(
                    f"{self.folder}: the {len(self._shards[split])} shards of {split} hold {found} "
                    f"records, {STATISTICS} says {expected}: are all shards there?"
                )
        return [
            Block(split, path, 0, count_of[path])
            for split, paths in self._shards.items()
            for path in paths
            if count_of[path]
        ]

    def _count_records(self, executor: Executor | None) -> None:
        jobs = [(path, self._max_bytes()) for path in chain.from_iterable(self._shards.values())]
        counted = run_jobs(executor, _count_records, jobs)
        self._count_of = dict(
            tqdm(counted, desc="files", total=len(jobs), unit="file", disable=None)
        )

    def records(self, block: Block) -> Iterator[Record]:
        """Yield the records of a shard in order."""
        for number, data in enumerate(read_records(block.file, self._max_bytes())):
            yield self._record(f"{block.file}: record {number}", data)

    def _record(self, place: str, data: bytes) -> Record:
        shape = self.geometry
        try:
            features = parse_example(data, ("sequence", "target"))
            if missing := {"sequence", "target"} - features.keys():
                raise ValueError(f"it has no feature {', '.join(sorted(missing))}")
            return Record(
                place,
                decode_bases(features["sequence"], shape.seq_length),
                decode_targets(
                    features["target"], shape.target_length, self.num_tracks, self._float_bytes
                ),
            )
        except ValueError as error:
            raise UserError(f"{place} does not fit {self._told_by}: {error}") from error

    def _max_bytes(self) -> int:
        """Both features in their largest form, int64 lists with a key a number, and some more."""
        values = 4 * self.geometry.seq_length + self.geometry.target_length * self.num_tracks
        return 11 * values + _OTHER_BYTES


def _count_records(path: Path, max_bytes: int) -> tuple[Path, int]:
    return path, sum(1 for _ in read_records(path, max_bytes))


def _read_statistics(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the folder of a Basenji set holds {STATISTICS}, sequences.bed "
            f"and tfrecords/. A folder of .tfr files alone needs {SIZE_OPTIONS}"
        )
    try:
        statistics = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error})") from error
    if not isinstance(statistics, dict) or not any(key.endswith("_seqs") for key in statistics):
        raise UserError(f"{path} lists no split: there is no key like train_seqs")
    return statistics


def _integer(path: Path, statistics: dict[str, Any], key: str) -> int:
    value = statistics.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as tables of numbers write it
    # A set may have an empty split, but no empty geometry.
    smallest = 0 if key.endswith("_seqs") else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise UserError(f"{path}: {key} must be a whole number from {smallest} on, found {value!r}")
    return value


def _find_shards(folder: Path, splits: Collection[str] | None) -> dict[str, list[Path]]:
    """Return the shards of each split by number: 2 before 10.

    splits: those that statistics.json lists; None: those that the names of the files tell.
    """
    paths = [p for p in files_below(folder) if p.parent == folder and p.suffix == ".tfr"]
    if not paths:
        raise UserError(f"{folder} holds no .tfr file")
    numbered: dict[str, list[tuple[tuple[int, ...], Path]]] = {name: [] for name in splits or ()}
    for path in paths:
        match = re.fullmatch(r"(.+?)((?:-\d+)+)", path.stem)
        if match is None and splits is None:
            raise UserError(f"{path}: expected a name such as train-0.tfr, with split and number")
        if match is None or (splits is not None and match[1] not in splits):
            raise UserError(f"{path} is a shard of no split of {STATISTICS}: {', '.join(numbered)}")
        numbers = tuple(int(part) for part in match[2][1:].split("-"))
        numbered.setdefault(match[1], []).append((numbers, path))
    for split, shards in numbered.items():
        shards.sort()
        _refuse_gaps(folder, split, [numbers for numbers, _ in shards])
    return {split: [path for _, path in shards] for split, shards in numbered.items()}


def _refuse_gaps(folder: Path, split: str, numbers: list[tuple[int, ...]]) -> None:
    if any(len(number) > 1 for number in numbers):
        return
    present = {number for (number,) in numbers}
    if len(present) < len(numbers):
        raise UserError(f"{folder}: two shards of {split} have the same number")
    if missing := sorted(set(range(max(present, default=-1) + 1)) - present):
        names = ", ".join(f"{split}-{number}.tfr" for number in missing[:6])
        raise UserError(f"{folder}: {names} missing: copy the set again")
