"""Per-base coverage from BigWig files. Our own reader.

libBigWig, under pyBigWig, crashes the process on some damaged files and reads others silently
wrong; and it has one message for every fault. Here every offset, count and coordinate is checked
before it is used. Layout: Kent et al. 2010, Bioinformatics 26:2204, supplement. As in Kent's own
reader the index alone tells where the data are: some writers leave out the number of blocks before
them, or give another.
"""

import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.contig_ends import MAX_START_PAST_END_BP
from spacescale.genome.file_kinds import refuse_other_kinds
from spacescale.genome.interval_values import IntervalValues

_ByteOrder = Literal["<", ">"]
_BIGWIG, _CONTIG_TREE, _INDEX = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_HEADER = "IHHQQQHHQQIQ"
_ZOOM = "IIQQ"
_CONTIG_TREE_HEADER = "IIIIQQ"
_INDEX_HEADER = "IIQIIIIQII"
_NODE = "BBH"
_SECTION = "IIIIIBBH"
_LEAF = [("contig", "u4"), ("start", "u4"), ("end_contig", "u4"), ("end", "u4"),
         ("offset", "u8"), ("size", "u8")]  # fmt: skip
_BRANCH = [*_LEAF[:4], ("offset", "u8")]
_ITEMS = {
    1: [("start", "u4"), ("end", "u4"), ("value", "f4")],
    2: [("start", "u4"), ("value", "f4")],
    3: [("value", "f4")],
}
# The item count of a section has 16 bits.
_MAX_SECTION_BYTES = struct.calcsize("<" + _SECTION) + 12 * (2**16 - 1)
_MAX_NAME_BYTES = 4096


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
        self._file = _CheckedFile(path, _check_header(path))
        try:
            header = self._file.unpack(_HEADER, 0)
            _, _, self._num_zooms, contig_tree, data, index, *_, self._unpacked_bytes, _ = header
            ids = _read_contigs(self._file, contig_tree)
            self.contigs: dict[str, int] = dict(ids.values())
            self._blocks = self._read_blocks(data, index, ids)
            self._refuse_cut_end()
        except BaseException:
            self._file.close()
            raise
        self._decoded: tuple[bytes, IntervalValues] | None = None

    def __enter__(self) -> "BigWig":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def read(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Return float32 [end - start], one value a base, NaN where the file has none.

        0-based half-open. Raises UserError with the place for an unknown contig, an interval that
        does not lie inside it, two values for a base, infinite values and damaged blocks.
        """
        if chrom not in self.contigs:
            raise UserError(f"{self.path} has no contig {chrom!r}")
        if not 0 <= start < end <= self.contigs[chrom]:
            raise UserError(
                f"{self.path}: {chrom}:{start}-{end} does not lie inside {chrom}, which has "
                f"{self.contigs[chrom]} bp"
            )
        parts = [self._block(chrom, block) for block in self._blocks_in(chrom, start, end)]
        if not parts:
            return np.full(end - start, np.nan, dtype=np.float32)
        values = self._apart(chrom, parts).per_base(start, end, np.nan)
        infinite = np.flatnonzero(np.isinf(values))
        if infinite.size:
            raise UserError(
                f"{self.path} has infinite coverage at {chrom}:{start + int(infinite[0])} (0-based)"
            )
        return values

    def past_end(self, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return {contig: how far past its end each of these intervals ends, in bp}.

        Of the contigs in `lengths`; `read` leaves out what is past the end. Raises UserError where
        an interval begins so far out that the file must belong to another assembly.
        """
        found = {}
        for chrom in (name for name in lengths if name in self._blocks):
            length, blocks = self.contigs[chrom], self._blocks[chrom]
            # Some writers cut the index, but not the intervals, at the end of the contig.
            last = [self._items(chrom, block) for block in blocks[blocks["end"] >= length]]
            if last:
                beyond = np.concatenate([items.ends for items in last]) - length
                found[chrom] = beyond[beyond > 0]
        return found

    def _blocks_in(self, chrom: str, start: int, end: int) -> np.ndarray:
        blocks = self._blocks.get(chrom)
        if blocks is None:
            return np.empty(0)
        first = np.searchsorted(np.maximum.accumulate(blocks["end"]), start, side="right")
        return blocks[first : np.searchsorted(blocks["start"], end, side="left")]

    def _block(self, chrom: str, block: np.void) -> IntervalValues:
        """Return a block's intervals up to the end of the contig; the last one is kept."""
        key = block.tobytes()
        if self._decoded is None or self._decoded[0] != key:
            items = self._items(chrom, block)
            ends = np.minimum(items.ends, self.contigs[chrom])
            inside = items.starts < ends
            items = IntervalValues(items.starts[inside], ends[inside], items.values[inside])
            if (items.starts < block["start"]).any() or (items.ends > block["end"]).any():
                raise self._unreadable(chrom, block, "it leaves the stretch that the index gives")
            self._decoded = key, items
        return self._decoded[1]

    def _items(self, chrom: str, block: np.void) -> IntervalValues:
        """Return the intervals of a block as they stand there, those of no length left out."""
        try:
            raw = self._file.bytes_at(int(block["offset"]), int(block["size"]))
            items = _decode(raw, self._file.order, self._unpacked_bytes, int(block["contig"]))
        except (ValueError, struct.error, zlib.error) as error:
            raise self._unreadable(chrom, block, error) from error
        length = self.contigs[chrom]
        if items.starts.size and items.starts.max() > length + MAX_START_PAST_END_BP:
            raise UserError(
                f"{self.path} has a value at {chrom}:{items.starts.max()}, far past the end of "
                f"{chrom}, which has {length} bp there: made for another assembly?"
            )
        return items

    def _unreadable(self, chrom: str, block: np.void, why: object) -> UserError:
        place = f"{chrom}:{block['start']}-{block['end']}"
        return UserError(f"{self.path} cannot be read at {place}: truncated or damaged ({why})")

    def _apart(self, chrom: str, parts: list[IntervalValues]) -> IntervalValues:
        """Join blocks, intervals by start; UserError names the place where two overlap."""
        starts = np.concatenate([part.starts for part in parts])
        order = np.argsort(starts, kind="stable")
        found = IntervalValues(
            starts[order],
            np.concatenate([part.ends for part in parts])[order],
            np.concatenate([part.values for part in parts])[order],
        )
        if overlaps := np.flatnonzero(found.starts[1:] < found.ends[:-1]).tolist():
            first = overlaps[0]
            end = min(found.ends[first], found.ends[first + 1])
            raise UserError(
                f"{self.path} has a value twice at {chrom}:{found.starts[first + 1]}-{end}: its "
                "intervals overlap. Make it again from intervals that do not"
            )
        return found

    def _read_blocks(
        self, data: int, index: int, ids: dict[int, tuple[str, int]]
    ) -> dict[str, np.ndarray]:
        """Return {contig: its data blocks by start}, checked against the contigs."""
        if not index:
            self._refuse_unfinished(data)
            return {}
        blocks, num_indexed = _read_index(self._file, index)
        if len(blocks) not in (num_indexed, *self._file.unpack("Q", data)):
            self._refuse_lost_blocks(blocks, data, index, ids)
        known = np.isin(blocks["contig"], list(ids)) & (blocks["contig"] == blocks["end_contig"])
        if not (known & (blocks["start"] <= blocks["end"])).all():
            raise self._file.damaged("its index refers to places outside its contigs")
        blocks = blocks[np.lexsort((blocks["start"], blocks["contig"]))]
        return {ids[int(n)][0]: blocks[blocks["contig"] == n] for n in np.unique(blocks["contig"])}

    def _refuse_unfinished(self, data: int) -> None:
        """Let pass what a writer leaves that was given contigs and no value: it needs no index."""
        end = self._file.size - struct.calcsize("<I")
        holds_none = not data or data <= end <= data + struct.calcsize("<Q")
        if not (self._file.ends_in_magic and holds_none):
            raise self._file.damaged("it has no index: was its writer interrupted?")

    def _refuse_lost_blocks(
        self, blocks: np.ndarray, data: int, index: int, ids: Collection[int]
    ) -> None:
        """Raise UserError if a block lies between those that the index names.

        For files whose counts do not agree with the index; whether the count or the index is wrong
        shows between the data offset and what comes after the data.
        """
        zooms = [self._zoom(level)[2] for level in range(self._num_zooms)]
        order = np.argsort(blocks["offset"], kind="stable")
        starts = blocks["offset"][order].tolist()
        ends = (blocks["offset"] + blocks["size"])[order].tolist()
        last = max(ends, default=data)
        after = min((place for place in (index, *zooms) if place >= last), default=last)
        starts.append(after)
        # The count before the first block has 8 bytes, or 4, or is not there.
        gaps = [(data + count, starts[0]) for count in (0, 4, 8)]
        gaps += zip(ends, starts[1:], strict=True)
        for start, end in gaps:
            if start < end and self._is_block(start, end - start, ids):
                raise self._file.damaged(f"its index leaves out the data at byte {start:,}")

    def _is_block(self, offset: int, size: int, ids: Collection[int]) -> bool:
        try:
            raw = self._file.bytes_at(offset, size)
            header = _unpacked(raw, self._unpacked_bytes, struct.calcsize("<" + _SECTION))
            contig, *_, kind, _, count = struct.unpack(self._file.order + _SECTION, header)
        except (struct.error, zlib.error):
            return False
        return contig in ids and kind in _ITEMS and count > 0

    def _zoom(self, level: int) -> tuple:
        """Return what the header says of a zoom level: bases, a reserve, offset, index offset."""
        place = struct.calcsize("<" + _HEADER) + level * struct.calcsize("<" + _ZOOM)
        return self._file.unpack(_ZOOM, place)

    def _refuse_cut_end(self) -> None:
        """A complete file ends with its magic number; old ones did not, but then end in an index.

        The zoom levels come last in the file and are not used, so a cut in them would not show.
        """
        if not self._file.ends_in_magic:
            for level in range(self._num_zooms):
                *_, index = self._zoom(level)
                _read_index(self._file, index)


class _CheckedFile:
    """A file of one byte order; reading past its end raises UserError instead of coming short."""

    def __init__(self, path: Path, order: _ByteOrder):
        self.path = path
        self.order: _ByteOrder = order
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)

    def bytes_at(self, offset: int, size: int) -> bytes:
        if offset + size > self.size:
            raise UserError(
                f"{self.path} is a truncated BigWig: it has {self.size:,} bytes and refers to byte "
                f"{offset + size:,}"
            )
        return os.pread(self._descriptor, size, offset)

    def unpack(self, layout: str, offset: int) -> tuple:
        layout = self.order + layout
        return struct.unpack(layout, self.bytes_at(offset, struct.calcsize(layout)))

    def array_at(self, offset: int, fields: list[tuple[str, str]], count: int) -> np.ndarray:
        dtype = np.dtype(fields).newbyteorder(self.order)
        return np.frombuffer(self.bytes_at(offset, dtype.itemsize * count), dtype)

    @property
    def ends_in_magic(self) -> bool:
        """Whether the magic number is repeated at the end, as complete files have it."""
        return self.size >= 4 and self.unpack("I", self.size - 4) == (_BIGWIG,)

    def damaged(self, why: str) -> UserError:
        return UserError(f"{self.path} is a damaged BigWig ({why})")


