"""Bad FASTAs (1 to 20) and BigWigs (21 to 30): what a person is told, or why it is no fault.

Beds are in test_bad_beds.py. Every case is a file that users really have.
"""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.bigwig import BigWig
from spacescale.genome.coverage import MatchedContigs, TrackContigs
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import TRANSFORMS
from spacescale.splits.beds import read_split_bed

pyBigWig = pytest.importorskip("pyBigWig", reason="needs the prep extra")

GOOD = ">chr1\n" + "ACGTACGTAC\n" * 5 + ">chr2\n" + "GGGGCCCCAA\n" * 3
PROTEIN = ">p1\nMKVLAAGIVGLCAKVLWQPERSTDEFHIKLMNPQRSTVWYMKVLAAGIVGLCAKVL\n"

FASTA_FAULTS = {
    "1 duplicate name": (">chr1\nACGT\n>chr1\nAC\n", "contig 'chr1' occurs twice"),
    "6 a letter that is none": (">chr1\n" + "ACGT" * 9 + "\nAC*T\n", "chr1:39 has '*'"),
    "6 a gap of an alignment": (">chr1\n" + "ACGT" * 9 + "-A\n", "chr1:37 has '-'"),
    "7 protein": (PROTEIN, "p1: 73 % of the letters are not ACGTN; is this a protein"),
    "8 no header": ("ACGT\nACGT\n", ":1: expected a FASTA header line '>name'"),
    "9 empty file": ("", "is an empty file"),
    "10 empty record": (">chr1\n>chr2\nACGT\n", "contig 'chr1' is empty"),
    "11 binary": (b"\x7fELF\x02\x01\x01\0\0\0", ":1: expected a FASTA header"),
    "11 binary after a header": (b">chr1\nAC\0\x9f\n", "chr1: 50 % of the letters|chr1:3 has"),
    "12 truncated gzip": (gzip.compress(GOOD.encode())[:-9], "damaged or truncated gzip"),
}


@pytest.mark.parametrize("case", FASTA_FAULTS)
def test_fasta_faults(tmp_path, case):
    content, message = FASTA_FAULTS[case]
    path = tmp_path / "genome.fa"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_genome(path)
    assert str(path) in str(error.value)
    assert any(part in str(error.value) for part in message.split("|"))


NO_FAULTS = {
    "2 ragged lines": GOOD.replace("ACGTACGTAC\n", "ACG\nTACGTAC\n", 1),
    "3 blank line inside": GOOD.replace("ACGTACGTAC\n", "ACGTACGTAC\n\n", 1),
    "4 CRLF": GOOD.replace("\n", "\r\n"),
    "12 plain gzip": gzip.compress(GOOD.encode()),
    "no line end at the end": GOOD[:-1],
    "lower case": GOOD.replace("ACGT", "acgt"),
}


@pytest.mark.parametrize("case", NO_FAULTS)
def test_what_is_no_fault_of_a_fasta(tmp_path, case):
    content = NO_FAULTS[case]
    path = tmp_path / "genome.fa"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    genome = read_genome(path)
    assert genome.lengths == {"chr1": 50, "chr2": 30}
    assert np.array_equal(genome.contigs["chr1"], dna.encode("ACGTACGTAC" * 5))


def test_5_iupac_letters_are_read_as_n_and_counted(tmp_path):
    (tmp_path / "g.fa").write_text(">a\nACGTRACGTACGTYACGTACGT\n")
    genome = read_genome(tmp_path / "g.fa")
    assert genome.num_ambiguous == 2
    assert np.flatnonzero(genome.contigs["a"] == dna.N).tolist() == [4, 13]


@pytest.mark.parametrize("index", ["chr1\t999\t6\t10\t11\n", "chr1\t4\t6\t4\t5\n", "nonsense"])
def test_13_and_14_a_stale_index_changes_nothing(tmp_path, index):
    path = tmp_path / "g.fa"
    path.write_text(GOOD)
    before = read_genome(path)
    (tmp_path / "g.fa.fai").write_text(index)
    after = read_genome(path)
    assert after.lengths == before.lengths
    assert all(np.array_equal(after.contigs[name], codes) for name, codes in before.contigs.items())
    # A file that was cut after the index was made has the length it has now.
    path.write_text(GOOD[:40])
    assert read_genome(path).lengths == {"chr1": 31}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.fa", "g.fa.fai"]


@pytest.mark.parametrize(
    "line, message",
    [
        ("chr1\t0\t51\ttrain", ":1: end 51 lies beyond chr1, which has 50 bp"),  # 15
        ("chr1\t-5\t20\ttrain", ":1:.*-5"),  # 16
        ("1\t0\t20\ttrain", ":1: the FASTA has no contig '1'; did you mean chr1"),  # 17
    ],
    ids=["15 past the end", "16 negative start", "17 missing chromosome"],
)
def test_windows_that_the_genome_does_not_hold(tmp_path, line, message):
    (tmp_path / "w.bed").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        read_split_bed(tmp_path / "w.bed", {"chr1": 50, "chr2": 30}, {})


