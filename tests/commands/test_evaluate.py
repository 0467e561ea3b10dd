"""Scores do not depend on how many windows are taken at a time, nor on the number of devices."""

import json

import pytest
import torch
from conftest import SPECIES

from spacescale.cli import main
from spacescale.evals.evaluation import evaluate

CPU = torch.device("cpu")


def metrics(run, out, **options):
    evaluate(run, [], "test", out, both_strands=True, **options)
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


def test_windows_are_dealt_out_to_the_devices(alone, tmp_path):
    one = metrics(alone[0], tmp_path / "one", devices=[CPU])
    three = metrics(alone[0], tmp_path / "three", devices=[CPU] * 3, batch_size=2)
    assert len(numbers(one)) > 30
    assert numbers(three) == pytest.approx(numbers(one), abs=1e-5)
    assert three["species"]["finch"]["windows"] == one["species"]["finch"]["windows"] > 3


def test_a_batch_of_nothing_is_refused(alone, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["spacescale", "evaluate", str(alone[0]), "--batch", "0"])
    assert main() == 2
    assert "--batch 0: must be 1 or more" in capsys.readouterr().err
