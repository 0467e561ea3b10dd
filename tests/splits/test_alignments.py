"""Chains, nets and pair tables as pieces of two genomes."""

import gzip
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.errors import UserError
from spacescale.splits.alignments import read_alignments

# Two examples of UCSC's description of the formats, the chain cut after its third block.
CHAIN = """##comment
chain 4900 chrY 58368225 + 25985403 25985494 chr5 151006098 - 43257292 43257387 1
9\t1\t0
10\t0\t5
61\t10\t5

chain 10 chrY 58368225 + 100 120 chr5 151006098 + 200 220
20
"""
CHAIN = CHAIN.replace("61\t10\t5", "71")
NET = """net chr2L 23011544
 fill 6004 3278 chrX - 1396397 2164 id 25606 score 23114 ali 782 type top
  gap 6065 2 chrX - 1398498 0 tN 0
  gap 6096 1485 chrX - 1397572 897 tN 0
   fill 6096 513 chrU - 5570675 533 id 48675 score 4435
    gap 6116 8 chrU - 5571188 0
 fill 20000 100 chr3 + 500 100 id 1
net chr2R 1000
 fill 10 20 chr3 + 40 20 id 2
"""


def pieces(path):
    return [
        (a.first.name, a.second.name, a.reverse, s, n, o, m)
        for a in read_alignments(path)
        for s, n, o, m in zip(a.starts, a.sizes, a.other_starts, a.other_sizes, strict=True)
    ]


def test_chain_blocks_in_forward_coordinates(tmp_path):
    path = tmp_path / "a.chain.gz"
    path.write_bytes(gzip.compress(CHAIN.encode()))
    size = 151_006_098
    assert pieces(path) == [
        ("chrY", "chr5", True, 25_985_403, 9, size - 43_257_292 - 9, 9),
        ("chrY", "chr5", True, 25_985_413, 10, size - 43_257_301 - 10, 10),
        ("chrY", "chr5", True, 25_985_423, 71, size - 43_257_316 - 71, 71),
        ("chrY", "chr5", False, 100, 20, 200, 20),
    ]
    aligned = next(read_alignments(path))
    assert (aligned.first.length, aligned.second.length) == (58_368_225, size)
    assert aligned.place == f"{path}:2"


def test_a_reverse_chain_pairs_complementary_bases(tmp_path):
    """The base i of a chain on '-' is base i of the reverse complement of the query."""
    query = "AAAACCCGTTGCATGCAAAA"
    complement = query[::-1].translate(str.maketrans("ACGT", "TGCA"))
    target = "TT" + complement[3:8] + "G" + complement[8:13]
    path = tmp_path / "a.chain"
    path.write_text("chain 1 t 13 + 2 13 q 20 - 3 13 1\n5 1 0\n5\n")
    for _, _, reverse, start, size, other, _ in pieces(path):
        assert reverse
        piece = query[other : other + size][::-1].translate(str.maketrans("ACGT", "TGCA"))
        assert target[start : start + size] == piece


def test_net_fills_without_their_gaps(tmp_path):
    path = tmp_path / "a.net"
    path.write_text(NET)
    found = pieces(path)
    # the parent before, between and after its gaps: t 6004-6065, 6067-6096, 7581-9282
    parent = [p for p in found if p[1] == "chrX"]
    assert [p[3] for p in parent][:2] == [6004, 6067]
    assert parent[0][3:] == (6004, 61, 1_398_498, 61)
    assert parent[1][3:] == (6067, 29, 1_398_469, 29)
    assert sum(p[4] for p in parent[2:]) == 1_397_572 - 1_396_397
    assert min(p[5] for p in parent[2:]) == 1_396_397
    child = [p for p in found if p[1] == "chrU"]
    assert child[0][3:5] == (6096, 20)
    assert ("chr2L", "chr3", False, 20_000, 100, 500, 100) in found
    assert found[-1] == ("chr2R", "chr3", False, 10, 20, 40, 20)


def test_long_net_fills_are_stretched_evenly(tmp_path):
    path = tmp_path / "a.net"
    path.write_text("net a 99999\n fill 0 10000 b + 0 9000\n fill 20000 9000 b - 0 10000\n")
    found = pieces(path)
    assert all(n <= 1000 for *_, n, _, _ in found)
    for _, _, reverse, start, _, other, _ in found:
        if reverse:
            assert abs(10_000 - (start - 20_000) / 0.9 - other) <= 1_001
        else:
            assert abs(start * 0.9 - other) <= 1


