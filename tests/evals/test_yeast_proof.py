"""The proof on yeast (benchmarks/hybrid_yeast.py): random promoters, relatives, its table."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spacescale.genome import dna

pytest.importorskip("sklearn")
REPO = Path(__file__).parents[2]
FLANKS = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
TRACK = SimpleNamespace(identifier="RNA+")
CONFIG = SimpleNamespace(seq_length=400)


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    import hybrid_measures
    import hybrid_yeast

    return SimpleNamespace(measures=hybrid_measures, yeast=hybrid_yeast)


@pytest.fixture
def measured(scripts, monkeypatch, tmp_path):
    """What `dream` says of so many promoters, and what the model was asked; all 200 have 57 to 105
    bases, and their expression is their GC content with some noise.
    """
    random, lines = np.random.default_rng(0), []
    for _ in range(200):
        rate = random.uniform(0.2, 0.8)
        share = [(1 - rate) / 2, rate / 2, rate / 2, (1 - rate) / 2]
        insert = dna.decode(random.choice(4, random.integers(57, 106), p=share).astype(np.uint8))
        lines.append(f"{FLANKS[0]}{insert}{FLANKS[1]}\t{10 * rate + random.normal()}")
    promoters = tmp_path / "promoters.txt"
    promoters.write_text("\n".join(lines) + "\n")
    asked = []

    def rna(trained, data, sequences, track):
        asked.append(list(sequences))
        return np.random.default_rng(1).normal(size=len(asked[-1]))

    monkeypatch.setattr(scripts.measures, "_rna", rna)
    genes = [np.full(400, dna.N, dtype=np.uint8)] * 2
    monkeypatch.setattr(scripts.measures, "_genes", lambda *_: genes)
    model = SimpleNamespace(config=CONFIG)
    trained = SimpleNamespace(model=model, tracks={"yeast": [TRACK]})
    data = SimpleNamespace(name="yeast")

    def measure(at_most):
        asked.clear()
        found = scripts.measures.dream(trained, data, tmp_path, promoters, at_most, 2)
        return found, [len(sequences) for sequences in asked]

    return measure


def test_floors_are_of_all_promoters_however_many_are_asked(measured):
    few, asked = measured(20)
    assert asked == [20, 20]
    every, asked = measured(0)
    assert asked == [200, 200] and measured(999)[1] == [200, 200]
    for floor in ("dream_gc", "dream_words"):
        assert few[floor] == every[floor] > 0.6
    assert few["dream_r"] != every["dream_r"]


def test_intervals_are_of_the_promoters_that_were_asked(measured):
    few, every = measured(20)[0], measured(0)[0]
    for name in ("dream_r", "dream_partial"):
        widths = []
        for found in (few, every):
            assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
            widths.append(found[f"{name}_high"] - found[f"{name}_low"])
        assert widths[1] == pytest.approx(2 * 1.96 / 200**0.5, rel=0.15)  # of independent values
        assert widths[0] > 2 * widths[1]


def test_the_table_prints_intervals_beside_their_means(scripts, tmp_path):
    for seed, r in enumerate((0.2, 0.3)):
        run = tmp_path / f"joint-{seed}"
        run.mkdir()
        found = {"steps": 9, "dream_r": r, "dream_r_low": r - 0.1, "dream_r_high": r + 0.1}
        (run / "measures.json").write_text(json.dumps(found))
    assert "| 0.2500 ± 0.0707 [0.1500, 0.3500] |" in scripts.yeast.table(tmp_path)


def test_twenty_genes_and_enough_promoters_are_taken(scripts, monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(scripts.yeast, "NEEDED", {})
    monkeypatch.setattr(scripts.yeast, "measure_runs", taken.append)
    folders = ["--out", tmp_path, "--raw", tmp_path, "--dream", tmp_path, "--histones", tmp_path]
    monkeypatch.setattr(sys, "argv", ["hybrid_yeast.py", "measure", *map(str, folders)])
    scripts.yeast.main()
    assert (taken[0].promoters, taken[0].reporters) == (2000, 20)


def test_relatives_are_read_by_all_who_learn_bases(scripts, monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(
        scripts.yeast, "pretrain", lambda run, steps, *words: given.update({run.name: words})
    )
    words = ["train", "--out", tmp_path, "--seeds", 0, "--relatives", "ant", "bee"]
    monkeypatch.setattr(sys, "argv", ["hybrid_yeast.py", *map(str, words)])
    scripts.yeast.main()
    reading = {run for run, of in given.items() if {Path("ant"), Path("bee")} <= set(of)}
    assert given.keys() - reading == {"profiles-0", "profiles_longer-0"}
