"""A checkpoint folder as training writes it, made without DeepSpeed from a plain model."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from spacescale.checkpoint import layout
from spacescale.checkpoint.probe import predict_probe, write_probe
from spacescale.config import Config, ModelConfig
from spacescale.model.space import Space

MODEL = ModelConfig(
    species={"ant": ("DNASE", "CAGE"), "bee": ("CHIP",)},
    seq_length=128,
    target_length=2,
    num_downsamples=5,
    dim=24,
    dim_divisible_by=8,
    depth=1,
    heads=2,
    attn_dim_key=8,
    tracks_num_experts=4,
)
EXPERTS = "transformer.0.moe.mixture.experts."


@dataclass
class Written:
    """A run folder with one checkpoint, and the model in it."""

    run: Path
    checkpoint: Path
    model: Space


def write_run(run: Path) -> Written:
    """One complete checkpoint, of step 7, that `latest` names."""
    torch.manual_seed(5)
    model = Space(MODEL).eval()
    folder = layout.checkpoints_folder(run) / layout.step_name(7)
    (folder / "tracks").mkdir(parents=True)
    weights = model.state_dict()
    plain = {name: t for name, t in weights.items() if not name.startswith(EXPERTS)}
    torch.save({"module": plain}, folder / "mp_rank_00_model_states.pt")
    for expert in range(MODEL.species_num_experts):
        part = {f"{EXPERTS}{w}.{expert}": weights[EXPERTS + w][expert] for w in ("w1", "w2", "w3")}
        torch.save(part, expert_file(folder, expert))
    for species in MODEL.species:
        (folder / "tracks" / f"{species}.tsv").write_text("index\tidentifier\n")
    write_probe(folder / "probe.safetensors", predict_probe(model, MODEL, torch.device("cpu")))
    state = {
        "step": 7,
        "metrics": {},
        "config": Config(model=MODEL).model_dump(mode="json"),
        "data_manifests": {},
        "versions": {},
    }
    (folder / "spacescale.json").write_text(json.dumps(state))
    layout.write_manifest(folder)
    layout.write_text_atomically(folder.parent / "latest", folder.name)
    return Written(run, folder, model)


def expert_file(folder: Path, expert: int) -> Path:
    """Where the weights of one expert of the first block lie."""
    return folder / f"layer_0_expert_{expert}_mp_rank_00_model_states.pt"
