from dataclasses import replace

import pytest

from spacescale.errors import UserError
from spacescale.genome.tracks import (
    Track,
    assay_of,
    read_targets,
    read_tracks,
    refuse_opposite_strands,
    write_tracks,
)

BORZOI = (
    "\tidentifier\tfile\tclip\tclip_soft\tscale\tsum_stat\tstrand_pair\tdescription\n"
    "0\tc+\tc+.bw\t768\t384\t1.0\tsum\t1\tCAGE:liver\n"
    "1\tc-\tc-.bw\t768\t384\t1.0\tsum\t0\tCAGE:liver\n"
)
ENFORMER = (
    "index\tgenome\tidentifier\tfile\tclip\tscale\tsum_stat\tdescription\n"
    "5313\t1\tENCFF1\t/a/b.bw\t32\t2\tmean\tDNASE:B6\n"
)


def read(tmp_path, text):
    path = tmp_path / "targets.txt"
    path.write_text(text)
    return read_targets(path)


def test_borzoi_header(tmp_path):
    plus, minus = read(tmp_path, BORZOI)
    plus = replace(plus, covered=0.5, mean=1.0)  # not known yet: NaN, which equals nothing
    assert plus == Track(0, "c+", "c+.bw", 1, 768, 384, 1.0, "sum", "CAGE:liver", "cage", 0.5, 1.0)
    assert minus.strand_pair == 0


def test_enformer_header_keeps_unknown_columns(tmp_path):
    (track,) = read(tmp_path, ENFORMER)
    assert (track.index, track.clip, track.clip_soft, track.scale) == (5313, 32, None, 2)
    assert track.strand_pair == 0  # its own row
    assert track.extra == {"genome": "1"}


def test_only_identifier_and_file_are_required(tmp_path):
    (track,) = read(tmp_path, "index\tidentifier\tfile\n7\ta\ta.bw\n")
    assert (track.clip, track.scale, track.sum_stat, track.assay) == (None, 1.0, "mean", "other")


def test_rows_of_blanks_are_no_rows(tmp_path):
    assert len(read(tmp_path, "index\tidentifier\tfile\n7\ta\ta.bw\n\t \t\n \n")) == 1


def test_spaces_around_column_names_do_not_hide_them(tmp_path):
    track = read(tmp_path, "index\t identifier\tfile \tclip \n0\ta\ta.bw\t8\n")[0]
    assert (track.clip, track.extra) == (8, {})


def test_strand_pair_may_name_indices_or_rows(tmp_path):
    header = "index\tidentifier\tfile\tstrand_pair\n"
    by_index = read(tmp_path, header + "40\ta\ta\t41\n41\tb\tb\t40\n")
    by_row = read(tmp_path, header + "40\ta\ta\t1\n41\tb\tb\t0\n")
    assert [t.strand_pair for t in by_index] == [t.strand_pair for t in by_row] == [1, 0]


@pytest.mark.parametrize(
    "description, assay",
    [
        ("DNASE:liver", "dnase_atac"),
        ("ATAC:liver", "dnase_atac"),
        ("CAGE:liver", "cage"),
        ("CHIP:H3K27ac:liver", "histone_chip"),
        ("CHIP:H2AFZ:liver", "histone_chip"),
        ("CHIP:CTCF:liver", "tf_chip"),
        ("CHIP:HNF4A:liver", "tf_chip"),
        ("RNA:liver", "rna"),
        ("PRO-cap:K562", "pro_cap"),
        ("no prefix", "other"),
    ],
)
def test_assay(description, assay):
    assert assay_of(description) == assay


def test_the_assay_column_wins(tmp_path):
    (track,) = read(tmp_path, "index\tidentifier\tfile\tdescription\tassay\n0\ta\ta\tRNA:x\tmy\n")
    assert track.assay == "my"


def test_written_table_reads_back_equal(tmp_path):
    tracks = [
        Track(5, "a", "a.bw", 1, covered=0.5, mean=1 / 3, saturated=2, extra={"lab": "x"}),
        Track(9, "b", "b.bw", 0, 384.0, 64.0, 0.1, "sum", "CAGE:b", "cage", 1.0, 0.0, 0,
              {"lab": ""}),
    ]  # fmt: skip
    write_tracks(tmp_path / "tracks.tsv", tracks)
    assert read_targets(tmp_path / "tracks.tsv") == tracks


