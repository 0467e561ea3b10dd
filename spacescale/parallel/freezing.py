"""Parameters, and rows of them, that a run does not train.

What is frozen as a whole has no gradient, no optimiser state and no exchange. Of what is frozen in
part, the rows' gradients are set to 0 before anything sees them: without weight decay, Adam leaves
such rows as they are, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from deepspeed.moe.utils import is_moe_param
from torch import Tensor, nn

from spacescale.errors import UserError
from spacescale.model.layers import BatchNorm
from spacescale.overrides import nearest
from spacescale.parallel.expert_parallel import rows_here


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern, as of files, is that of a parameter's name or of a module around it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def require_matches(names: Iterable[str], patterns: Iterable[str], setting: str) -> None:
    """Raise UserError for a pattern that no parameter's name matches. setting: where it stands."""
    known = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in known):
            modules = dict.fromkeys(part for name in known for part in (name.split(".")[0], name))
            raise UserError(
                f"{setting}: {pattern!r} is no parameter's name{nearest(pattern, list(modules))}; "
                f"they begin with {', '.join(dict.fromkeys(n.split('.')[0] for n in known))}"
            )


def freeze(model: nn.Module, rows: Mapping[str, Tensor], device: torch.device) -> set[str]:
    """Freeze rows of parameters, before an engine is built; returns the names of those in part.

    rows: parameter → bool, over its first dimension in the plain model or (1,) for all of it.
    device: of training. The experts of a model are already distributed: all ranks train the same
    tensors, also one whose share of a tensor is frozen. A BatchNorm whose weight and bias are
    frozen stays in evaluation mode.
    """
    in_part = set()
    for name, parameter in model.named_parameters():
        frozen = rows.get(name, torch.zeros(1, dtype=torch.bool))
        if frozen.all():
            parameter.requires_grad_(False)
        elif frozen.any():
            _drop_gradient(parameter, rows_here(parameter, frozen).to(device))
            in_part.add(name)
    experts = [(p.numel(), n, p) for n, p in model.named_parameters() if is_moe_param(p)]
    if experts and not any(parameter.requires_grad for _, _, parameter in experts):
        # DeepSpeed wants a group of experts in the optimiser where the model has any.
        _, name, parameter = min(experts, key=lambda expert: expert[:2])
        parameter.requires_grad_()
        _drop_gradient(parameter, torch.ones(1, dtype=torch.bool, device=device))
        in_part.add(name)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.frozen = not (module.weight.requires_grad or module.bias.requires_grad)
            module.train(module.training)
    return in_part


def _drop_gradient(parameter: nn.Parameter, rows: Tensor) -> None:
    mask = rows.view(-1, *[1] * (parameter.ndim - 1))
    parameter.register_hook(lambda gradient: gradient.masked_fill(mask, 0.0))
