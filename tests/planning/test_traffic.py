"""Planned traffic against every collective of real training steps in 2 and 4 processes."""

import sys
from collections import defaultdict
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from spacescale.config import Config
from spacescale.model.losses import training_losses
from spacescale.model.space import Space
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.parallel.engine import build_engine, resolve_deepspeed_config
from spacescale.parallel.expert_parallel import distribute_experts
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.planning.states import Layout
from spacescale.planning.traffic import REUSE_DISTANCE, sent_bytes, step_traffic
from spacescale.testing.ranks import run_ranks

ACCUMULATION = 2
WINDOWS = {"human": 1, "mouse": 1}
ALL_STAGES = '["stem", "conv_tower", "transformer", "pointwise", "decoder"]'
SMALL = ("model.seq_length=1024", "model.target_length=16", "model.depth=2", "model.dim=48")


@dataclass(frozen=True)
class Case:
    """One way to train."""

    zero: int
    ep_size: int
    overrides: tuple[str, ...] = ()
    reuse_distance: int = REUSE_DISTANCE
    precision: str = "fp32"


def cases(world: int) -> list[Case]:
    if world == 4:
        return [Case(*layout) for layout in ((1, 4), (2, 2), (3, 2), (3, 4))]
    return [
        *(Case(zero, ep_size) for zero in (1, 2, 3) for ep_size in (1, 2)),
        Case(2, 2, ("model.batchnorm=per_species", "loss.routing_scope=rank")),
        Case(2, 2, (f"model.checkpoint_stages={ALL_STAGES}",)),
        Case(3, 1, ("model.decoder=none", "model.species_token=false"), reuse_distance=0),
        # Last: DeepSpeed remembers autocast for the rest of the process.
        Case(2, 1, precision="bf16"),
        Case(3, 1, precision="bf16"),
    ]


def config_of(case: Case) -> Config:
    values = build_config("space_demo", [*SMALL, *case.overrides]).model_dump()
    assays = ("cage", "dnase_atac", "histone_chip")
    values["model"]["species"] = {"human": assays, "mouse": assays[:2]}
    return Config.model_validate(values)


class CountSent(TorchDispatchMode):
    """Count the bytes that this rank sends, by kind, as `planning.traffic` counts them.

    Every collective, DeepSpeed's and ours, is an operator of PyTorch's `c10d` namespace.
    """

    def __init__(self, replicas: dist.ProcessGroup | None):
        super().__init__()
        self.replicas = replicas
        self.sent: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            group = next(g for g in map(as_group, args) if g is not None)
            kind = kind_of_caller(func.__name__, group is self.replicas)
            self.sent[kind] += sent_by(func.__name__, args, group)
        return func(*args, **(kwargs or {}))


def as_group(value) -> dist.ProcessGroup | None:
    try:
        return dist.ProcessGroup.unbox(value)
    except (TypeError, RuntimeError):  # another argument
        return None


def sent_by(operation: str, args, group: dist.ProcessGroup) -> float:
    n = group.size()
    match operation.split(".")[0]:
        case "allreduce_":
            return 2 * nbytes(args[0]) * (n - 1) / n
        case "allgather_" | "_allgather_base_":
            return nbytes(args[0]) * (n - 1) / n
        case "_reduce_scatter_base_":
            return nbytes(args[1]) * (n - 1) / n
        case "alltoall_base_":
            rows, sizes = args[1], args[4] or [len(args[1]) // n] * n
            away = sum(sizes) - sizes[group.rank()]
            return away * rows[:1].nbytes
    raise AssertionError(f"unknown collective {operation}")


def nbytes(tensors) -> int:
    if isinstance(tensors, torch.Tensor):
        return tensors.nbytes
    return sum(map(nbytes, tensors))


def kind_of_caller(operation: str, experts: bool) -> str:
    """Whose collective it is, by the functions that led to it."""
    frame, callers = sys._getframe(2), set()
    while frame is not None:
        callers |= {frame.f_code.co_name, frame.f_code.co_filename.rpartition("/")[2]}
        frame = frame.f_back
    if "sync_batchnorm.py" in callers:
        return "BatchNorm"
    if "add_over_ranks" in callers:
        return "routing sums"
    if operation.startswith("alltoall"):
        return "expert rows"
    if callers & {"scaled_global_norm", "_get_norm_groups", "has_overflow"}:
        return "norms and checks"
    what = "weights" if "allgather" in operation else "gradients"
    return f"expert {what}" if experts else what


def train_and_count(case: Case) -> dict[str, float]:
    """Bytes that this rank sends in one steady optimiser step."""
    from deepspeed.utils import groups

    torch.manual_seed(3)
    config = config_of(case)
    model = Space(config.model)
    distribute_experts(model, case.ep_size)
    synchronise_batchnorm(model)
    zero = {
        "stage": case.zero,
        "stage3_param_persistence_threshold": 0,  # a share of nothing in models of real size
        "stage3_max_reuse_distance": case.reuse_distance,
    }
    if not case.reuse_distance:  # weights looked up ahead stay; at real sizes they are few
        zero["stage3_prefetch_bucket_size"] = 0
    settings = {
        "gradient_accumulation_steps": ACCUMULATION,
        "gradient_clipping": 0.2,
        "zero_optimization": zero,
        "torch_autocast": {"enabled": case.precision == "bf16", "dtype": "bfloat16"},
    }
    settings = resolve_deepspeed_config(settings, "test", sum(WINDOWS.values()))
    engine = build_engine(model, config.optim, settings)
    for _ in range(2 if case.zero == 3 else 0):  # in which ZeRO-3 records the order of its weights
        train_step(engine, config)
    with CountSent(groups._get_expert_data_parallel_group(f"ep_size_{case.ep_size}")) as counter:
        train_step(engine, config)
    return dict(counter.sent)


def train_step(engine, config: Config) -> None:
    for _ in range(ACCUMULATION):
        shape = (config.model.seq_length,)
        codes = {n: torch.randint(4, (k, *shape), dtype=torch.uint8) for n, k in WINDOWS.items()}
        output = engine(codes)
        targets = {name: torch.rand_like(found) for name, found in output.prediction.items()}
        losses = training_losses(output, targets, config.loss, comm.sum_over_ranks)
        engine.backward(torch.stack(list(losses.values())).sum())
        engine.step()


def count_cases() -> dict[Case, dict[str, float]]:
    return {case: train_and_count(case) for case in cases(comm.world_size())}


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 4])
def counted(request):
    """World size, and case → kind → bytes that a rank sends on average."""
    ranks = run_ranks(count_cases, request.param)
    return request.param, {
        case: {kind: sum(rank[case][kind] for rank in ranks) / len(ranks) for kind in found}
        for case, found in ranks[0].items()
    }


@pytest.mark.long
def test_planned_traffic_is_counted_in_real_steps(counted):
    world, found = counted
    for case, sent in found.items():
        layout = Layout(world, case.zero, case.ep_size)
        planned = step_traffic(
            config_of(case), layout, WINDOWS, case.precision, ACCUMULATION, case.reuse_distance
        )
        assert sent.pop("norms and checks") < 200, "too much to leave out"
        expected = {kind: size for kind, size in sent_bytes(planned).items() if size}
        got = {kind: size for kind, size in sent.items() if size}
        assert got == pytest.approx(expected, rel=0.05), case