def _check_header(path: Path) -> _ByteOrder:
    """Return the byte order; tell the usual faults apart by the first bytes."""
    if not path.is_file():
        raise UserError(f"no such BigWig file: {path}")
    refuse_other_kinds(path, "a BigWig", {"bigwig"})
    size = path.stat().st_size
    if not size:
        raise UserError(f"{path} is an empty file, not a BigWig")
    with path.open("rb") as file:
        header = file.read(struct.calcsize("<" + _HEADER))
    orders: dict[bytes, _ByteOrder] = {
        struct.pack(o + "I", _BIGWIG): o for o in get_args(_ByteOrder)
    }
    order = orders.get(header[:4])
    if order is None:
        raise UserError(f"{path} is not a BigWig (it starts with {header[:8]!r})")
    complete = len(header) == struct.calcsize("<" + _HEADER)
    if not complete or struct.unpack_from(order + "Q", header, 24)[0] >= size:
        raise UserError(f"{path} is a truncated BigWig: its index lies beyond its {size:,} bytes")
    return order


def _read_contigs(file: _CheckedFile, offset: int) -> dict[int, tuple[str, int]]:
    """Return {contig id: (name, length in bp)}, by id."""
    magic, _, key_bytes, value_bytes, count, _ = file.unpack(_CONTIG_TREE_HEADER, offset)
    if magic != _CONTIG_TREE or value_bytes != 8 or not 0 < key_bytes <= _MAX_NAME_BYTES:
        raise file.damaged("no list of contigs")
    leaf = [("key", f"S{key_bytes}"), ("id", "u4"), ("length", "u4")]
    branch = [("key", f"S{key_bytes}"), ("offset", "u8")]
    root = offset + struct.calcsize("<" + _CONTIG_TREE_HEADER)
    found: dict[int, tuple[str, int]] = {}
    for items in _leaves(file, root, leaf, branch, count):
        for item in items:
            name = bytes(item["key"]).decode("utf-8", errors="replace")
            found[int(item["id"])] = name, int(item["length"])
    if len(found) != count or len({name for name, _ in found.values()}) != count:
        raise file.damaged("its list of contigs is not what it says")
    return dict(sorted(found.items()))


