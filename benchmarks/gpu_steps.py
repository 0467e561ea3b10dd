"""Training steps of `space_large` on one GPU: windows/s, TFLOP/s, MFU and memory.

    python benchmarks/gpu_steps.py PART --json FILE

Parts: `card` (what the card multiplies and copies), `sweep` (micro-batches until memory is full),
`profile` (where a step's time goes), `engine` (whole optimiser steps under DeepSpeed), `compiled`,
`released` (beside the released code). FLOPs are those of the published model, three times its
forward pass; work done twice or left out does not change them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_measure import Figures, Setting, now, peak_gib, release_memory, run_part
from model_step import product_rate
from stages import StageClock
from torch import Tensor

from spacescale.config import Config
from spacescale.model.losses import training_losses
from spacescale.model.space import Space
from spacescale.planning.machine import MACHINES
from spacescale.planning.plan import RunPlan, make_plan
from spacescale.planning.species import micro_batch_windows
from spacescale.planning.states import Layout

FOLDER = Path(__file__).parent
# Dense bf16 TFLOP/s of the data sheets; the first name that is part of the card's counts.
NOMINAL = {
    "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "B200": 2250, "A100": 312,
    "A40": 149.7,
}  # fmt: skip
MICRO_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32)
JUDGED = 4  # windows; below, a step is temporaries and launches that no plan counts
PLANNED_TIME = 2.0  # a step may take this many times the planned time, or this share of it
PLANNED_MEMORY = 0.1  # the peak may be this share above or below the planned bytes


def nominal_tflops(name: str) -> float | None:
    """Dense bf16 TFLOP/s of a card's data sheet; None for one not known here."""
    return next((rate for part, rate in NOMINAL.items() if part in name), None)


def card(figures: Figures) -> None:
    """What the card is, and what it reaches in the two things that limit a step."""
    device, size = figures.setting.device, 512 if figures.setting.toy else 8192
    figures.add(
        "versions", torch=torch.__version__, python=sys.version.split()[0], **of_card(device)
    )
    tf32 = torch.backends.cuda.matmul.allow_tf32
    for name, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32)):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        figures.measure(
            f"{size}³ product, {name}",
            lambda dtype=dtype: {"tflops": product_rate(device, dtype, size) / 1e12},
        )
    torch.backends.cuda.matmul.allow_tf32 = tf32
    figures.measure("copy", lambda: {"gbytes_per_s": copy_rate(device, size) / 1e9})


