"""A tiny model as if it had been trained and loaded, and a genome to use it on."""

from pathlib import Path

import numpy as np
from tiny_models import SPECIES, tiny_model

from spacescale.genome.sequence_files import Genome
from spacescale.genome.tracks import Track
from spacescale.predict.predictor import Predictor
from spacescale.predict.trained_model import TrainedModel

WINDOW, SPAN, BIN = 128, 80, 8  # of tiny_model
LENGTHS = {"chr1": 1000, "chr2": 57, "chrX": 333}


def tracks_of(species: str) -> list[Track]:
    """Two of finch's tracks are a strand pair, and one is scaled and clipped softly."""
    pairs = {"finch": [2, 1, 0, 3, 4], "perch": [0, 1, 2]}[species]
    return [
        Track(
            index=10 + row,
            identifier=f"{species}_{assay}_{row}",
            file=f"{row}.bw",
            strand_pair=pairs[row],
            scale=2.0 if row == 1 else 1.0,
            clip_soft=0.5 if row == 1 else None,
            description=f"{assay.upper()}:cell {row}",
            assay=assay,
            mean=0.5 + row,
        )
        for row, assay in enumerate(SPECIES[species])
    ]


def trained(scale="mean", **changes) -> TrainedModel:
    """Not trained at all; the model of tiny_models."""
    return TrainedModel(
        model=tiny_model(**changes),
        source=Path("somewhere"),
        scale_name=scale,
        tracks={name: tracks_of(name) for name in SPECIES},
        data_manifests={},
        data_splits={},
        data_transforms={"finch": "basenji2020"},
        data_paths=[],
        run=None,
    )


def write_export(folder: Path, **changes) -> Path:
    """The same as a folder of weights, as if they had been imported."""
    from spacescale.checkpoint.weight_files import write_imported

    model = trained(**changes).model
    tracks = {name: tracks_of(name) for name in model.species}
    write_imported(folder, model.state_dict(), model.config, tracks, {"from": "a test"})
    return folder


def predictor(species="finch", scale="mean", **changes) -> Predictor:
    """Of one species, on the CPU, three windows at a time."""
    return Predictor(trained(scale, **changes), species, "cpu", batch_size=3)


def genome(seed: int = 4) -> Genome:
    """Random bases."""
    rng = np.random.default_rng(seed)
    contigs = {name: rng.integers(0, 4, n).astype(np.uint8) for name, n in LENGTHS.items()}
    return Genome(Path("genome.fa"), contigs, 0)
