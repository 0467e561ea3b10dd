"""Everything that a GPU is to answer, in one call: the gpu tests, then figures. See README.md.

    benchmarks/gpu.sh [--out DIR] [--reference DIR] [--seconds N] [--only PART ...]

Each part is a process of its own with a time limit; one that fails or runs out of time is said so,
and the next begins. What matters most comes first, and DIR/gpu.json and DIR/gpu.md hold all figures
so far after every part. Without a card the parts run at toy sizes on the CPU, where forms are
compared. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_measure import shown

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
GRACE_S = 5.0  # between the last case's start and the end of a part's time, for it to finish


@dataclass(frozen=True)
class Part:
    """A command that writes cases to a file, and the seconds it may take."""

    name: str
    script: str
    seconds: float


TESTS = ("layers", "model", "training", "compiled")  # tests/gpu/test_gpu_….py, in this order
PYTEST = ("-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider")
CPU_PATIENCE = 5  # times as long as a card's parts the toy sizes may take

# In order of value: what comes late is what a shorter call loses.
PARTS = (
    Part("card", "gpu_steps.py", 40),
    Part("sweep", "gpu_steps.py", 90),
    Part("tests", "", 170),
    Part("released", "gpu_steps.py", 120),
    Part("profile", "gpu_steps.py", 40),
    Part("convolutions", "gpu_convolutions.py", 45),
    Part("attention", "gpu_layers.py", 50),
    Part("experts", "gpu_layers.py", 25),
    Part("moments", "gpu_layers.py", 20),
    Part("engine", "gpu_steps.py", 45),
    Part("loader", "gpu_loader.py", 60),
    Part("compiled", "gpu_steps.py", 100),
    Part("stages", "gpu_convolutions.py", 100),
)


def main() -> int:
    """Run the parts and print the table; the exit status."""
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    patience = 1 if torch.cuda.is_available() else CPU_PATIENCE
    deadline = time.monotonic() + patience * args.seconds
    report = Report(args.out)
    for part in PARTS:
        if part.name not in args.only:
            continue
        left = deadline - time.monotonic()
        if left < 2 * GRACE_S:
            report.add(part, [], "skipped: no time left", 0.0)
            continue
        print(f"\n── {part.name}", flush=True)
        started = time.monotonic()
        cases, state = run(part, min(patience * part.seconds, left), args)
        report.add(part, cases, state, time.monotonic() - started)
    print(f"\n{report.table()}")
    return int(report.failed)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__.split("\n")[0])
    out = Path(os.environ.get("OUT") or ROOT / "runs" / "gpu")
    parser.add_argument("--out", type=Path, default=out, help="folder of the results; $OUT if set")
    parser.add_argument("--reference", type=Path, help="checkout of the released code")
    parser.add_argument("--seconds", type=float, default=515, help="for everything (%(default)s)")
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    return parser.parse_args()


def run(part: Part, seconds: float, args: argparse.Namespace) -> tuple[list[dict], str]:
    """Run a part: its cases, and how it ended, "ok" or what went wrong."""
    found = args.out / f".{part.name}"
    found.unlink(missing_ok=True)
    process = subprocess.Popen(
        command_of(part, found, seconds - GRACE_S, args),
        cwd=ROOT,
        start_new_session=True,
        env=environment() | {"GPU_TESTS_JSON": str(found)},
    )
    try:
        status = process.wait(seconds)
        state = "ok" if status == 0 else f"failed: ended with {status}"
    except subprocess.TimeoutExpired:
        state = f"failed: not done after {seconds:.0f} s"
    finally:  # also when this process is interrupted
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    try:
        cases = json.loads(found.read_text())
    except (OSError, ValueError):
        cases = []
    found.unlink(missing_ok=True)
    return cases, state


def command_of(part: Part, found: Path, seconds: float, args: argparse.Namespace) -> list[str]:
    """A part's command line."""
    if part.name == "tests":
        files = [f"tests/gpu/test_gpu_{name}.py" for name in TESTS]
        return [
            sys.executable,
            *PYTEST,
            *files,
        ]
    command = [sys.executable, str(FOLDER / part.script), part.name]
    command += [f"--json={found}", f"--seconds={seconds}"]
    if args.reference:
        command.append(f"--reference={args.reference.resolve()}")
    return command


def environment() -> dict[str, str]:
    """Of a part: its output not held back, no plugin of this Python's in its pytest, and the CPU
    where there is no card.
    """
    on_cpu = {} if torch.cuda.is_available() else {"GPU_TESTS_ON_CPU": "1", "DS_ACCELERATOR": "cpu"}
    settings = {"PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return os.environ | settings | on_cpu


class Report:
    """All parts' cases, in gpu.json and as a table in gpu.md, written after each part."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.parts: dict[str, dict[str, Any]] = {}

    def add(self, part: Part, cases: list[dict], state: str, seconds: float) -> None:
        """Keep a part's result."""
        self.parts[part.name] = {"state": state, "seconds": round(seconds, 1), "cases": cases}
        (self.folder / "gpu.json").write_text(json.dumps(self.parts, indent=1) + "\n")
        (self.folder / "gpu.md").write_text(self.table() + "\n")

    @property
    def failed(self) -> bool:
        """Whether any part or case did."""
        return any(part["state"].startswith("failed") for part in self.parts.values())

    def table(self) -> str:
        """A row per case, and one per part that says how it ended."""
        rows = [("part", "case", "figures"), ("---", "---", "---")]
        for name, part in self.parts.items():
            for case in part["cases"]:
                figures = {key: value for key, value in case.items() if key != "case"}
                rows.append((name, case["case"], shown(figures)))
            rows.append((name, "**all**", f"{part['state']}, {part['seconds']} s"))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
