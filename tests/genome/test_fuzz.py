"""Whatever a file holds, a parser reads it or raises UserError: no other error, no crash, no hang.

`-m slow` tries fifty times as many files.
"""

import contextlib
import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bigwig_files import bedgraph_section, bigwig_bytes, fixed_section, variable_section
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacescale.errors import UserError
from spacescale.genome.aliases import read_aliases
from spacescale.genome.bigwig import BigWig
from spacescale.genome.coverage import TrackContigs, open_coverage
from spacescale.genome.interval_tracks import read_peaks
from spacescale.genome.masks import masks_of
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.tracks import Track, read_targets, write_tracks
from spacescale.splits.beds import read_split_bed

LENGTHS = {"chr1": 40, "chr2": 12}
TRACK = Track(0, "t", "t", 0)
SIGNAL = Track(0, "t", "t", 0, extra={"peak_value": "signal"})


def read_bigwig(path: Path) -> None:
    with BigWig(path) as file:
        file.past_end(file.contigs)
        for name, length in file.contigs.items():
            for start in range(0, min(length, 10_000), 2_500):
                file.read(name, start, min(start + 2_500, length))
            width = min(length, 10_000) // 5 + 1
            file.read_windows(name, np.arange(0, min(length, 10_000) - width + 1, 3), width)


def read_coverage(path: Path, track: Track = TRACK) -> None:
    with open_coverage(path, track) as file:
        file.past_end(LENGTHS)
        known = TrackContigs.of(file).match_genome(path, LENGTHS, {})
        for name in known.covered & file.contigs.keys():
            length = LENGTHS[name]
            assert file.read_windows(name, np.array([0, 1]), length - 1).shape == (2, length - 1)


def read_table(path: Path) -> None:
    write_tracks(path.with_name("again.tsv"), read_targets(path))


TWO_BIT = (
    struct.pack("<IIII", 0x1A412743, 0, 1, 0) + b"\x01c"
    + struct.pack("<I8I", 22, 10, 1, 4, 2, 1, 0, 3, 0) + bytes([0b10011100, 0b1001, 0b11000000])
)  # fmt: skip
BIGWIG = bigwig_bytes(
    list(LENGTHS.items()),
    [
        bedgraph_section(0, [(3, 7, 1.5), (10, 12, -2.0)]),
        variable_section(0, 2, [(20, 4.0), (30, 6.0)]),
        fixed_section(1, 5, 3, 2, [7.0, 8.0]),
    ],
)
UNPACKED_BIGWIG = bigwig_bytes(
    list(LENGTHS.items()), [fixed_section(1, 5, 3, 2, [7.0, 8.0])], compressed=False
)
TARGETS = (
    b"\tidentifier\tfile\tclip\tstrand_pair\tdescription\n0\ta\ta.bw\t3\t1\tRNA:a\n1\tb\tb\t\t0\t\n"
)

TRACKS_TSV = (
    b"index\tidentifier\tfile\tstrand_pair\tcovered\tmean\tsaturated\n7\ta\ta.bw\t7\t0.5\t1e-3\t2\n"
)

PARSERS: dict[str, tuple[str, Callable[[Path], object], list[bytes]]] = {
    "fasta": ("a.fa", read_genome, [b">chr1 x\nACGT\nACGTNNAY\n\n>chr2\r\nacgt\r\n"]),
    "fasta.gz": ("a.fa.gz", read_genome, [gzip.compress(b">chr1\n" + b"ACGT\n" * 20)]),
    "2bit": ("a.2bit", read_genome, [TWO_BIT]),
    "split bed": ("a.bed", lambda path: read_split_bed(path, LENGTHS, {}),
                  [b"track x\nchr1\t0\t20\ttrain\nchr2\t0\t9\ttest\tx\n"]),
    "mask": ("a.bed", lambda path: masks_of({"blacklist": read_peaks(path)}, {}),
             [b"chr1\t0\t20\nchr2\t3\t9\tx\n"]),
    "bedgraph": ("a.bedGraph", read_coverage,
                 [b"chr1\t0\t20\t1.5\nchr2 3 9.0 -2e3\nchr1\t5\t5\t1\nchr1\t3e1\t50\t1\n"]),
    "narrowpeak": ("a.narrowPeak", lambda path: read_coverage(path, SIGNAL),
                   [b"chr1\t0\t20\tp\t5\t.\t2.5\t1\t1\t3\nchr1\t9\t30\tq\t5\t.\t3\t1\t1\t3\n"]),
    "targets table": ("targets.txt", read_table, [TARGETS, TRACKS_TSV]),
    "aliases": ("aliases.txt", lambda path: read_aliases(path, LENGTHS), [b"1\tchr1\n2\tchr2\n"]),
    "bigwig": ("a.bw", read_bigwig, [BIGWIG, UNPACKED_BIGWIG]),
}  # fmt: skip

# What breaks parsers: extreme numbers, signs, other digits, byte order marks, control characters.
_PIECES = [
    b"", b"\0", b"\t", b"\n", b"\r", b" ", b"-", b"-1", b"1e999", b"nan", b"inf", b"9" * 25, b"0",
    b"\xff\xfe", b"\xef\xbb\xbf", "٣".encode(), "\x85\u2028".encode(), b'"', b"#", b">", b"1_0",
    b"\xff" * 8, b"\0" * 8, struct.pack("<I", 2**31), struct.pack("<Q", 2**63), b"9" * 5000,
]  # fmt: skip


@st.composite
def mutated(draw, seeds: list[bytes]) -> bytes:
    """A good file with bytes flipped, cut out, put in or doubled; or any bytes at all."""
    content = bytearray(draw(st.sampled_from(seeds)))
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            content[start:end] = draw(st.sampled_from(_PIECES))
        elif kind == 1:
            content[start:end] = draw(st.binary(max_size=8))
        elif kind == 2 and start < len(content):
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == 3:
            content[start:start] = content[start:end]
        else:
            del content[start:]
    return bytes(content)


def check(name: str, folder: Path, content: bytes) -> None:
    file_name, parse, _ = PARSERS[name]
    path = folder / file_name
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        parse(path)


@pytest.mark.parametrize("name", PARSERS)
def test_the_seeds_are_read(name, tmp_path):
    file_name, parse, seeds = PARSERS[name]
    for content in seeds:
        (tmp_path / file_name).write_bytes(content)
        parse(tmp_path / file_name)


def fuzz(examples: int):
    """Run a test on mutated files; a file that takes longer than 30 s fails it."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=30_000, suppress_health_check=quiet)


@pytest.mark.parametrize("name", PARSERS)
@fuzz(100)
@given(data=st.data())
def test_only_user_errors(name, data, tmp_path):
    check(name, tmp_path, data.draw(mutated(PARSERS[name][2])))


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
@fuzz(5_000)
@given(data=st.data())
def test_only_user_errors_in_many_files(name, data, tmp_path):
    check(name, tmp_path, data.draw(mutated(PARSERS[name][2])))


def test_every_byte_of_a_bigwig_matters_or_does_no_harm(tmp_path):
    """Each byte set to 0, 255 and its complement; numpy must not wrap around or divide by 0."""
    with np.errstate(all="raise"):
        for content in (BIGWIG, UNPACKED_BIGWIG):
            for position in range(len(content)):
                for value in (0, 255, content[position] ^ 255):
                    changed = bytearray(content)
                    changed[position] = value
                    check("bigwig", tmp_path, bytes(changed))
