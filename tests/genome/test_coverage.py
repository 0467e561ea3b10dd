"""Tracks from BigWig, bedGraph and peak files: the same coverage, whatever the file."""

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.errors import UserError
from spacescale.genome.contig_ends import describe_past_end
from spacescale.genome.coverage import MatchedContigs, TrackContigs, open_coverage
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import TRANSFORMS

pyBigWig = pytest.importorskip("pyBigWig", reason="needs the prep extra")

YEAST = Path(__file__).parents[3] / "shared/data/yeast_sacCer3"
LENGTH, BIN_SIZE = 512, 16
TRACK = Track(0, "t", "t.bw", 0)
BEDGRAPH = "track type=bedGraph name=x\nchr1\t10\t20\t1.5\n# note\n\nchr2 0 5 -2\nchr1\t2\t4\t3\n"
PEAKS = "chr1\t10\t20\tp\t0\t.\t3.5\t1\t1\t4\nchr1\t15\t30\tq\t0\t.\t2\t1\t1\t4\n"


def read(path: Path, chrom: str, start: int, end: int, track: Track = TRACK) -> list[float]:
    with open_coverage(path, track) as coverage:
        return coverage.read_windows(chrom, np.array([start]), end - start)[0].tolist()


def put(path: Path, text: str) -> Path:
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.bedGraph", "a.bdg.gz", "a.bg", "anything.txt", "a.bed.x"])
def test_bedgraph_in_any_order_of_lines(tmp_path, name):
    path = put(tmp_path / name, BEDGRAPH)
    nan = np.nan
    found = read(path, "chr1", 0, 12)
    np.testing.assert_array_equal(found, [nan, nan, 3, 3, *[nan] * 6, 1.5, 1.5])
    np.testing.assert_array_equal(read(path, "chr2", 3, 7), [-2, -2, nan, nan])


@pytest.mark.parametrize("name", ["a.narrowPeak", "a.narrowPeak.gz", "a.bed"])
def test_peaks_are_1_inside_and_0_elsewhere(tmp_path, name):
    path = put(tmp_path / name, PEAKS)
    assert read(path, "chr1", 8, 32) == [0, 0, *[1] * 20, 0, 0]


def test_signal_of_peaks_by_the_column_peak_value(tmp_path):
    path = put(tmp_path / "a.narrowPeak", PEAKS)
    track = Track(0, "t", "a", 0, extra={"peak_value": "signal"})
    assert read(path, "chr1", 9, 31, track) == [0, *[3.5] * 10, *[2] * 10, 0]
    with pytest.raises(UserError, match="track t: peak_value 'max' must be 1 or signal"):
        open_coverage(path, Track(0, "t", "a", 0, extra={"peak_value": "max"}))
    with pytest.raises(UserError, match=r"a.bed:1: no signalValue, the 7th column"):
        open_coverage(put(tmp_path / "a.bed", "chr1\t1\t2\n"), track)


@st.composite
def disjoint_intervals(draw):
    """Intervals that may touch, with float32 values."""
    edges = sorted(draw(st.sets(st.integers(0, LENGTH), min_size=2, max_size=60)))
    value = st.floats(-1e4, 1e4, width=32)
    spans = [(a, b, draw(value)) for a, b in pairwise(edges)]
    kept = [span for span in spans if draw(st.booleans())]
    return kept or spans[:1]


