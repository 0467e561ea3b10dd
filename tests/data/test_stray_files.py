"""Files that file managers leave are told from those that belong to nothing."""

from pathlib import PurePath

import pytest

from spacescale.data.stray_files import files_below, is_stray, stray_files

STRAY = (".DS_Store", "._zarr.json", "Thumbs.db", "desktop.ini", "@eaDir/a", "Icon\r", ".nfs00a1")


@pytest.mark.parametrize("name", STRAY)
def test_stray_files_are_known_at_any_depth(name):
    assert is_stray(PurePath(name)) and is_stray(PurePath("targets/c") / name)


@pytest.mark.parametrize("name", ["zarr.json", ".zarr.json.new", "icon.png", "nfs.bed", "a._b"])
def test_other_files_are_not(name):
    assert not is_stray(PurePath(name))


def test_a_folder_of_both(tmp_path):
    for name in ("a/b.txt", "c", *STRAY):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path) == [tmp_path / "a/b.txt", tmp_path / "c"]
    assert set(stray_files(tmp_path)) == {tmp_path / name for name in STRAY}
