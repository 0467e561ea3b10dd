"""What an ablation found: read from the runs' evaluations, as tables and as results.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from spacescale.ablation.arms import NULL
from spacescale.ablation.compare import (
    DRAWS,
    ArmScores,
    Comparison,
    Difference,
    Row,
    SpeciesTracks,
)
from spacescale.ablation.costs import Costed
from spacescale.ablation.runs import Run
from spacescale.console import aligned
from spacescale.errors import UserError
from spacescale.evals.intervals import FEWEST_BLOCKS, LEVEL
from spacescale.evals.replicates import Replicates
from spacescale.evals.reports import write_metrics_json
from spacescale.evals.results import BLOCKS_FILE, SCORES_FILE
from spacescale.files import read_json, write_text
from spacescale.tasks.seeds import mean_sd

DEFINITION = (
    "Pearson in log1p of prediction and target per track over all positions of the test split's "
    "windows, the mean over tracks, and ± the standard deviation of runs; differences to the first "
    f"arm; intervals: {LEVEL:.0%} of {DRAWS:,} draws of blocks of the genome, the same for both "
    "arms, and of runs, not paired by seed; p: two-sided, corrected for the number of comparisons "
    "(Holm), over all by itself. A baseline's interval is the mean of the runs' own, over blocks"
)
Table = list[tuple[str, ...]]


@dataclass(frozen=True)
class ArmResult:
    """An arm and its scored runs. tried: rate → validation score, where several were tried."""

    costed: Costed
    rate: float
    tried: dict[str, float]
    runs: list[Run]

    @property
    def name(self) -> str:
        """Of the arm."""
        return self.costed.arm.name

    @cached_property
    def seconds_per_step(self) -> float:
        """Median over runs."""
        return median(run.seconds_per_step() for run in self.runs)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """What `spacescale evaluate` wrote of each run."""
        return [read_json(run.scores / SCORES_FILE) for run in self.runs]

    def scores(self) -> ArmScores:
        """Moments of all runs. Raises UserError for a damaged file."""
        moments = []
        for run in self.runs:
            try:
                with np.load(run.scores / BLOCKS_FILE) as file:
                    moments.append({name: torch.from_numpy(file[name]) for name in file.files})
            except (OSError, ValueError, EOFError, BadZipFile) as error:
                raise UserError(f"{run.scores / BLOCKS_FILE}: damaged: {error}") from None
        return ArmScores(
            self.name, {name: torch.stack([run[name] for run in moments]) for name in moments[0]}
        )


def species_tracks(arms: Sequence[ArmResult]) -> dict[str, SpeciesTracks]:
    """Species → its tracks and blocks. Raises UserError where runs were scored on others, or
    some from both strands and some not.
    """
    first = arms[0].evaluations[0]
    expected = first["species"]
    same = ("data_split", "data_manifest", "blocks")
    for arm in arms:
        for run, found in zip(arm.runs, arm.evaluations, strict=True):
            if found["both_strands"] != first["both_strands"]:
                ways = ("from one strand", "from both strands")
                raise UserError(
                    f"{run.folder}: was scored {ways[found['both_strands']]}, "
                    f"{arms[0].runs[0].folder} {ways[first['both_strands']]}; remove "
                    "evaluation/test of that which is not as wanted, and give the command again"
                )
            for name, of in expected.items():
                if any(found["species"].get(name, {}).get(key) != of[key] for key in same):
                    raise UserError(
                        f"{run.folder}: was scored on other data of {name} than "
                        f"{arms[0].runs[0].folder}; remove {run.scores} and give the command again"
                    )
    return {
        name: SpeciesTracks(
            tuple(track["identifier"] for track in of["tracks"]),
            tuple(track["assay"] for track in of["tracks"]),
            of["blocks"]["number"],
        )
        for name, of in expected.items()
    }


@dataclass(frozen=True)
class Beside:
    """A baseline's score, and how far it is above the first arm: means over that one's runs."""

    name: str
    value: float
    difference: float
    low: float
    high: float


def best_baselines(first: ArmResult) -> dict[Row, Beside]:
    """Row → the best baseline on the test split itself, the hardest to beat."""
    rows: dict[Row, dict[str, list[dict[str, Any]]]] = {}
    for evaluation in first.evaluations:
        for of in evaluation["assays"]:
            for name, part in of["baselines"].items():
                if name != Replicates.name and None not in (part["value"], *part["interval"]):
                    parts = rows.setdefault((of["species"], of["assay"]), {})
                    parts.setdefault(name, []).append(part)
    return {row: max(map(_beside, *zip(*of.items(), strict=True)), key=lambda b: b.value)
            for row, of in rows.items()}  # fmt: skip


def _beside(name: str, parts: list[dict[str, Any]]) -> Beside:
    low, high = (mean(part["interval"][end] for part in parts) for end in (0, 1))
    # Theirs is the model less the baseline.
    less = mean(part["difference"] for part in parts)
    return Beside(name, mean(part["value"] for part in parts), -less, -high, -low)


def cost_table(arms: Sequence[ArmResult]) -> Table:
    """What each arm took, the first line being the heading."""
    header = ("arm", "parameters", "active", "GFLOP a window", "steps", "s a step", "rate", "seeds")
    return [
        header,
        *(
            (
                arm.name,
                f"{arm.costed.parameters.total:,}",
                f"{arm.costed.parameters.active:,}",
                f"{arm.costed.window_flops / 1e9:.2f}",
                f"{arm.costed.config.optim.max_steps:,}",
                f"{arm.seconds_per_step:.3g}",
                f"{arm.rate:g}" + (f" of {len(arm.tried)}" if arm.tried else ""),
                ", ".join(str(run.seed) for run in arm.runs),
            )
            for arm in arms
        ),
    ]


def score_table(comparison: Comparison, baselines: dict[Row, Beside]) -> Table:
    """A line for each arm of each row, and for the best baseline; the first is the heading."""
    of = {(d.row, d.arm): d for d in comparison.differences}
    table: Table = [
        ("species", "assay", "tracks", "arm", "Pearson log1p", "difference", "interval", "p")
    ]
    for row, arms in comparison.scores.items():
        some, every = comparison.tracks[row]
        start = (*row, str(every) if some == every else f"{some} of {every}")
        for arm, values in arms.items():
            table.append((*start, arm, mean_sd(values), *_difference(of.get((row, arm)))))
            start = ("", "", "")
        if beside := baselines.get(row):
            numbers = f"{beside.difference:+.3f}", f"[{beside.low:+.3f}, {beside.high:+.3f}]"
            table.append((*start, f"({beside.name})", f"{beside.value:.3f}", *numbers, ""))
    return table


def _difference(difference: Difference | None) -> tuple[str, str, str]:
    if difference is None:
        return "", "", ""
    interval = difference.interval
    return (
        f"{difference.value:+.3f}",
        f"[{interval.low:+.3f}, {interval.high:+.3f}]",
        f"{difference.corrected:.3f}",
    )


def remarks(arms: Sequence[ArmResult], comparison: Comparison) -> list[str]:
    """What is to be known before the differences are believed."""
    found = []
    blocks = {name: of.blocks for name, of in species_tracks(arms).items()}
    if few := {name: count for name, count in blocks.items() if count < FEWEST_BLOCKS}:
        found.append(
            f"{', '.join(f'{name}: {count}' for name, count in few.items())} blocks of the genome, "
            f"fewer than {FEWEST_BLOCKS}: the intervals are too narrow"
        )
    if single := [arm.name for arm in arms if len(arm.runs) == 1]:
        found.append(
            f"one run alone of {', '.join(single)}: where no arm has several, the intervals do not "
            "cover how far seeds differ"
        )
    if null := [d.interval for d in comparison.differences if d.arm == NULL]:
        held = sum(interval.low <= 0 <= interval.high for interval in null)
        found.append(
            f"{NULL}: {arms[0].name} again, with other seeds; {held} of {len(null)} intervals hold "
            "0, of which 95 in 100 should"
        )
    return found + _of_rates(arms)


def _of_rates(arms: Sequence[ArmResult]) -> list[str]:
    """Whose rate was not tuned; and of whom a better one may lie beyond those tried."""
    found, untuned = [], [arm.name for arm in arms if not arm.tried]
    if len(untuned) == len(arms):
        found.append("one rate, tuned for no arm")
    elif untuned:
        found.append(f"one rate, not tuned as those of the others: {', '.join(untuned)}")
    for arm in arms:
        tried = [float(rate) for rate in arm.tried]
        for limit, end in ((min, "smallest"), (max, "largest")):
            if len(tried) > 1 and f"{arm.rate:g}" == f"{limit(tried):g}":
                found.append(f"{arm.name}: the {end} rate of those tried was chosen, {arm.rate:g}")
    return found


def as_text(arms: Sequence[ArmResult], comparison: Comparison) -> str:
    """All of it for a terminal."""
    costs = aligned(cost_table(arms))
    scores = aligned(score_table(comparison, best_baselines(arms[0])), left=(0, 1, 3))
    return "\n".join([*costs, "", *scores, "", *remarks(arms, comparison)]).rstrip()


def as_markdown(arms: Sequence[ArmResult], comparison: Comparison) -> str:
    """All of it as Markdown."""
    scores = score_table(comparison, best_baselines(arms[0]))
    overrides = [
        f"- `{arm.name}`: {' '.join(f'`{o}`' for o in arm.costed.arm.overrides) or 'as it is'}"
        + "".join(f" · rate {rate}: {score:.3f}" for rate, score in arm.tried.items())
        for arm in arms
    ]
    parts = [*overrides, "", *_pipes(cost_table(arms)), "", *_pipes(scores), ""]
    notes = [f"{note}." for note in [*remarks(arms, comparison), DEFINITION]]
    return "\n".join([*parts, *(line for note in notes for line in (note, ""))])


def _pipes(table: Table) -> list[str]:
    header, *rows = (f"| {' | '.join(cells)} |" for cells in table)
    return [header, "|" + "---|" * len(table[0]), *rows]


def write_results(out: Path, arms: Sequence[ArmResult], comparison: Comparison) -> None:
    """Write results.md and results.json."""
    write_text(out / "results.md", as_markdown(arms, comparison))
    payload = {
        "definition": DEFINITION,
        "arms": [_arm_json(arm) for arm in arms],
        "scores": [
            {"species": row[0], "assay": row[1], "tracks": comparison.tracks[row], "runs": runs}
            for row, runs in comparison.scores.items()
        ],
        "differences": [
            {
                "arm": d.arm,
                "species": d.row[0],
                "assay": d.row[1],
                "difference": d.value,
                "interval": [d.interval.low, d.interval.high],
                "p": d.p,
                "p_corrected": d.corrected,
            }
            for d in comparison.differences
        ],
        "baselines": [
            {"species": row[0], "assay": row[1], **vars(beside)}
            for row, beside in best_baselines(arms[0]).items()
        ],
    }
    write_metrics_json(out / "results.json", payload)


def _arm_json(arm: ArmResult) -> dict[str, Any]:
    return {
        "name": arm.name,
        "overrides": arm.costed.arm.overrides,
        "parameters": arm.costed.parameters.total,
        "active_parameters": arm.costed.parameters.active,
        "window_flops": arm.costed.window_flops,
        "steps": arm.costed.config.optim.max_steps,
        "seconds_per_step": arm.seconds_per_step,
        "rate": arm.rate,
        "tried": arm.tried,
        "runs": {str(run.seed): str(run.folder) for run in arm.runs},
    }
