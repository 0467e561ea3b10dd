"""Where 16 bits would do harm: routing, softplus and losses run in float32 or better."""

import torch.nn.functional as F
from torch import Tensor, float64, nn


def at_least_float32(x: Tensor) -> Tensor:
    """Widen 16-bit floats to float32; float64, in which models are checked, stays."""
    return x if x.dtype == float64 else x.float()


class WideLinear(nn.Linear):
    """A Linear that computes in float32 or better, also where its weights are kept in 16 bits."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) of any float → (…, out)."""
        bias = None if self.bias is None else at_least_float32(self.bias)
        return F.linear(at_least_float32(input), at_least_float32(self.weight), bias)
