import numpy as np
import pytest

from spacescale.bases_config import BasesConfig, Phase
from spacescale.genome import dna
from spacescale.tokens.base_masking import hide_bases, window_fate

SIZE = 200_000
CODES = np.random.default_rng(0).integers(0, 4, SIZE).astype(np.uint8)
ALL = np.ones(SIZE, dtype=bool)


def hide(codes=CODES, hideable=ALL, seed=1, **settings):
    return hide_bases(codes, hideable, BasesConfig(**settings), np.random.default_rng(seed))


def runs(flags: np.ndarray) -> np.ndarray:
    """Lengths of stretches that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return np.diff(edges)[::2]


@pytest.mark.parametrize("single_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_as_many_bases_are_hidden_as_asked(rate, single_share):
    _, hidden = hide(rate=rate, single_share=single_share)
    assert hidden.mean() == pytest.approx(rate, rel=0.06)


def test_spans_are_as_long_as_asked_and_single_bases_are_single():
    _, hidden = hide(rate=0.02, single_share=0.0)
    lengths = runs(hidden)
    assert lengths.min() == 6 and np.bincount(lengths)[6:21].min() > 5
    assert np.mean(lengths > 20) < 0.3  # two spans that touch
    _, hidden = hide(rate=0.02, single_share=1.0)
    assert np.mean(runs(hidden) == 1) > 0.95


def test_half_of_the_hidden_bases_stand_in_spans():
    _, hidden = hide(rate=0.02)
    lengths = runs(hidden)
    assert lengths[lengths >= 6].sum() / lengths.sum() == pytest.approx(0.5, abs=0.05)


def test_one_fate_for_all_of_a_span():
    given, hidden = hide(rate=0.02, single_share=0.0, span_min=12, span_max=12)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int)])) == 1)
    kinds = np.where(given == dna.HIDDEN, "masked", np.where(given == CODES, "kept", "other"))
    shares = dict.fromkeys(("masked", "other", "kept"), 0)
    for start in starts:
        if hidden[start : start + 12].all() and not hidden[start + 12]:  # none touches it
            (kind,) = set(kinds[start : start + 12])
            shares[str(kind)] += 1
    total = sum(shares.values())
    assert total > 100
    for kind, share in (("masked", 0.8), ("other", 0.1), ("kept", 0.1)):
        assert shares[kind] / total == pytest.approx(share, abs=0.07)


def test_what_is_not_hidden_is_given_as_it_is():
    given, hidden = hide()
    assert np.array_equal(given[~hidden], CODES[~hidden])
    assert given.dtype == np.uint8 and given.max() == dna.HIDDEN and not np.any(given == dna.N)


def test_neither_n_nor_what_may_not_be_hidden_is():
    codes, hideable = CODES.copy(), ALL.copy()
    codes[::3] = dna.N
    hideable[1::3] = False
    given, hidden = hide(codes, hideable, rate=0.9)
    assert hidden[2::3].mean() > 0.8
    assert not hidden[::3].any() and not hidden[1::3].any()
    assert np.array_equal(given[~hidden], codes[~hidden])


def test_a_mask_does_not_depend_on_the_bases_under_it():
    other = (CODES + 1) % 4
    assert np.array_equal(hide()[1], hide(other)[1])
    masked = hide()[0] == dna.HIDDEN
    assert np.array_equal(masked, hide(other)[0] == dna.HIDDEN)


def test_rates_of_windows_may_differ():
    shares = [hide(seed=seed, rate=0.05, rate_up_to=0.3)[1].mean() for seed in range(12)]
    assert min(shares) < 0.12 and max(shares) > 0.23


def test_nothing_is_hidden_at_rate_0():
    given, hidden = hide(rate=0)
    assert not hidden.any() and np.array_equal(given, CODES)


def test_the_fate_of_a_window_is_a_function_of_seed_species_and_number():
    phase = Phase(1.0, 1.0, 0.4, 0.2)
    fates = [window_fate(3, "finch", n, phase) for n in range(2000)]
    again = [window_fate(3, "finch", n, phase) for n in range(2000)]
    assert [(f.masked, f.untracked) for f in fates] == [(f.masked, f.untracked) for f in again]
    assert fates[5].random.random() == again[5].random.random()
    keys = [(3, "finch", 5), (4, "finch", 5), (3, "moth", 5), (3, "finch", 6)]
    assert len({window_fate(*key, phase).random.random() for key in keys}) == 4
    assert np.mean([f.untracked for f in fates]) == pytest.approx(0.2, abs=0.03)
    masked = np.mean([f.masked for f in fates])
    assert masked == pytest.approx(0.2 + 0.8 * 0.4, abs=0.04)
    assert all(f.masked for f in fates if f.untracked)


def test_under_a_larger_share_the_same_windows_are_masked_and_more():
    less, more = Phase(1.0, 1.0, 0.3, 0.0), Phase(1.0, 1.0, 0.6, 0.0)
    fates = [[window_fate(0, "finch", n, p).masked for n in range(500)] for p in (less, more)]
    assert all(b for a, b in zip(*fates, strict=True) if a) and sum(fates[1]) > sum(fates[0])


def test_a_hidden_base_is_its_own_complement():
    codes = np.array([0, 1, 2, 3, 4, 5], dtype=np.uint8)
    assert dna.reverse_complement(codes).tolist() == [5, 4, 0, 1, 2, 3]
