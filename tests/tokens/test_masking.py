"""What is hidden, what stands there, and whether it can be read off what is left."""

import numpy as np
import pytest
from small_vocabularies import UNION

from spacescale.mlm_config import MlmConfig
from spacescale.tokens.masking import (
    IGNORED,
    Masking,
    draw_spans,
    hide,
    mask_row,
    masking_of,
)
from spacescale.tokens.vocabulary import NAMES

MASKING = {name: masking_of(MlmConfig(), name) for name in NAMES}
WORDS = UNION.words("kmer")
PREFIX = 2  # [CLS] and the prompt


def bases(seed: int, length: int = 510) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)


def row_of(codes: np.ndarray, name="kmer") -> np.ndarray:
    return UNION.row(UNION.encode(codes, name), name)


def masked(row: np.ndarray, seed: int, masking: Masking = MASKING["kmer"], name="kmer"):
    random = np.random.default_rng(seed)
    return mask_row(row, UNION.words(name), UNION.mask_id, masking, random)


def runs(hidden: np.ndarray) -> list[slice]:
    """Where each run of hidden places lies."""
    edges = np.flatnonzero(np.diff(np.r_[0, hidden.astype(int), 0]))
    return [slice(*pair) for pair in edges.reshape(-1, 2).tolist()]


# --- how much, and where ---


@pytest.mark.parametrize("name, share", [("bpe", 0.15), ("kmer", 1 - (1 - 0.15 / 6) ** 14)])
def test_the_share_that_is_hidden(name, share):
    row = np.full(200_000, UNION.words(name)[0])
    hidden = masked(row, 0, MASKING[name], name)[1] != IGNORED
    assert hidden.mean() == pytest.approx(share, abs=0.004)


def test_spans_reach_from_6_before_their_centre_to_7_after_it():
    hideable = np.zeros(60, dtype=bool)
    hideable[20:40] = True

    class Centre:
        def random(self, size):
            return np.where(np.arange(size) == 28, 0.0, 1.0)

    first = draw_spans(hideable, MASKING["kmer"], Centre())  # pyright: ignore[reportArgumentType]
    assert np.flatnonzero(first >= 0).tolist() == list(range(22, 36))
    assert set(first[22:36].tolist()) == {22}


def test_single_words_are_drawn_each_by_itself():
    row = np.full(20_000, WORDS[7])
    given, labels = masked(row, 3, Masking(0.9))
    fates = given[labels != IGNORED] == UNION.mask_id
    assert fates.mean() == pytest.approx(0.8, abs=0.02)
    neighbours = (fates[1:] == fates[:-1]).mean()
    assert neighbours == pytest.approx(0.8**2 + 0.2**2, abs=0.02)


def test_specials_prompt_unknown_and_padding_are_never_hidden():
    codes = bases(0, 300)
    codes[100] = 4
    rows = UNION.pad([row_of(codes), row_of(bases(1, 400))])
    for seed in range(30):
        given, labels = masked(rows[0], seed, Masking(0.5, span=14))
        special = ~np.isin(rows[0], WORDS)
        assert special.sum() == 3 + 6 + 100
        assert (labels[special] == IGNORED).all() and (given[special] == rows[0][special]).all()


def test_labels_are_what_was_there_and_the_rest_is_left_as_it_was():
    row = row_of(bases(2))
    given, labels = masked(row, 1)
    hidden = labels != IGNORED
    assert hidden.any() and (labels[hidden] == row[hidden]).all()
    assert (given[~hidden] == row[~hidden]).all()


def test_eight_of_ten_spans_are_masked_one_random_one_as_it_was():
    fates = {"masked": 0, "random": 0, "kept": 0}
    for seed in range(400):
        row = row_of(bases(seed))
        given, labels = masked(row, seed)
        for run in runs(labels != IGNORED):
            masks, kept = given[run] == UNION.mask_id, given[run] == row[run]
            assert masks.all() or not masks.any(), "a span is masked as a whole"
            fates["masked" if masks.all() else "kept" if kept.all() else "random"] += 1
    total = sum(fates.values())
    assert total > 2_000
    shares = {fate: count / total for fate, count in fates.items()}
    assert shares == pytest.approx({"masked": 0.8, "random": 0.1, "kept": 0.1}, abs=0.02)


@pytest.mark.parametrize("name", ["bpe", "kmer"])
def test_random_tokens_are_words_of_the_active_vocabulary_and_all_of_them(name):
    words = UNION.words(name)
    row = np.full(100_000, words[0])
    given, labels = masked(row, 5, Masking(0.9, 1, masked_share=0.0, random_share=1.0), name)
    drawn = set(given[labels != IGNORED].tolist())
    assert drawn == set(words.tolist())


def test_masks_are_a_function_of_the_row_and_the_seed():
    row = row_of(bases(4))
    for first, again in zip(masked(row, 9), masked(row, 9), strict=True):
        assert (first == again).all() and first.dtype == np.int64
    assert (masked(row, 9)[1] != masked(row, 10)[1]).any()


# --- leaks ---


def legible_bases(codes: np.ndarray, hide_row) -> tuple[int, int]:
    """How many hidden bases can be read off the input, and how many there are.

    A base counts as hidden when every token over it is to be predicted and one of these is [MASK];
    it can be read if the input is another when the base is.
    """
    row = row_of(codes)
    given, labels = hide_row(row)
    legible = total = 0
    for run in runs(labels != IGNORED):
        if not (given[run] == UNION.mask_id).any():
            continue  # all of it another's words, or left as it was
        for base in range(run.start - PREFIX + 5, run.stop - PREFIX):
            other = codes.copy()
            other[base] = (other[base] + 1) % 4
            legible += not np.array_equal(hide_row(row_of(other))[0], given)
            total += 1
    return legible, total


def per_span(seed):
    return lambda row: masked(row, seed)


def per_token(seed):
    """As released: each token of a span is masked, random or kept by itself."""

    def hide_row(row):
        random = np.random.default_rng(seed)
        first = draw_spans(np.isin(row, WORDS), MASKING["kmer"], random)
        each = np.where(first >= 0, np.arange(len(row)), -1)
        return hide(row, each, WORDS, UNION.mask_id, MASKING["kmer"], random)

    return hide_row


def test_hidden_bases_cannot_be_read_off_the_input():
    found = [legible_bases(bases(seed, 150), per_span(seed)) for seed in range(12)]
    assert sum(total for _, total in found) > 150
    assert sum(legible for legible, _ in found) == 0


def test_fates_drawn_token_by_token_would_let_them_be_read():
    found = [legible_bases(bases(seed, 150), per_token(seed)) for seed in range(12)]
    legible, total = np.sum(found, axis=0)
    assert legible > 0.3 * total


@pytest.mark.parametrize("width, bases_hidden", [(6, 1), (14, 9)])
def test_how_many_bases_a_span_hides(width, bases_hidden):
    """Of spans of one centre, away from the ends: bases that no visible token spells."""
    row = row_of(bases(0))
    random = np.random.default_rng(0)
    found = []
    for _ in range(100):
        first = draw_spans(np.isin(row, WORDS), Masking(0.004, span=width), random)
        spelt = np.zeros(510, dtype=bool)
        for token in np.flatnonzero(first[PREFIX:-1] < 0):
            spelt[token : token + 6] = True
        for run in runs(first >= 0):
            if run.start > PREFIX and run.stop < len(row) - 1 and run.stop - run.start == width:
                found.append((~spelt[run.start - PREFIX : run.stop - PREFIX + 5]).sum())
    assert len(found) > 30 and set(found) == {bases_hidden}
