"""Our Space computes what the released SPACE computes, on every fixture.

Fixtures name their numbers; each test takes those of one kind, all of them, and compares ours of
the same name. Errors of tensors are measured against a tensor's largest value, of scalars against
the scalar; but not against less than a floor, below which a number is the rest of larger ones that
cancel, and the released code in float32 strays as far from its own float64.
"""

import math
import re

import pytest
import torch
from our_figures import in_float64, odd_length_embeddings, train_four_steps
from reference_fixtures import SPECIES, Reference
from torch import Tensor

TENSOR, LOSS, GRADIENT_NORM, TRAJECTORY, ROUNDING = 1e-4, 1e-5, 1e-4, 1e-3, 1e-6
LOSS_FLOOR = 1e-4  # of the total loss
GRADIENT_FLOOR = 1e-5  # of the norm of all gradients together
KINDS = {  # the first that matches a tensor's name
    "gate choices": r"eval\.\w+\.\w+\.topk_idx",
    "gate logits": r"eval\.\w+\.\w+\.gate_logits",
    "gate sums": r"eval\.\w+\.\w+_gate_sum\..+",
    "eval tensors": r"eval\..+",
    "odd length": r"eval_short\..+",
    "gradients bn_eval": r"train\.bn_eval\.grad\..+",
    "gradients bn_batch": r"train\.bn_batch\.grad\..+",
    "running statistics": r"train\.bn_batch\.after\..+",
}


def kind_of(name: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name)), None)


def expected(reference: Reference, kind: str) -> dict[str, Tensor]:
    return {name: x for name, x in reference.tensors.items() if kind_of(name) == kind}


def of_largest(found: Tensor, wanted: Tensor, floor: float = 0.0) -> float:
    assert found.shape == wanted.shape
    return ratio(largest(found - wanted), max(largest(wanted), floor))


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max())


def relative(found: float, wanted: float, floor: float = 0.0) -> float:
    return ratio(abs(found - wanted), max(abs(wanted), floor))


def ratio(difference: float, size: float) -> float:
    if difference == 0:
        return 0.0
    return difference / size if size else math.inf


def test_every_number_of_a_fixture_is_of_some_kind(reference):
    assert [name for name in reference.tensors if kind_of(name) is None] == []


@pytest.mark.parametrize("kind", ["eval tensors", "gate logits", "gate sums"])
def test_evaluation(reference, evaluated, check, kind):
    wanted = expected(reference, kind)
    check(kind, {n: of_largest(evaluated.tensors[n], x) for n, x in wanted.items()}, TENSOR)


def test_gate_choices(reference, evaluated, check):
    wanted = expected(reference, "gate choices")
    different = {n: int((evaluated.tensors[n] != x).sum()) for n, x in wanted.items()}
    check("gate choices", different, 0)


def test_odd_length(reference, check):
    found, wanted = odd_length_embeddings(reference), expected(reference, "odd length")
    check("odd length", {n: of_largest(found[n], x) for n, x in wanted.items()}, TENSOR)


def test_evaluation_losses(reference, evaluated, check):
    errors = loss_errors(evaluated.losses, reference.scalars["eval.loss"])
    errors |= unweighted_errors(evaluated.unweighted, reference, "eval")
    check("losses eval", errors, LOSS)


def test_training_losses(reference, trained, mode, check):
    errors = loss_errors(trained.losses, reference.scalars[f"train.{mode}.loss"])
    errors |= unweighted_errors(trained.unweighted, reference, f"train.{mode}")
    check(f"losses {mode}", errors, LOSS)


def loss_errors(found: dict[str, float], wanted: dict[str, float]) -> dict[str, float]:
    assert found.keys() == wanted.keys()
    floor = LOSS_FLOOR * abs(wanted["total"])
    return {name: relative(found[name], x, floor) for name, x in wanted.items()}


def unweighted_errors(
    found: dict[str, dict[str, float]], reference: Reference, prefix: str
) -> dict[str, float]:
    return {
        f"{species} {name}": relative(loss, reference.scalars[f"{prefix}.{species}"][name])
        for species in SPECIES
        for name, loss in found[species].items()
    }


