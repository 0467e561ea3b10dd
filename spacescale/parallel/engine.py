"""The one door to `deepspeed.initialize`.

DeepSpeed's JSON is passed on as it is, except that values saying "auto" are filled in here:
micro-batch from the preset, `torch_autocast` by device.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer
from deepspeed.runtime.torch_autocast import has_comm_dtype
from torch import nn
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from spacescale.config import START_TIMEOUT_S, OptimConfig
from spacescale.errors import UserError
from spacescale.model.encoder import Encoder
from spacescale.model.layers import AttentionPool, ConvBlock
from spacescale.parallel import comm
from spacescale.parallel.environment import launch_environment
from spacescale.parallel.freezing import matches
from spacescale.parallel.meeting import meet

Engine = deepspeed.DeepSpeedEngine
OWNED_BY_CONFIG = {"optimizer": "optim.*", "scheduler": "optim.*", "expert_parallel": "parallel.*"}
FLOAT16 = ("float16", "fp16", "half", "torch.float16", "torch.half")
BFLOAT16 = ("bfloat16", "bf16", "torch.bfloat16")  # as DeepSpeed lets it be written
_NO_FLOAT16 = (
    "float16 cannot train under ZeRO: DeepSpeed 0.19.8 checks and clips gradients that still carry "
    "the loss scale, and leaves the step before it would lower the scale"
)
NO_DECAY_MARKS = ("bias", "token", "embedding", ".w3")

logger = logging.getLogger(__name__)


def init_distributed(
    start_timeout_s: float = START_TIMEOUT_S, met: Callable[[Store], None] = lambda store: None
) -> torch.device:
    """Join the process group and return this process's device.

    met: called with the store in which all ranks have met, before they join.
    Raises UserError for surroundings that do not fit together, and NotMet where the ranks have not
    met after start_timeout_s, or cannot.
    """
    source = launch_environment()
    comm.share_cores()
    logging.basicConfig(
        format="%(asctime)s %(message)s", level=logging.INFO if comm.is_main() else logging.WARNING
    )
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # DeepSpeed's own calls; nothing a user could change.
    warnings.filterwarnings("ignore", message=".*(all_gather_into|reduce_scatter)_tensor. is depr")
    # The shared-memory op would compile C++ at first use; gloo alone serves CPUs well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = comm.device()
    if device.type == "cuda":
        _take_gpu(device)
    if not torch.distributed.is_initialized():  # by an earlier run in this process
        store = meet(source, start_timeout_s)
        met(store)
        comm.join(store, device)
    deepspeed.init_distributed(timeout=comm.COLLECTIVE_TIMEOUT, verbose=False)
    return device


def leave() -> None:
    """Leave the process group, before the interpreter ends or another run joins one of its own.

    NCCL asks for it, and gloo needs it: its thread may still drop the last Python tensor of a
    collective, which aborts a process whose interpreter has begun to end.
    """
    if deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()  # with the groups that DeepSpeed keeps
    elif torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _take_gpu(device: torch.device) -> None:
    torch.cuda.set_device(device)
    # DeepSpeed takes the GPU's number from here, and wants the two to agree.
    for name in ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"):
        if name in os.environ:
            os.environ[name] = str(device.index)


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """Read DeepSpeed's JSON. Raises UserError naming the file, and line where it does not parse."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such DeepSpeed configuration file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def resolve_deepspeed_config(
    config: dict[str, Any],
    source: str,
    micro_batch_size: int,
    global_batch_size: int | None = None,
) -> dict[str, Any]:
    """Fill in what says "auto" and refuse what this trainer cannot run soundly.

    The sizes are data.micro_batch_size and data.global_batch_size. Raises UserError naming
    `source`, the key, its value and the cure.
    """
    config = json.loads(json.dumps(config))
    for key, owner in OWNED_BY_CONFIG.items():
        if key in config:
            raise UserError(f"{source}: remove {key!r}; the {owner} settings own it")
    clipping = config.get("gradient_clipping")
    if not clipping:
        raise UserError(
            f"{source}: write 'gradient_clipping' (the paper's value is 0.2); "
            "DeepSpeed silently clips at 1.0 when it is absent"
        )
    if not isinstance(clipping, int | float) or isinstance(clipping, bool) or clipping < 0:
        raise UserError(f"{source}: gradient_clipping={clipping!r} must be a positive number")
    _resolve_precision(config, source)
    zero = config.get("zero_optimization")
    stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
    if stage not in (1, 2, 3):
        raise UserError(
            f"{source}: zero_optimization.stage={stage!r}; take 1, 2 or 3 (stage 0 computes a "
            "wrong clipping norm with expert parallelism)"
        )
    if not isinstance(zero, dict):
        raise UserError(f"{source}: zero_optimization={zero!r} must be an object with a 'stage'")
    if zero.get("overlap_comm"):
        raise UserError(
            f"{source}: set zero_optimization.overlap_comm to false; overlapped, gradients of "
            "different parameters can be added where ranks are not in step"
        )
    zero["overlap_comm"] = False  # stage 3 would switch it on by itself
    _resolve_batch(config, source, micro_batch_size, global_batch_size)
    return config


