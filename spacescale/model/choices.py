"""Look at the experts that a model chooses, or choose for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from spacescale.model.router import ExpertChoice


@contextmanager
def experts_decided_by(
    model: nn.Module, decide: Callable[[str, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Let `decide(MODULE/CALL, logits, chosen)` return the experts that count.

    CALL numbers the calls of a module: the decoder chooses for one species after the other.
    """
    calls: dict[str, int] = {}

    def hook_of(module_name: str):
        def hook(module, inputs: tuple[Tensor], chosen: Tensor) -> Tensor:
            call = calls[module_name] = calls.get(module_name, -1) + 1
            return decide(f"{module_name}/{call}", inputs[0], chosen)

        return hook

    hooks = [
        module.register_forward_hook(hook_of(name))
        for name, module in model.named_modules()
        if isinstance(module, ExpertChoice)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
