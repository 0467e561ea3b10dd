"""Keep of a module its inputs alone, and recompute its activations in the backward pass.

Running statistics of BatchNorm must see each batch once, so recomputing leaves them
alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(module: nn.Module, *inputs: Any) -> Any:
    """Call `module`, keeping for the backward pass nothing but its inputs and random state."""
    return checkpoint(
        module,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), frozen_running_statistics(module)),
    )


@contextmanager
def frozen_running_statistics(module: nn.Module) -> Iterator[None]:
    """Let no BatchNorm of a module update its running statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm, was_tracked in zip(norms, tracked, strict=True):
            norm.track_running_stats = was_tracked
