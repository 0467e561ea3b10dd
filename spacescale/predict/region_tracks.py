"""`spacescale predict`: tracks of any region of a genome, in files that a browser opens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import new_folder, write_json
from spacescale.genome.aliases import shorten
from spacescale.predict.genomes import genome_for
from spacescale.predict.outputs import Format, write_session, write_tracks
from spacescale.predict.places import Place
from spacescale.predict.pool import pool_on
from spacescale.predict.predictor import UNITS, Predictor, Unit
from spacescale.predict.region_figures import RegionFigure, require_matplotlib
from spacescale.predict.regions import Averaging, RegionPredictions, Stretch, read_places

MOST_UNASKED = 50  # tracks; more are written only where some are named
# Drawn unasked are so many regions, each of so many bp.
MOST_FIGURES, LONGEST_FIGURE = 10, 500_000


@dataclass(frozen=True)
class Request:
    """What to predict, of which bases, and how to write it."""

    fasta: Path
    places: Sequence[str]  # CONTIG, CONTIG:START-END or BED files
    tracks: Sequence[str] = ()  # as `Predictor.choose_tracks`
    unit: Unit = "means"
    both_strands: bool = False
    shifts: tuple[int, ...] = (0,)  # bp; the mean over windows moved by these
    file_format: Format = "bigwig"
    figure: bool | None = None  # of each region; None: where they are few and small
    any_genome: bool = False  # also one that contradicts what the model was trained on
    devices: tuple[str, ...] = ()  # of a process each; none: the predictor itself


def predict(predictor: Predictor, request: Request, out: Path) -> list[Path]:
    """Write files of tracks, an IGV session, figures and `predicted.json` into a new folder.

    Returns the files of tracks, which are the same, to the rounding of float32, on any number of
    devices. Raises
    UserError for what cannot be predicted, before the folder is made, and where the disk is full;
    nothing half-written is left.
    """
    predictor.require_unit(request.unit)
    rows = predictor.choose_tracks(request.tracks)
    if not request.tracks and len(rows) > MOST_UNASKED:
        raise UserError(
            f"{predictor.trained.source} predicts {len(rows):,} tracks of {predictor.species}: say "
            "which by --tracks, such as an assay ("
            f"{shorten(sorted({t.assay for t in predictor.tracks}))}), an identifier or a pattern"
        )
    genome = genome_for(predictor, request.fasta, request.any_genome)
    places = read_places(request.places, genome)
    averaging = Averaging(request.both_strands, request.shifts)
    regions = RegionPredictions(predictor, genome, places, averaging, request.unit, rows)
    figures = [
        RegionFigure(place, predictor.bin_size, len(rows)) for place in _drawn(request, places)
    ]
    record = _record(predictor, request, rows)
    with new_folder(out) as partial, pool_on(predictor, request.devices) as pool:
        bar = tqdm(total=len(regions), unit="window", desc="predicting", disable=None)
        stretches = _watched(regions.stretches(pool), figures, bar)
        files = write_tracks(
            partial, stretches, predictor.tracks, rows, genome.lengths, predictor.bin_size,
            request.file_format,
        )  # fmt: skip
        tracks = [predictor.tracks[row] for row in rows]
        for figure in figures:
            names, assays = [t.identifier for t in tracks], [t.assay for t in tracks]
            figure.draw(partial, names, assays, UNITS[request.unit])
        if request.file_format != "parquet":
            first = places[0]
            locus = f"{first.chrom}:{first.start + 1}-{first.end}"  # from 1, both ends in
            write_session(partial / "igv_session.xml", files, request.fasta, locus)
        write_json(partial / "predicted.json", record, indent=1)
    return [out / file.name for file in files]


def _drawn(request: Request, places: Sequence[Place]) -> Sequence[Place]:
    """The regions of which there are to be figures."""
    small = len(places) <= MOST_FIGURES and all(p.end - p.start <= LONGEST_FIGURE for p in places)
    if request.figure is False or (request.figure is None and not small):
        return ()
    require_matplotlib()
    return tuple(dict.fromkeys(places))


def _watched(
    stretches: Iterable[Stretch], figures: Sequence[RegionFigure], bar: tqdm
) -> Iterator[Stretch]:
    for stretch in stretches:
        for figure in figures:
            figure.add(stretch)
        yield stretch
        bar.update()
    bar.close()


def _record(predictor: Predictor, request: Request, rows: Sequence[int]) -> dict[str, object]:
    """What the numbers are, for whoever finds the folder later."""
    return {
        "model": str(predictor.trained.source),
        "species": predictor.species,
        "fasta": str(request.fasta),
        "places": list(map(str, request.places)),
        "unit": f"{request.unit}: {UNITS[request.unit]}",
        "bin_size": predictor.bin_size,
        "both_strands": request.both_strands,
        "shifts": list(request.shifts),
        "tracks": [
            {
                "identifier": (track := predictor.tracks[row]).identifier,
                "assay": track.assay,
                "description": track.description,
                "training_mean": None if math.isnan(track.mean) else track.mean,
            }
            for row in rows
        ],
    }
