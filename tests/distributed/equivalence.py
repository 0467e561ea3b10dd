"""One training run in any number of processes: what each process does, and the plain statement.

Every world sees the same windows in the same micro-steps, so one reference serves them all.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state
from torch import Tensor, nn

from spacescale.config import LossConfig, OptimConfig
from spacescale.model.losses import SumOverRanks, training_losses
from spacescale.model.space import Space
from spacescale.objectives import Losses
from spacescale.parallel import comm
from spacescale.parallel.engine import (
    Engine,
    build_engine,
    parameter_groups,
    resolve_deepspeed_config,
)
from spacescale.parallel.expert_parallel import ExpertParallelExperts, distribute_experts
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.space_config import ModelConfig
from spacescale.testing.plain_training import (
    TINY_MODEL,
    MicroStep,
    plain_step,
    running_statistics,
    watch_margins,
    without_gradient,
)

MODEL = ModelConfig(
    species={"ant": ("DNASE", "CAGE", "CAGE"), "bee": ("CHIP", "DNASE")},
    **TINY_MODEL,
)
STAGES = ("stem", "conv_tower", "transformer", "pointwise", "decoder")
OPTIM = OptimConfig(lr=3e-4)  # higher, and rounding grows past 1e-3 in 50 steps
LOSS = LossConfig(mi_weight=0.1, z_weight=0.01, cv_weight=0.05)
CLIP, ACCUMULATION = 0.2, 2
STEPS, FEW_STEPS = 50, 3  # of a whole curve, and of a run that is checked without one
WINDOWS = {"ant": 8, "bee": 4}  # of all ranks in a micro-step
BEES_EVERY = 3  # bees are absent from the other micro-steps

# Species → codes (B_s, L) uint8 and targets (B_s, N, T_s), of one micro-step.
Windows = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """One way to run it."""

    zero: int
    ep_size: int
    recompute: bool

    def __str__(self):
        kept = "recompute" if self.recompute else "keep"
        return f"zero{self.zero}-ep{self.ep_size}-{kept}"


def cases(world: int) -> list[Case]:
    sizes = [n for n in (1, 2, 4) if world % n == 0]
    return [Case(*c) for c in itertools.product((1, 2, 3), sizes, (False, True))]


def fresh_model(recompute: bool = False) -> Space:
    torch.manual_seed(98)  # a seed with clear choices of experts
    stages = STAGES if recompute else ()
    model = Space(MODEL.model_copy(update={"checkpoint_stages": stages}))
    with torch.no_grad():  # attention's output starts at zero, which would hide its gradients
        for block in model.transformer:
            block.attention.to_out.weight.normal_(std=0.1)
    return model


def on_all_ranks(micro_step: int) -> dict[str, int]:
    """Windows of each species in a micro-step."""
    absent = {"bee"} if micro_step % BEES_EVERY else set()
    return {name: count for name, count in WINDOWS.items() if name not in absent}


def batch(micro_step: int, rank: int, world: int) -> Windows:
    """Codes and targets of a rank's windows, from those of all ranks.

    Ranks hold as many windows, but in micro-steps 0, 2, 4 … each a stretch of them, species after
    species: rank 0 has no bees, and of 4 ranks the last has no ants.
    """
    found, present = {}, on_all_ranks(micro_step)
    size, first = sum(present.values()) // world, 0
    for i, (name, count) in enumerate(WINDOWS.items()):
        if name not in present:
            continue
        generator = torch.Generator().manual_seed(1000 * micro_step + i)
        codes = torch.randint(0, 4, (count, MODEL.seq_length), generator=generator)
        shape = (count, MODEL.target_length, len(MODEL.species[name]))
        targets = (
            torch.rand(shape, generator=generator) * torch.arange(1.0, count + 1)[:, None, None]
        )
        mine = slice(rank, None, world)
        if micro_step % 2 == 0:
            start, stop = (min(max(size * r - first, 0), count) for r in (rank, rank + 1))
            mine = slice(start, stop)
        found[name] = (codes.to(torch.uint8)[mine], targets[mine])
        first += count
    return found


def loss_terms(
    model: Callable[..., Any],
    windows: Windows,
    sum_over_ranks: SumOverRanks,
    on_all_ranks: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Loss terms of one micro-step, of a plain model or of a rank's engine.

    on_all_ranks: how many windows of each species all ranks hold together.
    """
    output = model({name: codes for name, (codes, _) in windows.items()})
    targets = {name: targets for name, (_, targets) in windows.items()}
    return training_losses(output, targets, LOSS, sum_over_ranks, on_all_ranks=on_all_ranks)


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum that is differentiated."""
    return torch.stack(list(terms.values())).sum()


def of_windows(windows: Windows) -> MicroStep:
    """A micro-step of one process with these windows."""

    def micro_step(model: Callable[..., Any]) -> Losses:
        terms = loss_terms(model, windows, lambda x: x)
        return Losses(total(terms), terms, {})

    return micro_step


def run_reference() -> dict:
    """Plain PyTorch over all windows: loss terms, gradients, norms and the losses of 50 steps."""
    model = fresh_model()
    margins = watch_margins(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, OPTIM), lr=OPTIM.lr)
    found = {"losses": [], "norms": []}
    found["no_gradient"] = without_gradient(fresh_model(), global_batches(0))
    for step in range(STEPS):
        done = plain_step(model, optimizer, global_batches(step), CLIP)
        found["norms"].append(done.norm)
        found["losses"].append(done.loss)
        if step == 0:
            terms = [{n: float(term) for n, term in of.terms.items()} for of in done.losses]
            found |= {"terms": terms, "margin": min(margins)}
            found["moments"] = {
                n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters()
            }
            found["statistics"] = running_statistics(model)
    return found


def global_batches(step: int) -> list[MicroStep]:
    """Each of a step's micro-steps, with what all ranks together read in it."""
    return [of_windows(batch(micro_step, 0, 1)) for micro_step in micro_steps_of(step)]


