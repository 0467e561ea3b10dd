import pytest

from spacescale.errors import UserError
from spacescale.genome.intervals import Interval, tile
from spacescale.splits.beds import bed_contigs, read_split_bed

LENGTHS = {"chrI": 1000, "chrII": 500}


def read(tmp_path, text):
    path = tmp_path / "splits.bed"
    path.write_text(text)
    return read_split_bed(path, LENGTHS, {"II": "chrII"})


def test_tiles_fit_inside_the_interval():
    tiles = list(tile(Interval("c", 10, 110, "train"), 40, 30))
    assert [(t.start, t.end) for t in tiles] == [(10, 50), (40, 80), (70, 110)]


def test_bed_with_headers_and_aliases(tmp_path):
    text = "# note\ntrack name=x\nchrI\t0\t10\ttrain\tmore\nII\t5\t500\tfold3\n\n"
    assert read(tmp_path, text) == [
        Interval("chrI", 0, 10, "train"),
        Interval("chrII", 5, 500, "fold3"),
    ]


@pytest.mark.parametrize(
    "line, message",
    [
        ("chrI\t0\t10", "expected chrom, start, end, split separated by tabs"),
        ("chrI 0 10 train", "separated by tabs"),
        ("chrIX\t0\t10\ttrain", "no contig 'chrIX'; did you mean"),
        ("chrI\t10\t10\ttrain", "start 10 is not before end 10"),
        ("chrI\t-5\t10\ttrain", "must be whole numbers, found '-5'"),
        ("chrI\t1.5\t10\ttrain", "must be whole numbers"),
        ("chrI\t0\t1001\ttrain", "end 1001 lies beyond chrI, which has 1000 bp"),
        ("chrII\t99\t199\ttest", "overlaps line 1, 0-100 (train)"),
        ("chrII\t0\t100\ttrain", "overlaps line 1"),
    ],
)
def test_faults_name_the_line(tmp_path, line, message):
    with pytest.raises(UserError) as error:
        read(tmp_path, f"chrII\t0\t100\ttrain\n{line}\n")
    assert "splits.bed:2: " in str(error.value)
    assert message in str(error.value)


def test_all_unknown_contigs_are_named_with_the_first_line(tmp_path):
    path = tmp_path / "splits.bed"
    path.write_text("chrI\t0\t9\ttrain\nI\t0\t9\tvalid\nII\t0\t9\ttest\nI\t9\t12\ttest\n")
    assert bed_contigs(path) == ["chrI", "I", "II"]
    with pytest.raises(UserError) as error:
        read_split_bed(path, LENGTHS, {}, offer_auto=True)
    assert "splits.bed:2: the FASTA has no contigs I, II; " in str(error.value)
    assert "I = chrI, II = chrII?; --aliases auto" in str(error.value)


def test_quotes_and_whole_floats_of_a_split_bed(tmp_path):
    path = tmp_path / "splits.bed"
    path.write_text('"chrI"\t"0"\t100.0\t"train"\n')
    assert read_split_bed(path, {"chrI": 100}, {}) == [Interval("chrI", 0, 100, "train")]
