"""Which planted motifs the arms of an ablation of the simulated species found, and where they act.

    spacescale ablate --arms table4 --seeds 3 --null --out runs/simulated
    python benchmarks/ablation_motifs.py runs/simulated

Asked of predictions, and of scores of variants (`spacescale.testing.planted_motifs`): are effects
right (r: Pearson's); how large are those of the motif that acts in this species alone (own: over
the true effect, 1 is right); and how large those of motifs that act in another species alone
(other: over the true effect of the own, 0 is right). Of each arm the mean and standard deviation
over its seeds, of the mean over species.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spacescale.predict.predictor import Predictor
from spacescale.predict.trained_model import load_trained
from spacescale.tasks.seeds import mean_sd
from spacescale.testing.planted_motifs import found_by_predict, found_by_variants

COLUMNS = tuple(
    f"{tool}, {what}" for tool in ("predicted", "variants") for what in ("r", "own", "other")
)


def answers(run: Path) -> np.ndarray:
    """COLUMNS of one run, means over its species."""
    trained, rows = load_trained(run), []
    for species in trained.model.species:
        predictor = Predictor(trained, species, batch_size=16)
        with tempfile.TemporaryDirectory() as folder:
            tools = [ask(predictor, Path(folder)) for ask in (found_by_predict, found_by_variants)]
        rows.append(
            [v for found in tools for v in (found.effect, found.own, found.species * found.own)]
        )
    return np.mean(rows, axis=0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="of `spacescale ablate` without --data")
    arms = json.loads((parser.parse_args().out / "results.json").read_text())["arms"]
    print("| arm | " + " | ".join(COLUMNS) + " |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for arm in tqdm(arms, unit="arm", disable=None):
        found = np.array([answers(Path(run)) for run in arm["runs"].values()])
        cells = [mean_sd(list(column)) for column in found.T]
        tqdm.write("| " + " | ".join([f"`{arm['name']}`", *cells]) + " |")


if __name__ == "__main__":
    main()
