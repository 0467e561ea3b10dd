"""Models small enough to run in milliseconds, with every weight away from its initial value."""

import torch
from torch import Tensor

from spacescale.model.space import Space, SpaceOutput
from spacescale.space_config import ModelConfig

# Unequal numbers of tracks; only finch has tf_chip, only perch has histone_chip.
SPECIES = {
    "finch": ("cage", "tf_chip", "cage", "dnase_atac", "tf_chip"),
    "perch": ("dnase_atac", "histone_chip", "cage"),
}


def tiny_config(**changes) -> ModelConfig:
    """16 bins of 8 bp, of which 10 are predicted."""
    values = {
        "species": SPECIES,
        "seq_length": 128,
        "target_length": 10,
        "num_downsamples": 3,
        "dim": 48,
        "dim_divisible_by": 8,
        "depth": 2,
        "heads": 4,
        "attn_dim_key": 8,
        "species_num_experts": 4,
        "species_top_k": 2,
        "tracks_num_experts": 3,
        "tracks_top_k": 2,
        "dropout": 0.0,
        "attn_dropout": 0.0,
        "pos_dropout": 0.0,
    }
    return ModelConfig(**(values | changes))


def tiny_model(seed: int = 0, **changes) -> Space:
    """In evaluation mode; attention, whose output starts at zero, is made to count."""
    torch.manual_seed(seed)
    model = Space(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer += 0.2 * torch.rand_like(buffer)
    return model


def some_codes(batch: int, length: int = 128, seed: int = 1) -> Tensor:
    """Bases with a few N, (B, L) uint8."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 4, (batch, length), generator=generator)
    codes[torch.rand(batch, length, generator=generator) < 0.02] = 4
    return codes.to(torch.uint8)


def some_targets(output: SpaceOutput, seed: int = 2) -> dict[str, Tensor]:
    """Non-negative targets of the shapes of the predictions."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(prediction.shape, generator=generator) * 3
        for name, prediction in output.prediction.items()
    }


def no_ranks(sums: Tensor) -> Tensor:
    """`sum_over_ranks` of a single process."""
    return sums
