"""SPACE's frozen features for GENEB (Ledneva et al., ICML 2026), github.com/darlednik/GENEB.

Put this file into GENEB's folder `harness/extractors` and install spacescale beside it. The model's
name is a folder of weights or ORG/NAME of the Hub, and where it knows several species `:SPECIES`
behind it: `exports/large:human`.

By itself it follows GENEB's protocol on tables with the columns text, label and split (train,
test): logistic regression on features of all training sequences, and of 10 and 1 of each class.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np

from spacescale import Predictor, console
from spacescale.errors import UserError
from spacescale.genome.dna import encode

try:
    from .base import BaseEmbeddingExtractor  # GENEB's
except ImportError:
    BaseEmbeddingExtractor = object

SEEDS = (13, 17, 42, 123, 997)
SHOTS = (10, 1)  # of each class
ITERATIONS = 1000


class SpaceScaleExtractor(BaseEmbeddingExtractor):
    """Mean over bins of the last layer's features; sequences stand alone, of any length."""

    def __init__(self, name_model: str, device: str = "cpu"):
        """Load FOLDER or ORG/NAME, with :SPECIES behind it where there are several."""
        folder, _, species = name_model.rpartition(":")
        self.name_model = name_model
        self.predictor = Predictor.load(folder or name_model, species if folder else None, device)

    def extract_embeddings(self, sequences: list[str], batch_size: int = 8) -> np.ndarray:
        """Features float32 (N, channels), in the order of the sequences."""
        if not sequences:
            raise UserError("no sequence to embed")
        self.predictor.batch_size = batch_size
        codes = [encode(text, f"sequence {i + 1}") for i, text in enumerate(sequences)]
        by_length: dict[int, list[int]] = {}
        for row, one in enumerate(codes):
            by_length.setdefault(len(one), []).append(row)
        found: dict[int, np.ndarray] = {}
        for rows in by_length.values():
            for first in range(0, len(rows), batch_size):
                part = rows[first : first + batch_size]
                features = self.predictor.embed(np.stack([codes[row] for row in part]))
                found |= dict(zip(part, features.mean(1), strict=True))
        return np.stack([found[row] for row in range(len(codes))])

    embed = extract_embeddings


def evaluate(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """{full, 10-shot, 1-shot}: accuracy, f1_score (macro) and mcc, mean and std over SEEDS.

    train, test: features (N, channels) and labels (N,).
    """
    features, labels = train
    classes = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    rows = {"full": [(seed, np.arange(len(labels))) for seed in SEEDS]}
    for shots in SHOTS:
        rows[f"{shots}-shot"] = []
        for seed in SEEDS:
            # What GENEB draws: class by class, from the generator that it uses.
            random = np.random.RandomState(seed)
            drawn = [random.choice(of, min(shots, len(of)), replace=False) for of in classes]
            rows[f"{shots}-shot"].append((seed, np.concatenate(drawn)))
    return {
        name: _summary([_scores(features[of], labels[of], test, seed) for seed, of in draws])
        for name, draws in rows.items()
    }


def _scores(
    features: np.ndarray, labels: np.ndarray, test: tuple[np.ndarray, np.ndarray], seed: int
) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    model = LogisticRegression(max_iter=ITERATIONS, random_state=seed).fit(features, labels)
    found = model.predict(test[0])
    return {
        "accuracy": float(accuracy_score(test[1], found)),
        "f1_score": float(f1_score(test[1], found, average="macro")),
        "mcc": float(matthews_corrcoef(test[1], found)),
    }


def _summary(scores: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    columns = {name: [one[name] for one in scores] for name in scores[0]}
    return {
        name: {"mean": float(np.mean(of)), "std": float(np.std(of))} for name, of in columns.items()
    }


def read_table(path: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """{split: sequences and labels} of a table of GENEB's."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"text", "label", "split"} - set(rows[0] if rows else {})
    if missing:
        raise UserError(f"{path}: no column {sorted(missing)[0]}; expected text, label and split")
    found = {}
    for split in ("train", "test"):
        of = [row for row in rows if row["split"] == split]
        if not of:
            raise UserError(f"{path}: no row of split {split}")
        found[split] = [row["text"] for row in of], np.array([row["label"] for row in of])
    return found


def main(arguments: list[str] | None = None) -> int:
    """Score tables as GENEB does; print JSON, a line for each. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", help="folder, or ORG/NAME of the Hub")
    parser.add_argument("tables", type=Path, nargs="+", metavar="CSV")
    parser.add_argument("--species", help="needed where the weights know several")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args(arguments)
    name = f"{args.weights}:{args.species}" if args.species else args.weights
    extractor = SpaceScaleExtractor(name, args.device)
    for path in args.tables:
        splits = {
            split: (extractor.extract_embeddings(texts, args.batch), labels)
            for split, (texts, labels) in read_table(path).items()
        }
        print(json.dumps({"task": path.stem, **evaluate(splits["train"], splits["test"])}))
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
