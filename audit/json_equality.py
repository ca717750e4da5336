"""When two payloads are the same JSON, by the definition in docs/contract.md. Shares nothing with the gate's code.

The order of keys, blanks and escapes do not matter, of two equal keys the last counts, and numbers are compared by
their exact decimal value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any, Final, NamedTuple

import orjson

_WRITTEN_OUT: Final = 18
"""Digits of the longest integer that is a Python integer here."""
_DIGITS_AT_ONCE: Final = 4_000
_ODD_NUMBER: Final = re.compile(rb"\d\.\d|\d[eE][-+\d]|\d{16}")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


class Number(NamedTuple):
    """A number that is no short integer: an integer without zeros at its end, times a power of ten."""

    significant: int
    power: int


def load(text: bytes) -> Any:
    """The JSON value with exact numbers: integers, or `Number`. Raises `ValueError` if it is none."""
    if _ODD_NUMBER.search(text) is None or _ODD_NUMBER.search(_STRING.sub(b"", text)) is None:
        return orjson.loads(text)
    value = json.loads(text.decode(), parse_int=_number, parse_float=_number, parse_constant=_refuse)
    _check_text(value)
    return value


def _check_text(value: Any) -> None:
    """Raises `UnicodeEncodeError` for half a surrogate pair, which is no text."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for name, each in value.items():
            name.encode()
            _check_text(each)
    elif isinstance(value, list):
        for each in value:
            _check_text(each)


def digest_of(value: Any) -> int:
    """The same for equal values: of what `load` has read, or of what models have made of it."""
    try:
        return hash(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS))
    except TypeError:
        return hash(_told(value))


def value_of(text: bytes) -> Hashable:
    """Something that is equal for equal JSON, and for no other. Raises `ValueError` if it is none."""
    return _told(load(text))


def _told(value: Any) -> Hashable:
    if isinstance(value, Number):
        return ("number", value)
    if isinstance(value, dict):
        return ("object", frozenset((name, _told(each)) for name, each in value.items()))
    if isinstance(value, list | tuple):
        return ("array", tuple(_told(each) for each in value))
    if isinstance(value, bool) or value is None:
        return ("constant", str(value))
    if isinstance(value, str):
        return ("text", value)
    return ("number", value)


def _number(text: str) -> Number | int:
    before, _, exponent = text.replace("E", "e").partition("e")
    power = _whole(exponent) if exponent else 0
    whole, _, fraction = before.partition(".")
    power -= len(fraction)
    digits = whole + fraction
    kept = digits.rstrip("0")
    power += len(digits) - len(kept)
    if not kept.strip("-0"):
        return 0
    significant = _whole(kept)
    if power >= 0 and len(kept.strip("-").lstrip("0")) + power <= _WRITTEN_OUT:
        return significant * int(10**power)
    return Number(significant, power)


def _whole(digits: str) -> int:
    negative, digits = digits.startswith("-"), digits.lstrip("+-")
    total = 0
    for at in range(0, len(digits), _DIGITS_AT_ONCE):
        piece = digits[at : at + _DIGITS_AT_ONCE]
        total = total * 10 ** len(piece) + int(piece)
    return -total if negative else total


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