def _resolve_precision(config: dict[str, Any], source: str) -> None:
    for key in ("bf16", "bfloat16"):  # DeepSpeed still reads the older name
        if isinstance(config.get(key), dict) and config[key].get("enabled"):
            raise UserError(
                f"{source}: switch {key!r} off and use 'torch_autocast'; BatchNorm's fp32 "
                "statistics cannot meet 16-bit weights"
            )
    if isinstance(config.get("fp16"), dict) and config["fp16"].get("enabled"):
        raise UserError(f"{source}: switch 'fp16' off; {_NO_FLOAT16}")
    kinds = config.get("data_types")
    for name, dtype in (
        ("communication_data_type", config.get("communication_data_type")),
        ("data_types.grad_accum_dtype", isinstance(kinds, dict) and kinds.get("grad_accum_dtype")),
    ):
        if str(dtype).lower() in FLOAT16:
            raise UserError(
                f"{source}: {name}={dtype!r}; leave it out, or write 'bf16' or 'fp32': gradients "
                "past 65,504 are infinite in float16 and those below 6e-8 are 0, and no loss "
                "scale keeps them from it"
            )
    if config.get("torch_autocast") == "auto":
        # Cards before Ampere compute bf16 by detours that are slower than fp32.
        has_bf16 = comm.uses_gpu() and torch.cuda.is_bf16_supported(including_emulation=False)
        config["torch_autocast"] = {"enabled": has_bf16, "dtype": "bfloat16"}
    autocast = config.get("torch_autocast", {})
    if not isinstance(autocast, dict):
        raise UserError(f"{source}: torch_autocast={autocast!r} must be an object or 'auto'")
    dtype = autocast.get("dtype")
    if autocast.get("enabled") and dtype not in BFLOAT16:
        raise UserError(
            f"{source}: torch_autocast.dtype={dtype!r}; write 'bfloat16', or set 'enabled' to "
            f"false for float32; {_NO_FLOAT16}"
        )


def _resolve_batch(
    config: dict[str, Any], source: str, micro_batch_size: int, global_batch_size: int | None
) -> None:
    world = comm.world_size()
    total = config.get("train_batch_size", "auto")
    micro = config.get("train_micro_batch_size_per_gpu", "auto")
    accumulation = config.get("gradient_accumulation_steps", "auto")
    for name, value in (
        ("gradient_accumulation_steps", accumulation),
        ("train_batch_size", total),
        ("train_micro_batch_size_per_gpu", micro),
    ):
        if value != "auto" and (not isinstance(value, int) or value < 1):
            raise UserError(f"{source}: {name}={value!r} must be a positive whole number or 'auto'")
    if global_batch_size is not None:
        if total not in ("auto", global_batch_size):
            raise UserError(
                f"{source}: train_batch_size={total} is not data.global_batch_size="
                f"{global_batch_size}; leave one of them out"
            )
        at_most = micro_batch_size if micro == "auto" else micro
        total, named = global_batch_size, accumulation
        micro, accumulation = _split_batch(global_batch_size, world, at_most)
        if named not in ("auto", accumulation) and comm.is_main():
            logger.warning(
                "%s: gradient_accumulation_steps=%d gives way to %d, from data.global_batch_size="
                "%d, %d processes and at most %d windows in each",
                *(source, named, accumulation, global_batch_size, world, at_most),
            )
    accumulation = 1 if accumulation == "auto" else accumulation
    if micro == "auto":
        micro = micro_batch_size
        if total != "auto":
            micro, rest = divmod(total, world * accumulation)
            if rest or not micro:
                raise UserError(
                    f"{source}: train_batch_size={total} does not divide by {world} processes × "
                    f"gradient_accumulation_steps={accumulation}"
                )
    if total != "auto" and total != micro * accumulation * world:
        raise UserError(
            f"{source}: train_batch_size={total} is not train_micro_batch_size_per_gpu={micro} × "
            f"gradient_accumulation_steps={accumulation} × {world} processes"
        )
    config["train_micro_batch_size_per_gpu"] = micro
    config["gradient_accumulation_steps"] = accumulation
    config["train_batch_size"] = micro * accumulation * world


