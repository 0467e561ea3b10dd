import numpy as np
import pytest

from spacescale.errors import UserError
from spacescale.genome.bigwig import BigWig

pyBigWig = pytest.importorskip("pyBigWig", reason="needs the prep extra")


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
        (b"variableStep chrom=chr1\n", "is not a BigWig (it starts with b'variable')"),
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


def test_half_a_file_is_truncated(tmp_path):
    values = np.random.default_rng(0).random(50_000)
    path = write(tmp_path / "a.bw", values)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated BigWig"):
        BigWig(path)
