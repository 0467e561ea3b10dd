"""A short question to a model that goes through all of its weights, and the answer it must give.

Kept beside exported weights, it tells whoever loads them whether what was loaded computes what was
exported: transformers 5 has filled weights and buffers with garbage without a word.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spacescale.model.choices import experts_decided_by
from spacescale.model.proof_file import allowed_difference
from spacescale.model.space import Space

CHOICES = "experts/"  # before the keys of choices in the file; species names hold no slash
PROOF_BP = 4_096  # at most, of the question


def proof_sequence(length: int) -> str:
    """A fixed sequence of all bases, the letters that the answer belongs to."""
    state, letters = 20250612, []
    for _ in range(length):
        state = (1103515245 * state + 12345) % 2**31
        letters.append("ACGT"[state >> 16 & 3])
    return "".join(letters)


@torch.no_grad()
def answers(space: Space, codes: Tensor) -> dict[str, Tensor]:
    """What every species says to codes (1, L): float32 (1, N, T), on the CPU.

    Features of the whole sequence, repeated until there are as many bins as the model predicts,
    go through heads and decoder; of a species without tracks they are the answer themselves.
    """
    found = {}
    bins, dim = space.config.target_length, space.config.dim
    for name in space.species:
        features = space.embed(codes, name)
        if name in space.heads:
            times = math.ceil(bins / features.shape[1])
            tiled = features.repeat(1, times, 1)[:, :bins]
            state = torch.arange(dim, device=codes.device).cos().to(features.dtype)[None]
            features = space.tracks_of(tiled, name, state if space.species_token else None)[0]
        found[name] = features.float().cpu()
    return found


def make_proof(space: Space, codes: Tensor) -> dict[str, Tensor]:
    """The tensors of PROOF_FILE: answers by species, and the experts that were chosen."""
    choices: dict[str, Tensor] = {}

    def keep(name: str, logits: Tensor, chosen: Tensor) -> Tensor:
        choices[CHOICES + name] = chosen.to("cpu", torch.int16)
        return chosen

    with experts_decided_by(space, keep):
        return {name: t.contiguous() for name, t in answers(space, codes).items()} | choices


def disproof(space: Space, codes: Tensor, stored: dict[str, Tensor]) -> str:
    """Say how a model's answers differ from the stored ones, "" where they do not.

    codes: of the stored sequence, as this code encodes it, on the model's device. The model is
    asked in its own precision, and in evaluation mode.
    """
    expected = {name: t for name, t in stored.items() if not name.startswith(CHOICES)}
    if set(space.species) != set(expected):
        return f"species {sorted(space.species)}, not {sorted(expected)}"

    def hold(name: str, logits: Tensor, own: Tensor) -> Tensor:
        chosen = stored.get(CHOICES + name)
        if chosen is None or chosen.shape != own.shape or int(chosen.max()) >= logits.shape[-1]:
            return own
        return chosen.to(own.device, own.dtype)

    training, parameter = space.training, next(space.parameters())
    allowed = allowed_difference(parameter)
    space.eval()
    try:
        with experts_decided_by(space, hold), torch.autocast(codes.device.type, enabled=False):
            found = answers(space, codes)
    finally:
        space.train(training)
    for name, known in expected.items():
        if found[name].shape != known.shape:
            shape = tuple(known.shape)
            return f"species {name}: answers of shape {tuple(found[name].shape)}, not {shape}"
        difference = (found[name] - known).abs().max() / known.abs().max()
        if not float(difference) <= allowed:
            return (
                f"species {name}: {float(difference):.2g} of the largest value (allowed "
                f"{allowed:g} in {parameter.dtype} on {parameter.device.type})"
            )
    return ""
