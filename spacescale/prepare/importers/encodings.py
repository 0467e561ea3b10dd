"""Bases and targets as other tools store them -> base codes and arrays of numbers."""

import numpy as np

from spacescale.genome import dna
from spacescale.prepare.importers.tf_example import Feature

_UNKNOWN_BASE = 0.25
# Of the bytes of a one-hot base, the type of its four numbers.
_ONE_HOT_TYPES = {4: "u1", 8: "<f2", 16: "<f4", 32: "<f8"}
_TARGET_TYPES = {2: "<f2", 4: "<f4", 8: "<f8"}


def decode_bases(stored: Feature, seq_length: int) -> np.ndarray:
    """Return codes, uint8 [seq_length], of a sequence feature whose size tells its encoding.

    One byte or number a base: A0 C1 G2 T3 N4. Four a base, in bytes also of float16, 32 or 64:
    one-hot in that order, N all zeros or, in floats, all 0.25. Raises ValueError for any other
    size or value.
    """
    if isinstance(stored, np.ndarray):
        values = stored
    else:
        kind = _ONE_HOT_TYPES.get(len(stored) // seq_length, "u1")
        values = np.frombuffer(stored, kind if len(stored) % seq_length == 0 else "u1")
    if values.size == seq_length:
        return _checked_codes(values)
    if values.size == 4 * seq_length:
        return codes_from_one_hot(values.reshape(seq_length, 4))
    raise ValueError(
        f"its sequence has {_amount(stored)}, which for seq_length {seq_length:,} is neither one "
        "a base nor one-hot with four a base"
    )


def _amount(stored: Feature) -> str:
    if isinstance(stored, bytes):
        return f"{len(stored):,} bytes"
    return f"{stored.size:,} {'whole numbers' if stored.dtype.kind == 'i' else 'floats'}"


def _checked_codes(values: np.ndarray) -> np.ndarray:
    wrong = ~np.isin(values, np.arange(dna.N + 1))
    if wrong.any():
        position = int(np.argmax(wrong))
        raise ValueError(f"base {position} of its sequence has the code {values[position]}")
    return values.astype(np.uint8)


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


def decode_targets(
    stored: Feature, target_length: int, num_tracks: int, float_bytes: int | None = None
) -> np.ndarray:
    """Return [target_length, num_tracks] of a float type, which the number of bytes tells.

    float_bytes: of a float, where the sizes may be wrong: half the bins of twice the width would
    pass for right. Raises ValueError for any other size, and for bytes that are whole numbers.
    """
    shape = (target_length, num_tracks)
    size = target_length * num_tracks
    if not isinstance(stored, bytes):
        if stored.size == size:
            return as_floats(stored.reshape(shape))
    elif len(stored) % size == 0 and len(stored) // size in (
        [float_bytes] if float_bytes else _TARGET_TYPES
    ):
        kind = _TARGET_TYPES[len(stored) // size]
        values = np.frombuffer(stored, dtype=kind).reshape(shape)
        _refuse_whole_numbers(values)
        return values
    raise ValueError(
        f"its targets have {_amount(stored)}; {target_length} bins of {num_tracks} tracks are "
        f"{2 * size:,} bytes of float16, {4 * size:,} of float32, {8 * size:,} of float64, or a "
        f"list of {size:,} numbers"
    )


def _refuse_whole_numbers(values: np.ndarray) -> None:
    """Bytes of int32 or int64 taken for floats are all next to nothing."""
    sizes = np.abs(values)
    largest = float(sizes.max(initial=0, where=np.isfinite(sizes)))
    if values.dtype.itemsize > 2 and 0 < largest < np.finfo(values.dtype).tiny:
        bits = 8 * values.dtype.itemsize
        raise ValueError(
            f"the bytes of its targets are whole numbers of {bits} bits, not floats: write them as "
            f"float{bits}, or as an int64 list"
        )


def as_floats(values: np.ndarray) -> np.ndarray:
    """Return targets as floats: floats as they are, whole numbers and bools as float32.

    float32 has every whole number up to 16,777,216 as it is, and those beyond 65,504 are cut when
    they are stored.
    """
    return values if values.dtype.kind == "f" else values.astype(np.float32)
