"""A fixed question to a model, asked when it is saved and again after conversion."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spacescale.config import ModelConfig
from spacescale.errors import UserError

TOLERANCE = 1e-4  # of each species' largest prediction; float32 sums in another order


def probe_codes(config: ModelConfig) -> dict[str, Tensor]:
    """One fixed random sequence per species: name → (1, L) uint8."""
    generator = torch.Generator().manual_seed(20250612)
    return {
        name: torch.randint(0, 4, (1, config.seq_length), generator=generator, dtype=torch.uint8)
        for name in config.species
    }


@torch.no_grad()
def predict_probe(model: nn.Module, config: ModelConfig, device: torch.device) -> dict[str, Tensor]:
    """Predictions for the probe in evaluation mode and float32; restores the model's mode."""
    training = model.training
    model.eval()
    # TF32 convolutions, the default on recent GPUs, are a thousandth off.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, torch.autocast(device.type, enabled=False):
        output = model({name: c.to(device) for name, c in probe_codes(config).items()})
    model.train(training)
    return {name: p.float().cpu().contiguous() for name, p in output.prediction.items()}


def write_probe(path: Path, predictions: dict[str, Tensor]) -> None:
    """Store probe predictions."""
    save_file(predictions, path)


def compare_with_probe(path: Path, predictions: dict[str, Tensor]) -> float:
    """Largest difference from the stored predictions, relative to each species' maximum.

    Raises UserError if it exceeds the tolerance or a species is missing.
    """
    stored = load_file(path)
    if stored.keys() != predictions.keys():
        raise UserError(f"{path}: holds species {sorted(stored)}, not {sorted(predictions)}")
    worst = 0.0
    for name, expected in stored.items():
        difference = (predictions[name] - expected).abs().max() / expected.abs().max()
        worst = max(worst, float(difference.nan_to_num(nan=float("inf"))))
    if worst > TOLERANCE:
        raise UserError(
            f"{path}: the converted model differs from the checkpoint's own predictions by "
            f"{worst:.2e} of their maximum (allowed {TOLERANCE:.0e})"
        )
    return worst
