"""The ceiling of simulated tracks is that of their noise."""

import json

import torch
from commands import SPECIES

from spacescale.dataset.reader import SpeciesData
from spacescale.testing.possible import possible_pearson, share_of_possible


def test_the_noise_free_signal_is_near_the_targets_but_not_on_them(data):
    for name in SPECIES:
        found = possible_pearson(SpeciesData.open(data / name), "train")
        assert (found > 0.8).all()
        assert (found < 0.999).all()


def test_shares_are_of_what_is_possible(data, tmp_path):
    moth = SpeciesData.open(data / "moth")
    possible = possible_pearson(moth, "test")
    cage = torch.tensor([track.assay == "cage" for track in moth.tracks])
    half = float(possible[cage].mean()) / 2
    assays = [{"species": "moth", "assay": "cage", "pearson_log1p": half}]
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"split": "test", "assays": assays}))
    table = share_of_possible([moth], metrics).splitlines()
    assert table[1].split() == ["moth", "cage", f"{half:.3f}", f"{2 * half:.3f}", "50%"]