HEADER = "index\tidentifier\tfile\tstrand_pair\tclip\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        (HEADER, "lists no track"),
        ("index identifier file\n0 a a.bw\n", "tab separated"),
        (HEADER + "0\ta\ta.bw\n", ":2: 3 columns, the header has 5"),
        (HEADER + "x\ta\ta.bw\t0\t1\n", ":2: index must be a whole number, found 'x'"),
        (HEADER + "0\ta\ta\t0\t1\n0\tb\tb\t0\t1\n", "repeats a value"),
        (HEADER + "0\ta\ta\t1\t\n1\tb\tb\t1\t\n", ":2: strand_pair 1 does not name this track"),
        (HEADER + "0\ta\ta\t8\t\n", ":2: strand_pair 8 is no index"),
        (HEADER + "0\ta\t\t0\t\n", ":2: file is empty"),
        (HEADER + "0\tNA\ta\t0\t\n", ":2: identifier 'NA' is a word for missing"),
        (HEADER + "1.5\ta\ta\t0\t\n", ":2: index must be a whole number, found '1.5'"),
        (HEADER + '0\t"a\ta.bw\t0\t\n1\tb"\tb.bw\t1\t\n', ":2: a cell begins with a quote"),
        (HEADER + '0\t"deep" liver\ta.bw\t0\t\n', ":2: a cell begins with a quote"),
        (HEADER + "0\ta\ta\t0\t" + "9" * 200_000, ":2: not a line of a table"),
        (HEADER.replace("clip", "file") + "0\ta\ta\t0\tb\n", "has the column 'file' twice"),
        (HEADER + "0\ta\ta\t0\t-3\n", ":2: clip must be a number above 0, found '-3'"),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert f"{tmp_path / 'targets.txt'}" in str(error.value)
    assert message in str(error.value)


QUOTED = (
    '"index"\t"identifier"\tfile\t"scale"\tstrand_pair\tdescription\t"lab, ""old"""\n'
    '"0"\t"A, 1"\t"x, y.bw"\t"2"\t"1.0"\t"CHIP:H3K4me3, ""deep"""\t5" of 3\'\n'
    '1.0\tB\tb.bw\t2\t0\tDNASE:5" and "more"\t"a\tb"\n'
)


def test_quotes_around_a_cell_go_and_others_stay(tmp_path):
    first, second = read(tmp_path, QUOTED)
    assert (first.index, first.identifier, first.file) == (0, "A, 1", "x, y.bw")
    assert (first.scale, first.strand_pair) == (2.0, 1)
    assert (first.description, first.assay) == ('CHIP:H3K4me3, "deep"', "histone_chip")
    assert first.extra == {'lab, "old"': "5\" of 3'"}
    assert (second.description, second.extra) == (
        'DNASE:5" and "more"', {'lab, "old"': "a\tb"}
    )  # fmt: skip


def test_a_written_table_keeps_quotes_and_only_adds_them_where_they_are_needed(tmp_path):
    tracks = [
        Track(0, '"a"', "a.bw", 0, description='"x', extra={"lab": "tab\there"}),
        Track(1, "b", "b.bw", 1, description='5" and "6"', negative=3),
    ]
    write_tracks(tmp_path / "tracks.tsv", tracks)
    again = read_tracks(tmp_path / "tracks.tsv")
    assert [(t.identifier, t.description) for t in again] == [('"a"', '"x'), ("b", '5" and "6"')]
    assert [t.negative for t in again] == [None, 3]
    assert again[0].extra == {"lab": "tab\there"}
    assert '\t5" and "6"\t' in (tmp_path / "tracks.tsv").read_text()


def test_tables_of_datasets_made_before_quotes_were_understood_are_read(tmp_path):
    path = tmp_path / "tracks.tsv"
    path.write_text('index\tidentifier\tfile\tdescription\n0\ta\ta.bw\t"deep" liver\n')
    assert read_tracks(path)[0].description == '"deep" liver'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    text = BORZOI.replace("liver", "µ-liver").replace("\n", end)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "targets.txt").write_bytes((mark + text).encode(encoding))
    tracks = read_targets(tmp_path / "targets.txt")
    assert [track.description for track in tracks] == ["CAGE:µ-liver"] * 2


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "targets.txt").write_bytes(BORZOI.replace("liver", "µ").encode("cp1252"))
    with pytest.raises(UserError, match=r"targets.txt:2: not UTF-8 \(byte 0xb5, 'µ' if .*UTF-8"):
        read_targets(tmp_path / "targets.txt")


def test_scale_may_be_below_zero_but_not_zero(tmp_path):
    header = "index\tidentifier\tfile\tscale\n"
    assert read(tmp_path, header + "0\ta\ta\t-2\n")[0].scale == -2
    for cell in ("0", "inf"):
        with pytest.raises(UserError, match=":2: scale must be a number other than 0"):
            read(tmp_path, f"{header}0\ta\ta\t{cell}\n")


def test_strands_of_opposite_sign_are_refused():
    tracks = [Track(0, "p", "p", 1), Track(1, "m", "m", 0), Track(2, "own", "own", 2)]
    refuse_opposite_strands(tracks, [1.0, 0.0, -1.0])
    with pytest.raises(UserError, match=r"m is below 0 and its strand pair p above .*scale -1"):
        refuse_opposite_strands(tracks, [1.0, -1.0, 1.0])
