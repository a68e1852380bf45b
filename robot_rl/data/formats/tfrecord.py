"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

Framing (tensorflow/core/lib/io/record_writer.h), little-endian:
    uint64 length | uint32 masked CRC32C of length | bytes data | uint32 masked CRC32C of data
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.errors import DataError

Words = npt.NDArray[np.uint32]
Example = dict[str, list[bytes] | npt.NDArray[Any]]
"""Feature name -> byte strings, or float32 or int64 numbers (N,)."""

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_LANE = 256  # bytes of one lane; a power of two
_ONES = 0xFFFFFFFF


def _byte_table() -> Words:
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = np.where(state & 1, (state >> 1) ^ np.uint32(_POLYNOMIAL), state >> 1)
    return state


_TABLE = _byte_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`.

    The remainder is linear over GF(2). So the data is cut into equal lanes, numpy steps through all
    lanes at once, and neighbours are joined by r(AB) = shift_|B|(r(A)) ^ r(B).
    """
    if len(data) < 4:
        return _plain(data)
    lanes = 1 << max(0, -(-len(data) // _LANE) - 1).bit_length()
    padded = np.zeros(lanes * _LANE, np.uint8)  # zeros in front of a zero state change nothing
    start = len(padded) - len(data)
    padded[start:] = np.frombuffer(data, np.uint8)
    padded[start : start + 4] ^= 0xFF  # the same as an initial state of ones
    state = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, _LANE).T):
        state = _TABLE[(state ^ column) & 0xFF] ^ (state >> 8)
    width = _LANE
    while len(state) > 1:
        state = _apply(_shift(width), state[::2]) ^ state[1::2]
        width *= 2
    return int(state[0]) ^ _ONES


def _plain(data: bytes) -> int:
    state = _ONES
    for byte in data:
        state = int(_TABLE[(state ^ byte) & 0xFF]) ^ (state >> 8)
    return state ^ _ONES


def _apply(matrix: Words, vectors: Words) -> Words:
    """Matrix (32,), row i the image of bit i, times vectors (N,) over GF(2)."""
    bits = (vectors[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    product: Words = np.bitwise_xor.reduce(bits * matrix, axis=1)
    return product


@cache
def _shift(zeros: int) -> Words:
    """The matrix that a number of zero bytes (a power of two) applies to the state."""
    if zeros == 1:
        basis = np.uint32(1) << np.arange(32, dtype=np.uint32)
        one: Words = _TABLE[basis & 0xFF] ^ (basis >> 8)
        return one
    half = _shift(zeros // 2)
    return _apply(half, half)


def masked_crc(data: bytes) -> int:
    """TFRecord's masked CRC: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & _ONES


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, each with both checksums verified.

    Raises:
        DataError: a record is truncated or its checksum does not match; it names the record's index.
    """
    remedy = "fetch the file again"
    with path.open("rb") as file:
        index = 0
        while header := file.read(12):
            where = f"{path} record {index}"
            if len(header) < 12:
                raise DataError(f"{where} is truncated in its header; {remedy}")
            length, length_crc = struct.unpack("<QI", header)
            if masked_crc(header[:8]) != length_crc:
                raise DataError(f"{where} has a length whose CRC does not match; {remedy}")
            body = file.read(length + 4)
            if len(body) < length + 4:
                raise DataError(f"{where} is truncated: {len(body)} of {length + 4} bytes; {remedy}")
            data = body[:-4]
            if masked_crc(data) != struct.unpack("<I", body[-4:])[0]:
                raise DataError(f"{where} has data whose CRC does not match; {remedy}")
            yield data
            index += 1


def parse_example(data: bytes) -> Example:
    """The features of a serialised `tf.train.Example`.

    Raises:
        ValueError: `data` is not such a message.
    """
    example: Example = {}
    try:
        for _, features in _fields(memoryview(data)):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                for kind, values in _fields(parts[2]):
                    example[bytes(parts[1]).decode()] = _feature_list(kind, values)
    except (IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"not a tf.train.Example ({type(error).__name__}: {error})") from error
    return example


def _feature_list(kind: int, message: memoryview) -> list[bytes] | npt.NDArray[Any]:
    """BytesList (1), FloatList (2) or Int64List (3), packed or not."""
    values = [value for _, value in _fields(message)]
    if kind == 1:
        return [bytes(value) for value in values]
    if kind == 2:
        return np.frombuffer(b"".join(bytes(value) for value in values), "<f4")
    if kind == 3:
        numbers: list[int] = []
        for value in values:
            numbers.extend([value] if isinstance(value, int) else _varints(value))
        return np.array(numbers, np.uint64).astype(np.int64)
    raise ValueError(f"unknown feature kind {kind}; expected 1, 2 or 3")


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protobuf message: an int for varints, else the value's bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown protobuf wire type {wire}; expected 0, 1, 2 or 5")
        if position + size > len(message):
            raise ValueError(f"protobuf field {number} runs past the end of its message")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
        shift += 7


def _varints(message: memoryview) -> Iterator[int]:
    position = 0
    while position < len(message):
        value, position = _varint(message, position)
        yield value
