from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from spacescale.errors import UserError
from spacescale.prepare.scratch import Scratch


@pytest.fixture(scope="module", params=["track", "window"])
def filled(tmp_path_factory, request):
    """A scratch of more tracks than are turned at a time, and what it should hold."""
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(130, 9, 5)).astype(np.float16)
    targets[:, 4] = np.nan
    targets[:, 6] = np.nan
    targets[77, 6, 3] = 1
    scratch = Scratch(tmp_path_factory.mktemp("scratch") / "scratch", request.param, 9, 5, 130)
    scratch.create()
    parts = targets if request.param == "track" else targets.transpose(1, 2, 0)
    order = rng.permutation(len(parts)).tolist()
    with ThreadPoolExecutor(4) as pool:  # in any order, two at a time
        pairs = [order[i : i + 2] for i in range(0, len(order), 2)]
        list(pool.map(lambda pair: scratch.write((i, parts[i]) for i in pair), pairs))
    return scratch, targets


@pytest.mark.parametrize("rows", [[0], [8], [3, 4, 5], [0, 2, 3, 7, 8], list(range(9))])
def test_windows_come_back_turned(filled, rows):
    scratch, targets = filled
    found = scratch.read(np.array(rows))
    assert found.shape == (len(rows), 5, 130) and found.dtype == np.float16
    np.testing.assert_array_equal(found, targets[:, rows].transpose(1, 2, 0))


def test_windows_that_no_track_measured_are_known(filled):
    assert filled[0].measured().tolist() == [True] * 4 + [False] + [True] * 4


def test_parts_do_not_share_pages(filled):
    scratch, _ = filled
    num_parts = 130 if scratch.by == "track" else 9
    assert scratch.path.stat().st_size == scratch.num_bytes == num_parts * 4096


def test_a_cut_file_is_an_error(filled, tmp_path):
    cut = replace(filled[0], path=tmp_path / "cut")
    cut.path.write_bytes(filled[0].path.read_bytes()[: -cut.num_bytes // 3])
    with pytest.raises(OSError, match="ends early"):
        cut.read(np.array([8]))


def test_a_disk_that_is_too_small_is_named(tmp_path):
    scratch = Scratch(tmp_path / "work" / "scratch", "track", 10**9, 1000, 1000)
    scratch.path.parent.mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path} has .*iB free; scratch and result together"):
        scratch.refuse_full_disk()