def test_gradients(reference, trained, mode, check):
    """Those that the fixture keeps whole: of the small parameters."""
    kind, prefix = f"gradients {mode}", f"train.{mode}.grad."
    floor, zero = gradient_floor(reference, mode), reference.zero_gradients[mode]
    wanted = {n.removeprefix(prefix): x for n, x in expected(reference, kind).items()}
    errors = {
        n: of_largest(trained.gradients[n], x, floor) for n, x in wanted.items() if n not in zero
    }
    check(kind, errors, TENSOR)


def test_gradient_norms(reference, trained, mode, check):
    wanted, floor = nonzero_gradients(reference, mode), gradient_floor(reference, mode)
    errors = {n: relative(l2(trained.gradients[n]), x["l2"], floor) for n, x in wanted.items()}
    every = math.hypot(*(l2(gradient) for gradient in trained.gradients.values()))
    errors["all"] = relative(every, reference.scalars[f"train.{mode}.grad_global_l2"])
    check(f"gradient l2 {mode}", errors, GRADIENT_NORM)


def test_gradient_projections(reference, trained, mode, check):
    """Sum, and projection on a wave, of every gradient: they see the places and the signs."""
    errors = {}
    for name, x in nonzero_gradients(reference, mode).items():
        gradient = trained.gradients[name].double().flatten()
        wave = torch.sin(0.7 * torch.arange(len(gradient), dtype=torch.float64) + 0.3)
        noise = gradient_floor(reference, mode) * math.sqrt(len(gradient))
        floor = max(x["l2"], noise)  # sum and projection may cancel to nothing
        errors[f"{name} sum"] = relative(float(gradient.sum()), x["sum"], floor)
        errors[f"{name} proj"] = relative(float(gradient @ wave), x["proj"], floor)
    check(f"gradient projections {mode}", errors, GRADIENT_NORM)


def gradient_floor(reference: Reference, mode: str) -> float:
    return GRADIENT_FLOOR * reference.scalars[f"train.{mode}.grad_global_l2"]


def test_zero_gradients(reference, trained, mode, check):
    """Zero in exact arithmetic, since a BatchNorm follows; or of parameters in no computation."""
    every = reference.scalars[f"train.{mode}.grad"]
    assert trained.gradients.keys() == every.keys()
    names = [*reference.zero_gradients[mode], *(n for n, x in every.items() if x is None)]
    size = reference.scalars[f"train.{mode}.grad_global_l2"]
    check(f"zero gradients {mode}", {n: l2(trained.gradients[n]) / size for n in names}, ROUNDING)


def nonzero_gradients(reference: Reference, mode: str) -> dict[str, dict[str, float]]:
    every = reference.scalars[f"train.{mode}.grad"]
    return {n: x for n, x in every.items() if x and n not in reference.zero_gradients[mode]}


def l2(x: Tensor) -> float:
    return float(x.double().norm())


@pytest.mark.parametrize("mode", ["bn_batch"], scope="module")
def test_running_statistics(reference, trained, check):
    prefix, kind = "train.bn_batch.after.", "running statistics"
    wanted = {n.removeprefix(prefix): x for n, x in expected(reference, kind).items()}
    check(kind, {n: of_largest(trained.state[n], x) for n, x in wanted.items()}, TENSOR)
    batches = reference.scalars["train.bn_batch.num_batches_tracked_after"]
    counts = [x for n, x in trained.state.items() if n.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {batches}


def test_adamw_trajectory(reference, check):
    """Both runs in float64: one rounding of the weights in float32 moves the released code's own
    trajectory by up to 3e-3, where a ReLU or an almost vanishing gradient changes its sign.
    """
    wanted = reference.scalars64["adamw_trajectory"]
    with in_float64():
        found = train_four_steps(reference)
    errors = {
        f"step {step} {name}": error
        for step, pair in enumerate(zip(found, wanted, strict=True))
        for name, error in loss_errors(*pair).items()
    }
    check("adamw trajectory", errors, TRAJECTORY)
