"""Where 16 bits would do harm: routing, softplus and losses run in float32 or better."""

from torch import Tensor, float64


def at_least_float32(x: Tensor) -> Tensor:
    """Widen 16-bit floats to float32; float64, in which models are checked, stays."""
    return x if x.dtype == float64 else x.float()
