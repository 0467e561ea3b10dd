"""Bases as integer codes: A 0, C 1, G 2, T 3, N (unknown) 4, always uint8.

A base that is hidden from a model in training is HIDDEN, 5; no file holds it.
"""

import numpy as np

from spacescale.errors import UserError

A, C, G, T, N, HIDDEN = range(6)
_AMBIGUOUS, _MASKED, _INVALID = 5, 6, 255
# An alphabet that spends this share of its letters outside ACGTN is not DNA.
_PROTEIN_SHARE = 0.2


def _letter_table() -> bytes:
    table = bytearray([_INVALID]) * 256
    for code, letter in enumerate("ACGTN"):
        table[ord(letter)] = table[ord(letter.lower())] = code
    for letter in "RYSWKMBDHV":
        table[ord(letter)] = table[ord(letter.lower())] = _AMBIGUOUS
    # Hard masks of RepeatMasker -x and cross_match; the U of RNA viruses.
    table[ord("X")] = table[ord("x")] = _MASKED
    table[ord("U")] = table[ord("u")] = T
    return bytes(table)


_LETTERS = _letter_table()
_COMPLEMENT = np.array([T, G, C, A, N, HIDDEN], dtype=np.uint8)
_UPPER_CASE = np.frombuffer(b"ACGTN", dtype=np.uint8)


def encode(
    sequence: str | bytes | bytearray, name: str = "sequence", whole: bool = True
) -> np.ndarray:
    """Return the codes, uint8 [L], of a DNA string of L letters, upper or lower case.

    U is T. IUPAC ambiguity letters and X, a hard mask, become N. Any other character raises
    UserError naming `name` and the 1-based position. whole: not a stretch of a longer sequence,
    so that many ambiguity letters mean a protein.
    """
    return encode_counting(sequence, name, whole)[0]


def encode_counting(
    sequence: str | bytes | bytearray, name: str = "sequence", whole: bool = True
) -> tuple[np.ndarray, int]:
    """Like `encode`, and also return how many ambiguity letters and X became N."""
    letters = sequence.encode("utf-8") if isinstance(sequence, str) else sequence
    # A chromosome has hundreds of megabytes: one array of its length at a time beside these two.
    codes = np.frombuffer(bytearray(letters).translate(_LETTERS), dtype=np.uint8)
    num_ambiguous = int(np.count_nonzero(codes == _AMBIGUOUS))
    num_masked = int(np.count_nonzero(codes == _MASKED))
    _refuse_other_alphabets(letters, codes, num_ambiguous if whole else 0, name)
    codes[codes > N] = N
    return codes, num_ambiguous + num_masked


def _refuse_other_alphabets(
    letters: bytes | bytearray, codes: np.ndarray, num_ambiguous: int, name: str
) -> None:
    invalid = np.flatnonzero(codes == _INVALID)
    foreign = invalid.size + num_ambiguous
    if foreign > _PROTEIN_SHARE * len(letters) and letters.replace(b"*", b"").isalpha():
        raise UserError(
            f"{name}: {100 * foreign / len(letters):.0f} % of the letters are not ACGTN; "
            "is this a protein sequence?"
        )
    if invalid.size:
        position = int(invalid[0])
        raise UserError(
            f"{name}:{position + 1} has {chr(letters[position])!r}, which is no DNA letter"
        )


def decode(codes: np.ndarray) -> str:
    """Return the letters of codes, uint8 [L]."""
    return _UPPER_CASE[codes].tobytes().decode()


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Reverse the last axis of codes, uint8 [..., L], and swap A with T, C with G; others stay."""
    return _COMPLEMENT[codes[..., ::-1]]
