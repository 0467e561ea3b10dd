"""Which experts are used for which species and profile types, and how much that tells, as figures.

Shapes: R rows (species, or species × profile type), E experts, V validations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spacescale.evals.figures import INK, colour_of, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENCODER, DECODER = "encoder", "decoder"
TITLES = {ENCODER: "species and encoder experts, mean over blocks",
          DECODER: "species × profile type and decoder experts"}  # fmt: skip
MOST_NUMBERED = 8  # experts whose shares are written into their cells
_LOGGED = re.compile(r"valid_experts/(?P<row>.+?)/(?P<layer>block\d+|decoder/.+)/expert(?P<e>\d+)")

Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # ENCODER, DECODER → steps (V,), nats (V,)


def expert_use(
    path: Path,
    per_species: Mapping[str, np.ndarray],
    per_assay: Mapping[tuple[str, str], np.ndarray],
) -> None:
    """Draw shares of gate mass as heat maps, a panel for each species.

    per_species: shares [layers, experts] of the cross-species experts; per_assay: shares
    [experts] of the decoder's experts per (species, assay), which become a row for each assay,
    blank where a species has none. Either may be empty.
    """
    num_layers = max((len(part) for part in per_species.values()), default=0)
    blocks = [str(layer + 1) for layer in range(num_layers)]
    parts = []
    if num_layers:
        parts.append(("Cross-species experts", "block", blocks, dict(per_species)))
    if per_assay:
        assays = sorted({assay for _, assay in per_assay})
        parts.append(("Decoder experts", "", assays, _by_species(assays, per_assay)))
    heights = [0.32 * len(rows) + 1.0 for _, _, rows, _ in parts]
    widest = max(len(panels) for *_, panels in parts)
    figure = new_figure(max(5.5, 2.5 * widest + 1.8), sum(heights) + 0.3)
    below = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for subfigure, (title, what, rows, panels) in zip(below, parts, strict=True):
        subfigure.suptitle(title, fontsize=11, x=0.01, ha="left")
        _heat_maps(subfigure, what, rows, panels)
    save(figure, path)


def _by_species(
    assays: Sequence[str], per_assay: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, np.ndarray]:
    """Shares [assays, experts] of each species, NaN where it has no such assay."""
    blank = np.full_like(next(iter(per_assay.values())), np.nan, dtype=float)
    species = dict.fromkeys(name for name, _ in per_assay)
    return {n: np.stack([per_assay.get((n, assay), blank) for assay in assays]) for n in species}


def _heat_maps(
    figure: Any, what: str, rows: Sequence[str], panels: Mapping[str, np.ndarray]
) -> None:
    """Draw shares [rows, experts] of each species beside each other, from 0 to the largest."""
    found: list[Axes] = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    top = max(float(np.nanmax(shares)) for shares in panels.values())
    image = None
    for axes, (species, shares) in zip(found, panels.items(), strict=True):
        image = _heat(axes, np.asarray(shares), top)
        axes.set_title(species, fontsize=9)
        axes.set_yticks(range(len(rows)), rows)
    found[0].set_ylabel(what, fontsize=9)
    bar = figure.colorbar(image, ax=found, fraction=0.05, pad=0.02, aspect=12)
    bar.set_label("share of gate mass", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _heat(axes: Axes, shares: np.ndarray, top: float) -> Any:
    """Draw shares [rows, experts] from 0 to `top`, with percentages while they are legible."""
    image = axes.imshow(shares, cmap="cividis", vmin=0.0, vmax=top, aspect="auto")
    axes.set_xticks(range(shares.shape[1]), [str(e + 1) for e in range(shares.shape[1])])
    axes.set_xlabel("expert", fontsize=9)
    axes.tick_params(labelsize=8, length=0)
    axes.spines[:].set_visible(False)
    if shares.shape[1] <= MOST_NUMBERED:
        for (row, expert), share in np.ndenumerate(shares):
            if np.isfinite(share):
                ink = "black" if share > 0.55 * top else "white"
                axes.text(
                    expert, row, f"{100 * share:.0f}%", ha="center", va="center", fontsize=7,
                    color=ink,
                )  # fmt: skip
    return image


def mutual_information(shares: np.ndarray) -> float:
    """Of rows and experts, nats: shares [R, E] of each row's gate mass, all rows counting alike."""
    experts = shares.mean(0, keepdims=True)
    ratio = np.divide(shares, experts, out=np.ones_like(shares), where=shares > 0)
    return float((shares * np.log(ratio)).sum(1).mean())


def information(records: Sequence[Mapping[str, Any]]) -> Curves:
    """How much the experts used tell of a row, at every validation of a log (metrics.jsonl).

    ENCODER: of the species, the mean over blocks; DECODER: of species × profile type. The shares
    are those of the validation windows, so that runs are compared whatever their batches and loss
    weights were. What has a single row is left out: nothing can be told apart.
    """
    points: dict[str, list[tuple[float, float]]] = {ENCODER: [], DECODER: []}
    for record in records:
        blocks = _shares_by_layer(record)
        decoder = blocks.pop(DECODER, None)
        for part, tables in ((ENCODER, list(blocks.values())), (DECODER, [decoder])):
            known = [table for table in tables if table is not None and len(table) > 1]
            if known:
                mean = float(np.mean([mutual_information(table) for table in known]))
                points[part].append((record["step"], mean))
    arrays = {part: np.array(of, dtype=float) for part, of in points.items() if of}
    return {part: (of[:, 0], of[:, 1]) for part, of in arrays.items()}


def _shares_by_layer(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Layer, or DECODER → shares [R, E] that a line of the log holds."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, share in record.items():
        if share is not None and (logged := _LOGGED.fullmatch(name)):
            layer, _, assay = logged["layer"].partition("/")
            found[layer][f"{logged['row']}/{assay}"][int(logged["e"])] = share
    return {
        layer: np.array([[of[e] for e in sorted(of)] for of in rows.values()], dtype=float)
        for layer, rows in found.items()
    }


def draw_information(path: Path, runs: Mapping[str, Sequence[Curves]]) -> None:
    """Draw `information` of runs over training: a colour for each name, a line for each run.

    Nothing is drawn where nothing was logged.
    """
    logged = [part for part in TITLES if any(part in one for of in runs.values() for one in of)]
    if not logged:
        return
    figure = new_figure(2.2 + 4.4 * len(logged), 3.2)
    panels: list[Axes] = list(figure.subplots(1, len(logged), squeeze=False)[0])
    for axes, part in zip(panels, logged, strict=True):
        for place, (name, of) in enumerate(runs.items()):
            for number, (steps, nats) in enumerate(one[part] for one in of if part in one):
                axes.plot(
                    steps, nats, color=colour_of(place), linewidth=1.2, marker="o", markersize=2.5,
                    label=name if number == 0 else None,
                )  # fmt: skip
        axes.set_title(TITLES[part], loc="left", fontsize=9)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axes.set_ylim(0, 1.08 * max(axes.dataLim.ymax, 0.01))
        tidy(axes)
    panels[0].set_ylabel("mutual information (nats)", fontsize=8, color=INK)
    handles = {str(line.get_label()): line for axes in panels for line in axes.lines}
    named = [name for name in runs if name in handles]
    figure.legend(
        [handles[name] for name in named], named, loc="outside right upper", fontsize=8,
        frameon=False,
    )  # fmt: skip
    figure.suptitle(
        "Mutual information over training, of the validation windows' gate mass",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    save(figure, path)
