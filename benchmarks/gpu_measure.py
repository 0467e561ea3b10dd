"""What the parts of benchmarks/gpu.py share: settings, timing, and figures kept as they come."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacescale.config import Config
from spacescale.overrides import build_config
from spacescale.planning.species import with_species
from spacescale.testing.made_up_data import ASSAYS

TOLERANCE = {torch.bfloat16: 5e-2, torch.float32: 2e-3}  # of the norm; fp32 may be TF32


@dataclass(frozen=True)
class Setting:
    """Where a part runs and how large its shapes are."""

    device: torch.device
    toy: bool  # shapes that a CPU computes in seconds
    deadline: float  # time.monotonic() after which no further case begins

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        return torch.float32 if self.toy else torch.bfloat16

    @property
    def lengths(self) -> tuple[int, int]:
        """Windows' lengths in bp: the paper's large model's, and that of the Basenji windows."""
        return (16_384, 8_192) if self.toy else (196_608, 131_072)

    def config(self, length: int, *overrides: str) -> Config:
        """`space_large` on the published tracks, or a tiny model on few."""
        changes = [f"model.seq_length={length}", *overrides]
        if not self.toy:
            return with_species(build_config("space_large", changes), [])
        values = build_config("space_tiny", [*changes, "model.target_length=48"]).model_dump()
        values["model"]["species"] = {"human": ASSAYS * 8, "mouse": ASSAYS * 4}
        return Config.model_validate(values)


class Figures:
    """The cases of a part; written after each, so that what is cut off keeps what it had."""

    def __init__(self, path: Path, setting: Setting):
        self.path, self.setting = path, setting
        self.cases: list[dict[str, Any]] = []

    def add(self, case: str, **figures: Any) -> None:
        """Keep and show the figures of a case. `failed`, if given, says what is wrong with it."""
        self.cases.append({"case": case, **figures})
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.cases, indent=1) + "\n")
        partial.replace(self.path)
        print(f"{case}: {shown(figures)}", flush=True)

    def measure(self, case: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Run a case and keep its figures; a failure is kept too, and the next case can run."""
        if time.monotonic() > self.setting.deadline:
            self.add(case, skipped="no time left")
            return None
        try:
            figures = work()
        except torch.OutOfMemoryError:
            figures = {"out_of_memory": True}
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            figures = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        self.add(case, **figures)
        release_memory()
        return None if figures.keys() & {"failed", "out_of_memory"} else figures


def shown(figures: dict[str, Any]) -> str:
    """Figures in a line: three digits, nothing that is a list or a table."""
    cells = []
    for name, value in figures.items():
        if isinstance(value, float):
            value = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        if isinstance(value, str | int):
            cells.append(f"{name} {value}")
    return ", ".join(cells)


def run_part(description: str, parts: dict[str, Callable[..., None]]) -> None:
    """Command line of a file of parts: PART --json PATH; exits with 1 if a case failed."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("part", choices=parts)
    parser.add_argument("--json", type=Path, required=True, help="write the figures here")
    parser.add_argument("--seconds", type=float, default=600, help="begin no case after these")
    parser.add_argument("--reference", type=Path, help="checkout of the released code")
    args = parser.parse_args()
    toy = not torch.cuda.is_available()
    device = torch.device("cpu" if toy else "cuda")
    figures = Figures(args.json, Setting(device, toy, time.monotonic() + args.seconds))
    given = (args.reference,) if args.part == "released" else ()
    parts[args.part](figures, *given)
    sys.exit(any("failed" in case for case in figures.cases))


def release_memory() -> None:
    """Forget what earlier cases left, and count the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def milliseconds(work: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Median time of a call, after two that are not counted; on a CPU of one."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - started)
    work(), work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in pairwise(marks))


def peak_gib(device: torch.device) -> float:
    """Most memory allocated since `release_memory`; nothing is known of a CPU's."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest norm of a difference of two lists of tensors, each as a share of the tensor's."""
    return max(
        float((f.float() - e.float()).norm() / e.float().norm().clamp(min=1e-30))
        for f, e in zip(found, expected, strict=True)
    )


def agreement(
    found: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype
) -> dict[str, Any]:
    """Figures: how far two forms are apart, and `failed` where it is further than rounding."""
    apart = difference(found, expected)
    within = apart <= TOLERANCE[dtype]
    return {"apart": apart} | ({} if within else {"failed": f"differs by {apart:.1e}"})
