"""How many planted copies are found, and how much that is none; as docs/splits.md says."""

import numpy as np
import pytest
from planted_copies import CHUNK_BP, altered, chunks_of, either_strand, random_genome

from spacescale.contamination.alignment import score_by_chance
from spacescale.contamination.search import search
from spacescale.contamination.sequences import cut, join
from spacescale.contamination.verdicts import BY_CHANCE, Limits

COPIES = 200
LENGTHS, IDENTITIES = (70, 200, 500), (1.0, 0.95, 0.8)
# Of 200 copies each, at these lengths; what the documents promise.
LEAST_FOUND = {
    (1.0, False): (1.0, 1.0, 1.0),
    (0.95, False): (1.0, 1.0, 1.0),
    (0.8, False): (0.99, 1.0, 1.0),
    (0.95, True): (1.0, 1.0, 1.0),
    (0.8, True): (0.95, 0.98, 0.98),
}


def recall(genome: np.ndarray, seed: int = 0) -> tuple[dict, float]:
    """Share of copies found where they were taken from, by (identity, gaps, bp), at the default
    limits; and of the copies read backwards that are found.
    """
    random, limits = np.random.default_rng(seed), Limits()
    copies, truth = [], []
    for identity, gaps in LEAST_FOUND:
        for bp in LENGTHS:
            for place in random.integers(0, genome.size - bp, COPIES).tolist():
                copy = altered(genome[place : place + bp], identity, gaps, random)
                copies.append(either_strand(copy, random))
                truth.append(((identity, gaps, bp), place))
    copies += [copy[::-1] for copy in copies]
    pieces = [cut(copy) for copy in copies]
    owners = np.repeat(np.arange(len(copies)), [len(of_one) for of_one in pieces])
    lengths = np.array([copy.size for copy in copies])
    same = float((np.bincount(genome, minlength=5)[:4] ** 2).sum()) / genome.size**2
    least = np.array(
        [score_by_chance(bp, 2 * genome.size, same, BY_CHANCE) for bp in lengths.tolist()]
    )
    chunks = chunks_of(genome)
    found = search([piece for of_one in pieces for piece in of_one], lambda: chunks)
    hits = {
        number: hit
        for (number, _), hit in join(found, owners, lengths, least).items()
        if hit.identity >= limits.identity and hit.aligned_bp >= limits.cover * lengths[number]
    }
    shares = dict.fromkeys((key for key, _ in truth), 0.0)
    for number, (key, place) in enumerate(truth):
        hit = hits.get(number)
        if hit and abs(hit.chunk * CHUNK_BP + hit.start - place) < key[2]:
            shares[key] += 1 / COPIES
    return shares, sum(number >= len(truth) for number in hits) / len(truth)


@pytest.mark.slow
def test_planted_copies_are_found_and_backwards_ones_are_not():
    shares, backwards = recall(random_genome(12_000_000, gc=0.38))
    for (identity, gaps), least in LEAST_FOUND.items():
        for bp, share in zip(LENGTHS, least, strict=True):
            assert shares[identity, gaps, bp] >= share - 1e-9, (identity, gaps, bp)
    assert backwards <= 0.002