@settings(max_examples=60, deadline=None)
@given(intervals=disjoint_intervals(), seed=st.integers(0, 99))
def test_bedgraph_and_bigwig_of_the_same_numbers_give_the_same_bins(
    tmp_path_factory, intervals, seed
):
    folder = tmp_path_factory.mktemp("same")
    starts, ends, values = map(list, zip(*intervals, strict=True))
    with pyBigWig.open(str(folder / "a.bw"), "w") as file:
        file.addHeader([("chr1", LENGTH)])
        file.addEntries(["chr1"] * len(starts), starts, ends=ends, values=values)
    lines = [f"chr1\t{a}\t{b}\t{v!r}\n" for a, b, v in intervals]
    np.random.default_rng(seed).shuffle(lines)
    (folder / "a.bedGraph").write_text("".join(lines))
    plain = np.full(LENGTH, np.nan, np.float32)
    for a, b, v in intervals:
        plain[a:b] = v
    bins = {}
    for name in ("a.bw", "a.bedGraph"):
        with open_coverage(folder / name, TRACK) as coverage:
            bases = coverage.read_windows("chr1", np.array([0]), LENGTH)[0]
            scattered = coverage.read_windows("chr1", np.array([401, 3, 100, 120]), 50)
        np.testing.assert_array_equal(bases, plain)
        np.testing.assert_array_equal(scattered, [plain[s : s + 50] for s in (401, 3, 100, 120)])
        for sum_stat in ("sum", "mean", "max", "median"):
            pooled = TRANSFORMS["basenji2020"].bins(
                bases.reshape(-1, BIN_SIZE), Track(0, "t", name, 0, sum_stat=sum_stat)
            )
            assert bins.setdefault(sum_stat, pooled).tobytes() == pooled.tobytes()