def test_pairs_are_regions_as_wholes(tmp_path):
    path = tmp_path / "pairs.tsv"
    for end, cell in (("100", "50"), ("1e+02", '"50.0"')):
        path.write_text(f"#a\nchr1\t0\t{end}\tchr2\t{cell}\t90\tgene\n")
        assert pieces(path) == [("chr1", "chr2", False, 0, 100, 50, 40)]
    assert not next(read_alignments(path)).gapless


HEADER = "chain 1 a 100 + 0 10 b 100 + 0 10 1\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", " lists no homology"),
        ("chain 1 a 100\n", ":1: expected chain score tName"),
        ("chain 1 a 100 - 0 10 b 100 + 0 10 1\n10\n", ":1: the target strand of a chain is +"),
        ("chain 1 a 100 + 0 10 b 100 * 0 10 1\n10\n", ":1: a strand is + or -, found '*'"),
        ("chain 1 a x + 0 10 b 100 + 0 10 1\n10\n", ":1: expected a whole number, found 'x'"),
        ("chain 1 a 100 + 10 10 b 100 + 0 10 1\n10\n", ":1: start 10 is not before end 10"),
        ("chain 1 a 100 + 0 10 b 9 + 0 10 1\n10\n", ":1: 0-10 lies beyond b of 9 bp"),
        (HEADER + "3 0 0\n", ":2: a block of a chain has 1 numbers here, found 3"),
        (HEADER + "3\n7\n", ":2: a block of a chain has 3 numbers here, found 1"),
        (HEADER + "3 0 -1\n7\n", ":2: expected a whole number, found '-1'"),
        (HEADER + "3 0 1.5\n7\n", ":2: expected a whole number, found '1.5'"),
        (HEADER + "9\n", ":1: the blocks of this chain end at 9 and 9, its header says 10 and 10"),
        (HEADER + "9" * 30 + "\n", ":2: expected a whole number"),
        (HEADER, ":1: a chain without a block"),
        (HEADER + HEADER + "10\n", ":1: a chain without a block"),
        ("net a\n", ":1: expected net, contig name"),
        ("net a 100\n fill 0 10 b\n", ":2: expected fill or gap"),
        ("net a 100\n gill 0 10 b + 0 10\n", ":2: expected fill or gap"),
        ("net a 100\n fill 95 10 b + 0 10\n", ":2: 95-105 lies beyond a of 100 bp"),
        ("net a 100\n fill 5 10 b + zero 10\n", ":2: expected a whole number, found 'zero'"),
        ("a\t0\t10\tb\t0\n", ":1: expected chrom, start, end, other chrom"),
        ("a 0 10 b 0 10\n", ":1: expected chrom, start, end, other chrom"),
        ("a\t0\t10\tb\t0\t10\na\t0\t10\tb\t10\t0\n", ":2: start 10 is not before end 0"),
        ("a\t0\t10\tb\tx\t10\n", ":1: expected a whole number, found 'x'"),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "homology.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{path}{message}")):
        list(read_alignments(path))


def mutations(text):
    """The text with a few bytes replaced, left out or put in."""
    edit = st.tuples(st.integers(0, len(text) - 1), st.integers(0, 2), st.binary(max_size=3))

    def apply(edits):
        content = bytearray(text.encode())
        for position, removed, added in edits:
            content[position : position + removed] = added
        return bytes(content)

    return st.lists(edit, min_size=1, max_size=4).map(apply)


PAIRS = "chr1\t0\t100\tchr2\t50\t90\nchr3\t5\t6\tchr4\t0\t1\n"


@given(st.one_of(*(mutations(text) for text in (CHAIN, NET, PAIRS)), st.binary(max_size=60)))
@settings(max_examples=300, deadline=None)
def test_damaged_files_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "damaged.txt"
    path.write_bytes(content)
    try:
        found = list(read_alignments(path))
    except UserError as error:
        assert str(path) in str(error)
        return
    for aligned in found:
        assert (aligned.starts >= 0).all() and (aligned.other_starts >= 0).all()
        assert (aligned.sizes >= 0).all() and (aligned.other_sizes >= 0).all()
