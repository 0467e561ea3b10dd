"""`spacescale attribute`: which bases of a region its predicted tracks rest on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import new_folder, write_json
from spacescale.genome.open_genome import OpenGenome
from spacescale.predict.attribution import (
    METHODS,
    Attributor,
    Method,
    Scope,
    save_for_modisco,
    sequence_of,
)
from spacescale.predict.genomes import genome_for
from spacescale.predict.places import Place
from spacescale.predict.predictor import Predictor
from spacescale.predict.regions import bases, read_places

MOST_FIGURES, LONGEST_FIGURE = 50, 2_000  # bp


@dataclass(frozen=True)
class Request:
    """What to explain: of these places, these tracks together, by this method."""

    fasta: Path
    places: Sequence[str]  # CONTIG:START-END or BED files
    tracks: Sequence[str]
    method: Method = "ism"
    steps: int = 64
    figures: bool = True
    any_genome: bool = False  # also one that contradicts what the model was trained on


def attribute(predictor: Predictor, request: Request, out: Path) -> str:
    """Write `attributions.tsv`, logos, the files of TF-MoDISco and `attributed.json` into a folder.

    Each place lies in the middle of its window, and the bins that touch it are explained. Returns
    what was made, and what was left out, in words. Raises UserError for what cannot be explained;
    nothing half-written is left.
    """
    predictor.require_unit("stored")  # that it has tracks at all
    rows = tuple(predictor.choose_tracks(request.tracks))
    genome = genome_for(predictor, request.fasta, request.any_genome)
    places = read_places(request.places, genome)
    for place in places:
        if place.end - place.start > predictor.span:
            raise UserError(
                f"{place}: {place.end - place.start:,} bp; this model explains at most "
                f"{predictor.span:,} bp at once, the bases whose tracks it predicts"
            )
    said = [f"{len(places)} regions attributed by {request.method}"]
    with new_folder(out) as partial:
        found = []
        for place in tqdm(places, unit="region", desc="attributing", disable=None):
            window, first = _window(predictor, genome, place)
            end = first + place.end - place.start
            scope = _scope(predictor, rows, first, end)
            attributor = Attributor(predictor, scope)
            values = attributor.attribute(window, request.method, first, end, request.steps)
            predictor.require_finite(values, "attributions")
            found.append((place, sequence_of(window[first:end]), values))
        _write_table(partial / "attributions.tsv", found)
        if len({values.shape for _, _, values in found}) == 1:
            save_for_modisco(
                [s for _, s, _ in found], [v for _, _, v in found], str(partial / "modisco")
            )
        else:
            said.append("no files for TF-MoDISco: regions are of several lengths")
        if request.figures:
            drawn = [part for part in found if part[2].shape[1] <= LONGEST_FIGURE][:MOST_FIGURES]
            _draw(partial, drawn, request.method)
            if len(drawn) < len(found):
                said.append(
                    f"{len(drawn)} logos: of the first {MOST_FIGURES} regions up to "
                    f"{LONGEST_FIGURE:,} bp"
                )
        write_json(partial / "attributed.json", _record(predictor, request, rows), indent=1)
    return "; ".join(said)


def _window(predictor: Predictor, genome: OpenGenome, place: Place) -> tuple[np.ndarray, int]:
    """Codes of the window around a place, and where in it the place begins."""
    first = (predictor.window - (place.end - place.start)) // 2
    return bases(genome.contigs[place.chrom], place.start - first, predictor.window), first


def _scope(predictor: Predictor, rows: tuple[int, ...], first: int, end: int) -> Scope:
    """The bins that touch the bases `first` to `end` of the window."""
    margin, size = (predictor.window - predictor.span) // 2, predictor.bin_size
    return Scope(rows, (first - margin) // size, -(-(end - margin) // size))


_Found = Sequence[tuple[Place, np.ndarray, np.ndarray]]  # place, one-hot, attributions (4, L)


def contributions(sequence: np.ndarray, values: np.ndarray, method: Method) -> np.ndarray:
    """Attributions of the bases that stand there, (4, L), 0 elsewhere.

    Of mutagenesis, what is lost in the mean of the three other bases.
    """
    return sequence * (-values.sum(0) / 3 if method == "ism" else values)


def _write_table(path: Path, found: _Found) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["chrom", "start", "end", "base", "A", "C", "G", "T"])
        for place, sequence, values in found:
            letters = np.where(sequence.any(0), sequence.argmax(0), 4)
            for at, (letter, column) in enumerate(zip(letters, values.T, strict=True)):
                start = place.start + at
                cells = [f"{value:.6g}" for value in column]
                writer.writerow([place.chrom, start, start + 1, "ACGTN"[letter], *cells])


def _draw(folder: Path, found: _Found, method: Method) -> None:
    from spacescale.predict.logos import draw_logo

    for place, sequence, values in found:
        name = f"{place.chrom}_{place.start}_{place.end}.png".replace("/", "_")
        shown = contributions(sequence, values, method)
        label = {"ism": "lost, in track means"}.get(method, "track means")
        draw_logo(folder / name, shown, place.start, f"{place}, {method}", label)


def _record(predictor: Predictor, request: Request, rows: Sequence[int]) -> dict[str, object]:
    return {
        "model": str(predictor.trained.source),
        "species": predictor.species,
        "fasta": str(request.fasta),
        "method": f"{request.method}: {METHODS[request.method]}",
        "steps": request.steps if request.method == "integrated" else None,
        "explains": "sum over the bins that touch the region, mean over the tracks, in multiples "
        "of track means (stored values where a mean is not known)",
        "tracks": [predictor.tracks[row].identifier for row in rows],
        "places": list(map(str, request.places)),
    }
