"""Plans, and run folders as training and evaluation leave them, without either."""

import argparse
import json

import numpy as np
from commands import DEEPSPEED_JSON, REPO
from small_datasets import SEQ_LENGTH, write_small_dataset

from spacescale.ablation.plan import keep_settings
from spacescale.ablation.settings import read_plan

BLOCKS, BINS = 24, 30
ASSAYS = {"finch": ("cage", "cage", "tf_chip"), "moth": ("cage",)}
SHAPE = [
    f"model.seq_length={SEQ_LENGTH}", "model.target_length=8", "model.num_downsamples=4",
    "model.dim=48", "model.dim_divisible_by=8", "model.depth=2", "model.heads=2",
    "model.attn_dim_key=8", "optim.max_steps=40", "optim.warmup_steps=4", "run.valid_every=10",
]  # fmt: skip


def options(tmp_path, **changes):
    """Parsed options, of two small species unless `data` is given."""
    if "data" not in changes:
        for name in ("finch", "moth"):
            if not (tmp_path / "data" / name).exists():
                write_small_dataset(tmp_path / "data" / name)
    values = {
        "overrides": SHAPE, "arms": ["moe-dense"], "data": [tmp_path / "data"],
        "out": tmp_path / "out", "preset": "space_demo", "seeds": 3, "null": False, "lr": [2e-3],
        "equal": "steps", "jobs": 1, "deepspeed": REPO / DEEPSPEED_JSON, "both_strands": False,
        "baseline": None, "slurm": False, "only": None, "tables": False,
    }  # fmt: skip
    return argparse.Namespace(**(values | changes))


def make_plan(tmp_path, **changes):
    """A plan whose folder is begun."""
    plan = read_plan(options(tmp_path, **changes))
    keep_settings(plan)
    return plan


def drawn_targets(seed=0):
    """Species → targets (K, bins, T) of blocks that differ in how much they vary."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=(BLOCKS, BINS, len(assays)))
        * np.exp(0.4 * random.normal(size=(BLOCKS, 1, 1)))
        for name, assays in ASSAYS.items()
    }


def moments_of(targets, strength, random):
    """Moments (K, 6, T) of a prediction: targets times `strength`, and noise of 1."""
    x, y = strength * targets + random.normal(size=targets.shape), targets
    parts = [np.full_like(y, 1.0), x, y, x * x, y * y, x * y]
    return np.stack([part.sum(1) for part in parts], axis=1)


def leave_training(run, validation=0.5, seconds=0.2, steps=40):
    """What a run leaves that trained to its end, logging every second step."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "DONE").touch()
    records = []
    for step in range(2, steps + 1, 2):
        record = {"step": step, "time": step * seconds + 50.0 * (step > 20), "train/loss": 1.0}
        record |= {"speed/windows_per_s": 1.0}
        records.append(record)
    shares = {f"{name}/block0/expert{e}": abs(e - 0.2 * i)
              for i, name in enumerate(ASSAYS) for e in range(2)}  # fmt: skip
    records.append(
        {"step": steps, "time": 1e4, "valid/pearson_log1p": validation}
        | {f"valid_experts/{key}": share for key, share in shares.items()}
    )
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def leave_scores(run, strength=1.0, split="one", both_strands=False, **of_finch):
    """What `spacescale evaluate` leaves."""
    run.scores.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([run.seed, len(run.arm), round(100 * strength)])
    moments = {name: moments_of(y, strength, random) for name, y in drawn_targets().items()}
    np.savez(run.scores / "blocks.npz", **moments)
    species = {
        name: {
            "data_split": split,
            "data_manifest": "same",
            "blocks": {"number": BLOCKS, "bp": 1000},
            "experts": {"encoder": [[0.5, 0.5]], "decoder": {"cage": [1.0, 0.0]}},
            "tracks": [{"identifier": f"{name}{i}", "assay": a} for i, a in enumerate(assays)],
        }
        for name, assays in ASSAYS.items()
    }
    species["finch"] |= of_finch
    ridge = {"value": 0.2, "difference": 0.3, "interval": [0.25, 0.35]}
    worse = {"value": 0.1, "difference": 0.4, "interval": [0.3, 0.5]}
    baselines = {"ridge": ridge, "GC": worse, "replicates": {**ridge, "value": 0.9}}
    rows = [{"species": "moth", "assay": "cage", "baselines": baselines}]
    found = {"both_strands": both_strands, "species": species, "assays": rows}
    (run.scores / "metrics.json").write_text(json.dumps(found))
