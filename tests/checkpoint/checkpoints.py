"""A checkpoint folder as training writes it, made without DeepSpeed from a plain model."""

from dataclasses import dataclass
from pathlib import Path

import torch
from made_up_checkpoints import seal, state_of

from spacescale.checkpoint import layout
from spacescale.checkpoint.pieces import BUFFERS, Piece, buffers_of, name_pieces, state_file
from spacescale.checkpoint.probe import FILE as PROBE
from spacescale.checkpoint.probe import probe_tensors, take_probe
from spacescale.checkpoint.writing import save_tensors
from spacescale.config import Config
from spacescale.files import write_text
from spacescale.model.space import Space
from spacescale.objectives import objective_of
from spacescale.space_config import ModelConfig

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


@dataclass
class Written:
    """A run folder with one checkpoint, and the model in it."""

    run: Path
    checkpoint: Path
    model: Space


def write_run(run: Path, tracks: str = "index\tidentifier\n") -> Written:
    """One complete checkpoint, of step 7; `tracks` is the table of each species, {0}."""
    torch.manual_seed(5)
    objective, model = objective_of(Config(model=MODEL)), Space(MODEL).eval()
    folder = layout.checkpoints_folder(run) / layout.step_name(7)
    (folder / "tracks").mkdir(parents=True)
    for rank in range(2):
        pieces = name_pieces(half(name, p, rank) for name, p in model.named_parameters())
        save_tensors(pieces, folder / state_file(rank))
    save_tensors(buffers_of(model), folder / BUFFERS)
    for species in MODEL.species:
        (folder / "tracks" / f"{species}.tsv").write_text(tracks.format(species))
    probe = take_probe(model, objective, torch.device("cpu"))
    save_tensors(probe_tensors(probe), folder / PROBE)
    seal(folder, state_of(7, config=objective.config.model_dump(mode="json")))
    write_text(folder.parent / "latest", folder.name)
    return Written(run, folder, model)


def half(name: str, parameter: torch.Tensor, rank: int) -> Piece:
    """The first or second half of a parameter, as one of two ranks would own it."""
    flat = parameter.detach().flatten()
    middle = len(flat) // 2
    start, stop = (0, middle) if rank == 0 else (middle, len(flat))
    own = flat[start:stop]
    return Piece(name, start, {"weight": own, "exp_avg": 0 * own, "exp_avg_sq": 0 * own})
