"""A veto over an optimiser step, at the moment when its gradient norm is known.

DeepSpeed 0.19.8 computes the norm, asks `_update_scale` to note whether the step overflowed, and
only then decides by its flag `overflow` whether to apply the step or to drop its gradients. That
is so in ZeRO 1, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepspeed.runtime.utils import combine_grad_norm_groups

from spacescale.parallel.engine import Engine


def veto_steps(engine: Engine, veto: Callable[[float], bool]) -> None:
    """Ask before each optimiser step with a finite norm; what `veto(norm)` refuses is dropped.

    The norm is the one before clipping, over all ranks: every rank must answer alike. A dropped
    step is one that `engine.was_step_applied` denies, as after an overflow.
    """
    zero: Any = engine.optimizer
    norms: list[float] = []
    method = "_get_norm_groups" if engine.zero_optimization_stage() == 3 else "scaled_global_norm"
    compute, update_scale = getattr(zero, method), zero._update_scale

    def recorded(*args: Any, **kwargs: Any) -> Any:
        found = compute(*args, **kwargs)
        norms[:] = [float(combine_grad_norm_groups(found) if isinstance(found, list) else found)]
        return found

    def judged(overflow: bool = False) -> None:
        if not overflow and norms and veto(norms.pop() / zero.loss_scale):
            zero.overflow = overflow = True
        update_scale(overflow)

    setattr(zero, method, recorded)
    zero._update_scale = judged
