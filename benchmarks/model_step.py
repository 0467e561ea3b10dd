"""Time and memory of one training step: ours, the plain statement, and the released code.

    python benchmarks/model_step.py --reference PATH --json results.json

Every measurement is a process of its own, and the implementations take turns, so that what else
the machine does falls on all alike. All have the same weights and windows, the released forms of
the losses, no dropout, and must arrive at the same loss.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plain_space import make_plain, one_species_at_a_time
from stages import StageClock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spacescale.config import Config, LossConfig
from spacescale.genome.released_grouping import released_grouping
from spacescale.model.layers import one_hot
from spacescale.model.losses import training_losses
from spacescale.model.space import Space
from spacescale.overrides import build_config
from spacescale.parallel.comm import share_cores
from spacescale.presets import RELEASED
from spacescale.space_config import ModelConfig

LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # relative


def main() -> None:
    """Run the implementations in turns, or, with --only, one of them here."""
    args = parse_arguments()
    if args.only:
        print(json.dumps(measure(args)))
        return
    names = ["ours", "plain"] + ["released"] * bool(args.reference)
    names = [name for name in names if name not in args.skip]
    runs: dict[str, list[dict]] = defaultdict(list)
    for _ in range(args.repeats):
        for name in names:
            runs[name].append(run_alone(name))
            print(name, json.dumps(runs[name][-1]), file=sys.stderr, flush=True)
    summary = summarise(runs, args)
    print(json.dumps(summary, indent=2))
    if args.json:
        args.json.write_text(json.dumps(summary, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Command line of the benchmark; one process per measurement receives the same."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="space_small")
    parser.add_argument("--windows", default="human=1,mouse=1")
    parser.add_argument("--length", type=int, default=131_072, help="bp per window")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=0, help="steps before those measured")
    parser.add_argument("--steps", type=int, default=1, help="steps measured per process")
    parser.add_argument("--repeats", type=int, default=2, help="processes per implementation")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours")
    parser.add_argument("--keep-memory", action="store_true", help="allocator as in training")
    parser.add_argument("--reference", type=Path, help="checkout of the released code")
    parser.add_argument("--skip", nargs="*", default=[], choices=["ours", "plain", "released"])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--only", choices=["ours", "plain", "released"], help=argparse.SUPPRESS)
    return parser.parse_args()


def run_alone(name: str) -> dict[str, Any]:
    """One implementation in a fresh process: its peak memory is its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Build, step, and report seconds, memory, loss and the stages' shares."""
    torch.set_num_threads(args.threads)
    if args.keep_memory:
        share_cores()
    config = configuration(args)
    device = torch.device(args.device)
    torch.manual_seed(0)
    model, step = IMPLEMENTATIONS[args.only](args, config, device)
    clock = StageClock(model, device) if device.type == "cpu" else None
    before = start_memory(device)
    for _ in range(args.warmup):
        step()
    wall, cpu = [], []
    for _ in range(args.steps):
        started, cpu_started = now(device), time.process_time()
        loss = step()
        wall.append(now(device) - started)
        cpu.append(time.process_time() - cpu_started)
    peak = peak_memory(device)
    if clock is None:  # waiting for a GPU at every stage would slow the steps that are timed
        clock = StageClock(model, device)
        step()
    found = {
        "seconds": min(wall),
        "cpu_seconds": min(cpu),
        "loss": loss,
        "shares": clock.shares(),
        "peak_gib": peak / 2**30,
        "before_step_gib": before / 2**30,
    }
    if device.type == "cuda":
        found |= utilisation(model, found["seconds"], args, config, device)
    return found


