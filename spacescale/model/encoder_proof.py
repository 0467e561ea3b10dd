"""A short question to an encoder that goes through all of its weights, and what it must answer.

As model/proof.py for SPACE: kept beside exported weights, it tells whoever loads them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spacescale.model.encoder import Encoder
from spacescale.model.proof_file import allowed_difference

PROOF_TOKENS = 16
ANSWER = "logits"


@torch.no_grad()
def encoder_answer(encoder: Encoder) -> Tensor:
    """Logits float32 (2, PROOF_TOKENS, V), on the CPU, of two fixed rows.

    The second is filled up from its half on: what is said there does not count, and is 0.
    """
    device, size = next(encoder.parameters()).device, encoder.config.vocab_size
    place = torch.arange(2 * PROOF_TOKENS, device=device)
    ids = (place * place * 31 + 7 * place + 5).remainder(size).view(2, PROOF_TOKENS)
    attended = torch.ones_like(ids, dtype=torch.bool)
    attended[1, PROOF_TOKENS // 2 :] = False
    training = encoder.training
    encoder.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            logits = encoder(ids, attended, attended).float().cpu()
    finally:
        encoder.train(training)
    found = torch.zeros(2, PROOF_TOKENS, size)
    found[attended.cpu()] = logits
    return found


def encoder_disproof(encoder: Encoder, stored: dict[str, Tensor]) -> str:
    """Say how an encoder's answer differs from the stored one, "" where it does not."""
    parameter = next(encoder.parameters())
    allowed = allowed_difference(parameter)
    known, found = stored[ANSWER], encoder_answer(encoder)
    if found.shape != known.shape:
        return f"{ANSWER} of shape {tuple(found.shape)}, not {tuple(known.shape)}"
    difference = (found - known).abs().max() / known.abs().max()
    if float(difference) <= allowed:
        return ""
    return (
        f"{ANSWER}: {float(difference):.2g} of the largest value (allowed {allowed:g} in "
        f"{parameter.dtype} on {parameter.device.type})"
    )
