import gzip

import pytest

from spacescale.errors import UserError
from spacescale.genome.text_files import (
    LONGEST_LINE,
    numbered_lines,
    split_cells,
    text_lines,
    whole_number,
)

BED = "# a comment\nchr1\t0\t5\n\ntrack name=x\nchr2\t5\t9\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_one_text_in_many_forms(tmp_path, pack, encoding, end):
    path = tmp_path / "a.bed"
    path.write_bytes(pack(BED.replace("\n", end).encode(encoding)))
    assert list(numbered_lines(path, "a BED")) == [(2, b"chr1\t0\t5"), (5, b"chr2\t5\t9")]


def test_line_ends_of_two_kinds_do_not_join_lines(tmp_path):
    path = tmp_path / "a.bed"
    path.write_bytes(b"chr1\t0\t5\n" * 2_000 + b"chr1\t6\t9\rchr2\t0\t5\n")
    with pytest.raises(UserError, match=r"a.bed:2001: a carriage return in the line"):
        list(numbered_lines(path, "a BED"))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\xff\xfea", "begins as utf-16-le and is not"),
        ("a\tb".encode("utf-16-le"), ":1: this is no text file"),
        (b"BZh91AY&SY", "is compressed by bzip2: unpack it with bunzip2"),
        (b"\xfd7zXZ\0\0", "is compressed by xz"),
        (b"PK\x03\x04\0\0", "is compressed by zip"),
        (b"a\nb\xe9\n", r":2: not UTF-8 \(byte 0xe9, 'é'"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(text_lines(path, "the table"))


def test_long_sequences_stand_in_tables_and_chromosomes_do_not(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('"' + "ACGT" * 50_000 + '",1\n' + "A" * (LONGEST_LINE + 1) + "\n")
    lines = text_lines(path, "a table of sequences")
    line = next(lines)[1]
    cells = split_cells("t.csv:1", line, delimiter=",", longest=LONGEST_LINE)
    assert cells == ["ACGT" * 50_000, "1"]
    with pytest.raises(UserError, match=r"t.csv:1: not a line of a table \(field larger"):
        split_cells("t.csv:1", line.replace('"', ""), delimiter=",")
    with pytest.raises(UserError, match=r"t.csv:2: a line of more than 16,777,216 characters, exp"):
        next(lines)


def test_a_contig_called_par1_is_no_parquet(tmp_path):
    path = tmp_path / "a.bed"
    path.write_text("PAR1\t0\t5\n")
    assert list(numbered_lines(path, "a BED")) == [(1, b"PAR1\t0\t5")]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("7", 7), (" 7.0 ", 7), ("-1", -1), ("1e+05", 100_000), ("1.5e3", 1500), ("3.", 3),
        ("1.5", None), ("1.25e1", None), ("1e-3", None), ("", None), ("1_0", None), ("inf", None),
    ],
)  # fmt: skip
def test_whole_numbers(text, expected):
    assert whole_number(text) == expected
