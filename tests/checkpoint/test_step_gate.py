"""A vetoed step leaves no trace, in every ZeRO stage, and hears of the true gradient norm."""

from __future__ import annotations

from pathlib import Path

import pytest
from reshaping import Layout, Run, start, train

from spacescale.checkpoint.partitions import Partitions
from spacescale.checkpoint.pieces import WEIGHT
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
        weights.append(weights_of(run))
    return {"heard": heard, "reported": reported, "applied": applied, "weights": weights}


def weights_of(run: Run) -> list[float]:
    """A sum for each parameter owned; ZeRO-3's padding between them was never written."""
    pieces = Partitions(run.engine).pieces()
    return [float(piece.fields[WEIGHT].sum()) for piece in pieces]


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
