"""What a document and a key may be at most, tested on the bytes so that an ordinary document costs little."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from urllib.parse import quote

import msgspec

from atoll.errors import InvalidDocument, InvalidKey, MalformedRequest, TooLarge
from atoll.schema.bounds import DOCUMENT_BYTES, MOST_KEY_BYTES
from atoll.schema.fields import INT_MAX, INT_MIN

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_OPEN_CLOSE = bytes([0x01, 0xFF])
"""A step down and a step up, as signed bytes."""
_LEVELS = 2
_BRACKETS = bytes.maketrans(b"{[}]", _OPEN_CLOSE[:1] * 2 + _OPEN_CLOSE[1:] * 2)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_LONG_NUMBER = b"0" * 19
"""2^63 has 19 digits: text without so long a run of digits holds no integer beyond 64 bits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one document."""

    document_bytes: int = DOCUMENT_BYTES
    """Of the JSON text, in bytes; more is TooLarge."""
    depth: int = 64
    """Levels of nesting, the document itself being the first; at most 128."""
    key_bytes: int = 512
    """Of a key in UTF-8."""


ANY_KEY = Limits(key_bytes=MOST_KEY_BYTES)
"""For keys from peers: whether one is merged depends on the key alone, or regions would come to differ."""


IDEMPOTENCY_KEY_CHARACTERS = 255


def may_repeat(key: str) -> bool:
    """Whether it can be an idempotency key, on every road to a region."""
    return 0 < len(key) <= IDEMPOTENCY_KEY_CHARACTERS and key.isascii() and key.isprintable()


def check_size(body: bytes, limits: Limits, where: str) -> None:
    if len(body) > limits.document_bytes:
        raise TooLarge(
            f"{where}: the document has {len(body)} bytes, the bound is {limits.document_bytes};"
            " split it, or raise document_bytes under [deployment.limits] in atoll.toml",
            size_bytes=len(body),
            limit_bytes=limits.document_bytes,
        )


def check_text(
    body: bytes, limits: Limits, where: str, *, numbers: bool = True, anything: bool = True
) -> None:
    """Refuse, in valid JSON text, what regions could not all store and read alike.

    `numbers` and `anything` say whether integers, and whether undeclared content, may occur at all.
    Raises InvalidDocument for nesting past the limit, integers beyond 64 bits, NaN and the infinities.
    """
    if count_of(b"[", body) + count_of(b"{", body) > limits.depth:
        _check_depth(body, limits, where)
    if (numbers and _LONG_NUMBER in body.translate(_DIGITS)) or (
        anything and (b"NaN" in body or b"Infinity" in body)
    ):
        _check_numbers(body, where)


def _check_depth(body: bytes, limits: Limits, where: str) -> None:
    # In C, since a million brackets take long: the two innermost levels go, and of the rest steps are added up.
    left = _STRING.sub(b"", body).translate(_BRACKETS, _NO_BRACKETS)
    levels = min(_LEVELS, limits.depth)
    for _ in range(levels):
        left = left.replace(_OPEN_CLOSE, b"")
    if left and levels + max(accumulate(memoryview(left).cast("b"))) > limits.depth:
        raise InvalidDocument(
            f"{where}: nested deeper than {limits.depth} levels; flatten the document", limit=limits.depth
        )


def _check_numbers(body: bytes, where: str) -> None:
    def integer(text: str) -> int:
        # A sign and 19 digits at most; the length is tested first because int() is quadratic.
        if len(text) > 20 or not INT_MIN <= (value := int(text)) <= INT_MAX:
            raise InvalidDocument(
                f"{where}: the integer {text[:24]}{'…' if len(text) > 24 else ''} is beyond 64 bits;"
                " send it as a string"
            )
        return value

    def constant(text: str) -> Any:
        raise InvalidDocument(f"{where}: {text} is not a JSON number; send a finite number, or null")

    json.loads(body, parse_int=integer, parse_constant=constant)


def check_members(body: bytes, decoded: Any = msgspec.UNSET) -> None:
    """Refuse valid JSON text that gives a member of an object twice: which one counts would be a matter of place.

    `decoded`: what was read from it, if it is at hand. Raises MalformedRequest. Text that is not JSON is left to
    whoever reads it.
    """
    # What was decoded has each member once. So its text has as many colons, unless a member was dropped.
    if b"\\u003" not in body:  # a colon that is escaped
        try:
            once = _encode(_decode(body) if decoded is msgspec.UNSET else decoded)
            if count_of(b":", once) == count_of(b":", body):
                return
        except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError):
            pass
    with suppress(ValueError, RecursionError):
        json.loads(body, object_pairs_hook=_once)


def count_of(byte: bytes, text: bytes) -> int:
    """How often it occurs. In 1 kB `bytes.count` takes four times as long."""
    return len(text) - len(text.replace(byte, b""))


def _once(members: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in members:
        if name in names:
            raise MalformedRequest(
                f"the JSON member {name[:64]!r} is given twice in one object; give it once"
            )
        names.add(name)


def check_finite(body: bytes, where: str) -> None:
    """Refuse, in valid JSON text, numbers that no float holds, such as 1e999. Reads the whole text."""

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise InvalidDocument(f"{where}: {text[:24]} is not a finite number; send a finite one, or null")
        return value

    json.loads(body, parse_float=finite, parse_constant=finite)


def check_spelling(text: str, what: str) -> int:
    """The size in UTF-8 of a key, or of a part of one. Raises InvalidKey where no key can be spelt like that."""
    if control := _CONTROL.search(text):
        raise InvalidKey(
            f"the {what} holds the control character U+{ord(control[0]):04X} at {control.start()}; remove it"
        )
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(
            f"the {what} holds a lone surrogate at character {error.start}; send the whole character"
        ) from None
    if unicodedata.is_normalized("NFC", text):
        return size
    normal = unicodedata.normalize("NFC", text)
    at = next(
        (i for i, (given, kept) in enumerate(zip(text, normal, strict=False)) if given != kept), len(normal)
    )
    found = " ".join(f"U+{ord(character):04X}" for character in text[at : at + 2])
    raise InvalidKey(
        f"the {what} {text[:64]!r} is not in Unicode normal form C: {found} at {at} is another spelling of"
        f" U+{ord(normal[at]):04X}. Ask for {normal[:64]!r}, in a URL {quote(normal[:64], safe='')}; in Python,"
        " unicodedata.normalize('NFC', key) makes it",
        normal=normal,
    )


def validate_key(key: str, limits: Limits) -> str:
    """Return `key` if every client, URL and store keeps it as it is; else raise InvalidKey."""
    if not isinstance(key, str) or not key:
        raise InvalidKey("a key is a string of at least one character")
    if key.isascii() and key.isprintable() and "." not in key and len(key) <= limits.key_bytes:
        return key  # nearly every key
    size = check_spelling(key, "key")
    if size > limits.key_bytes:
        raise InvalidKey(
            f"the key has {size} bytes in UTF-8, the bound is {limits.key_bytes}; use a shorter one",
            size_bytes=size,
            limit_bytes=limits.key_bytes,
        )
    if "." in key and any(part in (".", "..") for part in key.split("/")):
        raise InvalidKey(
            'the key has a part "." or "..", which HTTP clients drop from a URL; use another name'
        )
    return key
