"""Which stretch of a split is drawn. Test windows: 11 of 128 bp on chrIII, 0 to 1,408."""

from dataclasses import replace

import numpy as np
import pytest
from small_datasets import BINS, SPAN, small_targets, small_windows, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals.region import Piece, choose_regions, with_signal

FIRST = 38  # row of the first test window


def write(folder, targets=None) -> SpeciesData:
    return SpeciesData.open(write_small_dataset(folder, targets))


@pytest.fixture(scope="module")
def moth(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "moth")


def region_of(data, asked):
    return choose_regions({data.name: data}, "test", asked)[data.name]


@pytest.mark.parametrize("asked", ["chrIII:130-300", "chrIII:128-304", "chrIII:1,28-3,04"])
def test_the_region_asked_for_is_drawn_from_bin_to_bin(moth, asked):
    region = region_of(moth, asked)
    assert (region.chrom, region.start) == ("chrIII", 128)
    assert region.pieces == (Piece(FIRST + 1, 0, BINS), Piece(FIRST + 2, 0, 3))
    windows = {row: moth.targets(row) for row in region.rows}
    expected = np.concatenate([moth.targets(FIRST + 1), moth.targets(FIRST + 2)[:3]])
    np.testing.assert_array_equal(region.join(windows), expected)


def test_a_region_within_one_window_begins_at_its_own_bin(moth):
    region = region_of(moth, "chrIII:170-200")
    assert (region.start, region.pieces) == (160, (Piece(FIRST + 1, 2, 5),))


@pytest.mark.parametrize(
    "asked, said",
    [
        ("chrIII:1300-1500", "moth: its windows there cover 0-1408$"),
        ("chrI:0-100", "not covered by windows of split 'test'. moth: its windows are on chrIII$"),
        ("chr9:0-100", "moth: its windows are on chrIII"),
        ("chrIII", "expected CONTIG:START-END, 0-based half-open in bp"),
        ("chrIII:300-200", "expected CONTIG:START-END"),
        ("chrIII:,-200", "expected CONTIG:START-END"),
    ],
)
def test_what_no_window_covers_is_refused(moth, asked, said):
    with pytest.raises(UserError, match=f"--region {asked}: .*{said}"):
        region_of(moth, asked)


def test_a_region_of_one_species_leaves_the_others_theirs(moth, tmp_path):
    other = {"chrI": "train", "chrII": "test", "chrIII": "valid"}
    windows = [replace(w, split=other[w.chrom]) for w in small_windows()]
    ant = SpeciesData.open(write_small_dataset(tmp_path / "ant", windows=windows))
    both = choose_regions({"moth": moth, "ant": ant}, "test", "chrIII:0-16")
    assert both["moth"].pieces == (Piece(FIRST, 0, 1),)
    assert both["ant"] == with_signal(ant, ant.rows("test"))


@pytest.mark.parametrize("best", [0, 4, 10])
def test_the_default_region_holds_the_window_with_most_signal(tmp_path, best):
    targets = small_targets()
    targets[FIRST + best] *= 8
    targets[FIRST + (best + 5) % 11, 0, 0] = 60_000  # one spike does not decide
    data = write(tmp_path / "moth", targets)
    region = with_signal(data, data.rows("test"))
    rows = [piece.row for piece in region.pieces]
    assert FIRST + best in rows and len(rows) == 4
    assert rows == list(range(rows[0], rows[0] + 4))
    assert region.start == (rows[0] - FIRST) * SPAN


def test_unmeasured_targets_do_not_hide_a_window(tmp_path):
    targets = small_targets()
    targets[FIRST + 3] *= 8
    targets[FIRST + 3, :4, 0] = np.nan
    path = write_small_dataset(tmp_path / "moth", targets, missing="nan")
    data = SpeciesData.open(path)
    assert FIRST + 3 in with_signal(data, data.rows("test")).rows
