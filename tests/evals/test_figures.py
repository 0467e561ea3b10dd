import json

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


@pytest.mark.parametrize("parts", ["both", "species", "assays"])
def test_expert_use(tmp_path, parts):
    path = tmp_path / "experts.png"
    per_species = {name: RNG.dirichlet(np.ones(4), 2) for name in ("finch", "moth")}
    per_species["moth"][0] = np.nan
    per_assay = {("finch", "cage"): RNG.dirichlet(np.ones(12))}
    figures.expert_use(
        path,
        {"finch": np.empty((0, 0))} if parts == "assays" else per_species,
        {} if parts == "species" else per_assay,
    )
    assert_is_a_picture(path)


def test_loss_curves(tmp_path):
    log, path = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    records = [
        {"step": 1, "time": 0.0, "train/loss": 2.0, "train/loss/finch": 1.5},
        {"step": 2, "time": 1.0, "nonfinite/gradient_norm": 1.0},
        {"step": 3, "time": 1.0, "train/loss": None, "train/loss/finch": 1.1},
        {"step": 4, "time": 2.0, "train/loss": 1.0, "valid/pearson_log1p/finch": 0.5},
    ]
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    figures.loss_curves(path, log)
    assert_is_a_picture(path)


def test_loss_curves_of_a_run_that_logged_nothing(tmp_path):
    log, path = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    log.write_text("")
    figures.loss_curves(path, log)
    assert_is_a_picture(path)
