"""A vetoed step leaves no trace, in every ZeRO stage, and hears of the true gradient norm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reshaping import Layout, start, train

from spacescale.parallel.step_gate import veto_steps
from spacescale.testing.ranks import run_ranks

STEPS, REFUSED = 4, 2


def run_gated(folder: Path, zero: int) -> dict:
    """Train some steps, of which one is refused; weights after each, norms heard and reported."""
    run = start(folder, Layout(2, 2, zero))
    heard, reported, applied, weights = [], [], [], []

    def refuse_one(norm: float) -> bool:
        heard.append(norm)
        return len(heard) == REFUSED + 1

    veto_steps(run.engine, refuse_one)
    for step in range(STEPS):
        train(run, step, step + 1)
        applied.append(run.engine.was_step_applied())
        reported.append(float(run.engine.get_global_grad_norm()))
        weights.append(sum(float(piece.detach().sum()) for piece in masters(run)))
    return {"heard": heard, "reported": reported, "applied": applied, "weights": weights}


def masters(run) -> list[torch.Tensor]:
    zero = run.engine.optimizer
    groups = getattr(zero, "fp32_partitioned_groups_flat", None)
    return groups or zero.single_partition_of_fp32_groups


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_vetoed_step_is_dropped(tmp_path, zero):
    first, second = run_ranks(run_gated, 2, tmp_path, zero)
    assert first["heard"] == second["heard"] and len(first["heard"]) == STEPS
    for found in (first, second):
        assert found["applied"] == [step != REFUSED for step in range(STEPS)]
        for step, norm in enumerate(found["reported"]):
            assert step == REFUSED or norm == pytest.approx(found["heard"][step], rel=1e-6)
        before, after = found["weights"][REFUSED - 1], found["weights"][REFUSED]
        assert before == after
        assert found["weights"][REFUSED + 1] != after
