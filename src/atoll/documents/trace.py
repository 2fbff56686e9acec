"""The W3C trace context of a request, as an entry carries it.

https://www.w3.org/TR/trace-context/, version 00. A longer form is allowed only to versions that do not exist yet.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

TRACE_BYTES = 26
Trace = Annotated[bytes, msgspec.Meta(min_length=TRACE_BYTES, max_length=TRACE_BYTES)]
"""version (1 byte) · trace id (16) · parent id (8) · flags (1): the header's text, from hexadecimal."""

_well_formed = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


def parse_traceparent(header: str) -> bytes | None:
    """The header's 26 bytes; None unless it has exactly the form of version 00, with ids that are not all zero."""
    return None if _well_formed(header) is None else bytes.fromhex(header.replace("-", ""))
