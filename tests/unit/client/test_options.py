from __future__ import annotations

import math
from typing import Any

import pytest

from atoll.client import ClientOptions
from atoll.errors import ConfigError


def test_counts_are_whole() -> None:
    with pytest.raises(ConfigError, match="whole number"):
        ClientOptions(connections=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "3", True, None])
def test_numbers_must_be_positive_and_finite(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"ClientOptions.timeout_s"):
        ClientOptions(timeout_s=value)
