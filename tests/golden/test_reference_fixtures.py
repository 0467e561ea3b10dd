"""Fixtures are found wherever they lie; a folder without any, or with half a one, is refused."""

import pytest
from reference_fixtures import FILES, find_fixtures


def make_fixture(folder, files=FILES):
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    return folder


def test_fixtures_are_found_at_and_below_a_folder(tmp_path):
    deep, flat = make_fixture(tmp_path / "some" / "deep"), make_fixture(tmp_path / "flat")
    (tmp_path / "notes").mkdir()
    assert find_fixtures(tmp_path) == [flat, deep]
    assert find_fixtures(deep) == [deep]


def test_a_folder_without_a_fixture_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=rf"{folder}: no fixture in it .*weights.safetensors"):
            find_fixtures(folder)


def test_half_a_fixture_is_refused(tmp_path):
    half = make_fixture(tmp_path / "half", FILES - {"config.json", "inputs.safetensors"})
    with pytest.raises(ValueError, match=rf"{half}: no config.json, inputs.safetensors"):
        find_fixtures(tmp_path)
