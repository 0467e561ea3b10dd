"""Attribution maps as they are kept and drawn."""

import numpy as np
import pytest

from spacescale.probing import map_figure
from spacescale.probing.map_figure import MOST_BP, draw_maps, strongest
from spacescale.probing.map_files import Maps, read_maps, save_maps

LENGTHS = (9, 200, 30, 12)


@pytest.fixture
def maps():
    """Of four sequences, of which the second one's maps are largest near its end."""
    random = np.random.default_rng(0)
    values = {
        name: [random.normal(size=length).astype(np.float32) for length in LENGTHS]
        for name in ("probe, gradient", "cnn, gradient", "probe, mutations", "cnn, mutations")
    }
    for of_map in values.values():
        of_map[1][150:190] *= 50
    values["cnn, gradient"][2][:] = 0
    sequences = ["".join(random.choice(list("ACGTN"), length)) for length in LENGTHS]
    return Maps(np.array([5, 3, 0, 8]), [f"test.csv:{i}" for i in range(4)], sequences, values)


def test_what_is_kept_is_read_again(maps, tmp_path):
    path = tmp_path / "maps.npz"
    save_maps(path, "these", maps)
    found = read_maps(path, "these")
    assert found is not None and found.names == maps.names and found.sequences == maps.sequences
    np.testing.assert_array_equal(found.rows, maps.rows)
    assert [*found.values] == [*maps.values]
    for name, of_map in maps.values.items():
        for one, same in zip(of_map, found.values[name], strict=True):
            np.testing.assert_array_equal(one, same)
    for pair, pearson in maps.pearson.items():
        np.testing.assert_array_equal(pearson, found.pearson[pair])


def test_a_file_is_as_its_module_says(maps, tmp_path):
    save_maps(tmp_path / "maps.npz", "these", maps)
    with np.load(tmp_path / "maps.npz") as file:
        found = {name: file[name] for name in file.files}
    assert found["values"].shape == (4, 4, 200) and found["values"].dtype == np.float32
    assert np.isnan(found["values"][:, 0, 9:]).all() and np.isfinite(found["values"][:, 1]).all()
    assert found["pairs"].shape == (6, 2) and found["pearson"].shape == (6, 4)
    row = found["pairs"].tolist().index(["probe, gradient", "probe, mutations"])
    both = (maps.values[name][3] for name in ("probe, gradient", "probe, mutations"))
    assert found["pearson"][row, 3] == pytest.approx(np.corrcoef(*both)[0, 1])
    assert np.isnan(found["pearson"][found["pairs"][:, 0] == "cnn, gradient", 2]).all()


def test_maps_of_something_else_are_not_read(maps, tmp_path):
    path = tmp_path / "maps.npz"
    assert read_maps(path, "these") is None
    save_maps(path, "these", maps)
    assert read_maps(path, "others") is None
    path.write_bytes(path.read_bytes()[:300])
    assert read_maps(path, "these") is None
    np.savez(path, key="these")
    assert read_maps(path, "these") is None


def test_models_stand_one_under_the_other(maps, tmp_path, monkeypatch):
    kept, save = [], map_figure.save
    monkeypatch.setattr(map_figure, "save", lambda figure, path: kept.append(figure))
    assert draw_maps(tmp_path / "maps.png", maps)
    (figure,) = kept
    assert [axes.get_title("left") for axes in figure.axes] == [*maps.values] * 3
    first = strongest([of_map[1] for of_map in maps.values.values()])
    title = f"test.csv:1, {first} to {first + MOST_BP} of 200 bp"
    assert figure.axes[4].get_title("right") == title and figure.axes[4].get_xlim()[0] == first
    save(figure, tmp_path / "maps.png")
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops == sorted(tops, reverse=True) and len(set(tops)) == 12
    letters = [letter for letter in maps.sequences[0] if letter != "N"]
    assert len(figure.axes[0].patches) == len(letters)


def test_the_stretch_that_is_drawn_holds_what_is_largest(maps):
    first = strongest([of_map[1] for of_map in maps.values.values()])
    assert first <= 150 and first + MOST_BP >= 190
    assert strongest([np.zeros(7), np.ones(7)]) == 0
