"""The best probe and the one-hot CNN held against each other: what either rests its answers on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from spacescale.genome import dna
from spacescale.probing.attribution import (
    Explained,
    agreement_lines,
    agreements,
    attribution_maps,
    explain_network,
    explain_probe,
    global_importance,
    importance_lines,
)
from spacescale.probing.map_figure import draw_maps
from spacescale.probing.map_files import Maps, read_maps, save_maps
from spacescale.probing.run import ProbeRun

CNN = "one-hot, cnn"


def explain(run: ProbeRun, number: int, patterns: Sequence[str], name: str) -> list[str]:
    """Markdown of how far the probe of the table's first line and the CNN agree; [] for nothing.

    number: of test sequences, drawn at random, whose maps are kept in the run's folder as
    NAME-maps.npz and drawn as NAME-maps.png. patterns: see `global_importance`.
    """
    models = cache(partial(_fitted, run))
    lines = ["", *_of_sequences(run, number, models, name)] if number else []
    if patterns:
        found = global_importance(models(), run.task.splits["test"], patterns)
        lines += ["", *importance_lines(found)]
    return lines


def _of_sequences(
    run: ProbeRun, number: int, models: Callable[[], list[Explained]], name: str
) -> list[str]:
    kept, figure = (run.rows.folder / f"{name}-maps.{ending}" for ending in ("npz", "png"))
    method, groups = run.names[0], run.task.splits["test"].groups
    key = run.ledger.key(
        run.facts(*run.probe_of(method)) | {"maps": [method, number, run.plan.seeds[0]]}
    )
    maps = read_maps(kept, key)
    if maps is None:
        maps = _maps(run, number, models())
        save_maps(kept, key, maps)
    found = agreements(maps.pearson, [groups[row] for row in maps.rows] if groups else ())
    lines = [*agreement_lines(len(maps.rows), found), "", f"Maps: [{kept.name}]({kept.name})"]
    if draw_maps(figure, maps):
        lines += ["", f"![maps of some sequences as letters]({figure.name})"]
    return lines


def _maps(run: ProbeRun, number: int, models: Sequence[Explained]) -> Maps:
    test = run.task.splits["test"]
    rows = np.random.default_rng(0).permutation(len(test))[:number]
    values = attribution_maps(models, test, rows.tolist())
    chosen = test.take(rows)
    return Maps(rows, chosen.names, [*map(dna.decode, chosen.codes)], values)


def _fitted(run: ProbeRun) -> list[Explained]:
    """Both, fitted once more with the first seed."""
    task, seed, name = run.task, run.plan.seeds[0], run.names[0]
    source, head = run.probe_of(name)
    trunk = run.trunk(source, 0)
    with run.features(trunk) as (positions, means):
        probe = run.fit_probe(head, positions, means, seed).network
    cnn = run.fit(*run.on_bases(CNN), seed).network
    trunk = trunk.of_split(task.splits["test"])
    return [
        explain_probe(name, task.kind, trunk, probe, head == "cnn", run.longest, run.as_is),
        explain_network(CNN, task.kind, cnn, run.longest, run.device),
    ]
