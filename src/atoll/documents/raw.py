"""JSON objects that are passed over: their members stay the text that they are."""

from __future__ import annotations

import msgspec

raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Name → text. Decoding what is large would stop the event loop. Raises msgspec.DecodeError."""
