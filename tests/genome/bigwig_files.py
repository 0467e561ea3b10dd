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
) -> bytes:
    """A BigWig without zoom levels; sections in ascending order, one a block."""
    item = {1: "IIf", 2: "If", 3: "f"}
    blocks = []
    for contig, start, end, step, span, kind, items in sections:
        raw = struct.pack(order + "IIIIIBBH", contig, start, end, step, span, kind, 0, len(items))
        raw += b"".join(struct.pack(order + item[kind], *values) for values in items)
        blocks.append(zlib.compress(raw) if compressed else raw)
    key = max(len(name) for name, _ in contigs)
    tree = struct.pack(
        order + "IIIIQQ", CONTIG_TREE, len(contigs), key, 8, len(contigs), 0
    ) + struct.pack(order + "BBH", 1, 0, len(contigs))
    for number, (name, length) in enumerate(contigs):
        tree += name.encode().ljust(key, b"\0") + struct.pack(order + "II", number, length)
    data_start = 64 + len(tree)
    index_start = data_start + 8 + sum(map(len, blocks))
    data = struct.pack(order + "Q", len(blocks)) + b"".join(blocks)
    index = struct.pack(
        order + "IIQIIIIQII", INDEX, 256, len(blocks), 0, 0, len(contigs), 0, index_start, 1, 0
    ) + struct.pack(order + "BBH", 1, 0, len(blocks))
    offset = data_start + 8
    for section, block in zip(sections, blocks, strict=True):
        contig, start, end = section[:3]
        index += struct.pack(order + "IIIIQQ", contig, start, contig, end, offset, len(block))
        offset += len(block)
    unpacked = 1 << 15 if compressed else 0
    header = struct.pack(
        order + "IHHQQQHHQQIQ", MAGIC, 4, 0, 64, data_start, index_start, 0, 0, 0, 0, unpacked, 0
    )
    return header + tree + data + index + (struct.pack(order + "I", MAGIC) if magic_at_end else b"")
