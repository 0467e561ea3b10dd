"""Where a BigWig file has its data: contigs and the index, checked before anything is read.

Every offset and count is checked before it is used. Layout: Kent et al. 2010, Bioinformatics
26:2204, supplement. As in Kent's own reader the index alone tells where the data are: some writers
leave out the number of blocks before them, or give another.
"""

import contextlib
import os
import struct
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import deflate
import numpy as np

from spacescale.errors import UserError
from spacescale.genome.file_kinds import refuse_other_kinds
from spacescale.genome.reads import coverage_of_reads

_ByteOrder = Literal["<", ">"]
_BIGWIG, _CONTIG_TREE, _INDEX = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_HEADER = "IHHQQQHHQQIQ"
_ZOOM = "IIQQ"
_CONTIG_TREE_HEADER = "IIIIQQ"
_INDEX_HEADER = "IIQIIIIQII"
_NODE = "BBH"
SECTION = [("contig", "u4"), ("start", "u4"), ("end", "u4"), ("step", "u4"), ("span", "u4"),
            ("kind", "u1"), ("reserve", "u1"), ("count", "u2")]  # fmt: skip
_LEAF = [("contig", "u4"), ("start", "u4"), ("end_contig", "u4"), ("end", "u4"),
         ("offset", "u8"), ("size", "u8")]  # fmt: skip
_BRANCH = [*_LEAF[:4], ("offset", "u8")]
KINDS = {
    1: [("start", "u4"), ("end", "u4"), ("value", "f4")],
    2: [("start", "u4"), ("value", "f4")],
    3: [("value", "f4")],
}
SECTION_BYTES = np.dtype(SECTION).itemsize
# The item count of a section has 16 bits.
_MAX_SECTION_BYTES = SECTION_BYTES + 12 * (2**16 - 1)
_MAX_NAME_BYTES = 4096


