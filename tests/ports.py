"""Ports for the servers of tests."""

from __future__ import annotations

import os

from atoll.demo.topology import free_ports as any_free_ports

_FIRST = 10_000
_EACH = 5_500
"""Of each of four processes that run tests. More of them share ports, and meet now and then."""


def free_ports(count: int) -> list[int]:
    """As the demo finds them, but from a range of this process: no other one is given the same before they are used."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return any_free_ports(count, _FIRST + worker % 4 * _EACH, _EACH)
