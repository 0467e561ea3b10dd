"""Learning rate as a pure function of the step."""

import math

from spacescale.config import OptimConfig


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Rate of optimiser step 0 … max_steps−1: linear warm-up, then down to the final fraction."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, optim.max_steps - optim.warmup_steps)
    progress = min(1.0, progress)
    linear = optim.schedule == "linear"
    left = 1 - progress if linear else 0.5 * (1 + math.cos(math.pi * progress))
    return optim.lr * (optim.final_lr_fraction + (1 - optim.final_lr_fraction) * left)
