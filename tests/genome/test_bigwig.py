import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from bigwig_files import bedgraph_section, bigwig_bytes, fixed_section, variable_section

from spacescale.errors import UserError
from spacescale.genome import bigwig
from spacescale.genome.bigwig import BigWig

pyBigWig = pytest.importorskip("pyBigWig", reason="needs the prep extra")


DATA = Path(__file__).parents[3] / "shared/data"
SECTIONS = [
    bedgraph_section(0, [(3, 7, 1.5), (9, 10, np.nan), (10, 12, -2.0)]),
    variable_section(0, 2, [(20, 4.0), (22, 5.0), (30, 6.0)]),
    fixed_section(1, 5, 3, 2, [7.0, 8.0]),
]


def write(path, values, length=100_000):
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([("chr1", length), ("chr2", 50)])
        file.addEntries("chr1", 10, values=np.asarray(values, dtype=np.float32), span=1, step=1)
    return path


def test_gaps_are_nan(tmp_path):
    with BigWig(write(tmp_path / "a.bw", [1.0, 2.0])) as file:
        assert file.contigs == {"chr1": 100_000, "chr2": 50}
        values = file.read("chr1", 8, 13)
        np.testing.assert_array_equal(values, np.float32([np.nan, np.nan, 1, 2, np.nan]))
        assert np.isnan(file.read("chr2", 0, 50)).all()


def test_infinite_coverage_names_the_position(tmp_path):
    with (
        BigWig(write(tmp_path / "a.bw", [1.0, np.inf])) as file,
        pytest.raises(UserError, match=r"a.bw has infinite coverage at chr1:11"),
    ):
        file.read("chr1", 0, 50)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such BigWig file"),
        (b"", "is an empty file"),
        (b"  <!DOCTYPE html><html>", "HTML or XML page"),
        (
            b"variableStep chrom=chr1\n",
            "is a wiggle file, not a BigWig: convert it with wigToBigWig",
        ),
        (b"chr1\t0\t5\t1\n", "is not a BigWig (it starts with b'chr1"),
        (b"\xeb\xf2\x89\x87" + bytes(100), "is a BigBed"),
        (b"\x26\xfc\x8f\x88" + bytes(10), "is a truncated BigWig"),
    ],
)
def test_faults_are_told_apart(tmp_path, content, message):
    path = tmp_path / "bad.bw"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        BigWig(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [True, False])
