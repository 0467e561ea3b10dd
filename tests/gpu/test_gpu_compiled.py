"""The compiled model is the eager one, on a GPU by the compiler that users get."""

import pytest
import torch
from gpu_models import CUDA, apart, bf16, loss_of, model, windows


@pytest.mark.parametrize("half", [False, True])
def test_the_compiled_model_is_the_eager_one(half):
    torch.compiler.reset()
    eager = model(depth=1)
    codes, targets = windows(eager.config)
    backend = "inductor" if CUDA else "aot_eager"
    found = []
    for run in (eager, torch.compile(eager, backend=backend)):
        eager.zero_grad()
        with bf16(half):
            loss = loss_of(run, codes, targets)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in eager.parameters()])
        found.append((loss.detach(), gradients))
    (loss, gradients), (compiled_loss, compiled_gradients) = found
    assert apart(compiled_loss, loss) < (1e-2 if half else 1e-4)
    assert apart(compiled_gradients, gradients) < (0.1 if half else 5e-3)
