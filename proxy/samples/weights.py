"""Weights: tensors with values that look random, and the file formats that hold them.

Pure Python, and the same bytes on every machine.
Source: safetensors "Format"; GGUF v3.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """``shape`` slowest dimension first; ``content`` little-endian, contiguous."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes


def make_tensor(name: str, dtype: str, *, shape: tuple[int, ...]) -> Tensor:
    """A tensor of type F32, F16, BF16 or Q8_0 (rows of a multiple of 32).

    Norms start at one, biases at zero, everything else is evenly spread over ±0.05.
    """
    match dtype:
        case "F32":
            content = _float32(_values(name, shape))
        case "F16":
            content = _float16(_values(name, shape))
        case "BF16":
            content = _bfloat16(_values(name, shape))
        case "Q8_0":
            content = _q8_0(name, shape)
        case _:
            raise ValueError(f"expected F32, F16, BF16 or Q8_0, found {dtype!r}")
    return Tensor(name, dtype, shape, content)


def parameters(tensors: Sequence[Tensor]) -> int:
    """How many numbers the tensors hold together."""
    return sum(_elements(tensor.shape) for tensor in tensors)


def safetensors(tensors: Sequence[Tensor]) -> bytes:
    """A safetensors file; the tensors lie in the order given."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + len(tensor.content)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (position, end),
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(entry.content for entry in tensors)])


def gguf(metadata: Mapping[str, object], tensors: Sequence[Tensor]) -> bytes:
    """A GGUF file of F32 and Q8_0 tensors.

    Values of ``metadata`` are unsigned 32-bit numbers, floats, texts or lists of texts.

    Raises:
        TypeError: a value of another type.
    """
    alignment = 32
    numbers = {"F32": 0, "Q8_0": 8}
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [_gguf_text(key), _gguf_value(value)]
    content = bytearray()
    for tensor in tensors:
        content += bytes(-len(content) % alignment)
        lengths = tensor.shape[::-1]  # GGUF names the fastest dimension first
        head += [
            _gguf_text(tensor.name),
            struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths),
            struct.pack("<IQ", numbers[tensor.dtype], len(content)),
        ]
        content += tensor.content
    front = b"".join(head)
    tail = bytes(-len(content) % alignment)
    return front + bytes(-len(front) % alignment) + bytes(content) + tail


def _gguf_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _gguf_value(value: object) -> bytes:
    """Unsigned 32-bit, float32, text, or a list of texts, each behind its type number."""
    match value:
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _gguf_text(value)
        case list():
            texts = b"".join(_gguf_text(text) for text in value)
            return struct.pack("<IIQ", 9, 8, len(value)) + texts
        case _:
            raise TypeError(f"expected number, text or list of texts, found {type(value).__name__}")


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _noise(name: str, size: int) -> bytes:
    """``size`` bytes that look random and are the same everywhere."""
    return hashlib.shake_256(name.encode()).digest(size)


def _values(name: str, shape: tuple[int, ...]) -> list[float]:
    """Norms start at one, biases at zero, everything else is evenly spread over ±0.05."""
    count = _elements(shape)
    if name.endswith("bias"):
        return [0.0] * count
    if "norm" in name.lower():
        return [1.0] * count
    numbers = struct.unpack(f"<{count}H", _noise(name, 2 * count))
    return [(number / 65535 - 0.5) / 10 for number in numbers]


def _float32(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _float16(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


def _bfloat16(values: Sequence[float]) -> bytes:
    """The upper half of each float32."""
    wide = _float32(values)
    narrow = bytearray(2 * len(values))
    narrow[0::2], narrow[1::2] = wide[2::4], wide[3::4]
    return bytes(narrow)


def _q8_0(name: str, shape: tuple[int, ...]) -> bytes:
    """Blocks of 32 signed bytes behind one float16 scale, here the same for all blocks."""
    scale = struct.pack("<e", 0.05 / 127)
    noise = _noise(name, _elements(shape))
    return b"".join(scale + noise[start : start + 32] for start in range(0, len(noise), 32))
