from __future__ import annotations

import subprocess
import sys

import pytest

import atoll


def test_the_front_door_is_small_and_sorted() -> None:
    assert 10 <= len(atoll.__all__) <= 30
    assert list(atoll.__all__) == sorted(set(atoll.__all__))


@pytest.mark.parametrize("name", atoll.__all__)
def test_each_name_is_there_and_explained(name: str) -> None:
    assert getattr(atoll, name).__doc__


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        atoll.nothing_of_the_kind  # noqa: B018


def test_a_declaration_loads_no_network_code() -> None:
    script = "import sys, atoll; sys.exit(bool({'aiohttp', 'uvicorn', 'urllib3', 'apsw'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
