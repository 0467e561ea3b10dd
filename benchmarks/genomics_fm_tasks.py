"""Two vocabularies or one, and the chosen one or the other: encoders of `genomics_fm.py` on tasks.

    python benchmarks/genomics_fm.py train --out gfm --arms both bpe kmer --seeds 0 1 2 3 4
    python benchmarks/genomics_fm_tasks.py tune  GUE/tf/0 GUE/tf/1 --runs gfm --out gfm/tasks
    python benchmarks/genomics_fm_tasks.py table GUE/tf/0 GUE/tf/1 --runs gfm --out gfm/tasks

Every pretraining is tuned once, encoders of both vocabularies once with each, and seeds are those
of pretraining: what intervals are over, of one fine-tuning each and one set of test sequences.
--fraction takes a share of the training labels, the same of all.

How many labels it takes tells `spacescale suite GUE --weights gfm/both-0 --tasks 'tf_*'
'prom_core_*' --fractions 1,3,10,30,100`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from genomics_fm import OTHER
from scipy import stats
from scripts import run_script

from spacescale.parallel.run_folder import DONE
from spacescale.predict.trained_encoder import load_trained_encoder
from spacescale.tasks.read_task import read_task
from spacescale.tokens.vocabulary import NAMES, Name, Vocabulary
from spacescale.tuning.fractions import WHOLE
from spacescale.tuning.rows import Rows
from spacescale.tuning.vocabulary_choice import overlap

# What rows of one table have in common, of the rows' settings.
ALIKE = ("mode", "epochs", "min_steps", "batch_size", "pool", "weight_decay", "metric")
# Arm of pretraining, and the vocabulary that sequences are read with.
READINGS: list[tuple[str, Name]] = [*(("both", name) for name in NAMES), *((n, n) for n in NAMES)]


def called(arm: str, name: Name) -> str:
    """What a reading is called in rows and tables."""
    return f"{arm} as {name}" if arm == "both" else f"{name} alone"


def tune(args: argparse.Namespace) -> None:
    """Every task, seed and reading that has no row yet."""
    runs = {(arm, seed): args.runs / f"{arm}-{seed}" for arm, _ in READINGS for seed in args.seeds}
    if unfinished := [str(run) for run in runs.values() if not (run / DONE).exists()]:
        raise SystemExit(f"error: not trained to the end: {', '.join(unfinished)}")
    for task, seed, (arm, name) in itertools.product(args.tasks, args.seeds, READINGS):
        reading = ["--vocabulary", name] if arm == "both" else []
        run_script(
            "spacescale/finetune.py", "--weights", runs[arm, seed],
            "--name", f"{called(arm, name)} {seed}", "--task", task, "--out", args.out,
            "--seeds", "1", "--fractions", f"{args.fraction:g}", "--beside",
            *reading, *args.options,
        )  # fmt: skip


@dataclass(frozen=True)
class Found:
    """One task. scores: by reading those of each seed, (S,). chosen: the vocabulary by the rule."""

    task: str
    metric: str
    scores: dict[str, np.ndarray]
    chosen: Name

    def of_both(self, name: Name) -> np.ndarray:
        """Of the encoders of both vocabularies, read with this one."""
        return self.scores[called("both", name)]


def found_of(
    path: Path, out: Path, seeds: Sequence[int], vocabulary: Vocabulary, fraction: float = WHOLE
) -> Found:
    """What is kept of a task.

    Raises SystemExit where a reading or seed is missing, or some were made in another way.
    """
    task = read_task(path)
    kept = (row for row in Rows(out / task.name).rows if (row.seed, row.fraction) == (0, fraction))
    rows = {row.method: row for row in kept}
    wanted = {called(*one): [f"{called(*one)} {seed}, full" for seed in seeds] for one in READINGS}
    if missing := [name for names in wanted.values() for name in names if name not in rows]:
        raise SystemExit(f"error: {out / task.name}: no row of {', '.join(missing)}")
    used = [rows[name] for names in wanted.values() for name in names]
    for what in ALIKE:
        if len(made := {str(row.settings.get(what)) for row in used}) > 1:
            found = " and ".join(sorted(made))
            raise SystemExit(f"error: {out / task.name}: rows made with {what} {found}")
    (metric,) = {row.metric for row in used}
    scores = {
        reading: np.array([rows[name].scores[metric] for name in names])
        for reading, names in wanted.items()
    }
    return Found(task.name, metric, scores, overlap(task, vocabulary).choice)


def table(found: Sequence[Found]) -> list[str]:
    """Scores of all readings, and what the differences are, over seeds."""
    readings = [called(*one) for one in READINGS]
    lines = [
        "| task | metric | " + " | ".join(readings) + " | chosen |",
        "|---" * (len(readings) + 3) + "|",
    ]
    for one in found:
        cells = [f"{mean(s := one.scores[r]):.3f} ± {np.std(s, ddof=1):.3f}" for r in readings]
        lines.append(f"| {one.task} | {one.metric} | {' | '.join(cells)} | {one.chosen} |")
    # (S,) each: the mean over tasks, by seed.
    chosen = np.mean([one.of_both(one.chosen) for one in found], axis=0)
    against = {called(n, n): np.mean([f.scores[called(n, n)] for f in found], 0) for n in NAMES}
    against["the other vocabulary"] = np.mean([f.of_both(OTHER[f.chosen]) for f in found], axis=0)
    lines += ["", "| both, chosen, less | mean over tasks | 95 % interval |", "|---|---|---|"]
    for name, other in against.items():
        # The other vocabulary is read by the same encoders; those of one vocabulary are others.
        same = name == "the other vocabulary"
        test = (
            stats.ttest_rel(chosen, other)
            if same
            else stats.ttest_ind(chosen, other, equal_var=False)
        )
        interval = test.confidence_interval()
        lines.append(
            f"| {name} | {mean(chosen) - mean(other):+.3f} | "
            f"[{interval.low:+.3f}, {interval.high:+.3f}] |"
        )
    wins = sum(mean(f.of_both(f.chosen)) > mean(f.of_both(OTHER[f.chosen])) for f in found)
    lines += ["", f"The chosen vocabulary is better on {wins} of {len(found)} tasks."]
    for name in NAMES:
        always = sum(mean(f.of_both(name)) > mean(f.of_both(OTHER[name])) for f in found)
        lines.append(f"{name} always: on {always}.")
    return lines


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "table"))
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, required=True, help="--out of genomics_fm.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="two at least"
    )
    parser.add_argument("--fraction", type=float, default=WHOLE, help="percent of the labels")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of finetune: last")
    args = parser.parse_args()
    args.tasks = [path.resolve() for path in args.tasks]
    args.runs, args.out = args.runs.resolve(), args.out.resolve()
    if args.action == "tune":
        tune(args)
    else:
        vocabulary = load_trained_encoder(args.runs / f"both-{args.seeds[0]}").vocabulary
        found = [found_of(t, args.out, args.seeds, vocabulary, args.fraction) for t in args.tasks]
        print("\n".join(table(found)))


if __name__ == "__main__":
    main()