def configuration(args: argparse.Namespace) -> Config:
    """The preset at this length, with the released conventions and tracks, without dropout."""
    config = build_config(args.preset, [])
    bins = args.length // config.model.bin_size
    changes = {
        **RELEASED["model"],
        "seq_length": args.length,
        "target_length": min(896, bins * 7 // 8),
        "species": {name: released_grouping(name) for name in windows_of(args)},
        "dropout": 0.0,
        "attn_dropout": 0.0,
        "pos_dropout": 0.0,
    }
    model = ModelConfig.model_validate(config.model.model_dump() | changes)
    return Config(preset=args.preset, model=model, loss=LossConfig(**RELEASED["loss"]))


def windows_of(args: argparse.Namespace) -> dict[str, int]:
    """Species name → windows per step."""
    pairs = (item.split("=") for item in args.windows.split(","))
    return {name: int(count) for name, count in pairs}


def fresh_model(config: Config, device: torch.device) -> Space:
    """In training mode; attention, whose output starts at zero, is made to count."""
    with device:
        model = Space(config.model).train()
    for block in model.transformer:
        nn.init.normal_(block.attention.to_out.weight, std=0.01)
    return model


def inputs_of(args: argparse.Namespace, config: Config, device: torch.device):
    """Random windows and targets per species, the same for every implementation."""
    generator = torch.Generator().manual_seed(1)
    codes, targets = {}, {}
    for name, count in windows_of(args).items():
        shape = (count, config.model.target_length, len(config.model.species[name]))
        codes[name] = torch.randint(0, 4, (count, args.length), generator=generator).byte()
        targets[name] = torch.rand(shape, generator=generator)
    return [{n: t.to(device) for n, t in group.items()} for group in (codes, targets)]


def make_step(
    model: nn.Module, loss_of: Callable[[], Tensor], args: argparse.Namespace
) -> Callable[[], float]:
    """Forward and backward of one micro-step, in the precision asked for."""

    def step() -> float:
        model.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = loss_of()
        loss.backward()
        return float(loss.detach())

    return step


def ours(args: argparse.Namespace, config: Config, device: torch.device):
    """The package's model: all species in one pass."""
    model = fresh_model(config, device)
    codes, targets = inputs_of(args, config, device)
    forward = torch.compile(model) if args.compile else model

    def loss_of() -> Tensor:
        losses = training_losses(forward(codes), targets, config.loss, lambda x: x)
        return torch.stack(list(losses.values())).sum()

    return model, make_step(model, loss_of, args)


def plain(args: argparse.Namespace, config: Config, device: torch.device):
    """The same model stated plainly (plain_space.py)."""
    model = make_plain(fresh_model(config, device))
    codes, targets = inputs_of(args, config, device)

    def loss_of() -> Tensor:
        output = one_species_at_a_time(model, codes)
        losses = training_losses(output, targets, config.loss, lambda x: x)
        return torch.stack(list(losses.values())).sum()

    return model, make_step(model, loss_of, args)


def released(args: argparse.Namespace, config: Config, device: torch.device):
    """The released code with our weights (released_space.py)."""
    from released_space import released_model

    weights = fresh_model(config, device).state_dict()
    model = released_model(args.reference, config.model, config.loss, weights).train().to(device)
    del weights
    codes, targets = inputs_of(args, config, device)
    x = {name: one_hot(c, torch.float32).transpose(1, 2) for name, c in codes.items()}

    def loss_of() -> Tensor:
        return model(x["human"], x["mouse"], targets["human"], targets["mouse"])["loss"]["total"]

    return model, make_step(model, loss_of, args)


IMPLEMENTATIONS = {"ours": ours, "plain": plain, "released": released}


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def start_memory(device: torch.device) -> int:
    """Bytes held before the first step; the peak is counted from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    return _status_bytes("VmRSS")


def peak_memory(device: torch.device) -> int:
    """Largest number of bytes held since `start_memory`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def utilisation(
    model: nn.Module, seconds: float, args: argparse.Namespace, config: Config, device: torch.device
) -> dict[str, float]:
    """Windows/s, and model FLOP/s (three times the plain forward's) against a matrix product's."""
    windows = sum(windows_of(args).values())
    found = {"windows_per_s": windows / seconds}
    if args.only == "released":
        return found
    plain_model = make_plain(fresh_model(config, device))
    codes, _ = inputs_of(args, config, device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        one_species_at_a_time(plain_model, codes)
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    peak = product_rate(device, dtype)
    return found | {
        "mfu": 3 * counter.get_total_flops() / seconds / peak,
        "product_tflops": peak / 1e12,
    }


def product_rate(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """FLOP/s of a large matrix product, the best of several."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    times = []
    for _ in range(10):
        started = now(device)
        torch.mm(a, b)
        times.append(now(device) - started)
    return 2 * size**3 / min(times)


def summarise(runs: dict[str, list[dict]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians and minima per implementation, ratios to ours, and whether the losses agree."""
    found: dict[str, Any] = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()
                     if k not in ("json", "only", "reference")},
        "torch": torch.__version__,
    }  # fmt: skip
    for name, many in runs.items():
        numbers = [key for key, value in many[0].items() if isinstance(value, float)]
        found[name] = {
            "median": {key: statistics.median(run[key] for run in many) for key in numbers},
            "best": {key: min(run[key] for run in many) for key in numbers},
            "shares": min(many, key=lambda run: run["seconds"])["shares"],
        }
        found[name]["median"]["step_gib"] = statistics.median(
            run["peak_gib"] - run["before_step_gib"] for run in many
        )
    for name in set(runs) - {"ours"} if "ours" in runs else ():
        found[f"ours_to_{name}"] = {
            key: found["ours"]["median"][key] / found[name]["median"][key]
            for key in ("seconds", "cpu_seconds", "peak_gib", "step_gib")
        }
    losses = [run["loss"] for many in runs.values() for run in many]
    spread = (max(losses) - min(losses)) / abs(losses[0])
    found["loss_spread"] = spread
    if spread > LOSS_TOLERANCE[args.precision]:
        raise SystemExit(f"the losses differ by {spread:.1e}: {json.dumps(found, indent=2)}")
    return found


if __name__ == "__main__":
    main()
