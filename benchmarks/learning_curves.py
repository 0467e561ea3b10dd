"""How scores grow with the sequence that there is to train on.

    python benchmarks/learning_curves.py thin docs/examples/fly/contigs.bed --of 4 > fly_quarter.bed
    python benchmarks/learning_curves.py draw RUN… --figure docs/figures/learning_curves.png

`thin` leaves every N-th piece of the training stretches in a BED for `shard.py --contigs`, and
validation and test as they are: the pieces of a quarter are among those of the half. `draw` takes
runs that were evaluated by `--both-strands`, those of one species with `--baseline cnn` as well,
and prints a table. Several runs on as much sequence of a species are seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from spacescale.dataset.loader import open_datasets

PIECE = 57_344  # bp: four targets of `shard.py`'s default
MODEL, TOGETHER = "SPACE", "SPACE, together"  # on one species; on several in one run
BASELINES = ("4-mer ridge", "CNN")
COLOURS = {MODEL: "#d55e00", TOGETHER: "#e69f00", "CNN": "#0072b2", "4-mer ridge": "#009e73"}


def thin(lines: Sequence[str], of: int) -> Iterator[str]:
    """Lines of a BED of stretches with one in `of` pieces of those that train."""
    number = 0
    for line in lines:
        contig, start, end, split = line.split()
        if split != "train":
            yield line
            continue
        for first, last in _pieces(int(start), int(end)):
            if number % of == 0:
                yield f"{contig}\t{first}\t{last}\ttrain"
            number += 1


def _pieces(start: int, end: int) -> list[tuple[int, int]]:
    if end - start < 2 * PIECE:
        return [(start, end)]
    return [(first, min(first + PIECE, end)) for first in range(start, end, PIECE)]


@dataclass(frozen=True)
class Point:
    """A species of a run: what it was trained on, and the scores over all tracks of its test.

    low, high: the interval of MODEL less the best baseline. A run of several species has the
    score of TOGETHER alone.
    """

    species: str
    train_bp: int  # under targets, each base once
    windows: int
    scores: dict[str, float]
    low: float
    high: float

    @property
    def best_baseline(self) -> str:
        """The baseline with the highest score."""
        return max(set(BASELINES) & self.scores.keys(), key=lambda name: self.scores[name])


def read_points(run: Path) -> list[Point]:
    """What a run says of each of its species."""
    paths = json.loads((run / "config.json").read_text())["spacescale"]["data"]["paths"]
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    found = {line["species"]: line for line in metrics["assays"] if line["assay"] == "all"}
    datasets = open_datasets([Path(path) for path in paths])
    points = []
    for name, data in datasets.items():
        rows, score = data.rows("train"), found[name]["pearson_log1p"]
        scores, low, high = {TOGETHER: score}, nan, nan
        if len(datasets) == 1:
            scores, low, high = _beside_baselines(found[name])
        points.append(Point(name, data.distinct_bp(rows), len(rows), scores, low, high))
    return points


def _beside_baselines(line: dict[str, Any]) -> tuple[dict[str, float], float, float]:
    """Scores of the model and the baselines, and the interval to the best of these."""
    beside = {_short(name): found for name, found in line["baselines"].items()}
    scores = {name: beside[name]["value"] for name in BASELINES if name in beside}
    best = max(scores, key=lambda name: scores[name])
    return {MODEL: line["pearson_log1p"], **scores}, *beside[best]["interval"]


def _short(name: str) -> str:
    return "CNN" if name.startswith("CNN") else name


Curves = dict[str, dict[int, list[Point]]]


def curves_of(points: Sequence[Point]) -> Curves:
    """Species → bases to train on → runs, both in order."""
    found: Curves = defaultdict(lambda: defaultdict(list))
    for point in sorted(points, key=lambda point: (point.species, point.train_bp)):
        found[point.species][point.train_bp].append(point)
    return found


def table(curves: Curves) -> Iterator[str]:
    """A line for each species and size; the difference is that of the first run."""
    head = (*BASELINES, MODEL, TOGETHER, "SPACE less the best baseline")
    yield f"| species | Mb | windows | {' | '.join(head)} |"
    yield "|---" * (len(head) + 3) + "|"
    for species, by_size in curves.items():
        for size, points in by_size.items():
            alone = next(point for point in points if MODEL in point.scores)
            gain = alone.scores[MODEL] - alone.scores[alone.best_baseline]
            cells = [_mean(points, name) for name in (*BASELINES, MODEL, TOGETHER)]
            yield (
                f"| {species} | {size / 1e6:.2f} | {alone.windows} | {' | '.join(cells)} "
                f"| {alone.best_baseline} {gain:+.2f} [{alone.low:+.2f}, {alone.high:+.2f}] |"
            ).replace("-0.", "−0.")


def _of(points: Sequence[Point], name: str) -> list[float]:
    return [point.scores[name] for point in points if name in point.scores]


def _mean(points: Sequence[Point], name: str) -> str:
    found = _of(points, name)
    spread = f" ± {stdev(found):.2f}" if len(found) > 1 and name not in BASELINES else ""
    return f"{mean(found):.2f}{spread}" if found else "–"


def draw(curves: Curves, path: Path) -> None:
    """One panel a species: scores over bases to train on, a dot for every run."""
    matplotlib.use("agg")
    figure, axes = plt.subplots(
        1, len(curves), figsize=(2.6 * len(curves), 2.8), sharey=True, squeeze=False
    )
    for ax, (species, by_size) in zip(axes[0], curves.items(), strict=True):
        for name, colour in COLOURS.items():
            found = {size / 1e6: _of(runs, name) for size, runs in by_size.items()}
            found = {size: scores for size, scores in found.items() if scores}
            ax.plot([*found], [mean(s) for s in found.values()], color=colour, label=name)
            for size, scores in found.items():
                ax.plot([size] * len(scores), scores, "o", color=colour, markersize=3.5)
        sizes = [size / 1e6 for size in by_size]
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{size:.2g}" for size in sizes])
        ax.minorticks_off()
        ax.set_title(species, fontsize=10)
        ax.set_xlabel("Mb to train on")
        ax.grid(axis="y", linewidth=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("test, Pearson log1p, all tracks")
    axes[0][0].set_ylim(bottom=0)
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Thin a BED, or draw runs."""
    parser = argparse.ArgumentParser(description="How scores grow with data.")
    commands = parser.add_subparsers(dest="command", required=True)
    thinning = commands.add_parser("thin", help="print a BED with part of the training stretches")
    thinning.add_argument("contigs", type=Path)
    thinning.add_argument("--of", type=int, required=True, help="keep one in so many pieces")
    drawing = commands.add_parser("draw", help="print a table of runs, draw a figure")
    drawing.add_argument("runs", type=Path, nargs="+", help="evaluated; seeds in order")
    drawing.add_argument("--figure", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "thin":
        print("\n".join(thin(args.contigs.read_text().splitlines(), args.of)))
        return
    curves = curves_of([point for run in args.runs for point in read_points(run)])
    print("\n".join(table(curves)))
    draw(curves, args.figure)


if __name__ == "__main__":
    main()
