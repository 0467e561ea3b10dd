from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spacescale.prepare.scratch import Scratch


@pytest.fixture
def filled(tmp_path):
    """A scratch of more tracks than are turned at a time, and what it should hold."""
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(130, 9, 5)).astype(np.float16)
    targets[:, 4] = np.nan
    targets[:, 6] = np.nan
    targets[77, 6, 3] = 1
    scratch = Scratch(tmp_path / "scratch", 130, 9, 5)
    scratch.create()
    with ThreadPoolExecutor(4) as pool:  # in any order
        list(pool.map(lambda track: scratch.write(track, targets[track]), rng.permutation(130)))
    return scratch, targets


@pytest.mark.parametrize("rows", [[0], [8], [3, 4, 5], [0, 2, 3, 7, 8], list(range(9))])
def test_windows_come_back_turned(filled, rows):
    scratch, targets = filled
    found = scratch.read(np.array(rows))
    assert found.shape == (len(rows), 5, 130) and found.dtype == np.float16
    np.testing.assert_array_equal(found, targets[:, rows].transpose(1, 2, 0))


def test_windows_that_no_track_measured_are_known(filled):
    assert filled[0].measured().tolist() == [True] * 4 + [False] + [True] * 4


def test_tracks_do_not_share_pages(filled):
    scratch, _ = filled
    assert scratch.path.stat().st_size == scratch.num_bytes == 130 * 4096


def test_a_cut_file_is_an_error(filled):
    scratch, _ = filled
    with scratch.path.open("r+b") as file:
        file.truncate(scratch.num_bytes - 4096)
    with pytest.raises(OSError, match="ends early"):
        scratch.read(np.array([0]))
