"""Where the gpu tests run, and models whose widths are those that GPU kernels like."""

import os
from contextlib import nullcontext

import torch
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.model.losses import training_losses
from spacescale.model.space import Space
from spacescale.space_config import ModelConfig

ON_CPU = os.environ.get("GPU_TESTS_ON_CPU") == "1"
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
TRACKS = ("cage", "dnase_atac", "histone_chip", "tf_chip") * 4


def config(**changes) -> ModelConfig:
    """64 bins of 32 bp, of which 48 are predicted; two species; no dropout."""
    values = {
        "species": {"finch": TRACKS, "perch": TRACKS[:8]},
        "seq_length": 2048,
        "target_length": 48,
        "num_downsamples": 5,
        "dim": 96,
        "dim_divisible_by": 16,
        "depth": 2,
        "heads": 2,
        "attn_dim_key": 16,
        "tracks_num_experts": 4,
        "dropout": 0.0,
        "attn_dropout": 0.0,
        "pos_dropout": 0.0,
    }
    return ModelConfig(**(values | changes))


def model(**changes) -> Space:
    """In training mode; attention, whose output starts at zero, is made to count."""
    torch.manual_seed(0)
    found = Space(config(**changes)).to(DEVICE).train()
    for block in found.transformer:
        torch.nn.init.normal_(block.attention.to_out.weight, std=0.1)
    return found


def windows(of: ModelConfig, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Codes and targets of two windows per species."""
    generator = torch.Generator().manual_seed(seed)
    codes, targets = {}, {}
    for name, tracks in of.species.items():
        found = torch.randint(0, 4, (2, of.seq_length), generator=generator)
        codes[name] = found.to(torch.uint8).to(DEVICE)
        shape = (2, of.target_length, len(tracks))
        targets[name] = 3 * torch.rand(shape, generator=generator).to(DEVICE)
    return codes, targets


def bf16(enabled: bool = True):
    """Autocast, as the trainer's on GPUs."""
    return torch.autocast(DEVICE.type, torch.bfloat16) if enabled else nullcontext()


def loss_of(run, codes: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    losses = training_losses(run(codes), targets, LossConfig(), lambda x: x)
    return torch.stack(list(losses.values())).sum()


def apart(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference as a share of the expected."""
    difference = (found.double().cpu() - expected.double().cpu()).norm()
    return float(difference / expected.double().cpu().norm().clamp(min=1e-30))
