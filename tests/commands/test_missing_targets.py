"""Targets that were not measured, from shard to evaluation, beside species that have none."""

import json
import math
import sys

import numpy as np
import pyBigWig
import pytest
from commands import SCRIPT, SPACESCALE, arguments, make_data, run, run_here

from spacescale.dataset.reader import SpeciesData
from spacescale.genome.tracks import read_targets
from spacescale.metrics.writer import read_metrics


def cut_coverage(path):
    """Take the values from all but the first third of each contig, and from one contig."""
    with pyBigWig.open(str(path)) as file:
        values = {name: file.values(name, 0, bp, numpy=True) for name, bp in file.chroms().items()}
    lengths = {name: part.size for name, part in list(values.items())[1:]}
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader(list(lengths.items()))
        for name, length in lengths.items():
            kept = np.nan_to_num(values[name][: length // 3].astype(float))
            file.addEntries(name, 0, values=kept, span=1, step=1)


def cut_first_track(species):
    if species.name == "finch":
        first, *_ = read_targets(species.targets)
        cut_coverage(species.targets.parent / first.file)


@pytest.mark.long
def test_a_run_learns_from_what_was_measured(tmp_path):
    data = make_data(tmp_path, cut_first_track, with_missing=["finch"])
    with_missing = SpeciesData.open(data / "finch")
    stored = np.stack([with_missing.targets(row) for row in range(len(with_missing))])
    shares = np.isnan(stored).mean((0, 1))
    assert shares[0] > 0.6 and not shares[1:].any()

    done = run(sys.executable, SCRIPT, *arguments(data, tmp_path / "run", "optim.max_steps=3"))
    assert done.returncode == 0, done.stderr
    assert "not finite" not in done.stderr + done.stdout
    logged = {}
    for record in read_metrics(tmp_path / "run/metrics.jsonl"):
        logged |= record
    assert math.isfinite(logged["train/loss/finch"])
    assert math.isfinite(logged["valid/pearson_log1p/finch"])

    done = run_here(SPACESCALE, "evaluate", tmp_path / "run", "--split", "valid")
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.rglob("metrics.json")
    tracks = json.loads(found.read_text())["species"]["finch"]["tracks"]
    assert all(math.isfinite(track["pearson_raw"]) for track in tracks)