def test_all_kinds_of_sections(tmp_path, order, compressed):
    path = tmp_path / "a.bw"
    content = bigwig_bytes([("chr1", 40), ("chr2", 12)], SECTIONS, order, compressed)
    path.write_bytes(content)
    first, second = np.full(40, np.nan, np.float32), np.full(12, np.nan, np.float32)
    first[3:7], first[10:12] = 1.5, -2
    first[20:22], first[22:24], first[30:32] = 4, 5, 6
    second[5:7], second[8:10] = 7, 8
    with BigWig(path) as file:
        assert file.contigs == {"chr1": 40, "chr2": 12}
        for start in range(39):
            for end in (start + 1, (start + 41) // 2, 40):
                np.testing.assert_array_equal(file.read("chr1", start, end), first[start:end])
        np.testing.assert_array_equal(file.read("chr2", 0, 12), second)
    if order == "<":  # pyBigWig reads the byte order of the machine only
        with pyBigWig.open(str(path)) as other:
            np.testing.assert_array_equal(other.values("chr1", 0, 40, numpy=True), first)


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared data beside the repository")
@pytest.mark.parametrize(
    "name",
    [
        "yeast_sacCer3/tracks/Scc1.bw",
        "drosophila_dm6/tracks/ip_2.bw",
        "human_hg38/windows/tracks/t24_ENCFF890OGQ.bw",
        "mouse_mm10/windows/tracks/t00_CNhs10586p.bw",
    ],
)
def test_real_files_read_as_with_pybigwig(name):
    path = DATA / name
    with BigWig(path) as ours, pyBigWig.open(str(path)) as theirs:
        assert ours.contigs == dict(theirs.chroms())
        for chrom, length in list(ours.contigs.items())[:6]:
            for start in range(0, min(length, 400_000) - 5_000, 40_009):
                expected = theirs.values(chrom, start, start + 5_000, numpy=True)
                np.testing.assert_array_equal(ours.read(chrom, start, start + 5_000), expected)


@pytest.mark.parametrize(
    "section, message",
    [
        (
            bedgraph_section(0, [(3, 7, 1.0), (6, 9, 2.0)]),
            "a value twice at chr1:6-7: its intervals",
        ),
        (bedgraph_section(0, [(9, 12, 1.0), (3, 5, 2.0)]), "its index refers to places outside"),
        (
            bedgraph_section(0, [(3, 5, 1.0), (1041, 1050, 1.0)]),
            "has a value at chr1:1041, far past",
        ),
        (bedgraph_section(0, [(3, 5, 1.0), (9, 7, 1.0), (9, 10, 1.0)]), "ends before it starts"),
        (bedgraph_section(2, [(3, 9, 1.0)]), "its index refers to places outside"),
        ((0, 3, 9, 0, 0, 1, [(1, 9, 1.0)]), "leaves the stretch that the index gives"),
        (
            (0, 3, 9, 0, 0, 1, [(4, 5, 1.0), (1, 2, 1.0), (8, 9, 1.0)]),
            "leaves the stretch that the index gives",
        ),
        (fixed_section(0, 3, 1, 2, [1.0, 2.0]), "a value twice at chr1:4-5: its intervals overlap"),
    ],
)
def test_wrong_sections_are_refused(tmp_path, section, message):
    (tmp_path / "a.bw").write_bytes(bigwig_bytes([("chr1", 40)], [section]))
    with pytest.raises(UserError, match=message), BigWig(tmp_path / "a.bw") as file:
        file.read("chr1", 0, 40)


COUNTS = {
    "none": b"",
    "4 bytes": struct.pack("<I", 3),
    "wrong": struct.pack("<Q", 17),
    "none is 0": bytes(8),
    "wrong in 4 bytes": struct.pack("<I", 17),
}


@pytest.mark.parametrize("indexed", [None, 7], ids=["indexed blocks", "indexed items"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("count", COUNTS)
def test_the_number_of_blocks_may_be_wrong_or_not_there(tmp_path, count, compressed, indexed):
    path = tmp_path / "a.bw"
    content = [("chr1", 40), ("chr2", 12)], SECTIONS, "<", compressed, True, COUNTS[count], indexed
    path.write_bytes(bigwig_bytes(*content))
    assert_reads_as_pybigwig(path)
    for lost in range(len(SECTIONS)):
        path.write_bytes(bigwig_bytes(*content, lost=lost))
        with pytest.raises(UserError, match="its index leaves out the data at byte"):
            BigWig(path)


def assert_reads_as_pybigwig(path):
    with BigWig(path) as ours, pyBigWig.open(str(path)) as theirs:
        assert ours.contigs == dict(theirs.chroms())
        for chrom, length in ours.contigs.items():
            expected = theirs.values(chrom, 0, length, numpy=True)
            if expected.size:  # pyBigWig gives nothing where a file holds nothing at all
                np.testing.assert_array_equal(ours.read(chrom, 0, length), expected)


def test_trees_of_several_levels_and_long_names(tmp_path):
    contigs = [(f"scaffold_{'x' * (number % 200)}{number}", 90 + number) for number in range(300)]
    sections = [
        section
        for number in range(0, 300, 3)
        for section in (
            fixed_section(number, 3, 2, 1, [1.0 + number, 2.0]),
            bedgraph_section(number, [(50, 60, 3.0)]),
        )
    ]
    path = tmp_path / "a.bw"
    for fanout in (2, 3, 16):
        path.write_bytes(bigwig_bytes(contigs, sections, fanout=fanout))
        with BigWig(path) as file:
            for number, (name, length) in enumerate(contigs):
                expected = np.full(length, np.nan, np.float32)
                if number % 3 == 0:
                    expected[3], expected[5], expected[50:60] = 1.0 + number, 2, 3
                np.testing.assert_array_equal(file.read(name, 0, length), expected)
        assert_reads_as_pybigwig(path)


PAST_END = [
    bedgraph_section(0, [(3, 7, 1.5), (38, 43, 2.5), (43, 90, 7.0)]),
    variable_section(1, 5, [(2, 4.0), (10, 5.0)]),
    fixed_section(2, 0, 20, 20, [7.0, 8.0, 9.0]),
]


@pytest.mark.parametrize("index_is_cut", [False, True])
def test_what_is_past_the_end_of_a_contig_is_cut_and_counted(tmp_path, index_is_cut):
    """As bins at the end of a binned track are; some writers cut the index, but not the items."""
    contigs = [("chr1", 40), ("chr2", 12), ("chr3", 40)]
    sections = PAST_END
    if index_is_cut:
        sections = [(s[0], s[1], min(s[2], contigs[s[0]][1]), *s[3:]) for s in PAST_END]
    path = tmp_path / "a.bw"
    path.write_bytes(bigwig_bytes(contigs, sections))
    assert_reads_as_pybigwig(path)
    with BigWig(path) as file:
        assert file.read("chr1", 36, 40).tolist()[2:] == [2.5, 2.5]
        found = file.past_end(dict(contigs[::-1]) | {"chrX": 9})
        assert {name: past.tolist() for name, past in found.items()} == {
            "chr3": [20], "chr2": [3], "chr1": [3, 50],
        }  # fmt: skip
        assert list(found) == ["chr3", "chr2", "chr1"]


def many_blocks(random) -> tuple[list[tuple], np.ndarray]:
    """Short sections of all kinds on a contig of 6,000 bp, and the value of each base."""
    values, sections, start = np.full(6_000, np.nan, np.float32), [], 40
    while start < 5_900:
        step, number = int(random.integers(1, 5)), int(random.integers(2, 7))
        kind, span = int(random.integers(3)), int(random.integers(1, step + 1))
        starts = [start + step * n for n in range(number)]
        drawn = random.random(number).astype(np.float32).tolist()
        for first, value in zip(starts, drawn, strict=True):
            values[first : first + span] = value
        sections.append(
            (
                bedgraph_section(0, [(n, n + span, v) for n, v in zip(starts, drawn, strict=True)]),
                variable_section(0, span, list(zip(starts, drawn, strict=True))),
                fixed_section(0, start, step, span, drawn),
            )[kind]
        )
        # Now and then a long gap, else the next block follows at once.
        start = starts[-1] + span + int(random.choice([0, 1, 300], p=[0.6, 0.39, 0.01]))
    return sections, values


@pytest.mark.parametrize("order", ["<", ">"])
def test_windows_in_any_order_and_number_read_alike(tmp_path, order, monkeypatch):
    """Whatever was read before: blocks are kept from one reading to the next."""
    random = np.random.default_rng(0)
    sections, expected = many_blocks(random)
    assert len(sections) > 300
    path = tmp_path / "a.bw"
    path.write_bytes(bigwig_bytes([("chr1", 6_000), ("chr2", 50)], sections, order))
    with BigWig(path) as file:
        np.testing.assert_array_equal(file.read("chr1", 0, 6_000), expected)
        for _ in range(300):
            monkeypatch.setattr(bigwig, "_BASES_AT_A_TIME", int(random.choice([50, 700, 2**21])))
            width = int(random.choice([1, 7, 60, 900, 5_000]))
            starts = random.integers(0, 6_000 - width + 1, random.integers(1, 40))
            if random.random() < 0.5:
                starts = np.sort(starts)[: random.integers(1, 4)]
            found = file.read_windows("chr1", starts, width)
            assert found.dtype == np.float32
            windows = [expected[start : start + width] for start in starts]
            np.testing.assert_array_equal(found, windows)
            start = int(starts[-1])
            np.testing.assert_array_equal(file.read("chr1", start, start + width), windows[-1])
        assert np.isnan(file.read_windows("chr2", np.array([3, 40]), 10)).all()
        assert file.read_windows("chr1", np.array([], dtype=int), 10).shape == (0, 10)
        with pytest.raises(UserError, match="chr2:41-51 does not lie inside chr2, which has 50 bp"):
            file.read_windows("chr2", np.array([3, 41, 7]), 10)


def test_infinite_coverage_in_one_of_many_windows(tmp_path):
    with BigWig(write(tmp_path / "a.bw", [1.0, np.inf, 2.0])) as file:
        assert file.read_windows("chr1", np.array([12, 10]), 1).tolist() == [[2], [1]]
        with pytest.raises(UserError, match=r"a.bw has infinite coverage at chr1:11 \(0-based\)"):
            file.read_windows("chr1", np.array([500, 8, 10]), 5)


def test_positions_that_32_bits_do_not_hold(tmp_path):
    length = 2**32 - 1
    sections = [
        variable_section(0, 900, [(length - 2_000, 4.0), (length - 500, 5.0)]),
        fixed_section(1, length - 2_000, 1_500, 900, [6.0, 7.0]),
        fixed_section(2, length - 10, 2**31, 3, [8.0, 9.0]),
    ]
    cut = [(s[0], s[1], min(s[2], length), *s[3:]) for s in sections]
    (tmp_path / "a.bw").write_bytes(bigwig_bytes([(name, length) for name in "abc"], cut))
    with BigWig(tmp_path / "a.bw") as file:
        for name, first, last in (("a", 4, 5), ("b", 6, 7)):
            found = file.read(name, length - 2_001, length)
            assert np.isnan(found[[0, 901, 1_500]]).all()
            assert (found[1:901] == first).all()
            assert (found[1_501:] == last).all()
            assert file.past_end({name: length})[name].tolist() == [400]
        with pytest.raises(UserError, match=r"has a value at c:\d+, far past the end of c"):
            file.read("c", length - 20, length)


def with_unpacked_bytes(content: bytes, number: int) -> bytes:
    """Give the header another number of bytes of an unpacked block."""
    return content[:52] + struct.pack("<I", number) + content[56:]


def test_the_header_may_promise_smaller_blocks_than_there_are(tmp_path):
    path = tmp_path / "a.bw"
    content = bigwig_bytes([("chr1", 40), ("chr2", 12)], SECTIONS)
    path.write_bytes(content)
    with BigWig(path) as file:
        expected = {name: file.read(name, 0, length) for name, length in file.contigs.items()}
    path.write_bytes(with_unpacked_bytes(content, 1))
    with BigWig(path) as file:
        for name, values in expected.items():
            np.testing.assert_array_equal(file.read(name, 0, values.size), values)


@pytest.mark.parametrize("promised", [1 << 15, 2**32 - 1])
def test_a_block_that_unpacks_to_more_than_a_section_can_be_is_refused(tmp_path, promised):
    """Such as one made to fill the memory: 1 MB of zlib can hold 1 GB."""
    sections = [bedgraph_section(0, [(3, 7, 1.5)])]
    content = bigwig_bytes([("chr1", 40)], sections)
    raw = struct.pack("<IIIIIBBHIIf", 0, 3, 7, 0, 0, 1, 0, 1, 3, 7, 1.5)
    block = zlib.compress(raw)
    assert content.count(block) == 1
    for surplus, fits in ((24 + 12 * (2**16 - 1) - len(raw), True), (2**20, False)):
        bomb = zlib.compress(raw + bytes(surplus))
        longer = content + bomb + content[-4:]
        place = content.index(struct.pack("<QQ", content.index(block), len(block)))
        entry = struct.pack("<QQ", len(content), len(bomb))
        longer = longer[:place] + entry + longer[place + 16 :]
        (tmp_path / "a.bw").write_bytes(with_unpacked_bytes(longer, promised))
        with BigWig(tmp_path / "a.bw") as file:
            if fits:
                assert file.read("chr1", 6, 7) == [1.5]
            else:
                with pytest.raises(UserError, match=r"cannot be read at chr1:3-7: .* compressed"):
                    file.read("chr1", 6, 7)


def test_items_of_no_length_and_out_of_order_are_read(tmp_path):
    sections = [
        bedgraph_section(0, [(1, 1, 9.0), (3, 7, 1.5), (5, 5, 9.0), (8, 9, 2.0)]),
        (0, 10, 20, 0, 0, 1, [(18, 20, 3.0), (10, 12, 4.0)]),
        variable_section(0, 0, [(21, 4.0), (23, 5.0)]),
        (0, 25, 25, 1, 1, 3, []),
        bedgraph_section(0, [(30, 30, 9.0)]),
        bedgraph_section(1, [(12, 12, 9.0)]),
    ]
    path = tmp_path / "a.bw"
    path.write_bytes(bigwig_bytes([("chr1", 40), ("chr2", 12)], sections))
    expected = np.full(40, np.nan, np.float32)
    expected[3:7], expected[8], expected[10:12], expected[18:20] = 1.5, 2, 4, 3
    with BigWig(path) as file:
        np.testing.assert_array_equal(file.read("chr1", 0, 40), expected)
        assert np.isnan(file.read("chr2", 0, 12)).all()
        assert not file.past_end(file.contigs)["chr2"].size


def test_files_without_any_value(tmp_path):
    """pyBigWig writes contigs alone, without an index; others write an index of nothing."""
    contigs = {"chr1": 40, "chr2": 12}
    with pyBigWig.open(str(tmp_path / "header.bw"), "w") as file:
        file.addHeader(list(contigs.items()))
    (tmp_path / "index.bw").write_bytes(bigwig_bytes(list(contigs.items()), []))
    for name in ("header.bw", "index.bw"):
        with BigWig(tmp_path / name) as file:
            assert file.contigs == contigs
            assert np.isnan(file.read("chr1", 0, 40)).all()
            assert not file.past_end(contigs)


def test_a_file_whose_writer_was_interrupted_is_not_taken_for_an_empty_one(tmp_path):
    path = write(tmp_path / "a.bw", [1.0, 2.0, 3.0])
    content = bytearray(path.read_bytes())
    content[24:32] = bytes(8)  # the offset of the index is written last
    for size in (len(content), len(content) - 4, 500):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"it has no index: was its writer interrupted\?"):
            BigWig(path)


def test_two_blocks_with_a_value_for_one_base_are_refused(tmp_path):
    sections = [bedgraph_section(0, [(3, 9, 1.0)]), bedgraph_section(0, [(8, 12, 2.0)])]
    (tmp_path / "a.bw").write_bytes(bigwig_bytes([("chr1", 40)], sections))
    with (
        BigWig(tmp_path / "a.bw") as file,
        pytest.raises(UserError, match="a value twice at chr1:8-9: its intervals overlap"),
    ):
        file.read("chr1", 0, 40)


def test_a_file_without_the_magic_number_at_its_end_is_read_if_it_is_whole(tmp_path):
    content = bigwig_bytes([("chr1", 40), ("chr2", 12)], SECTIONS, magic_at_end=False)
    (tmp_path / "old.bw").write_bytes(content)
    with BigWig(tmp_path / "old.bw") as file:
        assert file.read("chr1", 20, 21) == [4]
    (tmp_path / "old.bw").write_bytes(content[:-1])
    with pytest.raises(UserError, match="truncated BigWig"):
        BigWig(tmp_path / "old.bw")


def test_every_truncation_is_found(tmp_path):
    path = write(tmp_path / "a.bw", np.random.default_rng(0).random(20_000))
    content = path.read_bytes()
    for size in [
        *range(0, 600, 7),
        *range(600, len(content), 997),
        *range(len(content) - 60, len(content) - 4),
    ]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError), BigWig(path):
            pytest.fail(f"{size} of {len(content)} bytes were taken for a BigWig")
    # Only the magic number is missing, as in files of old writers: everything is there.
    path.write_bytes(content[:-4])
    with BigWig(path) as file:
        assert np.isfinite(file.read("chr1", 10, 20_010)).all()


def test_half_a_file_is_truncated(tmp_path):
    values = np.random.default_rng(0).random(50_000)
    path = write(tmp_path / "a.bw", values)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated BigWig"):
        BigWig(path)
