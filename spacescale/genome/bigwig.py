"""Per-base coverage from BigWig files. Our own reader.

libBigWig, under pyBigWig, crashes the process on some damaged files and reads others silently
wrong; and it has one message for every fault. Here every offset, count and coordinate is checked
before it is used. Layout: Kent et al. 2010, Bioinformatics 26:2204, supplement.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.interval_values import IntervalValues

_ByteOrder = Literal["<", ">"]
_BIGWIG, _BIGBED, _CONTIG_TREE, _INDEX = 0x888FFC26, 0x8789F2EB, 0x78CA8C91, 0x2468ACE0
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
    format.
    """

    lengths_known = True
    background = float("nan")

    def __init__(self, path: Path):
        self.path = path
        self.lines: dict[str, int] = {}
        order = _check_header(path)
        self._file = _CheckedFile(path, order)
        try:
            header = self._file.unpack(_HEADER, 0)
            _, _, self._num_zooms, contig_tree, data, index, *_, self._unpacked_bytes, _ = header
            ids = _read_contigs(self._file, contig_tree)
            self.contigs: dict[str, int] = dict(ids.values())
            self._blocks = _read_blocks(self._file, data, index, ids)
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
        does not lie inside it, infinite values and damaged blocks.
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
        found = IntervalValues(
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
            np.concatenate([part.values for part in parts]),
        )
        if overlaps := np.flatnonzero(found.starts[1:] < found.ends[:-1]).tolist():
            position = int(found.starts[overlaps[0] + 1])
            raise UserError(f"{self.path} has two values at {chrom}:{position}: damaged?")
        values = found.per_base(start, end, np.nan)
        infinite = np.flatnonzero(np.isinf(values))
        if infinite.size:
            raise UserError(
                f"{self.path} has infinite coverage at {chrom}:{start + int(infinite[0])} (0-based)"
            )
        return values

    def _blocks_in(self, chrom: str, start: int, end: int) -> np.ndarray:
        blocks = self._blocks.get(chrom)
        if blocks is None:
            return np.empty(0)
        first = np.searchsorted(np.maximum.accumulate(blocks["end"]), start, side="right")
        return blocks[first : np.searchsorted(blocks["start"], end, side="left")]

    def _block(self, chrom: str, block: np.void) -> IntervalValues:
        """Return the intervals of a block; the last one is kept, for the next window."""
        key = block.tobytes()
        if self._decoded is None or self._decoded[0] != key:
            place = f"{chrom}:{block['start']}-{block['end']}"
            try:
                raw = self._file.bytes_at(int(block["offset"]), int(block["size"]))
                self._decoded = key, _decode(raw, self._file.order, self._unpacked_bytes, block)
            except (ValueError, struct.error, zlib.error) as error:
                raise UserError(
                    f"{self.path} cannot be read at {place}: truncated or damaged ({error})"
                ) from error
        return self._decoded[1]

    def _refuse_cut_end(self) -> None:
        """A complete file ends with its magic number; old ones did not, but then end in an index.

        The zoom levels come last in the file and are not used, so a cut in them would not show.
        """
        file = self._file
        if file.size >= 4 and file.unpack("I", file.size - 4) == (_BIGWIG,):
            return
        for level in range(self._num_zooms):
            place = struct.calcsize("<" + _HEADER) + level * struct.calcsize("<" + _ZOOM)
            *_, index = file.unpack(_ZOOM, place)
            _read_index(file, index)


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

    def damaged(self, why: str) -> UserError:
        return UserError(f"{self.path} is a damaged BigWig ({why})")


def _check_header(path: Path) -> _ByteOrder:
    """Return the byte order; tell the usual faults apart by the first bytes."""
    if not path.is_file():
        raise UserError(f"no such BigWig file: {path}")
    try:
        with path.open("rb") as file:
            header = file.read(struct.calcsize("<" + _HEADER))
    except OSError as error:
        raise UserError(f"cannot read the BigWig {path}: {error.strerror}") from error
    if not header:
        raise UserError(f"{path} is an empty file, not a BigWig")
    if header.lstrip()[:1] == b"<":
        raise UserError(f"{path} is an HTML or XML page, not a BigWig: a failed download?")
    orders: dict[bytes, _ByteOrder] = {
        struct.pack(o + "I", _BIGWIG): o for o in get_args(_ByteOrder)
    }
    order = orders.get(header[:4])
    if order is None:
        if header[:4] in (struct.pack(o + "I", _BIGBED) for o in "<>"):
            raise UserError(f"{path} is a BigBed; convert it with bigBedToBed")
        raise UserError(f"{path} is not a BigWig (it starts with {header[:8]!r})")
    size = path.stat().st_size
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


def _read_index(file: _CheckedFile, offset: int) -> np.ndarray:
    """Return the leaves of an index, in the order of the file."""
    magic, _, *_ = file.unpack(_INDEX_HEADER, offset)
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
    return found


def _read_blocks(
    file: _CheckedFile, data: int, index: int, ids: dict[int, tuple[str, int]]
) -> dict[str, np.ndarray]:
    """Return {contig: its data blocks by start}, checked against the contigs."""
    blocks = _read_index(file, index)
    (num_blocks,) = file.unpack("Q", data)
    if len(blocks) != num_blocks:
        raise file.damaged(f"{num_blocks} blocks of data, the index has {len(blocks)}")
    for contig in np.unique(blocks["contig"]).tolist():
        mine = blocks[blocks["contig"] == contig]
        _, length = ids.get(contig, ("", 0))
        inside = (mine["start"] < mine["end"]) & (mine["end"] <= length)
        if not (inside & (mine["contig"] == mine["end_contig"])).all():
            raise file.damaged("its index refers to places outside its contigs")
    blocks = blocks[np.lexsort((blocks["start"], blocks["contig"]))]
    return {ids[int(n)][0]: blocks[blocks["contig"] == n] for n in np.unique(blocks["contig"])}


def _decode(raw: bytes, order: _ByteOrder, unpacked_bytes: int, block: np.void) -> IntervalValues:
    """Return the intervals of a data block, checked against what the index says of it."""
    if unpacked_bytes:  # 0: the file is not compressed
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(raw, _MAX_SECTION_BYTES)
        if not unpacker.eof:
            raise ValueError("the compressed data do not end")
    contig, first, _, step, span, kind, _, count = struct.unpack_from(order + _SECTION, raw)
    if contig != block["contig"] or kind not in _ITEMS:
        raise ValueError("not the block that the index refers to")
    dtype = np.dtype(_ITEMS[kind]).newbyteorder(order)
    items = np.frombuffer(raw, dtype, count, struct.calcsize("<" + _SECTION))
    starts = items["start"] if kind < 3 else first + step * np.arange(count, dtype=np.int64)
    starts = starts.astype(np.int64)
    ends = items["end"].astype(np.int64) if kind == 1 else starts + span
    if not count or (starts >= ends).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError("intervals that overlap or have no length")
    if starts[0] < block["start"] or ends[-1] > block["end"]:
        raise ValueError("intervals outside the stretch that the index gives")
    return IntervalValues(starts, ends, items["value"].astype(np.float32))