def of_card(device: torch.device) -> dict[str, Any]:
    """Name, memory, capability and libraries of a GPU."""
    if device.type != "cuda":
        return {"card": "none: CPU, toy sizes"}
    of = torch.cuda.get_device_properties(device)
    return {
        "card": of.name,
        "memory_gib": of.total_memory / 2**30,
        "capability": f"{of.major}.{of.minor}",
        "multiprocessors": of.multi_processor_count,
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or 0,
        "nominal_tflops": nominal_tflops(of.name),
    }


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes per second read and written by a copy on the device."""
    x = torch.zeros(16 * size * size, device=device)
    y = torch.empty_like(x)
    times = []
    for _ in range(6):
        started = now(device)
        y.copy_(x)
        times.append(now(device) - started)
    return 2 * x.nbytes / min(times)


class Micro:
    """A model with its optimiser, and a micro-step of random windows, forward and backward."""

    def __init__(self, setting: Setting, config: Config):
        self.setting, self.config = setting, config
        torch.manual_seed(0)
        with setting.device:
            self.model = Space(config.model).train()
        optimiser = torch.optim.AdamW(self.model.parameters(), fused=True)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()  # its moments take their memory from the start
        self.optimiser = optimiser

    def draw(self, size: int) -> None:
        """Take other windows: `size` of them, over all species."""
        model, device = self.config.model, self.setting.device
        self.windows = micro_batch_windows(self.config, size)
        generator = torch.Generator(device).manual_seed(1)
        self.codes, self.targets = {}, {}
        for name, count in self.windows.items():
            shape = count, model.target_length, len(model.species[name])
            codes = torch.randint(
                4, (count, model.seq_length), generator=generator, device=device, dtype=torch.uint8
            )
            self.codes[name] = codes
            self.targets[name] = torch.rand(shape, generator=generator, device=device)

    def step(self) -> Tensor:
        """Add gradients; the loss."""
        setting = self.setting
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=not setting.toy):
            output = self.model(self.codes)
            losses = training_losses(output, self.targets, self.config.loss, lambda x: x)
            loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        return loss.detach()

    def plan(self) -> RunPlan:
        """Of exactly this, on this machine."""
        name = str(of_card(self.setting.device).get("card", "")).lower()
        machine = next((m for key, m in MACHINES.items() if key in name), MACHINES["h100"])
        precision = "fp32" if self.setting.toy else "bf16"
        on_gpu = self.setting.device.type == "cuda"
        layout = Layout(1, 0, 1)
        return make_plan(
            self.config, layout, self.windows, precision, on_gpu=on_gpu, machine=machine
        )


def timed(micro: Micro, rate: float, steps: int, as_planned: bool = True) -> dict[str, Any]:
    """Figures of a micro-step: the mean of `steps` after two that are not counted.

    as_planned: whether it is the step that is planned, eager and with dropout, and is held to that.
    """
    device = micro.setting.device
    release_memory()
    micro.step(), micro.step()
    started = now(device)
    for _ in range(steps):
        loss = micro.step()
    given = time.perf_counter() - started  # all work is handed to the device
    seconds = (now(device) - started) / steps
    found = rates(micro, rate, seconds, given / steps) | {"loss": float(loss)}
    judged = as_planned and not micro.setting.toy and sum(micro.windows.values()) >= JUDGED
    return found | (judgement(found) if judged else {})


def rates(micro: Micro, rate: float, seconds: float, host: float) -> dict[str, Any]:
    """Rates of a micro-step, beside what was planned."""
    plan, windows = micro.plan(), sum(micro.windows.values())
    tflops = plan.micro_batch_work.training / seconds / 1e12
    nominal = nominal_tflops(str(of_card(micro.setting.device)["card"]))
    figures = {
        "windows_per_s": windows / seconds,
        "tflops": tflops,
        "mfu_measured": tflops / rate,
        "ms": 1e3 * seconds,
        "host_ms": 1e3 * host,
        "peak_gib": peak_gib(micro.setting.device),
        "planned_gib": plan.total_bytes / 2**30,
        "planned_ms": 1e3 * plan.step.compute,
    }
    return figures | ({} if nominal is None else {"mfu_nominal": tflops / nominal})


def judgement(figures: dict[str, Any]) -> dict[str, str]:
    """`failed` where a step is far from what was planned."""
    time_ratio = figures["ms"] / figures["planned_ms"]
    memory_ratio = figures["peak_gib"] / figures["planned_gib"]
    wrong = []
    if not 1 / PLANNED_TIME <= time_ratio <= PLANNED_TIME:
        wrong.append(f"{time_ratio:.2f} × the planned time")
    if abs(memory_ratio - 1) > PLANNED_MEMORY:
        wrong.append(f"{memory_ratio:.2f} × the planned memory")
    return {"failed": " and ".join(wrong)} if wrong else {}


def card_rate(setting: Setting) -> float:
    """TFLOP/s of a large product in the type that a step computes in."""
    return product_rate(setting.device, setting.dtype, 512 if setting.toy else 8192) / 1e12


def sweep(figures: Figures) -> None:
    """Micro-batches of growing size, at both lengths, until memory is full."""
    setting, rate = figures.setting, card_rate(figures.setting)
    for length in setting.lengths:
        micro = Micro(setting, setting.config(length))
        for size in MICRO_BATCHES[:2] if setting.toy else MICRO_BATCHES:
            micro.draw(size)
            steps = 1 if setting.toy else max(3, 24 // size)
            figures.measure(f"{length} bp × {size}", partial(timed, micro, rate, steps))
            if "out_of_memory" in figures.cases[-1]:
                break
        micro.model.zero_grad()
        figures.measure(f"{length} bp, AdamW step", partial(optimiser_time, micro))
        del micro
        release_memory()


def optimiser_time(micro: Micro) -> dict[str, Any]:
    """Of PyTorch's fused AdamW over all parameters."""
    for parameter in micro.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    micro.optimiser.step()
    started = now(micro.setting.device)
    micro.optimiser.step()
    return {"ms": 1e3 * (now(micro.setting.device) - started)}


def profile(figures: Figures) -> None:
    """Shares of the model's parts, each awaited; then kernels by the time they take."""
    setting = figures.setting
    for length in setting.lengths[:1]:
        micro = Micro(setting, setting.config(length))
        micro.draw(1 if setting.toy else 4)
        micro.step()
        figures.measure(f"{length} bp: kernels", partial(kernels, micro))
        clock = StageClock(micro.model, setting.device)
        micro.step()
        figures.add(f"{length} bp: shares", **clock.shares())


def kernels(micro: Micro) -> dict[str, Any]:
    """The 40 kernels that take most of a step, [name, ms, calls], and how long all take."""
    on_gpu = micro.setting.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as found:
        micro.step()
        now(micro.setting.device)
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda e: -getattr(e, field))
    rows = [[e.key[:120], getattr(e, field) / 1e3, e.count] for e in events]
    for name, ms, calls in rows[:15]:
        print(f"  {ms:9.2f} ms {calls:6d} × {name[:90]}")
    return {
        "ms": sum(row[1] for row in rows),
        "launched": sum(r[2] for r in rows),
        "top": rows[:40],
    }


