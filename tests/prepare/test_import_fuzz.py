"""Damaged and hostile files: nothing but UserError comes out, soon and without much memory."""

import contextlib
import gzip
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imported_sets import crc32c, example, frame, masked, small_set, write_hdf5, write_tfrecord

from spacescale.errors import UserError
from spacescale.prepare.importers.space_hdf5 import SpaceHdf5
from spacescale.prepare.importers.tf_example import parse_example
from spacescale.prepare.importers.tfrecord import masked_crc32c, read_records

LIMIT = 100_000
QUICK = settings(
    max_examples=150, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
RECORDS = [example(small_set(), number) for number in range(3)]

# Where a file is changed: a place as a share of its length, and the byte put there.
changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
)


def changed(data: bytes, places: list[tuple[float, int]]) -> bytes:
    out = bytearray(data)
    for share, byte in places:
        out[int(share * len(out))] = byte
    return bytes(out)


def test_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283
    for data in (b"", b"123456789", RECORDS[0]):
        assert masked_crc32c(data) == struct.unpack("<I", masked(data))[0]


@pytest.mark.parametrize("compression", ["none", "zlib", "gzip"])
@given(places=changes, end=st.floats(0, 1))
@QUICK
def test_damaged_records_never_come_out(tmp_path, compression, places, end):
    path = tmp_path / "fuzzed.tfr"
    write_tfrecord(path, RECORDS, compression)
    whole = path.read_bytes()
    damaged = changed(whole, places)
    damaged = damaged[: int(end * len(damaged)) + 1]
    path.write_bytes(damaged)
    found = []
    try:
        for record in read_records(path, LIMIT):
            found.append(record)
    except UserError as error:
        assert str(path) in str(error)
    assert found == RECORDS[: len(found)]


@pytest.mark.parametrize("size", [2**60, 2**63, 2**64 - 1, LIMIT + 1])
def test_a_length_beyond_the_limit_is_refused_at_once(tmp_path, size):
    length = struct.pack("<Q", size)
    path = tmp_path / "huge.tfr"
    path.write_bytes(length + masked(length) + b"x" * 50)
    with pytest.raises(UserError, match="of the set allow 100,000"):
        list(read_records(path, LIMIT))


def test_memory_stays_that_of_one_record(tmp_path):
    """A hundred records of 1 MB that compress to nearly nothing."""
    path = tmp_path / "bomb.tfr"
    path.write_bytes(gzip.compress(frame_quickly(bytes(2**20)) * 100))
    tracemalloc.start()
    number = sum(1 for _ in read_records(path, 2**21))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 100 and peak < 16 * 2**20


def frame_quickly(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + struct.pack("<I", masked_crc32c(record))


def test_an_endless_stream_without_records_is_refused(tmp_path):
    path = tmp_path / "zeros.tfr"
    path.write_bytes(zlib.compress(bytes(2**28)))
    tracemalloc.start()
    with pytest.raises(UserError, match="record 0"):
        list(read_records(path, LIMIT))
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


@given(places=changes, end=st.floats(0, 1))
@QUICK
def test_damaged_examples_raise_value_error(places, end):
    data = changed(RECORDS[0], places)
    try:
        found = parse_example(data[: int(end * len(data)) + 1], ("sequence", "target"))
    except ValueError:
        return
    assert all(isinstance(value, bytes | np.ndarray) for value in found.values())


@given(st.binary(max_size=200))
@QUICK
def test_arbitrary_examples_raise_value_error(data):
    with contextlib.suppress(ValueError):
        parse_example(data, ("sequence", "target"))


@given(places=changes, in_header=st.booleans())
@settings(QUICK, max_examples=100)
def test_damaged_hdf5_raises_user_error(tmp_path, places, in_header):
    path = tmp_path / "h5/tiny_test.h5"
    if not path.exists():
        write_hdf5(path.parent, small_set())
        (tmp_path / "whole").write_bytes(path.read_bytes())
    whole = (tmp_path / "whole").read_bytes()
    size = min(len(whole), 4096) if in_header else len(whole)
    path.write_bytes(changed(whole[:size], places) + whole[size:])
    try:
        source = SpaceHdf5({"test": path}, 4)
        (block,) = source.blocks(None)
        for record in source.records(block):
            assert record.codes.max() <= 4 and record.targets.shape == (8, 3)
    except UserError as error:
        assert str(path) in str(error)


def test_frames_agree():
    assert frame(RECORDS[0]) == frame_quickly(RECORDS[0])
