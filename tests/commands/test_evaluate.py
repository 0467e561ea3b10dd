"""Scores do not depend on how many windows are taken at a time, nor on the number of devices."""

import json
import statistics
import time

import numpy as np
import pytest
import torch
from commands import SPECIES

from spacescale.cli import main
from spacescale.errors import UserError
from spacescale.evals import evaluation
from spacescale.evals.evaluation import Options, evaluate
from spacescale.metrics.regression import PearsonMoments

CPU = torch.device("cpu")


def metrics(run, out, devices, batch_size=4):
    options = Options(both_strands=True, batch_size=batch_size, train_too=True)
    evaluate(run, [], out, options, devices)
    assert {f"tracks_{name}.png" for name in SPECIES} <= {
        path.name for path in (out / "figures").iterdir()
    }
    return json.loads((out / "metrics.json").read_text())


def numbers(value):
    """Every number in a JSON value, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.usefixtures("blank_figures")
def test_windows_are_dealt_out_to_the_devices(alone, tmp_path):
    one = metrics(alone[0], tmp_path / "one", devices=[CPU])
    three = metrics(alone[0], tmp_path / "three", devices=[CPU] * 3, batch_size=2)
    assert len(numbers(one)) > 30
    assert numbers(three) == pytest.approx(numbers(one), abs=1e-5)
    assert three["species"]["finch"]["windows"] == one["species"]["finch"]["windows"] > 3
    for of in one["species"].values():
        assert of["contigs"] and sum(of["contigs"].values()) == of["windows"]
    for row in one["assays"]:
        tracks = one["species"][row["species"]]["tracks"]
        raw = [t["pearson_raw"] for t in tracks if row["assay"] in (t["assay"], "all")]
        assert row["median_raw"] == pytest.approx(statistics.median_low(raw))


@pytest.mark.usefixtures("blank_figures")
def test_what_models_are_compared_by_is_kept(alone, tmp_path):
    """Moments of blocks, that add up to the scores, and the experts' shares."""
    found = metrics(alone[0], tmp_path, devices=[CPU])
    blocks = np.load(tmp_path / "blocks.npz")
    for name, of in found["species"].items():
        assert blocks[name].shape[:2] == (of["blocks"]["number"], 6)
        total = PearsonMoments.from_tensor(torch.from_numpy(blocks[name]).sum(0)).pearson()
        scores = [track["pearson_log1p"] for track in of["tracks"]]
        assert total.tolist() == pytest.approx(scores)
        assays = {track["assay"] for track in of["tracks"]}
        assert of["experts"]["decoder"].keys() == assays
        shares = [*of["experts"]["encoder"], *of["experts"]["decoder"].values()]
        assert [sum(part) for part in shares] == pytest.approx([1.0] * len(shares))


def test_a_failure_on_one_device_ends_the_work_of_all(alone, tmp_path, monkeypatch):
    """As Ctrl-C does, which would else wait for every window of the species."""
    begun, score, first = [], evaluation.score_split, []

    def scored(model, species, batches, *others, **options):
        if not first:
            first.append(model)
        elif model is not first[0]:
            raise UserError("no memory here")

        def slowly():
            for batch in batches:
                begun.append(batch)
                time.sleep(0.2)
                yield batch

        return score(model, species, slowly(), *others, **options)

    monkeypatch.setattr(evaluation, "score_split", scored)
    with pytest.raises(UserError, match="no memory here"):
        options = Options(split="train", batch_size=1)
        evaluate(alone[0], [], tmp_path / "out", options, devices=[CPU] * 2)
    assert len(begun) < 4


def test_a_batch_of_nothing_is_refused(alone, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["spacescale", "evaluate", str(alone[0]), "--batch", "0"])
    assert main() == 2
    assert "--batch 0: must be 1 or more" in capsys.readouterr().err


def test_a_region_that_no_window_covers_is_refused_before_anything_is_scored(
    alone, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(evaluation, "score_split", None)
    words = ["evaluate", str(alone[0]), "--out", str(tmp_path / "out"), "--region", "chr99:0-500"]
    monkeypatch.setattr("sys.argv", ["spacescale", *words])
    assert main() == 2
    assert "error: --region chr99:0-500: not covered by windows of split 'test'. " in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
