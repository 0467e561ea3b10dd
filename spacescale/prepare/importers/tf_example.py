"""Take features out of a serialised tf.train.Example, a small protocol buffer.

    Example  { features: 1 → Features }
    Features { feature: 1 → { key: 1, value: 2 → Feature } … }
    Feature  { bytes_list: 1 | float_list: 2 | int64_list: 3 }    each holding value: 1 …

Fields are read as protobuf's wire format has them: a key (number × 8 + wire type), then a varint,
4 or 8 bytes, or a length and that many bytes. Unknown fields are skipped.
"""

from collections.abc import Collection, Iterator

import numpy as np

_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MAX_VARINT_BYTES = 10
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_FLOAT_FIELD = 1 << 3 | _FOUR_BYTES

Feature = bytes | np.ndarray


def parse_example(data: bytes, names: Collection[str]) -> dict[str, Feature]:
    """Return those of the named features that the example has.

    bytes for a bytes list, which must hold one value; float32 [n] for a float list, int64 [n] for
    an int64 list. Raises ValueError for damage and for lists of other kinds under a wanted name.
    """
    found: dict[str, Feature] = {}
    for features in _messages(memoryview(data), 1):
        for entry in _messages(features, 1):
            name = b"".join(bytes(key) for key in _messages(entry, 1)).decode()
            if name in names:
                for feature in _messages(entry, 2):
                    found[name] = _feature(name, feature)
    return found


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """Yield the length-delimited fields of that number."""
    for found, wire, value in _fields(data):
        if found == number and wire == _DELIMITED:
            yield value


def _feature(name: str, feature: memoryview) -> Feature:
    for number, wire, value in _fields(feature):
        if wire != _DELIMITED:
            continue
        if number == _BYTES_LIST:
            items = list(_messages(value, 1))
            if len(items) != 1:
                raise ValueError(f"feature {name!r} holds {len(items)} values, expected 1")
            return bytes(items[0])
        if number == _FLOAT_LIST:
            return _floats(value)
        if number == _INT64_LIST:
            return _integers(value)
        raise ValueError(f"feature {name!r} is of an unknown kind")
    raise ValueError(f"feature {name!r} is empty")


def _floats(values: memoryview) -> np.ndarray:
    """Return float32 [n] from a float list, whose values are packed in one field or not."""
    if len(values) and values[0] == _FLOAT_FIELD:
        singles = np.frombuffer(values, dtype=[("key", "u1"), ("value", "<f4")])
        if (singles["key"] != _FLOAT_FIELD).any():
            raise ValueError("a float list is damaged")
        return singles["value"].copy()
    packed = [np.frombuffer(part, dtype="<f4") for part in _messages(values, 1)]
    return np.concatenate(packed) if packed else np.empty(0, dtype=np.float32)


def _integers(values: memoryview) -> np.ndarray:
    """Return int64 [n] from an int64 list, whose varints are packed in one field or not."""
    parts = [
        bytes(value)
        for number, wire, value in _fields(values)
        if number == 1 and wire in (_VARINT, _DELIMITED)
    ]
    return _varints(np.frombuffer(b"".join(parts), dtype=np.uint8))


def _varints(data: np.ndarray) -> np.ndarray:
    """Return int64 [n] from the bytes of n varints, uint8; a record may hold a million."""
    last = np.flatnonzero(data < 128)
    if data.size and data[-1] >= 128:
        raise ValueError("a number has no end")
    first = np.append(0, last[:-1] + 1)
    if last.size and (last - first).max() >= _MAX_VARINT_BYTES:
        raise ValueError("a number has no end")
    places = np.arange(data.size) - np.repeat(first, last - first + 1)
    bits = (data & 127).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, first).view(np.int64) if last.size else last


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield number, wire type and content of each field; that of a varint is its own bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        start = position
        if wire == _VARINT:
            _, position = _varint(data, position)
        elif wire == _DELIMITED:
            length, start = _varint(data, position)
            position = start + length
        elif wire in _FIXED:
            position += _FIXED[wire]
        else:
            raise ValueError(f"a field has the unknown wire type {wire}")
        if position > len(data):
            raise ValueError("a field reaches beyond the end")
        yield number, wire, data[start:position]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at `position`, seven bits a byte, and where it ends."""
    number = 0
    for place, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, position + place + 1
    raise ValueError("a number has no end")
