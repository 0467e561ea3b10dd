"""A checkpoint of a run that read some windows of small species."""

import json
from pathlib import Path

import numpy as np
from made_up_checkpoints import write_checkpoint
from small_datasets import BIN_SIZE, BINS, SEQ_LENGTH

from spacescale.config import Config
from spacescale.dataset.manifest import read_manifest

SPECIES = ("finch", "moth")
SEEDS = {"finch": 1, "moth": 2}  # of their genomes
PER_STEP = 4


def genome_of(seed: int) -> list[np.ndarray]:
    """Contigs of 3,000, 2,000 and 1,500 bp."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 4, bp).astype(np.uint8) for bp in (3_000, 2_000, 1_500)]


def checkpoint_of(
    run: Path,
    data: Path,
    step: int,
    species: tuple[str, ...] = SPECIES,
    kept: tuple[str, ...] = (),
    **more,
) -> Path:
    """A checkpoint of a run on `species` that read PER_STEP windows a step, and began anew.

    kept: species that it took over and read nothing of, as with --only-new.
    """
    config = Config().model_dump(mode="json")
    config["model"] |= {
        "seq_length": SEQ_LENGTH,
        "target_length": BINS,
        "num_downsamples": BIN_SIZE.bit_length() - 1,
        "species": {name: ["dnase_atac"] * 3 for name in (*kept, *species)},
    }
    config["data"] |= {"paths": [str(data / name) for name in species], "shift_bp": 3}
    manifests = {name: read_manifest(data / name) for name in (*kept, *species)}
    state = {
        "config": json.loads(Config.model_validate(config).model_dump_json()),
        "layout": {
            "world_size": 2,
            "ep_size": 1,
            "zero_stage": 1,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 2,
        },
        "data_manifests": {name: identity for name, (_, identity) in manifests.items()},
        "data_splits": {name: one.split.hash for name, (one, _) in manifests.items()},
        "began_with": None,
    }
    return write_checkpoint(run, step, 0.5, **(state | more))
