"""The compiled model computes what the eager one does, in both precisions.

The graph breaks where experts' row counts must be known on the host; `aot_eager` traces forward and
backward as the real compiler does, but needs no C++ compiler.
"""

import pytest
import torch
from tiny_models import no_ranks, some_codes, some_targets, tiny_model
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.model.losses import training_losses


def gradients(compiled: bool, autocast: bool, **changes) -> dict[str, Tensor]:
    model = tiny_model(depth=1, **changes).train()
    run = torch.compile(model, backend="aot_eager") if compiled else model
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = run({"finch": some_codes(2), "perch": some_codes(1, seed=5)})
        losses = training_losses(output, some_targets(output), LossConfig(), no_ranks)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: loss.detach() for name, loss in losses.items()}


@pytest.mark.long
@pytest.mark.parametrize(
    "autocast, tolerance", [(False, 1e-5), pytest.param(True, 2e-2, marks=pytest.mark.slow)]
)
def test_compiled_equals_eager(autocast, tolerance):
    require_equal(tolerance, autocast)


@pytest.mark.slow
def test_own_experts_are_compiled():
    require_equal(1e-5, False, own_experts={"perch": 1})


def require_equal(tolerance: float, autocast: bool, **changes) -> None:
    torch.compiler.reset()
    expected, found = (gradients(compiled, autocast, **changes) for compiled in (False, True))
    total = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= tolerance * float(total), name
