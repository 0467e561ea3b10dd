import pytest

from spacescale.errors import UserError
from spacescale.genome.tracks import Track, assay_of, read_targets, write_tracks

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
    assert plus == Track(0, "c+", "c+.bw", 1, 768, 384, 1.0, "sum", "CAGE:liver", "cage",
                         plus.covered, plus.mean)  # fmt: skip
    assert minus.strand_pair == 0


def test_enformer_header_keeps_unknown_columns(tmp_path):
    (track,) = read(tmp_path, ENFORMER)
    assert (track.index, track.clip, track.clip_soft, track.scale) == (5313, 32, None, 2)
    assert track.strand_pair == 0  # its own row
    assert track.extra == {"genome": "1"}


def test_only_identifier_and_file_are_required(tmp_path):
    (track,) = read(tmp_path, "index\tidentifier\tfile\n7\ta\ta.bw\n")
    assert (track.clip, track.scale, track.sum_stat, track.assay) == (None, 1.0, "mean", "other")


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
