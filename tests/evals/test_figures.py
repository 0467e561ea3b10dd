import matplotlib.image
import numpy as np
import pytest

from spacescale.evals import figures
from spacescale.verify.statistics import TargetStatistics

RNG = np.random.default_rng(0)


def assert_is_a_picture(path) -> None:
    pixels = matplotlib.image.imread(path)
    assert min(pixels.shape[:2]) > 200
    assert pixels[..., :3].std() > 0.01


@pytest.mark.parametrize("num_tracks", [1, 4])
def test_tracks_over_region(tmp_path, num_tracks):
    path = tmp_path / "new" / "tracks.png"
    predicted, observed = RNG.gamma(1.0, size=(2, 48, num_tracks))
    names = [f"track {t}" for t in range(num_tracks)]
    figures.tracks_over_region(path, "chr1", 10_000, 32, predicted, observed, names, "moth")
    assert_is_a_picture(path)


def drawn(monkeypatch) -> dict:
    """Figures by the names of their files, kept in place of being written."""
    kept = {}
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.update({path.name: figure}))
    return kept


def test_what_was_not_measured_is_hatched_and_not_drawn_as_0(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    predicted, observed = RNG.gamma(1.0, size=(2, 48, 2))
    observed[10:20, 1] = np.nan
    observed[40:, 1] = np.nan
    figures.tracks_over_region(
        tmp_path / "t.png", "chr1", 1_000, 32, predicted, observed, ["whole", "gaps"], "moth"
    )
    whole, gaps = kept["t.png"].axes
    hatched = [[p for p in axes.patches if p.get_hatch()] for axes in (whole, gaps)]
    assert not hatched[0]
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in hatched[1]]
    assert spans == [pytest.approx((1.32, 1.64)), pytest.approx((2.28, 2.536))]
    legend = [text.get_text() for text in kept["t.png"].legends[0].get_texts()]
    assert legend == ["observed coverage", "predicted coverage", "not measured"]


def test_many_tracks_come_on_pages(tmp_path, monkeypatch):
    (tmp_path / "t.page3.png").touch()  # of an earlier model with more tracks
    kept = drawn(monkeypatch)
    values, names = RNG.gamma(1.0, size=(8, 20)), [f"track {t}" for t in range(20)]
    figures.tracks_over_region(tmp_path / "t.png", "chr1", 0, 32, values, values, names, "moth")
    assert {name: len(figure.axes) for name, figure in kept.items()} == {
        "t.png": 16, "t.page2.png": 4,
    }  # fmt: skip
    assert kept["t.page2.png"].axes[0].get_ylabel() == "track 16"
    assert not (tmp_path / "t.page3.png").exists()


def test_of_very_many_tracks_some_of_each_assay_are_shown():
    assays = ["cage"] * 5_000 + ["dnase"] * 10 + ["chip"] * 300
    shown = figures.some_tracks(assays)
    assert shown == [*range(11), *range(5_000, 5_010), *range(5_010, 5_021)]
    assert figures.some_tracks(["cage", "chip", "cage"]) == [0, 1, 2]


def test_every_assay_of_every_species_has_a_row(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    pearson = {"finch": {f"assay {i:02}": [0.1, 0.2] for i in range(14)}, "moth": {"assay 03": [0]}}
    figures.pearson_per_assay(tmp_path / "p.png", pearson)
    (axes,) = kept["p.png"].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 15
    assert labels[3:5] == ["assay 03 (2)", "assay 03 (1)"]
    assert kept["p.png"].get_figheight() / len(labels) > 0.25


def test_pearson_per_assay_with_unmeasured_and_constant_tracks(tmp_path):
    path = tmp_path / "pearson.png"
    nan = float("nan")
    pearson = {"finch": {"cage": [0.8, nan], "chip": [nan]}, "moth": {"cage": [-0.2]}}
    figures.pearson_per_assay(path, pearson, scale="raw")
    assert_is_a_picture(path)


@pytest.mark.parametrize("num_tracks", [3, 5_313])
def test_coverage_with_dead_and_unmeasured_tracks(tmp_path, num_tracks):
    path = tmp_path / "coverage.png"
    targets = {}
    for split in ("train", "test"):
        targets[split] = TargetStatistics.empty(num_tracks)
        values = RNG.gamma(1.0, 2.0, size=(16, num_tracks)).astype(np.float16)
        values[:, 0] = 0
        values[:, 1] = np.nan
        targets[split].add(values)
    names = [f"track {t}" for t in range(num_tracks)]
    assays = [("cage", "dnase_atac")[t % 2] for t in range(num_tracks)]
    species = [figures.Coverage(f"moth {i}", names, assays, targets) for i in range(2)]
    figures.coverage(path, species)
    assert_is_a_picture(path)