def test_the_end_of_a_window_may_lie_anywhere_in_an_interval(tmp_path):
    path = put(tmp_path / "a.bedGraph", "chr1\t10\t20\t1\nchr1\t20\t30\t2\n")
    with open_coverage(path, TRACK) as coverage:
        (whole,) = coverage.read_windows("chr1", np.array([0]), 40)
        for width in range(1, 41):
            starts = np.arange(41 - width)
            found = coverage.read_windows("chr1", starts, width)
            np.testing.assert_array_equal(found, [whole[s : s + width] for s in starts])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.bedGraph", "chr1\t5\t9\t1\nchr1\t8\t9\t2\n", ":2: chr1 has a value twice at 8-9"),
        ("a.bedGraph", "chr1\t5\t9\n", ":1: a bedGraph has 4 columns, found 3"),
        ("a.bedGraph", "chr1\t5\n", ":1: expected chrom, start and end, found 2 columns"),
        ("a.bedGraph", "chr1\t5\tx\t1\n", ":1: start and end must be whole numbers"),
        ("a.bedGraph", "chr1\t-5\t9\t1\n", "whole numbers from 0 on, found '-5'"),
        ("a.bedGraph", "chr1\t1_0\t20\t1\n", "whole numbers from 0 on, found '1_0'"),
        ("a.bedGraph", "chr1\t1.5\t20\t1\n", "whole numbers from 0 on, found '1.5'"),
        ("a.bedGraph", "chr1\t0\t1e+10\t1\n", "'1e+10' is beyond any contig"),
        ("a.bedGraph", "chr1\t9\t8\t1\n", ":1: start 9 is after end 8"),
        ("a.bedGraph", "chr1\t5\t9\tinf\n", ":1: the value must be a finite number, found 'inf'"),
        ("a.bedGraph", "chr1\t5\t9\t1e39\n", "beyond what 32 bits can hold"),
        ("a.bedGraph", "chr1\t5\t9\tone\n", "must be a finite number, found 'one'"),
        ("a.bedGraph", "chr1\t5\t99999999999\t1\n", ":1: '99999999999' is beyond any contig"),
        ("a.txt", "# nothing\n", "cannot tell what this is"),
        ("a.txt", "", "is an empty file"),
        ("a.bw", "", "is an empty file, not a BigWig"),
        ("a.bedGraph", "fixedStep chrom=chr1 start=1\n1\n", "is a wiggle file"),
        ("a.bedGraph", "<html>", "is an HTML or XML page"),
        ("a.bed", "chr1\t5\t9\t0.5\n", "like a bedGraph. If it is one, call it .bedGraph"),
        ("a.txt", "chr1\t5\t9\n", "cannot tell what this is; tracks are BigWig (.bw)"),
        ("a.bedGraph", "chr1\t5\t9\t1\0\n", ":1: this is no text file"),
    ],
)
def test_faults_name_file_and_line(tmp_path, name, content, message):
    path = put(tmp_path / name, content)
    with pytest.raises(UserError) as error:
        open_coverage(path, TRACK)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_a_name_in_latin_1_is_named(tmp_path):
    lines = 'chr1\t1\t2\tgène\nchr1\t4\t5\t"gène"\nchré\t1\t2\n'
    (tmp_path / "a.bed").write_bytes(lines.encode("latin-1"))
    with pytest.raises(UserError, match=r"a.bed:3: the contig name is not UTF-8 .*'chré'"):
        open_coverage(tmp_path / "a.bed", TRACK)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match=r"no such coverage file: .*a.bed"):
        open_coverage(tmp_path / "a.bed", TRACK)
    with pytest.raises(UserError, match=r"no such BigWig file: .*a.bw"):
        open_coverage(tmp_path / "a.bw", TRACK)
    packed = gzip.compress(b"chr1\t1\t2\t1\n" * 5000)
    (tmp_path / "a.bedGraph.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="damaged or truncated gzip file"):
        open_coverage(tmp_path / "a.bedGraph.gz", TRACK)
    (tmp_path / "a.bw.gz").write_bytes(gzip.compress(b"\x26\xfc\x8f\x88" + bytes(100)))
    with pytest.raises(UserError, match="is a BigWig compressed by gzip: unpack it"):
        open_coverage(tmp_path / "a.bw.gz", TRACK)
    (tmp_path / "a.bed.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"a.bed.gz is an empty file"):
        open_coverage(tmp_path / "a.bed.gz", TRACK)


def contigs_of(path: Path) -> TrackContigs:
    with open_coverage(path, TRACK) as coverage:
        return TrackContigs.of(coverage)


def test_contigs_of_text_are_matched_by_name(tmp_path):
    genome, lengths = tmp_path / "g.fa", {"chrI": 100, "chrII": 50}
    graph = contigs_of(put(tmp_path / "a.bedGraph", "I\t0\t9\t1\nI\t20\t60\t1\nx\t0\t999\t1\n"))
    aliases = graph.auto_aliases(lengths)
    assert aliases == {"I": "chrI"}
    assert graph.match_genome(genome, lengths, aliases) == MatchedContigs({"chrI"}, {}, {"chrI"})
    with pytest.raises(UserError, match=r"shares no contig name.*By name I = chrI: add --aliases"):
        graph.match_genome(genome, lengths, {})
    far = contigs_of(put(tmp_path / "far.bedGraph", "I\t0\t9\t1\nI\t1101\t1160\t1\nI\t20\t60\t1\n"))
    misfit = far.match_genome(genome, lengths, aliases)
    assert not misfit.covered
    assert (
        "far.bedGraph:2: start 1101 lies far beyond chrI, which has 100" in misfit.misfits["chrI"]
    )
    both = contigs_of(put(tmp_path / "b.bedGraph", "I\t0\t9\t1\nchrI\t20\t60\t1\n"))
    with pytest.raises(UserError, match="I and chrI are both chrI of"):
        both.match_genome(genome, lengths, aliases)


@pytest.mark.parametrize("name", ["a.bedGraph", "a.bed", "a.narrowPeak.gz"])
@pytest.mark.parametrize("content", ["", "track name=x\n", "# none\n\n", "chrI\t7\t7\t0\tx\n"])
def test_files_without_an_interval_cover_every_contig_and_hold_nothing(tmp_path, name, content):
    """As a BigWig without values does, so that a sample without a read or peak is no error."""
    if "bedGraph" in name:
        content = content.replace("\tx", "")
    lengths = {"chrI": 100, "chrII": 50}
    path = put(tmp_path / name, content)
    assert contigs_of(path).match_genome(tmp_path, lengths, {}).covered == set(lengths)
    with open_coverage(path, TRACK) as coverage:
        assert coverage.past_end(lengths) == {}
        assert np.isnan(coverage.background) == ("bedGraph" in name)


def test_intervals_of_no_length_hold_no_base(tmp_path):
    assert read(put(tmp_path / "a.bed", "chr1\t2\t2\nchr1\t3\t5\n"), "chr1", 0, 6) == [
        0,
        0,
        0,
        1,
        1,
        0,
    ]
    path = put(tmp_path / "a.bedGraph", "chr1\t0\t2\t1\nchr1\t1\t1\t9\nchr1\t2\t4\t3\n")
    assert read(path, "chr1", 0, 4) == [1, 1, 3, 3]


def test_whole_numbers_as_r_and_pandas_write_them(tmp_path):
    path = put(tmp_path / "a.bedGraph", "chr1\t1e+05\t100002\t1\nchr1\t100002.0\t1.00004e5\t2\n")
    assert read(path, "chr1", 100_000, 100_004) == [1, 1, 2, 2]


NARROW = [
    "chr1\t1\t3\tpeak no 1\t7\t.\t5.5\t1\t1\t1",  # a name with blanks
    "chr1\t1\t3\t\t7\t.\t5.5\t1\t1\t1",  # and without a letter
    '"chr1"\t"1"\t"3"\t"p ""1"\t7\t"."\t5.5\t1\t1\t1',
    '"chr1" 1 3 "peak 1" 7 "." 5.5 1 1 1',
    'chr1\t1\t3\t"5 prime\t7\t.\t5.5\t1\t1\t1',
    "chr1  1  3  p  7  .  5.5  1  1  1",
]


@pytest.mark.parametrize("line", NARROW)
def test_the_name_of_a_peak_moves_no_column(tmp_path, line):
    track = Track(0, "t", "a", 0, extra={"peak_value": "signal"})
    assert read(put(tmp_path / "a.narrowPeak", line), "chr1", 0, 4, track) == [0, 5.5, 5.5, 0]


@pytest.mark.parametrize("line", ['"chr1"\t1\t3\t2.5\n', '"chr1" 1 3 2.5\n', "chr1\t1 3\t2.5\t\n"])
def test_quotes_and_blanks_in_a_bedgraph(tmp_path, line):
    assert read(put(tmp_path / "a.bedGraph", line), "chr1", 1, 3) == [2.5, 2.5]


@pytest.mark.parametrize("value", ["1", "signal"])
def test_intervals_past_the_end_are_counted_line_by_line(tmp_path, value):
    lines = ["I\t{}\t{}\tp\t0\t.\t2\t1\t1\t4\n".format(*span) for span in [
        (80, 101), (85, 130), (90, 100), (100, 104), (0, 3),
    ]]  # fmt: skip
    track = Track(0, "t", "a", 0, extra={"peak_value": value})
    with open_coverage(put(tmp_path / "a.narrowPeak", "".join(lines)), track) as coverage:
        assert sorted(coverage.past_end({"I": 100, "II": 5})["I"].tolist()) == [1, 4, 30]
        assert describe_past_end(coverage.past_end({"I": 100})) == (
            "has 3 intervals past the end of I, the furthest by 30 bp on I: cut there"
        )
        assert describe_past_end(coverage.past_end({"I": 130})) == ""
        (bases,) = coverage.read_windows("I", np.array([79]), 21)
        assert bases.tolist() == [0] + [float(value == "1") or 2.0] * 20


def test_nothing_lies_past_the_end_of_a_contig_of_billions_of_bases(tmp_path):
    path = tmp_path / "x.bedGraph"
    path.write_text("chr1\t0\t10\t1\n")
    with open_coverage(path, Track(0, "t", "a", 0)) as coverage:
        assert not coverage.past_end({"chr1": 5_000_000_000})["chr1"].size


def test_a_peak_file_covers_contigs_without_peaks(tmp_path):
    peaks = contigs_of(put(tmp_path / "a.bed", "chrI\t0\t9\n"))
    found = peaks.match_genome(tmp_path, {"chrI": 100, "chrII": 50}, {})
    assert (found.covered, found.named) == ({"chrI", "chrII"}, {"chrI"})


@pytest.mark.skipif(not YEAST.is_dir(), reason="no yeast data beside the repository")
def test_real_narrowpeak():
    path = YEAST / "peaks/Scc1-peaks.narrowPeak"
    rows = [line.split("\t") for line in path.read_text().splitlines() if line]
    fourth = [(int(r[1]), int(r[2])) for r in rows if r[0] == "IV"]
    expected = np.zeros(1_531_933)
    for start, end in fourth:
        expected[start:end] = 1
    assert fourth and np.array_equal(read(path, "IV", 0, expected.size), expected)