def micro_steps_of(step: int) -> range:
    """The first step accumulates; the others, which only carry the curve on, take one each."""
    return range(ACCUMULATION) if step == 0 else range(ACCUMULATION + step - 1, ACCUMULATION + step)


def run_case(case: Case, steps: int) -> dict:
    """The same through DeepSpeed, on this rank."""
    model = fresh_model(case.recompute)
    distribute_experts(model, case.ep_size)
    synchronise_batchnorm(model)
    world = comm.world_size()
    config = {
        "train_micro_batch_size_per_gpu": sum(WINDOWS.values()) // world,
        "gradient_accumulation_steps": ACCUMULATION,
        "gradient_clipping": CLIP,
        "zero_optimization": {"stage": case.zero, "stage3_param_persistence_threshold": 0},
    }
    engine = build_engine(model, OPTIM, resolve_deepspeed_config(config, "equivalence", 1))
    found = {"terms": [], "losses": [], "norms": []}
    for step in range(steps):
        terms = []
        if step == 1:
            engine.set_train_batch_size(sum(WINDOWS.values()))  # no accumulation from here on
        for micro_step in micro_steps_of(step):
            windows = batch(micro_step, comm.rank(), world)
            here = loss_terms(engine, windows, comm.sum_over_ranks, on_all_ranks(micro_step))
            engine.backward(total(here))
            engine.step()
            terms.append({name: float(term.detach()) for name, term in here.items()})
        found["losses"].append(sum(sum(t.values()) for t in terms) / len(terms))
        found["norms"].append(float(engine.get_global_grad_norm()))
        if step == 0:
            found |= {"terms": terms, "moments": first_moments(engine, model)}
            found["statistics"] = running_statistics(model)
    return found


def first_moments(engine: Engine, model: nn.Module) -> dict[str, Tensor]:
    """Adam's first moment of every parameter, put together from the ranks' shards.

    After one step it is the clipped gradient times a constant.
    """
    if engine.zero_optimization_stage() < 3:
        # DeepSpeed links the states in its first group's first step, before the others have any.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    return {
        name: safe_get_full_optimizer_state(parameter, "exp_avg").clone()
        for name, parameter in model.named_parameters()
    }


def run_cases(steps: dict[Case, int]) -> dict[Case, dict]:
    return {case: run_case(case, count) for case, count in steps.items()}


def gradients_by_hand(dtype: torch.dtype) -> dict[str, Tensor]:
    """Gradients of one micro-step on two ranks that share the experts, without DeepSpeed."""
    model = fresh_model().to(dtype)
    distribute_experts(model, ep_size=2)
    synchronise_batchnorm(model)
    for module in model.modules():
        if isinstance(module, ExpertParallelExperts):
            module.ep_group = torch.distributed.group.WORLD
    windows = {
        name: (codes, targets.to(dtype))
        for name, (codes, targets) in batch(0, comm.rank(), 2).items()
    }
    terms = loss_terms(model, windows, comm.sum_over_ranks, on_all_ranks(0))
    total(terms).backward()
    return {
        # An expert's gradient already holds what all ranks sent it.
        name: (p.grad if ".mixture." in name else comm.add_over_ranks(p.grad)) / 2
        for name, p in model.named_parameters()
    }


def run_by_hand_and_mutated() -> dict:
    """Gradients in both precisions; then a run whose all-to-all is 1 % off in the backward pass."""
    found = {dtype: gradients_by_hand(dtype) for dtype in (torch.float32, torch.float64)}
    honest = comm._AllToAll.backward
    comm._AllToAll.backward = staticmethod(
        lambda ctx, grad: (1.01 * honest(ctx, grad)[0], None, None, None)
    )
    return found | {"mutated": run_case(Case(2, ep_size=2, recompute=True), steps=1)}
