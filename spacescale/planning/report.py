"""A plan, and what was measured, as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from spacescale.config import Config
from spacescale.planning.measure import Comparison
from spacescale.planning.plan import RunPlan
from spacescale.planning.traffic import sent_bytes
from spacescale.space_config import ModelConfig

GIB, GB, GFLOP = 2**30, 1e9, 1e9
_WIDTH = 26  # of the first column


def as_text(plan: RunPlan, comparison: Comparison | None = None) -> str:
    """The whole plan, and what was measured; the first line reads `parameters N`."""
    sections = [_parameters(plan), _setting(plan), _work(plan), _memory(plan), _time(plan)]
    if comparison:
        sections.append(_comparison(comparison))
    return "\n\n".join("\n".join(lines) for lines in sections)


def as_json(plan: RunPlan, comparison: Comparison | None = None) -> str:
    """The same in plain values: elements, bytes and FLOPs."""
    values = _plain(plan)
    if comparison:
        values["measured"] = asdict(comparison.measured)
        values["planned_for_measured"] = _plain(comparison.planned)
    return json.dumps(values, indent=1)


def _plain(plan: RunPlan) -> dict[str, Any]:
    model = plan.config.model
    if isinstance(model, ModelConfig):
        tracks = {name: len(assays) for name, assays in model.species.items()}
        reads: dict[str, Any] = {"seq_length": model.seq_length, "tracks": tracks}
    else:
        reads = {"max_tokens": plan.config.mlm.max_tokens, "vocab_size": model.vocab_size}
    return {
        "preset": plan.config.preset,
        **reads,
        "layout": asdict(plan.layout),
        "micro_batch_windows": plan.windows,
        "precision": plan.precision,
        "parameters": asdict(plan.parameters),
        "flops_per_window": {name: asdict(work) for name, work in plan.window_work.items()},
        "flops_per_micro_batch": asdict(plan.micro_batch_work),
        "bytes_per_gpu": asdict(plan.states)
        | {"activations": plan.activations.total, "total": plan.total_bytes},
        "activation_bytes": asdict(plan.activations),
        "accumulation": plan.accumulation,
        "bytes_sent_per_step": sent_bytes(plan.traffic),
        "machine": asdict(plan.machine),
        "seconds_per_step": asdict(plan.step) | {"total": plan.step.total},
        "windows_per_s": plan.windows_per_step / plan.step.total,
        "scaling_efficiency": plan.step.efficiency,
    }


def _parameters(plan: RunPlan) -> list[str]:
    model, counts = plan.config.model, plan.parameters
    which = "all of them"
    if isinstance(model, ModelConfig) and model.species_num_experts:
        which = f"{model.species_top_k} of {model.species_num_experts} experts in each block"
    return [f"parameters {counts.total}", f"active per token {counts.active} ({which})"]


def _setting(plan: RunPlan) -> list[str]:
    config, layout = plan.config, plan.layout
    lines = [
        f"{config.preset}: {_reads(config)}",
        f"{layout.gpus} GPUs, ZeRO-{layout.zero_stage}, expert parallel {layout.ep_size}, "
        f"micro-batch {_batch(plan)}, {_precision(plan)}",
    ]
    if layout.zero_stage == 0:
        lines.append("the trainer refuses ZeRO-0: take 1, 2 or 3")
    return lines


def _reads(config: Config) -> str:
    """What goes into the model, and what comes out."""
    model = config.model
    if not isinstance(model, ModelConfig):
        names = " and ".join(config.mlm.vocabularies)
        return (
            f"sequences of {config.mlm.max_tokens} tokens, the longest, of {names}; "
            f"{model.vocab_size:,} words"
        )
    tracks = ", ".join(f"{len(assays):,} of {name}" for name, assays in model.species.items())
    bins = f"{model.target_length} bins of {model.bin_size} bp"
    return f"{model.seq_length:,} bp to {bins}; tracks: {tracks}"


def _work(plan: RunPlan) -> list[str]:
    works = list(plan.window_work.values())
    stages = works[0].stages
    return [
        _row("GFLOP per window", plan.window_work),
        *(_row(f"  {stage}", [_gflop(work.stages[stage]) for work in works]) for stage in stages),
        _row("forward", [_gflop(work.forward) for work in works]),
        _row("forward and backward", [_gflop(work.training) for work in works]),
        _row("  executed", [_gflop(work.executed_training) for work in works]),
    ]


def _memory(plan: RunPlan) -> list[str]:
    states, activations = plan.states, plan.activations
    parts = dict(activations.kept)
    if activations.recomputed:
        parts["recomputed at a time"] = activations.recomputed
    return [
        "GiB per GPU (without temporaries, communication buffers and the allocator's slack)",
        _row("  weights", [_gib(states.weights)]),
        _row("  gradients", [_gib(states.gradients)]),
        _row("  optimiser", [_gib(states.optimiser)]),
        _row("  activations", [_gib(activations.total)]),
        *(_row(f"    {part}", [_gib(size)]) for part, size in parts.items()),
        _row("total", [_gib(plan.total_bytes), f"of {plan.machine.memory_gib:.1f}"]),
    ]


def _time(plan: RunPlan) -> list[str]:
    machine, step, sent = plan.machine, plan.step, sent_bytes(plan.traffic)
    return [
        f"a step of {plan.windows_per_step:,} windows ({plan.accumulation} per-GPU micro-batches), "
        "nothing overlapped",
        f"at {machine.tflops:g} TFLOP/s per GPU, {machine.within_gbytes:g} GB/s within and "
        f"{machine.between_gbytes:g} between nodes of {machine.gpus_per_node} GPUs, "
        f"{machine.latency_us:g} µs",
        _row("", ["GB sent", "ms"]),
        _row("  computing", ["", _ms(step.compute)]),
        *(
            _row(f"  {kind}", [f"{sent[kind] / GB:.3f}", _ms(seconds)])
            for kind, seconds in step.communication.items()
        ),
        _row("total", [f"{sum(sent.values()) / GB:.3f}", _ms(step.total)]),
        _row("windows/s", ["", f"{plan.windows_per_step / step.total:,.1f}"]),
        _row("scaling efficiency", ["", f"{step.efficiency:.1%}"]),
    ]


def _comparison(comparison: Comparison) -> list[str]:
    plan, measured = comparison
    kept, work = sum(plan.activations.kept.values()), plan.micro_batch_work
    pairs = {
        "weights GiB": (plan.states.weights, measured.states.weights, GIB),
        "gradients GiB": (plan.states.gradients, measured.states.gradients, GIB),
        "optimiser GiB": (plan.states.optimiser, measured.states.optimiser, GIB),
        "kept for backward GiB": (kept, measured.activations, GIB),
        "forward GFLOP": (work.executed_forward, measured.forward_flops, GFLOP),
        "forward, backward GFLOP": (work.executed_training, measured.training_flops, GFLOP),
    }
    return [
        f"measured: one micro-step of {_batch(plan)} in one process on {measured.device}, "
        f"ZeRO-0, {_precision(plan)}",
        _row("", ["planned", "measured", "ratio"]),
        *(
            _row(name, [f"{planned / unit:,.3f}", f"{found / unit:,.3f}", f"{found / planned:.3f}"])
            for name, (planned, found, unit) in pairs.items()
        ),
        _row("peak of the process GiB", ["", f"{measured.peak_gib:,.3f}"]),
    ]


def _batch(plan: RunPlan) -> str:
    return " + ".join(f"{count} {name}" for name, count in plan.windows.items())


def _precision(plan: RunPlan) -> str:
    return "fp32 weights, bf16 autocast" if plan.precision == "bf16" else "fp32"


def _row(name: str, values: Iterable[str]) -> str:
    return (f"{name:<{_WIDTH}}" + "".join(f"{value:>12}" for value in values)).rstrip()


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"


def _gflop(work: float) -> str:
    return f"{work / GFLOP:,.1f}"
