"""What of each sequence was seen: the search in all that training and validation read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from spacescale.contamination.alignment import score_by_chance
from spacescale.contamination.search import FLANK, Chunk, search
from spacescale.contamination.seen import TRAIN, VALID, SeenWindows, Stretch
from spacescale.contamination.sequences import Hit, Query, cut, join
from spacescale.errors import UserError
from spacescale.genome import dna

IDENTICAL = 0.95  # from this identity on a sequence counts as one of training's own
BY_CHANCE = 0.01  # of a sequence so many alignments count that are none, were bases random
MOST_ALIKE_BY_CHANCE = 0.4  # two bases, also of runs of one base in AT-rich genomes
CHUNK_BP = 2**20
QUERIES_BP = 2**23  # searched at a time, which bounds memory: about 1.5 GB

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """From which identity and share of its known bases on a sequence counts as seen."""

    identity: float = 0.8
    cover: float = 0.5

    def __post_init__(self):
        """Raise UserError for what is no share."""
        for name in ("identity", "cover"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise UserError(f"--{name} {value:g}: must be above 0, and 1 at most")

    def in_words(self) -> str:
        """The same, as the table of sequences has it."""
        return f"identity of {self.identity:g} over {self.cover:g} of a sequence"


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Result:
    """What was found of a sequence: its best place in what was trained on, and in validation's.

    verdict: `same` (identity of IDENTICAL or more), `similar` (as limits say), `part` (some of it,
    or of lower identity), `validation` (as `same` or `similar`, in windows that only validated),
    `none`, or `too short` (even a copy of it could be chance).
    """

    query: Query
    verdict: str
    train: Hit | None = None
    valid: Hit | None = None

    @property
    def seen(self) -> bool:
        """Whether training has seen it or its like."""
        return self.verdict in ("same", "similar")


class Searched:
    """All that training and validation read, cut into chunks."""

    def __init__(self, seen: dict[str, SeenWindows]):
        self.seen = seen
        stretches = [stretch for windows in seen.values() for stretch in windows.stretches()]
        self.bp = sum(one.end - one.start for one in stretches)
        self._chunks = [
            (one, start)
            for one in stretches
            for start in range(one.start, one.end, CHUNK_BP)
        ]  # fmt: skip

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Of A, C, G and T on both strands together, float64 (4,)."""
        counts = sum(np.bincount(one.codes, minlength=5)[: dna.N] for one in self.chunks())
        both = counts + np.flip(counts)
        return both / max(both.sum(), 1)

    def chunks(self) -> Iterator[Chunk]:
        """All of them; the flanks end where the stretch ends."""
        for one, start in self._chunks:
            end = min(start + CHUNK_BP, one.end)
            first, last = max(start - FLANK, one.start), min(end + FLANK, one.end)
            codes = np.full(end - start + 2 * FLANK, dna.N, dtype=np.uint8)
            lead = FLANK - (start - first)
            codes[lead : lead + last - first] = one.data.bases(one.contig, first, last)
            yield Chunk(codes, one.kind)

    def place(self, hit: Hit) -> tuple[Stretch, int, int]:
        """The stretch in which a hit lies, and from where to where on its contig."""
        stretch, start = self._chunks[hit.chunk]
        return stretch, start + hit.start, start + hit.end


def judge(queries: Sequence[Query], searched: Searched, limits: Limits) -> list[Result]:
    """Search all sequences, some megabases at a time."""
    results: list[Result] = []
    ends = np.cumsum([query.codes.size for query in queries])
    cuts = np.searchsorted(ends, np.arange(QUERIES_BP, ends[-1], QUERIES_BP)).tolist()
    for first, last in pairwise([0, *cuts, len(queries)]):
        results += _judge(queries[first:last], searched, limits)
        logger.info("%s of %s sequences searched", f"{last:,}", f"{len(queries):,}")
    return results


def _judge(queries: Sequence[Query], searched: Searched, limits: Limits) -> list[Result]:
    known = np.array([query.known_bp for query in queries])
    least = np.array([_least_score(query.codes, searched) for query in queries])
    pieces = [cut(query.codes) for query in queries]
    owners = np.repeat(np.arange(len(queries)), [len(of_one) for of_one in pieces])
    found = search([piece for of_one in pieces for piece in of_one], searched.chunks)
    lengths = np.array([query.codes.size for query in queries])
    identities = (max(IDENTICAL, limits.identity), limits.identity)
    hits = join(found, owners, lengths, least, identities, limits.cover * known)
    results = []
    for number, query in enumerate(queries):
        train, valid = hits.get((number, TRAIN)), hits.get((number, VALID))
        too_short = bool(known[number] < least[number])
        verdict = "too short" if too_short else _verdict(train, valid, int(known[number]), limits)
        results.append(Result(query, verdict, train, valid))
    return results


def _least_score(codes: np.ndarray, searched: Searched) -> float:
    """From which score on an alignment of a sequence is more than chance."""
    counts = np.bincount(codes, minlength=5)[: dna.N]
    bp = int(counts.sum())
    same = float(counts @ searched.frequencies) / max(bp, 1)
    same = min(max(same, 0.25), MOST_ALIKE_BY_CHANCE)
    return score_by_chance(bp, 2 * searched.bp, same, BY_CHANCE)


def _verdict(train: Hit | None, valid: Hit | None, known_bp: int, limits: Limits) -> str:
    def counts(hit: Hit | None) -> bool:
        return (
            hit is not None
            and hit.identity >= limits.identity
            and hit.aligned_bp >= limits.cover * known_bp
        )

    if train is not None and counts(train):
        return "same" if train.identity >= IDENTICAL else "similar"
    if counts(valid):
        return "validation"
    return "none" if train is None and valid is None else "part"