def test_18_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"no such FASTA or 2bit file: .*nothing.fa"):
        read_genome(tmp_path / "nothing.fa")
    with pytest.raises(UserError, match=r"no such FASTA or 2bit file"):
        read_genome(tmp_path)


def test_19_a_window_of_n_alone_is_read(tmp_path):
    """Whether it becomes a window of a dataset, make_plan decides and reports."""
    (tmp_path / "g.fa").write_text(">a\n" + "N" * 40 + "\n")
    assert (read_genome(tmp_path / "g.fa").contigs["a"] == dna.N).all()


def write(path: Path, values: np.ndarray | list[float], length: int = 50_000) -> Path:
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([("chr1", length), ("chr2", 30)])
        file.addEntries("chr1", 10, values=np.asarray(values, dtype=np.float32), span=1, step=1)
    return path


def match_genome(path: Path, lengths: dict[str, int]) -> MatchedContigs:
    with BigWig(path) as file:
        return TrackContigs.of(file).match_genome(Path("genome.fa"), lengths, {})


@pytest.mark.parametrize("lengths", [{"chr1": 49_999}, {"chr1": 50_000, "chr2": 31}])
def test_20_and_30_assembly_mismatch(tmp_path, lengths):
    path = write(tmp_path / "a.bw", [1.0])
    (text,) = match_genome(path, lengths).misfits.values()
    assert re.search(r"a.bw: contig chr\d has \d+ bp, but ", text)


def test_21_gaps_are_missing_and_count_0(tmp_path):
    with BigWig(write(tmp_path / "a.bw", [4.0, 4.0])) as file:
        values = file.read("chr1", 8, 16)
    assert np.isnan(values).tolist() == [True] * 2 + [False] * 2 + [True] * 4
    assert TRANSFORMS["basenji2020"].bins(values[None], Track(0, "t", "a.bw", 0)) == [1.0]


def test_22_a_contig_without_data_is_all_missing(tmp_path):
    with BigWig(write(tmp_path / "a.bw", [1.0])) as file:
        assert np.isnan(file.read("chr2", 0, 30)).all()


@pytest.mark.parametrize(
    "chrom, start, end, message",
    [
        ("chr3", 0, 5, "a.bw has no contig 'chr3'"),  # 23
        ("chr1", 49_990, 50_001, "chr1:49990-50001 does not lie inside chr1, which has 50000 bp"),
        ("1", 0, 5, "a.bw has no contig '1'"),  # 25
        ("chr1", -1, 5, "chr1:-1-5 does not lie inside"),
    ],
    ids=["23 missing contig", "24 past the end", "25 other name", "24 before the start"],
)
def test_places_that_the_bigwig_does_not_have(tmp_path, chrom, start, end, message):
    with BigWig(write(tmp_path / "a.bw", [1.0])) as file, pytest.raises(UserError, match=message):
        file.read(chrom, start, end)


def test_25_the_other_style_of_names_is_proposed(tmp_path):
    path = write(tmp_path / "a.bw", [1.0])
    with pytest.raises(UserError, match=r"it has chr1, chr2; the FASTA has 1, 2. .*aliases auto"):
        match_genome(path, {"1": 50_000, "2": 30})


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_26_and_27_truncated(tmp_path, share):
    path = write(tmp_path / "a.bw", np.random.default_rng(0).random(40_000))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"a.bw is a truncated BigWig"):
        BigWig(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is an empty file, not a BigWig"),
        (b"<!DOCTYPE html>", "is an HTML or XML page, not a BigWig: a failed download"),
        (b"PK\x03\x04", "is compressed by zip: unpack it with unzip"),
        (None, "no such BigWig file"),
    ],
)
def test_26_other_files_are_told_apart(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.bw").write_bytes(content)
    with pytest.raises(UserError, match=message):
        BigWig(tmp_path / "a.bw")


def test_28_flipped_bits_are_found_or_harmless(tmp_path):
    """All blocks are compressed, so their checksums find a flip; the index is checked by hand."""
    path = write(tmp_path / "a.bw", np.random.default_rng(0).random(3_000))
    content = bytearray(path.read_bytes())
    with BigWig(path) as file:
        expected = file.read("chr1", 0, 5_000)
    rng = np.random.default_rng(1)
    found = 0
    for position in rng.integers(0, len(content), 300).tolist():
        bit = 1 << int(rng.integers(8))
        content[position] ^= bit
        path.write_bytes(content)
        content[position] ^= bit
        try:
            with BigWig(path) as file:
                # A flip in a contig's name or length is left to the comparison with the FASTA.
                if file.contigs == {"chr1": 50_000, "chr2": 30}:
                    np.testing.assert_array_equal(file.read("chr1", 0, 5_000), expected)
        except UserError:
            found += 1
    assert found > 100


def test_29_infinite_coverage_is_refused_and_nan_is_missing(tmp_path):
    with BigWig(write(tmp_path / "a.bw", [1.0, np.nan, -2.0, np.inf])) as file:
        np.testing.assert_array_equal(file.read("chr1", 10, 13), np.float32([1, np.nan, -2]))
        with pytest.raises(UserError, match=r"a.bw has infinite coverage at chr1:13 \(0-based\)"):
            file.read("chr1", 0, 30)
