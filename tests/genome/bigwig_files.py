"""BigWigs byte by byte, in the forms that pyBigWig does not write."""

import struct
import zlib

MAGIC, CONTIG_TREE, INDEX = 0x888FFC26, 0x78CA8C91, 0x2468ACE0


def bedgraph_section(contig: int, items: list[tuple[int, int, float]]) -> tuple:
    return contig, items[0][0], items[-1][1], 0, 0, 1, items


def variable_section(contig: int, span: int, items: list[tuple[int, float]]) -> tuple:
    return contig, items[0][0], items[-1][0] + span, 0, span, 2, items


def fixed_section(contig: int, start: int, step: int, span: int, values: list[float]) -> tuple:
    end = start + step * (len(values) - 1) + span
    return contig, start, end, step, span, 3, [(value,) for value in values]


def bigwig_bytes(
    contigs: list[tuple[str, int]],
    sections: list[tuple],
    order: str = "<",
    compressed: bool = True,
    magic_at_end: bool = True,
    count: bytes | None = None,
    indexed_count: int | None = None,
    fanout: int = 256,
    lost: int | None = None,
) -> bytes:
    """A BigWig without zoom levels; sections one a block.

    count: what stands before the blocks, if not their number. indexed_count: what the index says
    of itself, if not the number of blocks. fanout: children of a node of the contig tree and of
    the index. lost: number of the block that the index leaves out.
    """
    item = {1: "IIf", 2: "If", 3: "f"}
    blocks = []
    for contig, start, end, step, span, kind, items in sections:
        raw = struct.pack(order + "IIIIIBBH", contig, start, end, step, span, kind, 0, len(items))
        raw += b"".join(struct.pack(order + item[kind], *values) for values in items)
        blocks.append(zlib.compress(raw) if compressed else raw)
    key = max(len(name) for name, _ in contigs)
    leaves = [
        (name.encode().ljust(key, b"\0"), struct.pack(order + "II", number, length))
        for number, (name, length) in enumerate(contigs)
    ]
    tree = struct.pack(order + "IIIIQQ", CONTIG_TREE, fanout, key, 8, len(contigs), 0)
    tree += nodes(sorted(leaves), fanout, 64 + len(tree), order)
    count = struct.pack(order + "Q", len(blocks)) if count is None else count
    data_start = 64 + len(tree)
    index_start = data_start + len(count) + sum(map(len, blocks))
    leaves, offset = [], data_start + len(count)
    for section, block in zip(sections, blocks, strict=True):
        contig, start, end = section[:3]
        box = struct.pack(order + "IIII", contig, start, contig, end)
        leaves.append((box, struct.pack(order + "QQ", offset, len(block))))
        offset += len(block)
    if lost is not None:
        del leaves[lost]
    index = struct.pack(
        order + "IIQIIIIQII", INDEX, 256,
        len(blocks) if indexed_count is None else indexed_count,
        0, 0, len(contigs), 0, index_start, 1, 0,
    )  # fmt: skip
    index += nodes(leaves, fanout, index_start + len(index), order, box_around)
    unpacked = 1 << 15 if compressed else 0
    header = struct.pack(
        order + "IHHQQQHHQQIQ", MAGIC, 4, 0, 64, data_start, index_start, 0, 0, 0, 0, unpacked, 0
    )
    data = count + b"".join(blocks)
    return header + tree + data + index + (struct.pack(order + "I", MAGIC) if magic_at_end else b"")


def first_key(keys: list[bytes]) -> bytes:
    return keys[0]


def box_around(keys: list[bytes]) -> bytes:
    """From the start of the first to the end of the last."""
    return keys[0][:8] + keys[-1][8:]


def nodes(
    leaves: list[tuple[bytes, bytes]], fanout: int, offset: int, order: str, join=first_key
) -> bytes:
    """The nodes of a tree of (key, value), root first; `join` makes the key of a branch."""
    if len(leaves) <= fanout:
        body = b"".join(key + value for key, value in leaves)
        return struct.pack(order + "BBH", 1, 0, len(leaves)) + body
    step = -(-len(leaves) // fanout)
    groups = [leaves[start : start + step] for start in range(0, len(leaves), step)]
    key_bytes = len(leaves[0][0])
    place = offset + 4 + len(groups) * (key_bytes + 8)
    body, below = b"", b""
    for group in groups:
        body += join([key for key, _ in group]) + struct.pack(order + "Q", place + len(below))
        below += nodes(group, fanout, place + len(below), order, join)
    return struct.pack(order + "BBH", 0, 0, len(groups)) + body + below
