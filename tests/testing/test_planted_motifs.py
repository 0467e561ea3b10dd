"""The four tools find planted motifs: their effects, strands and species.

That questions and truths agree is tested with a model that says the truth; the default tier knows
also a model that is made of a motif (tests/predict/test_known_motif.py). `-m slow` trains one.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from spacescale.genome.tracks import Track
from spacescale.model.space import Space
from spacescale.overrides import build_config
from spacescale.predict.predictor import Predictor
from spacescale.predict.trained_model import TrainedModel, load_trained
from spacescale.presets import EMBEDDED_PRESET
from spacescale.space_config import ModelConfig
from spacescale.testing import demo
from spacescale.testing.planted_motifs import TOOLS
from spacescale.testing.simulated_genomes import SPECIES, expected_signal


def untrained():
    """The demo's model with fresh weights."""
    assays = {g.name: tuple(track.assay for track in g.tracks) for g in SPECIES}
    values = build_config(EMBEDDED_PRESET, []).model.model_dump() | {"species": assays}
    torch.manual_seed(0)
    tracks = {
        grammar.name: [
            Track(
                index=row,
                identifier=track.identifier,
                file=f"{track.identifier}.bw",
                strand_pair=grammar.strand_pairs[row],
                description=track.description,
                assay=track.assay,
                mean=0.5 + row,
            )
            for row, track in enumerate(grammar.tracks)
        ]
        for grammar in SPECIES
    }
    return TrainedModel(
        model=Space(ModelConfig.model_validate(values)).eval(),
        source=Path("untrained"),
        scale_name="mean",
        tracks=tracks,
        data_manifests={},
        data_splits={},
        data_transforms={},
        data_paths=[],
        run=None,
    )


class Oracle(Predictor):
    """Predicts the signal without noise."""

    def in_means(self, batch):
        margin = (self.window - self.span) // 2
        means = np.array([[track.mean] for track in self.tracks])
        found = [
            (expected_signal(codes, self.species)[:, margin:-margin] / means)
            .reshape(len(means), -1, self.bin_size)
            .mean(2)
            .T
            for codes in batch.numpy()
        ]
        return torch.from_numpy(np.array(found, dtype=np.float32))

    def _predict(self, batch, unit, strands, rows):
        return self.in_means(batch).numpy()[..., rows]


@pytest.mark.long
@pytest.mark.parametrize("tool", ["predict", "score-variants", "attribute"])
def test_the_truth_is_found_by(tool, tmp_path):
    found = TOOLS[tool](Oracle(untrained(), "moth", "cpu"), tmp_path)
    assert found.effect > 0.995
    assert found.orientation == 1
    assert found.own == pytest.approx(1, rel=0.05)
    assert found.species < 1e-6


def train(folder):
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    command = demo.training_command(folder)
    subprocess.run(command, check=True, cwd=demo.ROOT, env=environment, capture_output=True)
    return load_trained(folder)


@pytest.mark.slow
def test_a_trained_model_finds_what_was_planted(tmp_path):
    """Beside one that was not trained, of which the same is asked."""
    trained, fresh = train(tmp_path / "run"), untrained()
    for species in trained.model.species:
        for tool, ask in TOOLS.items():
            for name, model in (("trained", trained), ("fresh", fresh)):
                (folder := tmp_path / species / tool / name).mkdir(parents=True)
                found = ask(Predictor(model, species, "cpu", batch_size=16), folder)
                print(species, tool, name, found)
                if name == "trained":
                    assert found.effect > 0.9, (species, tool, found)
                    assert found.orientation > 0.97, (species, tool, found)
                    assert found.species < 0.15, (species, tool, found)
                else:  # a ridge reads something from any features
                    assert found.effect < (0.5 if tool == "embed" else 0.3), (species, tool, found)
                    assert found.species > 0.5, (species, tool, found)
