"""Find sequences in genomes, on both strands, exactly or nearly: seeds, then alignment.

Of every seed that a sequence shares with the genome the bases around it are compared, in words of
32. What agrees well enough is aligned without gaps, the best places of each sequence with gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from spacescale.contamination.alignment import Aligned, align, ungapped_scores
from spacescale.contamination.seeds import (
    PATTERNS,
    SPAN,
    WORD,
    SeedTable,
    matches,
    words,
)
from spacescale.genome import dna

LONGEST_PIECE = 512  # bp; longer sequences are searched in pieces
WIDEST_BAND = 32  # bp that gaps may add up to
FLANK = LONGEST_PIECE + 2 * WIDEST_BAND
PLACES_KEPT = 4  # of each piece, for alignment with gaps …
_NEARLY_AS_GOOD = 0.5  # … where they score this share of the best without gaps
_MATCHES_BESIDE_SEED = 21  # of 32: chance gives 17 ± 2, an identity of 80 % 28 ± 2
_LEAST_SCORE = 12  # without gaps; a seed alone has about 11
_CELLS_AT_ONCE = 2**19
_CELLS_ALIGNED_AT_ONCE = 2**17  # each with all its diagonals, a row at a time in the cache
_CANDIDATES_AT_ONCE = 2**21
_CANDIDATE = np.dtype(
    [("piece", "i4"), ("reverse", "?"), ("kind", "i1"),
     ("chunk", "i4"), ("start", "i4"), ("score", "i4")]
)  # fmt: skip


@dataclass(frozen=True)
class Chunk:
    """A stretch of a genome: codes uint8 (FLANK + L + FLANK,), of which the L in the middle count.

    The flanks are what lies beside it, N where that is not to be searched. kind: a number below
    128; the best places of each kind are found.
    """

    codes: np.ndarray
    kind: int


@dataclass(frozen=True)
class Found(Aligned):
    """The best place of pieces, where they have one; arrays (F,), sorted by piece and kind.

    Beside the alignment: which piece, whether its reverse complement, the kind and number of the
    chunk; `second_start` and `second_end` are relative to the chunk's middle, `first_start` and
    `first_end` to the piece as it was searched.
    """

    piece: np.ndarray
    reverse: np.ndarray
    kind: np.ndarray
    chunk: np.ndarray


class _Text:
    """Pieces, then their reverse complements, as one text with N between them."""

    def __init__(self, pieces: Sequence[np.ndarray]):
        both = [*pieces, *map(dna.reverse_complement, pieces)]
        self.lengths = np.array([len(piece) for piece in both], dtype=np.int64)
        self.starts = FLANK + np.cumsum(self.lengths + 1) - (self.lengths + 1)
        self.codes = np.full(self.starts[-1] + self.lengths[-1] + FLANK, dna.N, dtype=np.uint8)
        for start, piece in zip(self.starts, both, strict=True):
            self.codes[start : start + len(piece)] = piece
        self.owner = np.repeat(np.arange(len(both), dtype=np.int32), self.lengths + 1)
        self.words = words(self.codes)

    def owner_of(self, places: np.ndarray) -> np.ndarray:
        """Which piece, or reverse complement, holds each place."""
        return self.owner[places - FLANK].astype(np.int64)


def search(pieces: Sequence[np.ndarray], chunks: Callable[[], Iterable[Chunk]]) -> Found:
    """Find the best place of each piece, of each kind, that is worth an alignment with gaps.

    pieces: codes uint8, up to LONGEST_PIECE bp each and 2^28 bp in all. chunks: called some times;
    must give the same each time. Whether a place is more than chance is left to whoever asks.
    """
    if not pieces:
        return _best([])
    text = _Text(pieces)
    kept = np.empty(0, dtype=_CANDIDATE)
    for pattern in PATTERNS:
        table = SeedTable(text.codes, pattern)
        waiting, size = [kept], kept.size
        for number, chunk in enumerate(chunks()):
            for found in _candidates(text, table, chunk, number):
                waiting.append(found)
                size += found.size
            if size > _CANDIDATES_AT_ONCE:
                waiting = [_most_promising(np.concatenate(waiting))]
                size = waiting[0].size
        kept = _most_promising(np.concatenate(waiting))
    kept = np.sort(kept, order="chunk")
    return _best(
        [
            _align(text, kept[first:last], chunk)
            for number, chunk in enumerate(chunks())
            for first, last in [np.searchsorted(kept["chunk"], [number, number + 1])]
            if first < last
        ]
    )


def _candidates(text: _Text, table: SeedTable, chunk: Chunk, number: int) -> Iterator[np.ndarray]:
    """Diagonals of a chunk on which a piece scores without gaps."""
    in_middle = chunk.codes[FLANK : chunk.codes.size - FLANK + SPAN - 1]
    of_chunk, back = words(chunk.codes), WORD - len(table.pattern)
    for places, in_text in table.hits(in_middle):
        places = places + FLANK
        near = np.maximum(  # to the right and to the left of where the seed begins and ends
            matches(of_chunk[places], text.words[in_text]),
            matches(of_chunk[places - back], text.words[in_text - back]),
        )
        good = near >= _MATCHES_BESIDE_SEED
        owner = text.owner_of(in_text[good])
        start = places[good] - (in_text[good] - text.starts[owner])
        owner, start = np.divmod(np.unique(owner * chunk.codes.size + start), chunk.codes.size)
        score = _ungapped(text, owner, chunk.codes, start)
        promising = score >= _LEAST_SCORE
        found = np.empty(int(promising.sum()), dtype=_CANDIDATE)
        reverse, piece = np.divmod(owner[promising], len(text.lengths) // 2)
        found["piece"], found["reverse"] = piece, reverse
        found["kind"], found["chunk"] = chunk.kind, number
        found["start"], found["score"] = start[promising], score[promising]
        yield found


def _ungapped(text: _Text, owner: np.ndarray, codes: np.ndarray, start: np.ndarray) -> np.ndarray:
    score = np.zeros(owner.size, dtype=np.int64)
    for rows, length in _of_like_length(text.lengths[owner], _CELLS_AT_ONCE):
        first = _rows(text, owner[rows], length)
        score[rows] = ungapped_scores(first, sliding_window_view(codes, length)[start[rows]])
    return score


def _of_like_length(lengths: np.ndarray, cells: int) -> Iterator[tuple[np.ndarray, int]]:
    """Deal rows out into parts of so many cells: the rows, and the length of the longest."""
    order = np.argsort(lengths, kind="stable")[::-1]
    first = 0
    while first < order.size:
        length = int(lengths[order[first]])
        rows = order[first : first + max(cells // length, 1)]
        rows = rows[lengths[rows] > length // 2]
        yield rows, length
        first += rows.size


def _rows(text: _Text, owner: np.ndarray, length: int) -> np.ndarray:
    """These pieces as the rows of a matrix, N where they are shorter."""
    rows = sliding_window_view(text.codes, length)[text.starts[owner]]
    beyond = np.arange(length) >= text.lengths[owner, None]
    return np.where(beyond, np.uint8(dna.N), rows)


def _most_promising(candidates: np.ndarray) -> np.ndarray:
    """The best PLACES_KEPT of each piece and kind; of diagonals side by side only the best."""
    order = np.lexsort(
        [candidates[name] for name in ("start", "chunk", "reverse", "kind", "piece")]
    )
    found = candidates[order]
    if not found.size:
        return found
    apart = np.ones(found.size, dtype=bool)
    apart[1:] = np.diff(found["start"]) > WIDEST_BAND // 2
    for name in ("piece", "kind", "reverse", "chunk"):
        apart[1:] |= found[name][1:] != found[name][:-1]
    place = np.cumsum(apart)
    order = np.lexsort([-found["score"], place])
    found = found[order][np.flatnonzero(apart)]  # the best of each place comes first
    order = np.lexsort([-found["score"], found["kind"], found["piece"]])
    found = found[order]
    owner = found["piece"].astype(np.int64) * 128 + found["kind"]
    first = np.searchsorted(owner, owner)
    good = found["score"] >= _NEARLY_AS_GOOD * found["score"][first]
    return found[good & (np.arange(found.size) - first < PLACES_KEPT)]


def _align(text: _Text, candidates: np.ndarray, chunk: Chunk) -> Found:
    """Align candidates of one chunk with gaps."""
    owner = candidates["piece"] + candidates["reverse"] * (len(text.lengths) // 2)
    parts = []
    for rows, length in _of_like_length(text.lengths[owner], _CELLS_ALIGNED_AT_ONCE):
        width = min(max(8, length // 16), WIDEST_BAND)
        start = candidates["start"][rows].astype(np.int64) - width
        beside = sliding_window_view(chunk.codes, length + 2 * width)[start]
        found = align(_rows(text, owner[rows], length), beside, width)
        place = start - FLANK
        parts.append(
            Found(
                **{field.name: getattr(found, field.name) for field in fields(Aligned)}
                | {
                    "second_start": found.second_start + place,
                    "second_end": found.second_end + place,
                },
                **{name: candidates[name][rows] for name in ("piece", "reverse", "kind", "chunk")},
            )
        )
    return _joined(parts)


def _joined(parts: Sequence[Found]) -> Found:
    def column(name: str) -> np.ndarray:
        found = [getattr(part, name) for part in parts]
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    return Found(**{field.name: column(field.name) for field in fields(Found)})


def _best(parts: Sequence[Found]) -> Found:
    """The best place of each piece and kind; of equal ones the first."""
    every = _joined(parts)
    order = np.lexsort([every.second_start, every.chunk, -every.score, every.kind, every.piece])
    owner = every.piece[order].astype(np.int64) * 128 + every.kind[order]
    first = order[np.append(True, owner[1:] != owner[:-1])[: order.size]]
    return Found(**{field.name: getattr(every, field.name)[first] for field in fields(Found)})
