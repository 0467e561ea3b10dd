"""Predict stretches of a genome, window by window. Positions are 0-based, half-open, in bp.

Windows lie on one grid that starts with each contig, wherever a stretch begins: so that a base
gets the same value whatever else is asked for. Shapes: N bins, T tracks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.aliases import describe_unknown, suggest
from spacescale.genome.dna import N
from spacescale.genome.open_genome import Contig, OpenGenome
from spacescale.genome.text_files import decoded, numbered_lines
from spacescale.predict.places import Place, parse_place
from spacescale.predict.pool import Call, Pool
from spacescale.predict.predictor import Predictor, Strands, Unit


@dataclass(frozen=True)
class Stretch:
    """Consecutive bins of a contig; the last may end with the contig, short of a whole bin."""

    chrom: str
    start: int
    values: np.ndarray  # float32 (N, T)


@dataclass(frozen=True)
class Averaging:
    """Over what a prediction is the mean: both strands, and windows moved by some bp."""

    both_strands: bool = False
    shifts: tuple[int, ...] = (0,)


def require_shifts(shifts: Sequence[int], bin_size: int) -> None:
    """Raise UserError unless windows may be moved by these bp: distinct, and less than a bin."""
    if not shifts or len(set(shifts)) < len(shifts):
        raise UserError(f"--shifts {' '.join(map(str, shifts))}: expected different numbers of bp")
    for shift in shifts:
        if abs(shift) >= bin_size:
            raise UserError(
                f"--shifts {shift}: expected less than a bin, {bin_size} bp: bins stay in place"
            )


def read_places(words: Sequence[str], genome: OpenGenome) -> list[Place]:
    """What is asked for: words that are a CONTIG, CONTIG:START-END or a BED file.

    In the order of words and lines, each as it stands; strands of a BED count for nothing. Raises
    UserError for a contig that the genome lacks, a stretch off its contig or a file that cannot be
    read.
    """
    places = []
    for word in words:
        path = Path(word)
        if word in genome.lengths:
            places.append(Place(word, 0, genome.lengths[word]))
        elif path.is_file():
            places += _from_bed(path)
        else:
            places.append(_place(word, genome))
    if unknown := {place.chrom for place in places} - set(genome.lengths):
        raise UserError(f"{genome.path}: {describe_unknown(sorted(unknown), genome.lengths)}")
    for place in places:
        length = genome.lengths[place.chrom]
        if place.end > length:
            raise UserError(f"{place}: {genome.path} has {length:,} bp of {place.chrom}")
    if not places:
        raise UserError(f"--regions {' '.join(words)}: no region in it")
    return places


def _place(word: str, genome: OpenGenome) -> Place:
    """CONTIG:START-END; what is neither that nor a contig or file is told so, with near names."""
    if ":" in word:
        return parse_place(word, "--regions")
    raise UserError(
        f"--regions {word}: expected CONTIG:START-END, a BED file that is there, or a contig of "
        f"{genome.path}{suggest(word, genome.lengths)}"
    )


def _from_bed(path: Path) -> list[Place]:
    places = []
    for number, line in numbered_lines(path, "a BED file of regions"):
        cells = decoded(f"{path}:{number}", line).split()
        if len(cells) < 3 or not (cells[1].isdecimal() and cells[2].isdecimal()):
            raise UserError(f"{path}:{number}: expected CONTIG START END, whole numbers of bp")
        place = Place(cells[0], int(cells[1]), int(cells[2]))
        if place.start >= place.end:
            raise UserError(f"{path}:{number}: {place}: expected a start before the end")
        places.append(place)
    return places


def _joined(places: Iterable[Place], order: Sequence[str]) -> Iterator[Place]:
    last: Place | None = None
    for place in sorted(places, key=lambda p: (order.index(p.chrom), p.start, p.end)):
        if last is not None and place.chrom == last.chrom and place.start <= last.end:
            last = Place(last.chrom, last.start, max(last.end, place.end))
            continue
        if last is not None:
            yield last
        last = place
    if last is not None:
        yield last


@dataclass(frozen=True)
class _Tile:
    """One window of the grid, and which of its bins are asked for."""

    chrom: str
    start: int  # of its targets
    first: int
    last: int  # bins, half-open


class RegionPredictions:
    """Predictions of places of one genome by one model, computed while they are iterated over."""

    def __init__(
        self,
        predictor: Predictor,
        genome: OpenGenome,
        places: Sequence[Place],
        averaging: Averaging | None = None,
        unit: Unit = "means",
        rows: Sequence[int] | None = None,
    ):
        """Raises UserError where the model cannot predict in this unit."""
        predictor.require_unit(unit)
        self.averaging = averaging or Averaging()
        require_shifts(self.averaging.shifts, predictor.bin_size)
        self.predictor, self.genome = predictor, genome
        self.rows = list(range(len(predictor.tracks)) if rows is None else rows)
        self.unit: Unit = unit
        size = predictor.bin_size
        whole_bins = [
            Place(p.chrom, p.start // size * size, -(-p.end // size) * size) for p in places
        ]
        self._places = list(_joined(whole_bins, list(genome.lengths)))

    def __len__(self) -> int:
        """How many windows the places take."""
        return sum(1 for _ in self._tiles())

    def __iter__(self) -> Iterator[Stretch]:
        """As `stretches`, predicted here."""
        return self.stretches(Pool(self.predictor))

    def stretches(self, pool: Pool) -> Iterator[Stretch]:
        """Bins that touch the places, in the genome's order: a stretch for each window."""
        bin_size, shifts = self.predictor.bin_size, len(self.averaging.shifts)
        for tiles, found in pool.answers(self._work()):
            by_shift = found.reshape(shifts, len(tiles), *found.shape[1:])
            for tile, values in zip(tiles, by_shift.mean(axis=0), strict=True):
                start = tile.start + tile.first * bin_size
                yield Stretch(tile.chrom, start, values[tile.first : tile.last])

    def _work(self) -> Iterator[tuple[list[_Tile], np.ndarray, Call]]:
        """Batches of tiles, with all their windows, (shifts · tiles, L)."""
        strands: Strands = "both" if self.averaging.both_strands else "forward"
        call: Call = "predict", (self.unit, strands, self.rows)
        tiles = self._tiles()
        while batch := list(islice(tiles, self.predictor.batch_size)):
            windows = [self._window(t, shift) for shift in self.averaging.shifts for t in batch]
            yield batch, np.stack(windows), call

    def _tiles(self) -> Iterator[_Tile]:
        span, bin_size = self.predictor.span, self.predictor.bin_size
        for place in self._places:
            for start in range(place.start // span * span, place.end, span):
                first = max(place.start - start, 0) // bin_size
                last = min(place.end - start, span) // bin_size
                yield _Tile(place.chrom, start, first, last)

    def _window(self, tile: _Tile, shift: int) -> np.ndarray:
        """Bases around a tile's targets, N beyond the ends of the contig."""
        margin = (self.predictor.window - self.predictor.span) // 2
        start = tile.start - margin + shift
        return bases(self.genome.contigs[tile.chrom], start, self.predictor.window)


def bases(contig: Contig, start: int, length: int) -> np.ndarray:
    """Codes uint8 (length,) of a contig from `start` on, N beyond its ends."""
    codes = np.full(length, N, dtype=np.uint8)
    first, last = max(start, 0), min(start + length, len(contig))
    if first < last:
        codes[first - start : last - start] = contig[first:last]
    return codes
