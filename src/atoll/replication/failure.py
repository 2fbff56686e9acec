"""Errors between regions: what one answers with, the other raises."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.errors import AtollError, error_classes


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An AtollError on the wire."""

    type: str
    message: str
    details: dict[str, Any]

    @classmethod
    def of(cls, error: AtollError) -> Failure:
        return cls(error.type, error.message, error.details)

    def error(self) -> AtollError:
        return error_classes().get(self.type, AtollError)(self.message, **self.details)