def engine(figures: Figures) -> None:
    """Whole optimiser steps as the trainer runs them on one GPU: DeepSpeed, clipping, AdamW."""
    from spacescale.parallel.engine import (
        build_engine,
        init_distributed,
        read_deepspeed_config,
        resolve_deepspeed_config,
    )
    from spacescale.parallel.expert_parallel import distribute_experts

    setting, length = figures.setting, figures.setting.lengths[0]
    init_distributed()
    file = FOLDER.parent / "ds_configs" / "8xH100.json"
    settings = read_deepspeed_config(file)
    if setting.toy:
        settings["train_micro_batch_size_per_gpu"] = 2
    settings = resolve_deepspeed_config(settings, str(file), 2)
    micro = Micro(setting, setting.config(length))
    micro.optimiser = None  # DeepSpeed's takes its place
    micro.draw(settings["train_micro_batch_size_per_gpu"])
    distribute_experts(micro.model, ep_size=1)
    micro.model.zero_grad(set_to_none=True)
    running = build_engine(micro.model, micro.config.optim, settings)

    def optimiser_step() -> None:
        for _ in range(settings["gradient_accumulation_steps"]):
            output = running(micro.codes)
            losses = training_losses(output, micro.targets, micro.config.loss, lambda x: x)
            running.backward(torch.stack(list(losses.values())).sum())
            running.step()

    figures.measure(
        f"{length} bp, 8xH100.json on one process",
        lambda: engine_rate(setting, optimiser_step, settings["train_batch_size"]),
    )


def engine_rate(setting: Setting, step: Callable[[], None], windows: int) -> dict[str, Any]:
    """Windows/s of whole steps, and their peak memory."""
    steps = 1 if setting.toy else 4
    release_memory()
    step()
    started = now(setting.device)
    for _ in range(steps):
        step()
    seconds = (now(setting.device) - started) / steps
    return {
        "windows_per_s": windows / seconds,
        "ms": 1e3 * seconds,
        "windows": windows,
        "peak_gib": peak_gib(setting.device),
    }


def compiled(figures: Figures) -> None:
    """Stem, tower stages and blocks compiled one by one, against eager; no dropout, one loss."""
    setting, length = figures.setting, figures.setting.lengths[0]
    rate = card_rate(setting)
    off = [f"model.{name}=0" for name in ("dropout", "attn_dropout", "pos_dropout")]
    micro = Micro(setting, setting.config(length, *off))
    micro.draw(1 if setting.toy else 4)
    steps = 1 if setting.toy else 6
    measured = partial(timed, micro, rate, steps, as_planned=False)
    eager = figures.measure(f"{length} bp, eager", measured)
    parts = {
        "tower": [micro.model.stem, *micro.model.conv_tower],
        "blocks": micro.model.transformer,
    }
    backend = "aot_eager" if setting.toy else "inductor"
    for name, modules in parts.items():
        for module in modules:
            module.compile(backend=backend)
        started = time.perf_counter()

        def work(started: float = started) -> dict[str, Any]:
            micro.step()
            seconds = now(setting.device) - started
            found = measured()
            apart = abs(found["loss"] / eager["loss"] - 1) if eager else 0.0
            if apart > 2e-2:
                found["failed"] = f"the loss differs by {apart:.1e}"
            return found | {"first_step_s": seconds, "apart": apart}

        figures.measure(f"{length} bp, {name} compiled too", work)


def released(figures: Figures, reference: Path | None) -> None:
    """One human and one mouse window: the released code in fp32, as published, and ours in bf16.

    Under autocast the released code does not run: it adds rows of one type to another's.
    """
    setting = figures.setting
    if reference is None:
        figures.add("not run", skipped="no --reference")
        return
    found = {}
    for length in setting.lengths[:1] if setting.toy else setting.lengths:
        for name, precision in (("released", "fp32"), ("ours", "bf16")):
            case = f"{length} bp, {name}, {precision}"
            run = partial(alone, setting, reference, name, precision, length)
            found[name] = figures.measure(case, run)
        if found["released"] and found["ours"]:
            ratio = found["ours"]["windows_per_s"] / found["released"]["windows_per_s"]
            figures.add(f"{length} bp, ours in bf16 to released in fp32", times=ratio)


def alone(
    setting: Setting, reference: Path, name: str, precision: str, length: int
) -> dict[str, Any]:
    """One implementation in a process of its own (model_step.py)."""
    preset, threads = ("space_tiny", "2") if setting.toy else ("space_large", "8")
    command = [
        sys.executable, str(FOLDER / "model_step.py"), "--only", name, "--precision", precision,
        "--device", setting.device.type, "--preset", preset, "--length", str(length),
        "--threads", threads, "--reference", str(reference),
        "--warmup", "0" if setting.toy else "2", "--steps", "1" if setting.toy else "3",
    ]  # fmt: skip
    left = max(10.0, setting.deadline - time.monotonic())
    done = subprocess.run(command, capture_output=True, text=True, timeout=left)
    if done.returncode:
        tail = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{name} ended with {done.returncode}: {tail}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"windows_per_s": 2 / found["seconds"]} | found


PARTS = {
    "card": card, "sweep": sweep, "profile": profile, "engine": engine, "compiled": compiled,
    "released": released,
}  # fmt: skip

if __name__ == "__main__":
    run_part(__doc__, PARTS)
