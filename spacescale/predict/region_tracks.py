"""`spacescale predict`: tracks of any region of a genome, in files that a browser opens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import new_folder, write_json
from spacescale.genome.aliases import shorten
from spacescale.genome.sequence_files import read_genome
from spacescale.predict.outputs import Format, write_session, write_tracks
from spacescale.predict.predictor import UNITS, Predictor, Unit
from spacescale.predict.regions import Averaging, RegionPredictions, read_places

MOST_UNASKED = 50  # tracks; more are written only where some are named


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


def predict(predictor: Predictor, request: Request, out: Path) -> list[Path]:
    """Write a file for each track, an IGV session and `predicted.json` into a new folder.

    Returns the files of tracks. Raises UserError for what cannot be predicted, before the folder
    is made; nothing half-written is left.
    """
    predictor.require_unit(request.unit)
    rows = predictor.choose_tracks(request.tracks)
    if not request.tracks and len(rows) > MOST_UNASKED:
        raise UserError(
            f"{predictor.trained.source} predicts {len(rows):,} tracks of {predictor.species}: say "
            "which by --tracks, such as an assay ("
            f"{shorten(sorted({t.assay for t in predictor.tracks}))}), an identifier or a pattern"
        )
    genome = read_genome(request.fasta)
    places = read_places(request.places, genome)
    averaging = Averaging(request.both_strands, request.shifts)
    regions = RegionPredictions(predictor, genome, places, averaging, request.unit, rows)
    record = _record(predictor, request, rows)
    with new_folder(out) as partial:
        stretches = tqdm(regions, unit="window", desc="predicting", disable=None)
        files = write_tracks(
            partial, stretches, predictor.tracks, rows, genome.lengths, predictor.bin_size,
            request.file_format,
        )  # fmt: skip
        first = places[0]
        locus = f"{first.chrom}:{first.start + 1}-{first.end}"  # IGV counts from 1, both ends in
        write_session(partial / "igv_session.xml", files, request.fasta, locus)
        write_json(partial / "predicted.json", record, indent=1)
    return [out / file.name for file in files]


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
