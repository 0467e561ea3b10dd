"""One real micro-step in this process, measured: bytes kept for backward, states and arithmetic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.metrics.throughput import memory_gib
from spacescale.model.encoder import Encoder
from spacescale.model.layers import NUM_BASES
from spacescale.model.losses import training_losses
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.planning.encoder_plan import SEQUENCES, hidden_share
from spacescale.planning.plan import Precision, RunPlan, make_plan
from spacescale.planning.states import Layout, StateBytes
from spacescale.space_config import ModelConfig


@dataclass(frozen=True)
class Measured:
    """What one micro-step and one AdamW step took."""

    activations: int  # bytes kept for backward at the end of the forward pass
    states: StateBytes
    forward_flops: int
    training_flops: int
    peak_gib: float  # of the process (CPU, with Python and PyTorch), or allocated on the GPU
    device: str


class Comparison(NamedTuple):
    """A measurement beside the plan of exactly that."""

    planned: RunPlan
    measured: Measured


def measure_plan(plan: RunPlan) -> Comparison:
    """Measure a plan's micro-batch in one process without ZeRO.

    On a GPU if there is one; on a CPU in fp32. Raises UserError for what cannot fit, and for hidden
    bases beside profiles, of which no micro-batch is made here.
    """
    if plan.config.objective == "profiles+bases":
        raise UserError(
            "--measure: of objective=profiles+bases nothing is measured; train some steps and see "
            "speed/memory_gib and speed/windows_per_s in metrics.jsonl"
        )
    device = comm.device()
    on_gpu = device.type == "cuda"
    precision = plan.precision if on_gpu else "fp32"
    alone = make_plan(plan.config, Layout(1, 0, 1), plan.windows, precision, on_gpu)
    memory = memory_bytes(device)
    if alone.total_bytes > memory:
        raise UserError(
            f"--measure: one process would need {alone.total_bytes / 2**30:.1f} GiB at least; "
            f"there are {memory / 2**30:.1f}. Take a smaller --preset, --micro-batch or "
            "model.seq_length"
        )
    return Comparison(alone, measure(plan.config, plan.windows, precision, device))


def memory_bytes(device: torch.device) -> int:
    """Return the memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def processes_sharing(device: torch.device) -> int:
    """Return how many processes of a run share that memory: all on this machine, or one a GPU."""
    return 1 if device.type == "cuda" else comm.processes_here()


def measure(
    config: Config, windows: dict[str, int], precision: Precision, device: torch.device
) -> Measured:
    """Train one micro-batch of random windows (as a plan's) once, in plain PyTorch.

    Precision is "fp32", or "bf16" for autocast with fp32 weights.
    """
    torch.manual_seed(0)
    of_profiles = isinstance(config.model, ModelConfig)
    prepare = _space_step if of_profiles else _encoder_step
    model, step = prepare(config, windows, device)
    optimiser = torch.optim.AdamW(model.parameters())
    kept: dict[int, int] = {}
    with (
        flop_counter() as forward,
        _autocast(precision, device),
        counting_kept(kept, addresses(model)),
    ):
        total = step()
    with flop_counter() as backward:
        total.backward()
    optimiser.step()
    forward_flops = forward.get_total_flops()
    return Measured(
        sum(kept.values()),
        _state_bytes(model, optimiser),
        forward_flops,
        forward_flops + backward.get_total_flops(),
        memory_gib(device),
        device.type,
    )


Step = tuple[nn.Module, Callable[[], Tensor]]  # a model, and the loss of a micro-batch


def _space_step(config: Config, windows: dict[str, int], device: torch.device) -> Step:
    model = Space(config.space).to(device).train()
    codes = {name: _random_codes(config, count, device) for name, count in windows.items()}

    def loss() -> Tensor:
        output = model(codes)
        targets = {name: torch.rand_like(found) for name, found in output.prediction.items()}
        losses = training_losses(output, targets, config.loss, lambda x: x)
        return torch.stack(list(losses.values())).sum()

    return model, loss


def _encoder_step(config: Config, windows: dict[str, int], device: torch.device) -> Step:
    model = Encoder(config.encoder).to(device).train()
    shape = windows[SEQUENCES], config.mlm.max_tokens
    ids = torch.randint(config.encoder.vocab_size, shape, device=device)
    attended = torch.ones(shape, dtype=torch.bool, device=device)
    selected = torch.zeros(ids.numel(), dtype=torch.bool, device=device)
    selected[torch.randperm(ids.numel())[: round(hidden_share(config.mlm) * ids.numel())]] = True
    selected = selected.view(shape)

    def loss() -> Tensor:
        return cross_entropy(model(ids, attended, selected).float(), ids[selected])

    return model, loss


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter; it does not know, on CPUs, our convolutions' product and attention."""
    aten = torch.ops.aten
    known = {
        aten.baddbmm_: _baddbmm_flop,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
    }
    return FlopCounterMode(display=False, custom_mapping=known)


def _baddbmm_flop(_, left: list[int], right: list[int], out_shape=None, **scales: float) -> int:
    batch, rows, inner = left
    return 2 * batch * rows * inner * right[-1]


def _attention_flop(query, key, value, *_, out_shape=None, **options) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flop(grad, query, key, value, *_, out_shape=None, **options) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _random_codes(config: Config, count: int, device: torch.device) -> Tensor:
    shape = (count, config.space.seq_length)
    return torch.randint(NUM_BASES, shape, dtype=torch.uint8, device=device)


def _autocast(precision: Precision, device: torch.device):
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def addresses(model: nn.Module) -> set[int]:
    """Addresses of parameters and buffers, which are there with or without a backward pass."""
    return {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}


@contextmanager
def counting_kept(kept: dict[int, int], known: set[int]) -> Iterator[None]:
    """Record address → bytes of each distinct storage that autograd keeps."""

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def _state_bytes(model: nn.Module, optimiser: torch.optim.Optimizer) -> StateBytes:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    moments = [
        value
        for state in optimiser.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return StateBytes(_nbytes(model.parameters()), _nbytes(gradients), _nbytes(moments))


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
