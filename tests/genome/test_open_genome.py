import gzip
import tracemalloc

import numpy as np
import pytest
from test_sequence_files import FASTA, two_bit

from spacescale.errors import UserError
from spacescale.genome import open_genome as module
from spacescale.genome.dna import encode
from spacescale.genome.open_genome import open_genome
from spacescale.genome.sequence_files import read_genome

LETTERS = {"chr1": "ACGTACGTNNACGTTTA", "chr2": "acgtacgtac", "c3": "G"}


def fasta_of(width: int, end: str = "\n", letters=LETTERS) -> str:
    parts = []
    for name, text in letters.items():
        lines = [text[i : i + width] for i in range(0, len(text), width)]
        parts += [f">{name} some text", *lines]
    return end.join(parts) + end


def require_same(genome, path):
    """All stretches of all contigs are those of `read_genome`."""
    whole = read_genome(path)
    assert list(genome.lengths.items()) == list(whole.lengths.items())
    for name, codes in whole.contigs.items():
        contig = genome.contigs[name]
        for start in range(len(codes) + 1):
            for end in range(start, len(codes) + 2):
                np.testing.assert_array_equal(contig[start:end], codes[start:end])
                assert contig[start:end].dtype == np.uint8


@pytest.mark.parametrize("chunk", [7, 2**24])
@pytest.mark.parametrize("width", [1, 4, 100])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_stretch_is_read_where_it_lies(tmp_path, monkeypatch, chunk, width, end):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    path = tmp_path / "a.fa"
    text = fasta_of(width, end)
    for content in (text, text.removesuffix(end), text + end):
        path.write_bytes(content.encode())
        assert module._counted(path) is not None
        require_same(open_genome(path), path)


def test_single_ambiguity_letters_are_n(tmp_path):
    """A stretch of nothing else is no protein."""
    plain = tmp_path / "some.fa"
    plain.write_text(fasta_of(10, letters={"chr1": "ACGTACGTACMRACGTACGTACGTAC"}))
    packed = tmp_path / "some.fa.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        genome = open_genome(path)
        require_same(genome, path)
        assert genome.contigs["chr1"][10:12].tolist() == [4, 4]


@pytest.mark.parametrize("order", ["<", ">"])
def test_stretches_of_two_bit(tmp_path, order):
    path = tmp_path / "a.2bit"
    path.write_bytes(two_bit(order))
    require_same(open_genome(path), path)


@pytest.mark.parametrize(
    "content",
    [
        FASTA.replace("\n", "\r"),
        "\ufeff" + FASTA,
        "; made by hand\n" + FASTA,
        FASTA.replace("AC\n", "AC  \n"),
        ">a\nACG\nACGT\nAC\n",  # the second line is longer
        ">a\nACGT\nAC\nACGT\n",  # the last one should follow a full one
        ">a\nACGT\nAC\nA\n\nAC\n>b\nAC\n",
        ">a\n\nACGT\n>b\nACGT\n\n",
        ">a\nACGT\r\nACGT\nACGT\n",
    ],
)
def test_files_with_other_lines_are_read_all_the_same(tmp_path, content):
    path = tmp_path / "a.fa"
    path.write_bytes(content.encode())
    assert module._counted(path) is None
    require_same(open_genome(path), path)
    path.write_bytes(gzip.compress(content.encode()))
    require_same(open_genome(path), path)


def index_of(path):
    lines = module._counted(path)
    rows = [[c.name, c.length, c.offset, c.line_bases, c.line_bytes] for c in lines]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_index_spares_the_counting(tmp_path, monkeypatch, end):
    path = tmp_path / "a.fa"
    path.write_bytes(fasta_of(4, end).encode())
    path.with_name("a.fa.fai").write_text(index_of(path))
    monkeypatch.setattr(module, "_counted", lambda _: pytest.fail("it was counted"))
    require_same(open_genome(path), path)


@pytest.mark.parametrize(
    "other",
    [
        fasta_of(4, letters=LETTERS | {"c3": "GG"}),
        fasta_of(4, letters=LETTERS | {"c4": "G"}),
        fasta_of(4, letters={"chr1": LETTERS["chr1"], "other": LETTERS["chr2"], "c3": "G"}),
        fasta_of(4, letters={"chr2": LETTERS["chr2"], "chr1": LETTERS["chr1"], "c3": "G"}),
        fasta_of(5),
        fasta_of(4, "\r\n"),
        ">chr1\nA\n",
    ],
)
def test_an_index_of_another_file_does_not_matter(tmp_path, other):
    path = tmp_path / "a.fa"
    path.write_text(other, newline="")
    stale = index_of(path)
    path.write_text(fasta_of(4))
    path.with_name("a.fa.fai").write_text(stale)
    require_same(open_genome(path), path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fa", "a.fa.fai"]


@pytest.mark.parametrize(
    "content",
    [b"", b"ACGT\n", b">a\nAC\n>a\nAC\n", b">a\n>b\nAC\n", b">\nAC\n", b"\x26\xfc\x8f\x88" + b"\0"],
)
def test_faults_are_those_of_whole_genomes(tmp_path, content):
    path = tmp_path / "bad.fa"
    path.write_bytes(content)
    with pytest.raises(UserError) as whole:
        read_genome(path)
    with pytest.raises(UserError) as opened:
        open_genome(path)
    assert str(whole.value) == str(opened.value)


def test_letters_that_are_no_dna_are_found_when_they_are_read(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">a\nACGT\nAC-T\n")
    contig = open_genome(path).contigs["a"]
    assert encode("ACGTAC").tolist() == contig[0:6].tolist()
    with pytest.raises(UserError, match=r"a.fa: a, from base 5 on:3 has '-'"):
        contig[4:8]


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(fasta_of(4))
    genome = open_genome(path)
    path.write_text(">chr1\nAC\n")
    with pytest.raises(UserError, match="chr1 does not lie where it was"):
        genome.contigs["chr1"][8:12]


def test_memory_does_not_grow_with_the_genome(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 2**16)
    path = tmp_path / "a.fa"
    path.write_text(">a\n" + ("ACGT" * 15 + "\n") * 100_000)  # 6 Mb
    tracemalloc.start()
    genome = open_genome(path)
    assert genome.contigs["a"][3_000_001:3_000_005].tolist() == [1, 2, 3, 0]
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
