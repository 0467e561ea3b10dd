"""`model.track_grouping`: assays of the targets table, or the released groups."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from spacescale.errors import UserError
from spacescale.objectives.profiles import _profile_types


def data(name: str, num_tracks: int):
    tracks = [SimpleNamespace(assay="rna")] * num_tracks
    return SimpleNamespace(name=name, path=Path(f"datasets/{name}"), tracks=tracks)


def test_the_table_decides_by_default():
    assert _profile_types(data("mouse", 3), "table") == ("rna", "rna", "rna")


def test_the_released_groups_are_those_of_the_basenji_tables():
    types = _profile_types(data("mouse", 1643), "released")
    counts = {kind: types.count(kind) for kind in set(types)}
    assert counts == {"dnase_atac": 228, "tf_chip": 291, "histone_chip": 767, "cage": 357}


def test_the_released_groups_of_another_table_are_refused():
    with pytest.raises(UserError, match=r"datasets/mouse: 3 tracks; .*1643 .*track_grouping=table"):
        _profile_types(data("mouse", 3), "released")
    with pytest.raises(UserError, match="species 'yeast'"):
        _profile_types(data("yeast", 3), "released")