def _leaves(
    file: _CheckedFile, root: int, leaf: list, branch: list, count: int
) -> Iterator[np.ndarray]:
    """Yield the items of all leaf nodes of a tree of `count` items; a loop ends in an error."""
    nodes, seen, items = [root], 0, 0
    while nodes:
        offset = nodes.pop()
        is_leaf, _, size = file.unpack(_NODE, offset)
        fields = leaf if is_leaf else branch
        found = file.array_at(offset + struct.calcsize("<" + _NODE), fields, size)
        if is_leaf:
            items += size
            yield found
        else:
            nodes.extend(int(child) for child in found["offset"][::-1])
        seen += 1
        # A tree has at most as many nodes as items, and one root.
        if items > count or seen + len(nodes) > 2 * count + 1:
            raise file.damaged("a search tree that does not end")


def _read_index(file: _CheckedFile, offset: int) -> tuple[np.ndarray, int]:
    """Return the leaves of an index, in the order of the file, and how many its header says."""
    magic, _, count, *_ = file.unpack(_INDEX_HEADER, offset)
    if magic != _INDEX:
        raise file.damaged(f"no index at byte {offset:,}")
    root = offset + struct.calcsize("<" + _INDEX_HEADER)
    # Its header counts items in some writers and blocks in others; the file's size bounds both.
    limit = file.size // np.dtype(_LEAF).itemsize
    leaves = [np.empty(0, np.dtype(_LEAF).newbyteorder(file.order))]
    leaves += _leaves(file, root, _LEAF, _BRANCH, limit)
    found = np.concatenate(leaves).astype(_LEAF)
    ends = found["offset"] + found["size"]
    if (ends < found["offset"]).any() or (ends > file.size).any():
        raise UserError(
            f"{file.path} is a truncated BigWig: its index refers to byte {ends.max():,} of "
            f"{file.size:,}"
        )
    return found, count