def _split_batch(windows: int, world: int, at_most: int) -> tuple[int, int]:
    """Windows per step as (windows per process and micro-step, micro-steps), the first largest."""
    per_process, rest = divmod(windows, world)
    if rest or not per_process:
        raise UserError(
            f"data.global_batch_size={windows} does not divide by {world} processes; take "
            f"{max(1, round(windows / world)) * world}, or another number of processes"
        )
    micro = max(n for n in range(1, min(at_most, per_process) + 1) if per_process % n == 0)
    return micro, per_process // micro


def parameter_groups(
    model: nn.Module, optim: OptimConfig, undecayed: Collection[str] = ()
) -> list[dict[str, Any]]:
    """AdamW groups by weight decay and `optim.lr_factors`, experts apart from the rest.

    Biases, norms, tokens and embeddings are not decayed, nor are the parameters named `undecayed`.
    Frozen parameters are in none.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or any(mark in name for mark in NO_DECAY_MARKS)
            factors = (f for p, f in optim.lr_factors.items() if matches(name, p))
            groups[plain or name in undecayed, next(factors, 1.0)].append(parameter)
    split = split_params_into_different_moe_groups_for_optimizer(
        [
            {
                "name": f"{'no_decay' if plain else 'decay'}, lr × {factor:g}",
                "params": parameters,
                "weight_decay": 0.0 if plain else optim.weight_decay,
                "lr_factor": factor,
            }
            for (plain, factor), parameters in sorted(groups.items(), key=lambda item: item[0])
        ]
    )
    return [group for group in split if group["params"]]


def build_engine(
    model: nn.Module,
    optim: OptimConfig,
    deepspeed_config: dict[str, Any],
    undecayed: Collection[str] = (),
) -> Engine:
    """Wrap a model whose experts are already distributed. `deepspeed_config` must be resolved.

    undecayed: parameters that no weight decay may move, beside those that have none anyway.
    """
    if deepspeed_config["zero_optimization"]["stage"] == 3:
        _register_external_parameters(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, optim, undecayed),
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config)
    return engine


def _register_external_parameters(model: nn.Module) -> None:
    """Tell ZeRO-3 of modules that use other modules' parameters without calling those.

    ZeRO-3 gathers a module's own parameters around its forward and backward pass, no others. Those
    that it was not told of it finds in its first pass, which in bf16 then computed with other
    numbers than later ones: a resumed run was no longer the run that was never stopped.
    """
    for module in model.modules():
        if isinstance(module, ConvBlock | AttentionPool):
            for child in module.children():
                for parameter in child.parameters():
                    deepspeed.zero.register_external_parameter(module, parameter)
        if isinstance(module, Encoder):
            deepspeed.zero.register_external_parameter(module.head, module.words.weight)


@contextmanager
def exact_weights(engine: Engine) -> Iterator[None]:
    """Let the model compute with the float32 weights that are trained.

    Under autocast ZeRO-3 gathers the weights of linear and convolution layers in bf16, which is
    what autocast would make of them. All ranks enter and leave together.
    """
    model: Any = engine.module  # typed as a module or a tensor
    rounded: dict[Any, torch.dtype] = {}
    if engine.zero_optimization_stage() == 3:
        rounded = {p: p.comm_dtype for p in model.parameters() if has_comm_dtype(p)}
    if not rounded:
        yield
        return
    zero: Any = engine.optimizer
    zero.checkpoint_event_prologue()  # weights that are kept whole become shares
    for parameter in rounded:
        del parameter.comm_dtype
    zero.checkpoint_event_epilogue()  # and whole again, now unrounded
    try:
        yield
    finally:
        zero.checkpoint_event_prologue()
        for parameter, dtype in rounded.items():
            parameter.comm_dtype = dtype
        zero.checkpoint_event_epilogue()


def set_learning_rate(engine: Engine, rate: float) -> None:
    """Use `rate` in the optimiser's next step, in each group times its factor."""
    for group in engine.optimizer.param_groups:  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        group["lr"] = rate * group["lr_factor"]
