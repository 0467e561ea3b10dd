"""Per-base coverage from BigWig files. Our own reader.

libBigWig, under pyBigWig, crashes the process on some damaged files and reads others silently
wrong; and it has one message for every fault. So does pybigtools. Here everything is checked before
it is used, many blocks at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.bigwig_file import KINDS, SECTION, SECTION_BYTES, BigWigFile
from spacescale.genome.contig_ends import MAX_START_PAST_END_BP
from spacescale.genome.interval_values import IntervalValues, touched

# Done at a time: enough to hide numpy's overhead, little enough for the cache, or the memory.
_BLOCKS_AT_A_TIME, _BASES_AT_A_TIME = 32, 2**21
_ITEM_BYTES = np.array([0, 12, 8, 4] + [0] * 252)  # by kind; 0: there is no such kind
_NO_INTERVALS = IntervalValues(*np.empty((3, 0), dtype=np.uint32))


class BigWig:
    """An open BigWig; a context manager. contigs: {name: length in bp}.

    Raises UserError naming the file when it is missing, empty, truncated, damaged or another
    format. A file without any value is none of these.
    """

    lengths_known = True
    background = float("nan")

    def __init__(self, path: Path):
        self.path = path
        self.lines: dict[str, int] = {}
        self._file = BigWigFile(path)
        self.contigs = self._file.contigs
        self._blocks = {name: _Blocks.of(table) for name, table in self._file.blocks.items()}
        # Of the last read: contig, first block, the one after its last, intervals.
        self._kept = "", 0, 0, _NO_INTERVALS

    def __enter__(self) -> "BigWig":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def read(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Return float32 [end - start], one value a base, NaN where the file has none.

        0-based half-open. Raises UserError with the place for an unknown contig, an interval that
        does not lie inside it, two values for a base, infinite values and damaged blocks.
        """
        self._refuse_outside(chrom, start, end)
        blocks = self._blocks[chrom]
        more = range(start + _BASES_AT_A_TIME, end, _BASES_AT_A_TIME)
        edges = sorted({start, *blocks.cuts(start, end), *more, end})
        found = np.empty(end - start if len(edges) > 2 else 0, dtype=np.float32)
        for begin, stop in pairwise(edges):
            numbers = blocks.touched_by(begin, stop)
            values = self._laid_out(chrom, numbers, np.array([begin]), stop - begin)[0]
            if not found.size:
                return values
            found[begin - start : stop - start] = values
        return found

    def read_windows(self, chrom: str, starts: np.ndarray, width: int) -> np.ndarray:
        """Return float32 [windows, width], row by row what `read` gives; raise what it raises.

        starts: int64 [windows], 0-based, in any order. A block that they share is decoded once.
        """
        if starts.size == 1:  # long windows come one by one
            return self.read(chrom, int(starts[0]), int(starts[0]) + width)[None]
        for start in (int(starts.min()), int(starts.max())) if starts.size else ():
            self._refuse_outside(chrom, start, start + width)
        most = max(_BASES_AT_A_TIME // width, 1)
        parts = [
            (group[first : first + most], numbers)
            for group, numbers in self._blocks[chrom].groups(starts, width)
            for first in range(0, group.size, most)
        ]
        if len(parts) == 1 and parts[0][0].size == starts.size:  # few enough to lay out at once
            return self._laid_out(chrom, parts[0][1], starts, width)
        values = np.full((starts.size, width), np.nan, dtype=np.float32)
        for rows, numbers in parts:
            values[rows] = self._laid_out(chrom, numbers, starts[rows], width)
        return values

    def past_end(self, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return {contig: how far past its end each of these intervals ends, in bp}.

        Of the contigs in `lengths`; `read` leaves out what is past the end. Raises UserError where
        an interval begins so far out that the file must belong to another assembly.
        """
        found = {}
        for chrom in (name for name in lengths if name in self.contigs):
            length, table = self.contigs[chrom], self._blocks[chrom].table
            # Some writers cut the index, but not the intervals, at the end of the contig.
            for blocks, counts, items in self._sections(chrom, table[table["end"] >= length]):
                self._refuse_items(chrom, np.repeat(blocks, counts), items)
                past = items.ends[(items.ends > length) & (items.starts < items.ends)]
                found[chrom] = np.append(found.get(chrom, past[:0]), past - length)
        return found

    def _refuse_outside(self, chrom: str, start: int, end: int) -> None:
        if chrom not in self.contigs:
            raise UserError(f"{self.path} has no contig {chrom!r}")
        if not 0 <= start < end <= self.contigs[chrom]:
            raise UserError(
                f"{self.path}: {chrom}:{start}-{end} does not lie inside {chrom}, which has "
                f"{self.contigs[chrom]} bp"
            )

    def _laid_out(
        self, chrom: str, numbers: np.ndarray, starts: np.ndarray, width: int
    ) -> np.ndarray:
        """Return float32 [windows, width] of windows that lie in these blocks."""
        intervals = self._intervals(chrom, numbers)
        values = intervals.per_window(starts, width, self.background)
        if intervals.has_infinite and np.isinf(values).any():
            row, base = np.argwhere(np.isinf(values))[0]
            place = f"{chrom}:{starts[row] + base}"
            raise UserError(f"{self.path} has infinite coverage at {place} (0-based)")
        return values

    def _intervals(self, chrom: str, numbers: np.ndarray) -> IntervalValues:
        """Return the intervals of these blocks, and maybe of others, by start; keep them."""
        if not numbers.size:
            return _NO_INTERVALS
        blocks, (of, begin, end, kept), parts = self._blocks[chrom], self._kept, []
        fresh = numbers
        if of == chrom and begin <= numbers[0] < end:
            if numbers[-1] < end:
                return kept
            parts.append(kept.since(int(blocks.starts[numbers[0]])))
            fresh = numbers[numbers >= end]
        parts += self._decoded(chrom, blocks.table[fresh])
        intervals = self._by_start(chrom, IntervalValues.joined(parts))
        gaps = (numbers[1:] > numbers[:-1] + 1).nonzero()[0]
        begin = numbers[gaps[-1] + 1] if gaps.size else numbers[0]
        self._kept = chrom, int(begin), int(numbers[-1]) + 1, intervals
        return intervals

    def _decoded(self, chrom: str, blocks: np.ndarray) -> Iterator[IntervalValues]:
        """Yield the intervals of blocks up to the end of the contig."""
        length = self.contigs[chrom]
        for some, counts, items in self._sections(chrom, blocks):
            if _is_plain(some, counts, items, length):
                yield items
                continue
            owners = np.repeat(some, counts)
            self._refuse_items(chrom, owners, items)
            ends = np.minimum(items.ends, length)
            inside = items.starts < ends
            out = inside & ((items.starts < owners["start"]) | (ends > owners["end"]))
            self._refuse(chrom, owners, out, "it leaves the stretch that the index gives")
            yield IntervalValues(items.starts, ends, items.values).where(inside)

    def _by_start(self, chrom: str, found: IntervalValues) -> IntervalValues:
        """Put intervals in order; UserError names the place where two overlap."""
        if (found.starts[1:] < found.ends[:-1]).any():
            found = found.where(np.argsort(found.starts, kind="stable"))
        if overlaps := np.flatnonzero(found.starts[1:] < found.ends[:-1]).tolist():
            first = overlaps[0]
            end = min(found.ends[first], found.ends[first + 1])
            raise UserError(
                f"{self.path} has a value twice at {chrom}:{found.starts[first + 1]}-{end}: its "
                "intervals overlap. Make it again from intervals that do not"
            )
        return found

    def _sections(
        self, chrom: str, blocks: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, IntervalValues]]:
        """Yield (blocks, their numbers of items, the items as they stand there) of each kind."""
        if not blocks.size:
            return
        raws = list(self._unpacked(chrom, blocks))
        room = np.array([len(raw) for raw in raws]) - SECTION_BYTES
        self._refuse(chrom, blocks, room < 0, "it has no room for a section")
        headers = self._file.array(b"".join([raw[:SECTION_BYTES] for raw in raws]), SECTION)
        item_bytes, counts = _ITEM_BYTES[headers["kind"]], headers["count"].astype(np.int64)
        wrong = (headers["contig"] != blocks["contig"]) | (item_bytes == 0)
        self._refuse(chrom, blocks, wrong, "not the block that the index refers to")
        self._refuse(chrom, blocks, counts * item_bytes > room, "its intervals do not fit in it")
        ends = (SECTION_BYTES + counts * item_bytes).tolist()
        bodies = [memoryview(r)[SECTION_BYTES:end] for r, end in zip(raws, ends, strict=True)]
        for kind in set(headers["kind"].tolist()):
            mine = (headers["kind"] == kind).nonzero()[0]
            listed = self._file.array(b"".join([bodies[n] for n in mine.tolist()]), KINDS[kind])
            yield blocks[mine], counts[mine], _items(kind, headers[mine], counts[mine], listed)

    def _unpacked(self, chrom: str, blocks: np.ndarray) -> Iterator[bytes | bytearray]:
        for number, raw in enumerate(self._file.each_at(blocks["offset"], blocks["size"])):
            try:
                yield self._file.content(raw)
            except ValueError as error:
                raise self._unreadable(chrom, blocks[number], error) from error

    def _refuse(self, chrom: str, blocks: np.ndarray, bad: np.ndarray, why: str) -> None:
        if bad.any():
            raise self._unreadable(chrom, blocks[np.argmax(bad)], why)

    def _refuse_items(self, chrom: str, owners: np.ndarray, items: IntervalValues) -> None:
        turned = items.starts > items.ends
        self._refuse(chrom, owners, turned, "an interval ends before it starts")
        last, length = items.starts.max(initial=0), self.contigs[chrom]
        if last > length + MAX_START_PAST_END_BP:
            raise UserError(
                f"{self.path} has a value at {chrom}:{last}, far past the end of {chrom}, which "
                f"has {length} bp there: made for another assembly?"
            )

    def _unreadable(self, chrom: str, block: np.void, why: object) -> UserError:
        place = f"{chrom}:{block['start']}-{block['end']}"
        return UserError(f"{self.path} cannot be read at {place}: truncated or damaged ({why})")


@dataclass(frozen=True)
class _Blocks:
    """The blocks of a contig by start; reach: the furthest end up to each."""

    table: np.ndarray
    starts: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray) -> "_Blocks":
        return cls(table, table["start"].copy(), np.maximum.accumulate(table["end"]))

    def touched_by(self, start: int, end: int) -> np.ndarray:
        """Return the numbers of the blocks that have a base in start to end."""
        first, last = touched(self.starts, self.reach, np.array([start]), end - start)
        return np.arange(first[0], last[0])

    def cuts(self, start: int, end: int) -> list[int]:
        """Return places between start and end with so many blocks between them as fit at a time."""
        first, last = np.searchsorted(self.starts, np.array([start + 1, end], dtype=np.uint32))
        return np.unique(self.starts[first:last][_BLOCKS_AT_A_TIME::_BLOCKS_AT_A_TIME]).tolist()

    def groups(self, starts: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of windows, and the numbers of the blocks that they touch, ascending.

        Windows that touch none are left out; each other one is in one group.
        """
        order = np.argsort(starts, kind="stable")
        first, last = touched(self.starts, self.reach, starts[order], width)
        some = first < last
        order, first, last = order[some], first[some], last[some]
        new = np.cumsum(last - np.maximum(first, np.append(0, last)[:-1]))
        cuts = np.flatnonzero(np.diff(new // _BLOCKS_AT_A_TIME)) + 1
        for start, end in pairwise(sorted({0, *cuts.tolist(), order.size})):
            low, span = first[start], last[end - 1] - first[start] + 1
            begun = np.bincount(first[start:end] - low, minlength=span)
            ended = np.bincount(last[start:end] - low, minlength=span)
            yield order[start:end], low + np.flatnonzero(np.cumsum(begun - ended))


def _is_plain(blocks: np.ndarray, counts: np.ndarray, items: IntervalValues, length: int) -> bool:
    """Tell whether all items lie apart, in order, in their blocks' stretches and in the contig."""
    last = counts.cumsum() - 1
    return bool(
        (counts > 0).all()
        and (items.starts < items.ends).all()
        and (items.ends[:-1] <= items.starts[1:]).all()
        and (items.starts[last - counts + 1] >= blocks["start"]).all()
        and (items.ends[last] <= np.minimum(blocks["end"], length)).all()
    )


def _items(
    kind: int, headers: np.ndarray, counts: np.ndarray, listed: np.ndarray
) -> IntervalValues:
    """Return what sections of one kind list, contiguous and in native byte order.

    headers, counts: [sections]; listed: their items, section by section.
    """
    values = listed["value"].astype(np.float32)
    if kind == 1:
        starts, ends = listed["start"].astype(np.uint32), listed["end"].astype(np.uint32)
        return IntervalValues(starts, ends, values)
    firsts, steps, spans = (headers[name].astype(np.int64) for name in ("start", "step", "span"))
    last = listed["start"].max(initial=0) if kind == 2 else (firsts + steps * (counts - 1)).max()
    # In 32 bits where they hold all ends; what wraps around on the way cancels out.
    dtype = np.uint32 if int(last) + int(spans.max()) < 2**32 else np.int64
    if kind == 2:
        starts = listed["start"].astype(dtype)
    else:
        starts = (firsts - steps * (counts.cumsum() - counts)).astype(dtype).repeat(counts)
        starts += steps.astype(dtype).repeat(counts) * np.arange(listed.size, dtype=dtype)
    return IntervalValues(starts, starts + spans.astype(dtype).repeat(counts), values)
