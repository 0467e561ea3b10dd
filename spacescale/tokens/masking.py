"""Which tokens of a row are hidden from the model, and what stands in their place.

Shapes: N places of a row.

Overlapping k-mers spell every base k times: it is hidden only where all k tokens over it are, in a
span of w of them w − k + 1 bases. So what becomes of a span is drawn once for all of it: a single
token that is left as it was spells most of what its neighbours hide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacescale.mlm_config import MlmConfig
from spacescale.tokens.vocabulary import Name

IGNORED = -100  # label of what no loss counts


@dataclass(frozen=True)
class Masking:
    """How much is hidden, and how.

    centre_rate: the share of words that begin a span, `span` words long, of which they are the
    centre. Of all spans masked_share become [MASK] and random_share other words; the rest stay, and
    are to be predicted all the same.
    """

    centre_rate: float
    span: int = 1
    masked_share: float = 0.8
    random_share: float = 0.1


def masking_of(mlm: MlmConfig, name: Name) -> Masking:
    """How tokens of a vocabulary are hidden: those of BPE one by one, k-mers in spans."""
    rate, span = (mlm.bpe_rate, 1) if name == "bpe" else (mlm.kmer_centre_rate, mlm.kmer_span)
    return Masking(rate, span, mlm.masked_share, mlm.random_share)


def mask_row(
    row: np.ndarray, words: np.ndarray, mask_id: int, masking: Masking, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide tokens of a row of ids int64 (N,) → input and labels, both int64 (N,).

    words: ids of the words that the row is made of (`Vocabulary.words`): only these are hidden, and
    other ones are drawn from these. Labels are the ids that were there, IGNORED where none was
    hidden. A function of its arguments and the state of `random` alone.
    """
    first = draw_spans(np.isin(row, words), masking, random)
    return hide(row, first, words, mask_id, masking, random)


def draw_spans(hideable: np.ndarray, masking: Masking, random: np.random.Generator) -> np.ndarray:
    """The first place of the span that each place lies in, int64 (N,); −1 in none.

    hideable: bool (N,). A span of 14 reaches from 6 places before its centre to 7 after it, less at
    ends and where a place is not hideable; spans that overlap or touch are one. Spans of one word
    are each their own.
    """
    size = len(hideable)
    centre = hideable & (random.random(size) < masking.centre_rate)
    reached = np.convolve(centre, np.ones(masking.span))  # (N + span - 1,): from centres onwards
    before = (masking.span - 1) // 2
    hidden = (reached[before : before + size] > 0) & hideable
    begins = hidden.copy()
    if masking.span > 1:
        begins[1:] &= ~hidden[:-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(size), 0))
    return np.where(hidden, first, -1)


def hide(
    row: np.ndarray,
    first: np.ndarray,
    words: np.ndarray,
    mask_id: int,
    masking: Masking,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace the spans of `draw_spans` in a row: input and labels, as `mask_row` returns them."""
    hidden = first >= 0
    fate = random.random(len(row))[first]  # that of the first place is that of the span
    other = random.choice(words, len(row))
    masked = hidden & (fate < masking.masked_share)
    replaced = hidden & (fate < masking.masked_share + masking.random_share)
    given = np.where(masked, mask_id, np.where(replaced, other, row))
    return given, np.where(hidden, row, IGNORED)