def _unpacked(raw: bytes, unpacked_bytes: int, size: int) -> bytes:
    """Return up to `size` bytes of a data block; unpacked_bytes 0: the file is not compressed."""
    return zlib.decompressobj().decompress(raw, size) if unpacked_bytes else raw[:size]


def _decode(raw: bytes, order: _ByteOrder, unpacked_bytes: int, contig: int) -> IntervalValues:
    """Return the intervals of a data block in its order, those of no length left out.

    Whether they overlap is not looked at. Raises ValueError, struct.error or zlib.error for damage
    and for a block of another contig.
    """
    if unpacked_bytes:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(raw, _MAX_SECTION_BYTES)
        if not unpacker.eof:
            raise ValueError("the compressed data do not end")
    found, first, _, step, span, kind, _, count = struct.unpack_from(order + _SECTION, raw)
    if found != contig or kind not in _ITEMS:
        raise ValueError("not the block that the index refers to")
    dtype = np.dtype(_ITEMS[kind]).newbyteorder(order)
    body = raw[struct.calcsize("<" + _SECTION) :]
    if len(body) < count * dtype.itemsize:
        raise ValueError(f"{count} intervals do not fit in {len(body)} bytes")
    items = np.frombuffer(body[: count * dtype.itemsize], dtype)
    starts = items["start"] if kind < 3 else first + step * np.arange(count, dtype=np.int64)
    starts = starts.astype(np.int64)
    ends = items["end"].astype(np.int64) if kind == 1 else starts + span
    if (starts > ends).any():
        raise ValueError("an interval ends before it starts")
    long = starts < ends
    return IntervalValues(starts[long], ends[long], items["value"][long].astype(np.float32))
