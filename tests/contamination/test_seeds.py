"""Seeds and words, held against what their definitions say."""

import numpy as np
import pytest
from planted_copies import random_genome

from spacescale.contamination import seeds
from spacescale.contamination.seeds import PATTERNS, WEIGHT, WORD, SeedTable
from spacescale.genome import dna


def with_unknown(codes):
    codes = codes.copy()
    codes[[17, 60, 61]] = dna.N
    return codes


def seen_by(codes, place, pattern):
    looked_at = [codes[place + i] for i, looks in enumerate(pattern) if looks == "1"]
    return None if dna.N in looked_at else tuple(looked_at)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_equal_values_are_equal_bases(pattern):
    assert pattern.count("1") == WEIGHT
    codes = with_unknown(random_genome(400))
    places, values = seeds.seed_values(codes, pattern)
    seen = [seen_by(codes, place, pattern) for place in range(codes.size - len(pattern) + 1)]
    assert places.tolist() == [place for place, one in enumerate(seen) if one is not None]
    assert len(set(values.tolist())) == len({seen[place] for place in places})
    assert values.min() >= 0 and values.max() < 4**WEIGHT


def test_a_text_shorter_than_a_pattern_has_no_seed():
    places, values = seeds.seed_values(random_genome(5), PATTERNS[0])
    assert places.size == values.size == 0


def test_matches_counts_the_equal_bases_of_two_words():
    a, b = random_genome(200, seed=1), random_genome(200, seed=2)
    found = seeds.matches(seeds.words(a), seeds.words(b))
    for place in range(200 - WORD):
        equal = a[place : place + WORD] == b[place : place + WORD]
        assert found[place] == equal.sum()
    assert seeds.matches(seeds.words(a), seeds.words(a)).min() == WORD


def test_hits_are_all_pairs_that_see_the_same():
    pattern = PATTERNS[1]
    genome = random_genome(3000, seed=3)
    text = with_unknown(np.concatenate([genome[500:700], genome[2500:2600], genome[520:560]]))
    found = [pair for part in SeedTable(text, pattern).hits(genome) for pair in zip(*part)]  # noqa: B905
    in_text: dict = {}
    for place in range(text.size - len(pattern) + 1):
        in_text.setdefault(seen_by(text, place, pattern), []).append(place)
    expected = [
        (place, other)
        for place in range(genome.size - len(pattern) + 1)
        for other in in_text.get(seen_by(genome, place, pattern), [])
    ]
    assert len(expected) > 200
    assert sorted((int(a), int(b)) for a, b in found) == expected


def test_a_seed_of_a_repeat_gives_no_more_after_so_many(monkeypatch):
    monkeypatch.setattr(seeds, "MAX_HITS_OF_A_SEED", 50)
    monkeypatch.setattr(seeds, "LEAST_PLACES_OF_A_SEED", 10)
    monkeypatch.setattr(seeds, "_HITS_AT_ONCE", 20)
    unit = random_genome(40)
    alone = random_genome(60, seed=1)
    table = SeedTable(np.concatenate([np.tile(unit, 5), alone]), PATTERNS[0])
    given = sum(part[0].size for part in table.hits(np.tile(unit, 100)))
    assert 40 * 50 <= given < 40 * 50 + 40 * 20 * 5
    assert sum(part[0].size for part in table.hits(np.tile(unit, 100))) == 0
    assert sum(part[0].size for part in table.hits(alone)) == 60 - len(PATTERNS[0]) + 1


def test_places_count_not_how_many_of_the_text_share_a_seed(monkeypatch):
    monkeypatch.setattr(seeds, "MAX_HITS_OF_A_SEED", 50)
    monkeypatch.setattr(seeds, "LEAST_PLACES_OF_A_SEED", 30)
    monkeypatch.setattr(seeds, "_HITS_AT_ONCE", 20)
    unit = random_genome(40)
    table = SeedTable(np.tile(unit, 25), PATTERNS[0])
    places = {int(p) for part in table.hits(np.tile(unit, 20)) for p in part[0]}
    assert len(places) == 20 * 40 - len(PATTERNS[0]) + 1


def test_a_seed_that_is_everywhere_in_the_text_gives_none(monkeypatch):
    monkeypatch.setattr(seeds, "MOST_TIMES_IN_TEXT", 50)
    table = SeedTable(np.zeros(200, dtype=np.uint8), PATTERNS[0])
    assert list(table.hits(np.zeros(100, dtype=np.uint8))) == []