class BigWigFile:
    """An open file of one byte order; reading past its end raises UserError.

    contigs: {name: length in bp}. blocks: {name: its data blocks by start}, structured arrays with
    contig (id), start, end, offset and size.
    """

    def __init__(self, path: Path):
        self.path = path
        self.order: _ByteOrder = _check_header(path)
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(self._descriptor).st_size
            header = self.unpack(_HEADER, 0)
            _, _, self._num_zooms, contig_tree, data, index, *_, self._unpacked_bytes, _ = header
            ids = _read_contigs(self, contig_tree)
            self.contigs: dict[str, int] = dict(ids.values())
            self.blocks = self._read_blocks(data, index, ids)
            self._refuse_cut_end()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Return so many bytes of the file."""
        if offset + size > self.size:
            raise UserError(
                f"{self.path} is a truncated BigWig: it has {self.size:,} bytes and refers to byte "
                f"{offset + size:,}"
            )
        return os.pread(self._descriptor, size, offset)

    def each_at(self, offsets: np.ndarray, sizes: np.ndarray) -> Iterator[bytes | memoryview]:
        """Yield what stands at several places; if they lie end to end, it is read at once."""
        places = list(zip(offsets.tolist(), sizes.tolist(), strict=True))
        if all(offset + size == after for (offset, size), (after, _) in pairwise(places)):
            first = places[0][0]
            whole = memoryview(self.bytes_at(first, sum(size for _, size in places)))
            yield from (whole[offset - first :][:size] for offset, size in places)
        else:
            yield from (self.bytes_at(*place) for place in places)

    def unpack(self, layout: str, offset: int) -> tuple:
        """Return the numbers at an offset; layout as in struct, without the byte order."""
        layout = self.order + layout
        return struct.unpack(layout, self.bytes_at(offset, struct.calcsize(layout)))

    def array(self, content: bytes | bytearray, fields: list[tuple[str, str]]) -> np.ndarray:
        """Return bytes as a structured array in the byte order of the file."""
        return np.frombuffer(content, np.dtype(fields).newbyteorder(self.order))

    def array_at(self, offset: int, fields: list[tuple[str, str]], count: int) -> np.ndarray:
        """Return a structured array of `count` rows at an offset."""
        return self.array(self.bytes_at(offset, np.dtype(fields).itemsize * count), fields)

    @property
    def ends_in_magic(self) -> bool:
        """Whether the magic number is repeated at the end, as complete files have it."""
        return self.size >= 4 and self.unpack("I", self.size - 4) == (_BIGWIG,)

    def damaged(self, why: str) -> UserError:
        """Return the error for a file that contradicts itself."""
        return UserError(f"{self.path} is a damaged BigWig ({why})")

    def content(self, stored: bytes | memoryview) -> bytes | bytearray:
        """Return what a block holds; ValueError if that is damaged or longer than can be."""
        if not self._unpacked_bytes:
            return bytes(stored[:_MAX_SECTION_BYTES])
        # Little room is faster; some writers give too small a number.
        for room in (min(self._unpacked_bytes, _MAX_SECTION_BYTES), _MAX_SECTION_BYTES):
            with contextlib.suppress(deflate.DeflateError):
                return deflate.zlib_decompress(stored, room)
        raise ValueError("its compressed data are damaged")

    def _read_blocks(
        self, data: int, index: int, ids: dict[int, tuple[str, int]]
    ) -> dict[str, np.ndarray]:
        """Return {contig: its data blocks by start}, checked against the contigs."""
        if index:
            blocks, num_indexed = _read_index(self, index)
            if len(blocks) not in (num_indexed, *self.unpack("Q", data)):
                self._refuse_lost_blocks(blocks, data, index, ids)
        else:
            self._refuse_unfinished(data)
            blocks = np.empty(0, _LEAF)
        known = np.isin(blocks["contig"], list(ids)) & (blocks["contig"] == blocks["end_contig"])
        if not (known & (blocks["start"] <= blocks["end"])).all():
            raise self.damaged("its index refers to places outside its contigs")
        blocks = blocks[np.lexsort((blocks["start"], blocks["contig"]))]
        edges = np.searchsorted(blocks["contig"], [*ids, 2**32]).tolist()
        of_contig = [blocks[start:end] for start, end in pairwise(edges)]
        return dict(zip(self.contigs, of_contig, strict=True))

    def _refuse_unfinished(self, data: int) -> None:
        """Let pass what a writer leaves that was given contigs and no value: it needs no index."""
        end = self.size - struct.calcsize("<I")
        holds_none = not data or data <= end <= data + struct.calcsize("<Q")
        if not (self.ends_in_magic and holds_none):
            raise self.damaged("it has no index: was its writer interrupted?")

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
                raise self.damaged(f"its index leaves out the data at byte {start:,}")

    def _is_block(self, offset: int, size: int, ids: Collection[int]) -> bool:
        try:
            raw = self.content(self.bytes_at(offset, size))[:SECTION_BYTES]
        except ValueError:
            return False
        header = self.array(raw.ljust(SECTION_BYTES, b"\0"), SECTION)[0]
        return header["contig"] in ids and header["kind"] in KINDS and header["count"] > 0

    def _zoom(self, level: int) -> tuple:
        """Return what the header says of a zoom level: bases, a reserve, offset, index offset."""
        place = struct.calcsize("<" + _HEADER) + level * struct.calcsize("<" + _ZOOM)
        return self.unpack(_ZOOM, place)

    def _refuse_cut_end(self) -> None:
        """A complete file ends with its magic number; old ones did not, but then end in an index.

        The zoom levels come last in the file and are not used, so a cut in them would not show.
        """
        if not self.ends_in_magic:
            for level in range(self._num_zooms):
                *_, index = self._zoom(level)
                _read_index(self, index)


def _check_header(path: Path) -> _ByteOrder:
    """Return the byte order; tell the usual faults apart by the first bytes."""
    if not path.is_file():
        raise UserError(f"no such BigWig file: {path}")
    refuse_other_kinds(path, "a BigWig", {"bigwig"}, coverage_of_reads(path))
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


def _read_contigs(file: BigWigFile, offset: int) -> dict[int, tuple[str, int]]:
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
    file: BigWigFile, root: int, leaf: list, branch: list, count: int
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


def _read_index(file: BigWigFile, offset: int) -> tuple[np.ndarray, int]:
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
