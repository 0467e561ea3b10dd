"""Train a recipe and variants of it on data sets, with several seeds, and say what each is worth.

    python benchmarks/recipe.py --data datasets/human --out /tmp/recipe --seeds 3 \\
        --vary loss.track_scale=mean model.pool_sharpness=2 -- optim.max_steps=3000

Each run is `deepspeed spacescale/pretrain.py` and `spacescale evaluate` (with --cnn also against a
plain CNN, of the first seed's runs alone), as a user would give them; what follows `--` goes to
every run. A variant changes the recipe by one override each (several joined by commas). Runs that
are DONE are not made again, so that a stopped benchmark goes on. Prints per species and assay the
mean over seeds of Pearson log1p on the test split and its standard deviation, the best baseline,
and the difference with its interval (mean of the seeds' 95 % intervals); writes results.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from spacescale.console import aligned
from spacescale.files import write_json
from spacescale.parallel.comm import free_port

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def train(args: argparse.Namespace, run: Path, overrides: list[str]) -> float:
    """Train and evaluate once, or read what was found before; seconds of the training."""
    took = run / "seconds.json"
    if not took.is_file():
        began = time.time()
        command = [str(BIN / "deepspeed"), "--num_gpus", str(args.processes)]
        command += ["--master_port", str(free_port()), "spacescale/pretrain.py"]
        command += ["--deepspeed", "ds_configs/zero2_moe.json", "--preset", args.preset]
        command += ["--data", *map(str, args.data), "--output", str(run), "--resume", "auto"]
        _run([*command, *overrides], run.with_suffix(".log"))
        write_json(took, time.time() - began)
    return json.loads(took.read_text())


def evaluate(run: Path, cnn: bool) -> list[dict[str, Any]]:
    """Rows of every species and assay of the run's best checkpoint, on the test split."""
    found = run / "evaluation" / "test" / "metrics.json"
    if not found.is_file():
        baseline = ["--baseline", "cnn"] if cnn else []
        _run([str(BIN / "spacescale"), "evaluate", str(run), *baseline], run.with_suffix(".log"))
    return json.loads(found.read_text())["assays"]


def _run(command: list[str], log: Path) -> None:
    with log.open("a") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}; see {log}")


def table(rows: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """One line for each species and assay, over the seeds."""
    lines = [("species", "assay", "Pearson log1p", "best baseline", "", "difference", "interval")]
    for (species, assay), seeds in rows.items():
        values = [row["pearson_log1p"] for row in seeds]
        baselines = seeds[0]["baselines"]
        best = max(baselines, key=lambda name: baselines[name]["value"])
        beside = [row["baselines"].get(best) for row in seeds]
        beside = [part for part in beside if part is not None]
        low, high = (mean(part["interval"][end] for part in beside) for end in (0, 1))
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        lines.append(
            (
                species,
                assay,
                f"{mean(values):.3f}{spread}",
                best,
                f"{baselines[best]['value']:.3f}",
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
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cnn", action="store_true")
    parser.add_argument("--vary", nargs="*", default=[], metavar="OVERRIDE[,OVERRIDE…]")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    args.data, args.out = [path.resolve() for path in args.data], args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for variant in ["", *args.vary]:
        rows, seconds = defaultdict(list), []
        for seed in range(args.seeds):
            name = "".join(c if c.isalnum() or c in "._=-" else "_" for c in variant) or "recipe"
            run = args.out / f"{name}-seed{seed}"
            changed = [*args.overrides, *filter(None, variant.split(",")), f"run.seed={seed}"]
            seconds.append(train(args, run, changed))
            for row in evaluate(run, args.cnn and seed == 0):
                rows[row["species"], row["assay"]].append(row)
        title = variant or "recipe"
        print(f"\n{title}: {args.seeds} seeds, {mean(seconds) / 60:.1f} minutes of training each")
        print("\n".join(table(rows)), flush=True)
        results[title] = {"seconds": seconds, "rows": [r for part in rows.values() for r in part]}
    write_json(args.out / "results.json", results, indent=1)


if __name__ == "__main__":
    main()
