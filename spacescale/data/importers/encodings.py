"""Bases and targets as other tools store them -> base codes and arrays of numbers."""

import numpy as np

from spacescale.data.importers.tf_example import Feature
from spacescale.genome import dna

_UNKNOWN_BASE = 0.25


def decode_bases(stored: Feature, seq_length: int) -> np.ndarray:
    """Return codes, uint8 [seq_length], of a sequence feature whose size tells its encoding.

    One byte a base: A0 C1 G2 T3 N4. Four bytes, or four floats, a base: one-hot in that order,
    N all zeros or, in floats, all 0.25. Raises ValueError for any other size or value.
    """
    values = np.frombuffer(stored, dtype=np.uint8) if isinstance(stored, bytes) else stored
    if isinstance(stored, bytes) and values.size == seq_length:
        return _checked_codes(values)
    if values.size == 4 * seq_length:
        return codes_from_one_hot(values.reshape(seq_length, 4))
    unit = "bytes" if isinstance(stored, bytes) else "floats"
    raise ValueError(
        f"its sequence has {values.size:,} {unit}, which for seq_length {seq_length:,} is neither "
        "one byte a base nor one-hot with four a base"
    )


def _checked_codes(values: np.ndarray) -> np.ndarray:
    if values.max() > dna.N:
        position = int(np.argmax(values > dna.N))
        raise ValueError(f"base {position} of its sequence has the code {values[position]}")
    return values


def codes_from_one_hot(one_hot: np.ndarray) -> np.ndarray:
    """Return codes, uint8 [L], of one-hot bases [L, 4] of any real type, N as `decode_bases`.

    Raises ValueError naming the first position that is not one-hot.
    """
    if one_hot.dtype.kind == "f":
        unknown = (one_hot == _UNKNOWN_BASE).all(axis=1, keepdims=True)
        one_hot = np.where(unknown, one_hot.dtype.type(0), one_hot)
    is_base = one_hot == 1
    num_set = is_base.sum(axis=1)
    wrong = (num_set > 1) | ~(is_base | (one_hot == 0)).all(axis=1)
    if wrong.any():
        position = int(np.argmax(wrong))
        raise ValueError(
            f"base {position} of its sequence is {one_hot[position].tolist()}, not one-hot"
        )
    codes = is_base.argmax(axis=1).astype(np.uint8)
    codes[num_set == 0] = dna.N
    return codes


def decode_targets(stored: Feature, target_length: int, num_tracks: int) -> np.ndarray:
    """Return [target_length, num_tracks] as stored, float16 or float32, told from its size.

    Raises ValueError for any other size.
    """
    shape = (target_length, num_tracks)
    size = target_length * num_tracks
    if not isinstance(stored, bytes):
        if stored.size == size:
            return stored.reshape(shape)
    elif len(stored) == 2 * size:
        return np.frombuffer(stored, dtype="<f2").reshape(shape)
    elif len(stored) == 4 * size:
        return np.frombuffer(stored, dtype="<f4").reshape(shape)
    found = f"{len(stored):,} {'bytes' if isinstance(stored, bytes) else 'floats'}"
    raise ValueError(
        f"its targets have {found}; {target_length} bins of {num_tracks} tracks are {2 * size:,} "
        f"bytes of float16 or {size:,} of float32"
    )
