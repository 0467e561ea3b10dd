import bz2
import gzip
import lzma
import struct
import tracemalloc

import pytest

from spacescale.errors import UserError
from spacescale.genome import dna, sequence_files
from spacescale.genome.sequence_files import read_genome

FASTA = ">chr1 some text\nACGT\nAC\n\n>chr2\nnnnn\n"


def test_plain_gzip_and_crlf_read_alike(tmp_path):
    plain, packed, crlf = tmp_path / "a.fa", tmp_path / "a.fa.gz", tmp_path / "crlf.fa"
    plain.write_text(FASTA)
    packed.write_bytes(gzip.compress(FASTA.encode()))
    crlf.write_bytes(FASTA.replace("\n", "\r\n").encode())
    for path in (plain, packed, crlf):
        genome = read_genome(path)
        assert genome.lengths == {"chr1": 6, "chr2": 4}
        assert genome.contigs["chr1"].tolist() == dna.encode("ACGTAC").tolist()
        assert set(genome.contigs["chr2"].tolist()) == {dna.N}


@pytest.mark.parametrize(
    "content",
    [
        FASTA.replace("\n", "\r"),
        FASTA.replace("\n", "\r", 2),
        FASTA.replace("\n", "\r\r\n"),
        "\ufeff" + FASTA,
        "; made by hand\n" + FASTA + "\n\n",
        FASTA.replace(" some text", "\tsome > text").replace("AC\n", "AC  \n"),
        FASTA.replace("ACGT\n", "ACGU\r\n"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 2**20])
def test_forms_of_lines(tmp_path, content, chunk, monkeypatch):
    monkeypatch.setattr(sequence_files, "_CHUNK_BYTES", chunk)
    path = tmp_path / "a.fa"
    path.write_bytes(content.encode())
    genome = read_genome(path)
    assert genome.lengths == {"chr1": 6, "chr2": 4}
    assert genome.contigs["chr1"].tolist() == dna.encode("ACGTAC").tolist()


def test_a_fault_names_its_line_whatever_ends_the_lines(tmp_path):
    for end in ("\n", "\r", "\r\n"):
        path = tmp_path / "bad.fa"
        path.write_bytes(FASTA.replace("chr2", "").replace("\n", end).encode())
        with pytest.raises(UserError, match=r"bad.fa:5: a FASTA header without a name"):
            read_genome(path)


def test_a_stale_index_does_not_matter_and_none_is_written(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(FASTA)
    (tmp_path / "a.fa.fai").write_text("chr1\t999\t3\t60\t61\n")
    assert read_genome(path).lengths["chr1"] == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fa", "a.fa.fai"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is an empty file"),
        (b"ACGT\n", ":1: expected a FASTA header"),
        (b"<!DOCTYPE html>", "is an HTML or XML page, not a FASTA or 2bit file: a failed download"),
        (bz2.compress(FASTA.encode()), "is compressed by bzip2: unpack it with bunzip2"),
        (lzma.compress(FASTA.encode()), "is compressed by xz: unpack it with unxz"),
        (b"@r\nACGT\n+\nIIII\n", "is a FASTQ file of reads, not a FASTA or 2bit file"),
        (b"\x26\xfc\x8f\x88" + bytes(99), "is a BigWig, not a FASTA or 2bit file"),
        (b">a\nAC\n>a\nAC\n", "contig 'a' occurs twice"),
        (b">a\n>b\nAC\n", "contig 'a' is empty"),
        (b">\nAC\n", ":1: a FASTA header without a name"),
        (b">a\nAC-T" + b"ACGT" * 9, "a:3 has '-'"),
        (gzip.compress(FASTA.encode() * 99, mtime=0)[:40], "damaged or truncated gzip"),
    ],
)
def test_faults(tmp_path, content, message):
    path = tmp_path / "bad.fa"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_genome(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_ambiguity_letters_are_counted_over_contigs(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">a\nACGTACGTACGR\n>b\nACGTACGTACGTACGTYR\n")
    assert read_genome(path).num_ambiguous == 3


def two_bit(order: str) -> bytes:
    """Contig c of ten bases ACGTNNACGT, with one masked block."""
    packed = bytes([0b10_01_11_00, 0b00_00_10_01, 0b11_00_00_00])
    numbers = (10, 1, 4, 2, 1, 0, 3, 0)  # bases, one gap: 4, 2; one masked block: 0, 3; reserved
    header = struct.pack(order + "IIII", 0x1A412743, 0, 1, 0) + b"\x01c"
    return header + struct.pack(order + "I8I", 22, *numbers) + packed


@pytest.mark.parametrize("order", ["<", ">"])
def test_two_bit_of_either_byte_order(tmp_path, order):
    path = tmp_path / "a.2bit"
    path.write_bytes(two_bit(order))
    assert read_genome(path).contigs["c"].tolist() == dna.encode("ACGTNNACGT").tolist()


@pytest.mark.parametrize("order", ["<", ">"])
def test_letter_case_of_two_bit_is_that_of_its_masked_blocks(tmp_path, order):
    path = tmp_path / "a.2bit"
    path.write_bytes(two_bit(order))
    assert read_genome(path).lower_case("c").tolist() == [True] * 3 + [False] * 7


def test_letter_case_of_a_fasta_is_kept_however_its_lines_end(tmp_path):
    fasta = ">a x\nacgTNN\nnrA\n>b\nA\n"
    expected = {"a": [1, 1, 1, 0, 0, 0, 1, 1, 0], "b": [0]}
    for content in (fasta, fasta.replace("\n", "\r\n"), fasta.replace("\n", "\r")):
        (tmp_path / "a.fa").write_bytes(content.encode())
        (tmp_path / "a.fa.gz").write_bytes(gzip.compress(content.encode()))
        for path in (tmp_path / "a.fa", tmp_path / "a.fa.gz"):
            in_memory = read_genome(path)
            in_files = read_genome(path, tmp_path / "codes", tmp_path / "case")
            for genome in (in_memory, in_files):
                found = {name: genome.lower_case(name).tolist() for name in genome.contigs}
                assert found == expected
            assert (tmp_path / "case").stat().st_size == 2 + 1


@pytest.mark.parametrize("size", [10, 20, 24, 40, 56])
def test_truncated_two_bit(tmp_path, size):
    path = tmp_path / "a.2bit"
    path.write_bytes(two_bit("<")[:size])
    with pytest.raises(UserError, match="damaged or truncated 2bit"):
        read_genome(path)


def test_a_genome_can_lie_in_a_file(tmp_path):
    path, codes = tmp_path / "a.fa", tmp_path / "codes"
    path.write_text(FASTA + ">chr3\nACGTRN\n")
    plain, stored = read_genome(path), read_genome(path, codes)
    assert codes.read_bytes() == b"".join(c.tobytes() for c in plain.contigs.values())
    assert list(stored.lengths.items()) == list(plain.lengths.items())
    assert stored.num_ambiguous == plain.num_ambiguous == 1
    for name, bases in plain.contigs.items():
        assert stored.contigs[name].tolist() == bases.tolist()


@pytest.mark.parametrize(
    "position, value, message",
    [
        (4, 2, "version 2"),
        (30, 60, "a stretch of N ends at 62 of 10 bases"),
        (29, 255, "it ends within .* stretches of N"),
        (46, 60, "a masked stretch ends at 60 of 10 bases"),
    ],
)
def test_damaged_two_bit(tmp_path, position, value, message):
    content = bytearray(two_bit("<"))
    content[position] = value
    path = tmp_path / "a.2bit"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_genome(path)


def test_two_bit_with_an_offset_of_64_bits(tmp_path):
    content = bytearray(two_bit("<"))
    content[4] = 1  # version 1: offsets have 8 bytes
    content[18:22] = struct.pack("<Q", 26)
    path = tmp_path / "a.2bit"
    path.write_bytes(content)
    assert read_genome(path).contigs["c"].tolist() == dna.encode("ACGTNNACGT").tolist()
    content[18:26] = struct.pack("<Q", 2**63)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or truncated 2bit"):
        read_genome(path)


def test_a_long_contig_takes_little_memory(tmp_path):
    bases = 60 * 40_000
    (tmp_path / "genome.fa").write_text(">chr1\n" + ("ACGTNacgta" * 6 + "\n") * 40_000)
    tracemalloc.start()
    try:
        genome = read_genome(tmp_path / "genome.fa", tmp_path / "codes")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert genome.lengths == {"chr1": bases}
    assert peak < 4.5 * bases  # the letters, their codes, and one array more
