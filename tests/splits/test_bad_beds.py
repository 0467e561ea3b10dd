"""Bad BEDs of splits and windows: items 31 and 32 of the list of bad inputs, each by its name."""

import gzip
import re

import pytest

from spacescale.errors import UserError
from spacescale.splits.beds import read_split_bed, read_window_bed

LENGTHS = {"chrI": 1000, "chrII": 500}
GOOD = "chrII\t0\t100\ttrain\n"


def read_stretches(path):
    return read_split_bed(path, LENGTHS, {})


def read_windows(path):
    return read_window_bed(path, 60, LENGTHS, {})


# line 2 of a BED whose first line is GOOD: the value it must name
LINES = {
    "31-start-equals-end": ("chrI\t10\t10\ttrain", "start 10 is not before end 10"),
    "31-start-after-end": ("chrI\t11\t10\ttrain", "start 11 is not before end 10"),
    "31-negative": ("chrI\t-5\t95\ttrain", "must be whole numbers, found '-5', '95'"),
    "31-fraction": ("chrI\t1.5\t10\ttrain", "must be whole numbers, found '1.5'"),
    "31-exponent": ("chrI\t1e-3\t10\ttrain", "must be whole numbers, found '1e-3'"),
    "31-other-digits": ("chrI\t\u0661\t\u0669\ttrain", "must be whole numbers, found '\u0661'"),
    "31-two-columns": ("chrI\t0", "expected chrom, start, end, split separated by tabs"),
    "31-no-split": ("chrI\t0\t10", "expected chrom, start, end, split separated by tabs"),
    "31-empty-split": ("chrI\t0\t10\t ", "expected chrom, start, end, split separated by tabs"),
    "31-spaces-for-tabs": ("chrI 0 100 train", "found 'chrI 0 100 train'; it has spaces for tabs"),
    "31-header-line": ("chrom\tstart\tend\tsplit", "the FASTA has no contig 'chrom'"),
    "31-header-known-name": ("chrI\tstart\tend\tsplit", "whole numbers, found 'start', 'end'"),
    "31-unknown-chromosome": ("chrIX\t0\t100\ttrain", "no contig 'chrIX'; did you mean"),
    "31-beyond-the-contig": ("chrI\t901\t1001\ttrain", "end 1001 lies beyond chrI, which has 1000"),
}


@pytest.mark.parametrize("read", [read_stretches, read_windows])
@pytest.mark.parametrize("name", LINES)
def test_a_bad_line(tmp_path, name, read):
    line, message = LINES[name]
    path = tmp_path / "splits.bed"
    path.write_text(GOOD + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read(path)
    assert f"{path}:2: " in str(error.value)


WINDOWS = {
    "31-another-length": ("chrI\t0\t98\ttrain", "has 98 bp, most windows have 100"),
    "31-one-based": ("chrI\t1\t100\ttrain", "has 99 bp, most windows have 100; is its start 1-b"),
    "31-duplicate": ("chrII\t0\t100\ttrain", "chrII:20-80 (train) is line 1 again"),
    "32-same-window": ("chrII\t0\t100\tvalid", "the target chrII:20-80 (valid) overlaps that of"),
    "32-overlap": ("chrII\t59\t159\ttest", "overlaps that of line 1, 20-80 (train)"),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_bad_window(tmp_path, name):
    line, message = WINDOWS[name]
    path = tmp_path / "windows.bed"
    path.write_text(f"{GOOD}{line}\nchrI\t500\t600\ttrain\n")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_windows(path)
    assert f"{path}:2: " in str(error.value)


def test_31_all_windows_of_a_length_that_no_target_fits(tmp_path):
    path = tmp_path / "windows.bed"
    path.write_text("chrI\t0\t58\ttrain\n")
    with pytest.raises(
        UserError, match=r":1: .* has 58 bp; a window must exceed .* 60 bp"
    ) as error:
        read_windows(path)
    assert "1-based" not in str(error.value)
    path.write_text("chrI\t1\t100\ttrain\nchrI\t101\t200\ttrain\n")
    with pytest.raises(UserError, match=r":1: .* has 99 bp; .* are the starts 1-based\?"):
        read_windows(path)


def test_32_stretches_that_overlap_name_both_lines(tmp_path):
    path = tmp_path / "splits.bed"
    path.write_text(f"chrI\t0\t10\ttest\n{GOOD}chrII\t99\t199\ttest\n")
    with pytest.raises(UserError, match=r":3: chrII:99-199 \(test\) overlaps line 2, 0-100"):
        read_stretches(path)


def test_a_window_between_others_of_its_split_still_meets_another_split(tmp_path):
    # sorted, the targets of train are neighbours: the test target overlaps the one before last
    path = tmp_path / "windows.bed"
    path.write_text("chrI\t0\t100\ttest\nchrI\t50\t150\ttest\nchrI\t99\t199\ttrain\n")
    with pytest.raises(UserError, match=r":3: .*119-179 \(train\) overlaps that of line 2"):
        read_windows(path)
    path.write_text("chrI\t0\t100\ttrain\nchrI\t60\t160\ttest\nchrI\t70\t170\ttest\n")
    assert len(read_windows(path)) == 3


def test_what_is_no_fault(tmp_path):
    text = "# note\ntrack name=x\nbrowser position\n\n"
    text += "chrI\t0\t1e+02\ttrain\tmore\r\nchrII\t5\t105\tx\n"
    path = tmp_path / "splits.bed.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    found = read_stretches(path)
    assert [(i.chrom, i.start, i.end, i.split) for i in found] == [
        ("chrI", 0, 100, "train"),
        ("chrII", 5, 105, "x"),
    ]
    assert [(t.start, t.end) for t in read_windows(path)] == [(20, 80), (25, 85)]


def test_unsorted_windows_are_kept_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "windows.bed"
    path.write_text("chrII\t0\t100\tvalid\nchrI\t30\t130\ttrain\nchrI\t0\t100\ttrain\n")
    assert [(t.chrom, t.start) for t in read_windows(path)] == [
        ("chrII", 20),
        ("chrI", 50),
        ("chrI", 20),
    ]


@pytest.mark.parametrize(
    "content", [gzip.compress(GOOD.encode() * 50, mtime=0)[:-9], b"\xff\xfe\x00", b""]
)
def test_files_that_are_no_bed(tmp_path, content):
    path = tmp_path / "splits.bed"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_stretches(path)
