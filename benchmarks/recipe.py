"""Train a recipe and variants of it on data sets, with several seeds, and say what each is worth.

    python benchmarks/recipe.py --data datasets/human --out /tmp/recipe --seeds 3 \\
        --vary loss.track_scale=mean model.pool_sharpness=2 -- optim.max_steps=3000

Each run is `deepspeed spacescale/pretrain.py` and `spacescale evaluate --both-strands` (with --cnn
also against a plain CNN of the same seed), as a user would give them; what follows `--` goes to
every run. A variant changes the recipe by one override each (several joined by commas). Runs that
are done are not made again, so that a stopped benchmark goes on. --core-each makes as many runs at
once as there are cores, each in one process on one core. Prints per species and assay the
mean over seeds of Pearson log1p on the test split and its standard deviation, the best baseline,
and the difference with its interval (mean of the seeds' 95 % intervals); writes results.json.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from spacescale.console import aligned
from spacescale.files import read_json, write_json
from spacescale.parallel.comm import free_port

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Run:
    """One training of a variant with one seed."""

    variant: str
    seed: int
    folder: Path
    overrides: list[str]


def train_and_evaluate(args: argparse.Namespace, run: Run, core: int | None) -> None:
    """Train, then score the best checkpoint on the test split; what was done before is kept.

    core: the one to use; None for all, with `args.processes` processes.
    """
    took, scores = run.folder / "seconds.json", scores_of(run)
    if not took.is_file():
        processes = args.processes if core is None else 1
        began = time.time()
        command = [str(BIN / "deepspeed"), "--num_gpus", str(processes)]
        command += ["--master_port", str(free_port()), "spacescale/pretrain.py"]
        command += ["--deepspeed", "ds_configs/zero2_moe.json", "--preset", args.preset]
        command += ["--data", *map(str, args.data), "--output", str(run.folder)]
        call([*command, "--resume", "auto", *run.overrides], core, run.folder)
        write_json(took, {"seconds": time.time() - began})
    if not scores.is_file():
        command = [str(BIN / "spacescale"), "evaluate", str(run.folder), "--both-strands"]
        if args.cnn:
            command += ["--baseline", "cnn", "--baseline-seed", str(run.seed)]
        call(command, core, run.folder)


def scores_of(run: Run) -> Path:
    """Where `spacescale evaluate` leaves its figures."""
    return run.folder / "evaluation" / "test" / "metrics.json"


def call(command: list[str], core: int | None, folder: Path) -> None:
    """Run a command on a core, its output in FOLDER.log."""
    command = command if core is None else ["taskset", "-c", str(core), *command]
    log = folder.with_suffix(".log")
    with log.open("a") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}; see {log}")


def do_all(args: argparse.Namespace, runs: list[Run]) -> None:
    """One run after another, or as many at once as there are cores."""
    if not args.core_each:
        for run in runs:
            train_and_evaluate(args, run, None)
        return
    free = queue.SimpleQueue[int]()
    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        free.put(core)

    def on_a_core(run: Run) -> None:
        core = free.get()
        train_and_evaluate(args, run, core)
        free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        for _ in pool.map(on_a_core, runs):
            pass


def table(rows: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """One line for each species and assay, over the seeds."""
    lines = [("species", "assay", "Pearson log1p", "best baseline", "", "difference", "interval")]
    for (species, assay), seeds in rows.items():
        values = [row["pearson_log1p"] for row in seeds]
        baselines = {
            name: [row["baselines"][name] for row in seeds] for name in seeds[0]["baselines"]
        }
        worth = {name: mean(part["value"] for part in of) for name, of in baselines.items()}
        best = max(worth, key=worth.__getitem__)
        beside = baselines[best]
        low, high = (mean(part["interval"][end] for part in beside) for end in (0, 1))
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        lines.append(
            (
                species,
                assay,
                f"{mean(values):.3f}{spread}",
                best,
                f"{worth[best]:.3f}",
                f"{mean(part['difference'] for part in beside):+.3f}",
                f"[{low:+.3f}, {high:+.3f}]",
            )
        )
    return list(aligned(lines, left=(0, 1, 3)))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Train a recipe and variants, with several seeds.")
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="space_tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--core-each", action="store_true", help="runs beside each other")
    parser.add_argument("--cnn", action="store_true")
    parser.add_argument("--vary", nargs="*", default=[], metavar="OVERRIDE[,OVERRIDE…]")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    args.data, args.out = [path.resolve() for path in args.data], args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(args.seeds):
        for variant in ["", *args.vary]:
            name = "".join(c if c.isalnum() or c in "._=-" else "_" for c in variant) or "recipe"
            changed = [*args.overrides, *filter(None, variant.split(",")), f"run.seed={seed}"]
            runs.append(Run(variant or "recipe", seed, args.out / f"{name}-seed{seed}", changed))
    do_all(args, runs)
    results = {}
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [run for run in runs if run.variant == variant]
        seconds = [read_json(run.folder / "seconds.json")["seconds"] for run in own]
        rows = defaultdict(list)
        for row in (row for run in own for row in read_json(scores_of(run))["assays"]):
            rows[row["species"], row["assay"]].append(row)
        print(f"\n{variant}: {len(own)} seeds, {mean(seconds) / 60:.1f} minutes of training each")
        print("\n".join(table(rows)), flush=True)
        results[variant] = {"seconds": seconds, "rows": [r for part in rows.values() for r in part]}
    write_json(args.out / "results.json", results, indent=1)


if __name__ == "__main__":
    main()
