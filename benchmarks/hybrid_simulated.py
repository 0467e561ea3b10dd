"""Do hidden bases beside profiles mend variant effects? Simulated genomes, whose truth is known.

    python benchmarks/hybrid_simulated.py train   --out simulated --seeds 0 1 2   # what is not done
    python benchmarks/hybrid_simulated.py measure --out simulated
    python benchmarks/hybrid_simulated.py table   --out simulated

All arms take as many steps of `space_demo` on the embedded data; each is a run of
`spacescale/pretrain.py` in OUT/ARM-SEED, and a stopped one goes on. Variants break planted motifs,
or lie beside them and break nothing (`spacescale.testing.planted_motifs`); how well their effects
are told is Pearson's r with the true ones, the mean over species. The demo's 1,600 steps leave
nothing to mend (r 0.96 to 1.00), so the default is fewer. Runs of one seed begin with the same
trunk and read the same windows, so differences are taken seed by seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from scipy import stats
from scripts import pretrain

from spacescale.files import write_json
from spacescale.metrics.writer import METRICS_FILE, read_metrics
from spacescale.parallel.run_folder import DONE
from spacescale.predict.predictor import Predictor
from spacescale.predict.trained_model import load_trained
from spacescale.testing.planted_motifs import found_by_variants

Runs = Mapping[int, Mapping[str, float]]  # of an arm, by seed
JOINT = ["objective=profiles+bases", "bases.schedule=joint"]
ARMS = {
    "profiles": [],
    "joint": JOINT,
    "joint_shuffled": [*JOINT, "bases.shuffle_labels=true"],
    "first+joint": ["objective=profiles+bases", "bases.schedule=first+joint"],
}
PLAIN, CONTROL = "profiles", "joint_shuffled"
COPIES = 8  # of every motif, on either strand, that a variant breaks
LOGGED = {"pearson": "valid/pearson_log1p", "perplexity": "valid/bases/perplexity"}
NAMES = {
    "effects": "effects of variants, r",
    "pearson": "valid Pearson",
    "perplexity": "perplexity",
}


def train(args: argparse.Namespace) -> None:
    """Every arm and seed, one after the other."""
    for seed in args.seeds:
        for arm in args.arms:
            pretrain(
                args.out / f"{arm}-{seed}", args.steps,
                "--deepspeed", "ds_configs/zero2_moe.json", "--preset", "space_demo",
                f"run.seed={seed}", f"optim.warmup_steps={min(100, args.steps // 4)}",
                f"run.valid_every={args.steps}", f"run.save_every={args.steps}",
                *ARMS[arm], *args.overrides,
            )  # fmt: skip


def measure_runs(out: Path) -> None:
    """measures.json of every run that is done and has none."""
    for run in sorted(path for arm in ARMS for path in out.glob(f"{arm}-[0-9]*")):
        file = run / "measures.json"
        if not (run / DONE).exists():
            print(f"{run.name}: not trained to its end")
            continue
        found = json.loads(file.read_text()) if file.exists() else {}
        if found.get("steps") != (steps := steps_of(run)):
            found = {"steps": steps, **measure(run)}
            write_json(file, found, indent=1)
        print(run.name, found, flush=True)


def steps_of(run: Path) -> int:
    """Steps that a run has taken."""
    return max(row["step"] for row in read_metrics(run / METRICS_FILE))


def measure(run: Path) -> dict[str, float]:
    """Effects of variants, by species and in the mean, and what the last validation says."""
    trained, found = load_trained(run), {}
    for species in trained.model.species:
        predictor = Predictor(trained, species, batch_size=16)
        with tempfile.TemporaryDirectory() as folder:
            found[species] = found_by_variants(predictor, Path(folder), COPIES).effect
    found["effects"] = mean(found.values())
    rows = read_metrics(run / METRICS_FILE)
    for name, logged in LOGGED.items():
        if values := [row[logged] for row in rows if logged in row]:
            found[name] = values[-1]
    return found


def table(out: Path) -> list[str]:
    """Means over seeds and their standard deviations; differences of effects to two other arms.

    Raises SystemExit where runs are of different length.
    """
    of_arm = {arm: _measured(out, arm) for arm in ARMS}
    steps = {one["steps"] for found in of_arm.values() for one in found.values()}
    if len(steps) > 1:
        raise SystemExit(f"error: {out}: runs of {' and '.join(map(str, sorted(steps)))} steps")
    rivals = (PLAIN, CONTROL)
    columns = [*NAMES.values(), *(f"effects, less {rival}" for rival in rivals)]
    lines = ["| arm | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for arm, found in of_arm.items():
        if found:
            runs = found.values()
            cells = [_cell([one[name] for one in runs if name in one]) for name in NAMES]
            cells += [_less(found, of_arm[rival]) if arm != rival else "–" for rival in rivals]
            lines.append(f"| {arm} | {len(found)} | {' | '.join(cells)} |")
    return lines


def _measured(out: Path, arm: str) -> dict[int, dict[str, float]]:
    """What was measured of an arm, by seed."""
    files = out.glob(f"{arm}-[0-9]*/measures.json")
    found = {int(f.parent.name.rpartition("-")[2]): json.loads(f.read_text()) for f in files}
    return dict(sorted(found.items()))


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def _less(mine: Runs, others: Runs) -> str:
    """How far the effects of an arm are above, seed by seed, with Student's 95 % interval."""
    seeds = [seed for seed in mine if seed in others]
    if not seeds:
        return "–"
    less = np.array([mine[seed]["effects"] - others[seed]["effects"] for seed in seeds])
    if len(seeds) < 2:
        return f"{less.mean():+.3f}"
    low, high = stats.t.interval(0.95, len(less) - 1, less.mean(), stats.sem(less))
    return f"{less.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("train", "measure", "table"))
    parser.add_argument("--out", type=Path, required=True, help="folder of runs")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("overrides", nargs="*", help="section.field=value of all arms")
    args = parser.parse_intermixed_args()
    args.out = args.out.resolve()
    if args.action == "train":
        train(args)
    elif args.action == "measure":
        measure_runs(args.out)
    else:
        print("\n".join(table(args.out)))


if __name__ == "__main__":
    main()
