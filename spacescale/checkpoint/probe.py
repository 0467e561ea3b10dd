"""A fixed question to a model, asked when it is saved and again after conversion.

The answer is kept together with the experts that were chosen on the way: where two experts are
nearly as good, the last bit of a float decides, and the other one gives another prediction. The
converted model answers with the stored choices, so that its predictions can be held to them
strictly; what it would have chosen itself is compared apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spacescale.checkpoint.pieces import read_tensors
from spacescale.errors import UserError
from spacescale.model.choices import experts_decided_by
from spacescale.objectives import Objective

FILE = "probe.safetensors"  # in a checkpoint that holds one
TOLERANCE = 1e-4  # of the largest prediction, or logit; float32 sums in another order
_CHOICES = "experts/"  # before the keys of choices in the file; names of predictions hold no slash


@dataclass(frozen=True)
class Probe:
    """What a model answered.

    predictions: of `Objective.probe`, float32; for profiles, species → (1, N, T). experts:
    MODULE/CALL → (…, K) int16, the choices of an ExpertChoice; empty for a model without experts,
    and in checkpoints of format 2.
    """

    predictions: dict[str, Tensor]
    experts: dict[str, Tensor]


@dataclass(frozen=True)
class Agreement:
    """How near a converted model is to the model that was saved.

    difference: of predictions, the largest, relative to the maximum under its name. turned: of so
    many choices of experts, how many would have been others without being held to the stored ones.
    """

    difference: float
    turned: int
    choices: int

    def __str__(self) -> str:
        text = f"predictions equal the checkpoint's own to {self.difference:.1e} of their maximum"
        if self.turned:
            text += (
                f" with its choices of experts, of which {self.turned} of {self.choices:,} lie on "
                "the edge between two experts and would turn"
            )
        return text


def take_probe(model: nn.Module, objective: Objective, device: torch.device) -> Probe:
    """Predictions for the probe in evaluation mode and float32; restores the model's mode."""
    experts: dict[str, Tensor] = {}

    def keep(name: str, logits: Tensor, chosen: Tensor) -> Tensor:
        experts[name] = chosen.to("cpu", torch.int16)
        return chosen

    with experts_decided_by(model, keep):
        return Probe(_predict(model, objective, device), experts)


@torch.no_grad()
def _predict(model: nn.Module, objective: Objective, device: torch.device) -> dict[str, Tensor]:
    training = model.training
    model.eval()
    # TF32 convolutions, the default on recent GPUs, are a thousandth off.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, torch.autocast(device.type, enabled=False):
        predictions = objective.probe(model, device)
    model.train(training)
    return {name: p.float().cpu().contiguous() for name, p in predictions.items()}


def probe_tensors(probe: Probe) -> dict[str, Tensor]:
    """A probe's answer as it is stored, name → tensor on the CPU."""
    return probe.predictions | {_CHOICES + name: t for name, t in probe.experts.items()}


def read_probe(path: Path) -> Probe:
    """Read a probe's answer."""
    stored = read_tensors(path)
    experts = {
        name.removeprefix(_CHOICES): stored.pop(name)
        for name in list(stored)
        if name.startswith(_CHOICES)
    }
    return Probe(stored, experts)


def compare_with_probe(
    path: Path, model: nn.Module, objective: Objective, whole: bool = True
) -> Agreement:
    """Ask a plain model, on the CPU, the stored question with the stored choices of experts.

    whole: the model must answer all that was asked of the one that was saved.

    Raises UserError if a prediction differs by more than the tolerance, one is missing, or
    an expert is chosen elsewhere than on the edge between two: where its logit is more than the
    tolerance, relative to the largest logit, below that of the model's own choice.
    """
    stored = read_probe(path)
    turned, choices, widest = 0, 0, 0.0

    def hold(name: str, logits: Tensor, own: Tensor) -> Tensor:
        nonlocal turned, choices, widest
        if name not in stored.experts:
            return own
        chosen = stored.experts[name].long()
        turned += int((own.sort(-1).values != chosen.sort(-1).values).any(-1).sum())
        choices += own[..., 0].numel()
        margin = logits.gather(-1, own).amin(-1) - logits.gather(-1, chosen).amin(-1)
        largest = logits.masked_fill(logits.isneginf(), 0.0).abs().max()  # of what may be chosen
        widest = max(widest, float(margin.max() / largest))
        return chosen

    with experts_decided_by(model, hold):
        predictions = _predict(model, objective, torch.device("cpu"))
    missing = stored.predictions.keys() - predictions.keys() if whole else False
    if missing or not predictions or predictions.keys() - stored.predictions.keys():
        raise UserError(
            f"{path}: holds predictions of {sorted(stored.predictions)}, not {sorted(predictions)}"
        )
    if widest > TOLERANCE:
        raise UserError(
            f"{path}: the converted model chooses other experts than the checkpoint did, by "
            f"{widest:.2e} of the largest logit (allowed {TOLERANCE:.0e})"
        )
    difference = max(_difference(p, stored.predictions[n]) for n, p in predictions.items())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: the converted model differs from the checkpoint's own predictions by "
            f"{difference:.2e} of their maximum (allowed {TOLERANCE:.0e})"
        )
    return Agreement(difference, turned, choices)


def _difference(found: Tensor, expected: Tensor) -> float:
    difference = (found - expected).abs().max() / expected.abs().max()
    return float(difference.nan_to_num(nan=float("inf")))
