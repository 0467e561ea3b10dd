"""Small checkpoint folders in the layouts of others."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from spacescale.checkpoint.released import released_config, to_released
from spacescale.model.space import Space
from spacescale.space_config import ModelConfig

HEADS = {"human": 5313, "mouse": 1643}
RELEASED = {
    "seq_length": 128,
    "target_length": 10,
    "num_downsamples": 3,
    "dim": 24,
    "dim_divisible_by": 4,
    "depth": 2,
    "heads": 2,
    "attn_dim_key": 8,
    "output_heads": HEADS,
    "moe": ["species", "tracks"],
    "topk": 2,
    "tracks_num_experts": 3,
    "tracks_topk": 2,
    "zloss_lambda": 0.001,
}


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of ours in which no tensor is as it was initialised."""
    torch.manual_seed(seed)
    weights = Space(config).state_dict()
    for key, tensor in weights.items():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor)
        else:
            weights[key] = tensor + 7
    return weights


def write_folder(folder: Path, config: dict, weights: dict[str, Tensor], pickled=True) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    return folder


def write_released(folder: Path, pickled: bool = True, **changes) -> Path:
    """A folder of the released layout; `changes` are of its `config.json`."""
    foreign = RELEASED | changes
    config = released_config(foreign)
    return write_folder(folder, foreign, to_released(random_weights(config), config), pickled)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a
    )
