"""The file that proves exported weights, and how far an answer may be from the one in it."""

import torch
from torch import Tensor

PROOF_FILE = "proof.safetensors"
# What an answer may differ by, of its largest value, with the stored choices of experts: measured
# differences are a tenth of these.
TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.2}
OTHER_DEVICES = 10  # times that for float32 elsewhere than on a CPU: TF32 is a thousandth off


def allowed_difference(parameter: Tensor) -> float:
    """What an answer of a model with such parameters may differ by, of its largest value."""
    allowed = TOLERANCES.get(parameter.dtype, TOLERANCES[torch.bfloat16])
    if parameter.device.type != "cpu":
        allowed = max(allowed, OTHER_DEVICES * TOLERANCES[torch.float32])
    return allowed
