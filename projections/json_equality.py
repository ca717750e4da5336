"""When two payloads are the same JSON: equal values have equal canonical text, whatever bytes they came in.

The definition is in docs/contract.md: the order of keys, blanks and escapes do not matter, of two equal keys the last
counts, and numbers are compared by their exact decimal value. `audit.json_equality` implements it again.
"""

from __future__ import annotations

import json
from typing import Final

import msgspec

MAX_PLAIN_DIGITS: Final = 40
"""Whole numbers up to so many digits are written out. Longer ones are not: `1e999999` is a short payload."""

_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER: Final = b"0" * (MAX_PLAIN_DIGITS + 1)
_QUOTE: Final = 0x22
_CHUNK: Final = 4000
"""Digits that `int` takes at once: Python's limit is 4,300."""


def canonical(payload: bytes) -> bytes:
    """The canonical text of valid JSON. Canonical text is its own canonical text."""
    if payload.find(b"\\") < 0:  # `in` takes twice as long, see `recent_ids`
        if payload[0] == _QUOTE:
            return payload
        if payload.count(b'"') == 4 and payload[:2] == b'{"' and payload[-2:] == b'"}':
            end_of_name = payload.find(b'"', 2)
            if payload[end_of_name : end_of_name + 3] == b'":"':
                return payload  # one text with its name, without blanks
    if payload.translate(_DIGITS_AS_ZEROS).find(_LONG_NUMBER) < 0:
        return _encode_sorted(_decode(payload))
    return _encode_sorted(json.loads(payload.decode(), parse_int=_number_of, parse_float=_number_of))


def _number_of(text: str) -> int | msgspec.Raw:
    """A number by its value: an integer as such, any other as its digits and the power of ten, in hexadecimal."""
    mantissa, _, exponent = text.lower().partition("e")
    sign = "-" if mantissa[0] == "-" else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return 0
    significant = digits.rstrip("0")
    power = _integer(exponent) - len(fraction) + len(digits) - len(significant)
    if 0 <= power <= MAX_PLAIN_DIGITS - len(significant):
        return int(sign + significant + "0" * power)
    return msgspec.Raw(f"{sign}{significant}e{power:x}".encode())


def _integer(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    value = 0
    for begin in range(0, len(digits), _CHUNK):
        chunk = digits[begin : begin + _CHUNK]
        value = value * 10 ** len(chunk) + int(chunk)
    return sign * value


_decode: Final = msgspec.json.Decoder(float_hook=_number_of).decode
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode
