"""Attribution maps drawn as letters, those of different models one under the other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spacescale.evals.figures import new_figure, save
from spacescale.genome import dna
from spacescale.predict.attribution import sequence_of
from spacescale.probing.map_files import Maps

SEQUENCES = 3  # that are drawn
MOST_BP = 120  # of each, where its maps are largest
WIDTH, HEIGHT = 13.0, 1.1  # of a panel, inches
logger = logging.getLogger(__name__)


def draw_maps(path: Path, maps: Maps) -> bool:
    """Draw all maps of the first sequences as a PNG, each with a scale of its own.

    False where matplotlib is missing, which is said.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("no figure: matplotlib is not installed (pip install 'spacescale[plot]')")
        return False
    from spacescale.predict.logos import draw_letters, limits

    sequences = maps.sequences[:SEQUENCES]
    number, width = len(sequences) * len(maps.values), min(MOST_BP, max(map(len, sequences)))
    figure = new_figure(WIDTH, 0.4 + HEIGHT * number)
    panels = figure.subplots(number, 1, squeeze=False).reshape(len(sequences), -1)
    for row, letters in enumerate(sequences):
        first = strongest([of_map[row] for of_map in maps.values.values()])
        end = min(first + MOST_BP, len(letters))
        bases = sequence_of(dna.encode(letters[first:end]))
        for axes, (name, of_map) in zip(panels[row], maps.values.items(), strict=True):
            shown = bases * of_map[row][first:end]
            draw_letters(axes, shown, first)
            axes.set_xlim(first, first + width)  # letters are alike in all panels
            axes.set_ylim(*limits(shown))
            axes.set_title(name, fontsize=8, loc="left")
            axes.tick_params(labelsize=7)
        title = f"{maps.names[row]}, {first:,} to {end:,} of {len(letters):,} bp"
        panels[row, 0].set_title(title, fontsize=8, loc="right")
    figure.supxlabel("position in the sequence, bp (0-based)", fontsize=8)
    save(figure, path)
    return True


def strongest(maps: Sequence[np.ndarray]) -> int:
    """Where those MOST_BP begin in which maps (L,) are largest, each counting alike."""
    shares = [np.abs(one) / max(np.abs(one).sum(), 1e-30) for one in maps]
    stretch = np.ones(min(MOST_BP, len(maps[0])))
    return int(np.convolve(np.sum(shares, 0), stretch, "valid").argmax())
