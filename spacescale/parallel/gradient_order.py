"""Whether gradients arrive in the same order on all ranks.

ZeRO-2 and ZeRO-3 of DeepSpeed pack gradients into buckets as they arrive and add up the ranks'
buckets number by number. In another order, gradients of different parameters would be added
without a word. The model sees to the order; this watches it, at every step.
"""

from __future__ import annotations

import zlib

from torch import nn


class GradientOrder:
    """A fingerprint of the order in which a model's gradients arrive on this rank."""

    def __init__(self, model: nn.Module):
        """Watch every parameter of a model from here on."""
        self._fingerprint = 0
        for index, parameter in enumerate(model.parameters()):
            if parameter.requires_grad:
                mark = index.to_bytes(4, "little")
                parameter.register_post_accumulate_grad_hook(lambda _, mark=mark: self._add(mark))

    def _add(self, mark: bytes) -> None:
        self._fingerprint = zlib.crc32(mark, self._fingerprint)

    def take(self) -> int:
        """The fingerprint of all that arrived since the last call, below 2²⁴: exact as float32."""
        found, self._fingerprint = self._fingerprint & 0xFFFFFF, 0
        return found
