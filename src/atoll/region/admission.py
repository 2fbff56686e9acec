"""What decides about each request of a node, be it a read or a write."""

from __future__ import annotations

from typing import NamedTuple

from atoll.ownership.ownership import Ownership
from atoll.region.gates import Gates
from atoll.region.statistics import Statistics
from atoll.region.waits import Waits


class Admission(NamedTuple):
    """Whose a document is, whether requests are served, what they wait for; and how many there were."""

    ownership: Ownership
    gates: Gates
    waits: Waits
    statistics: Statistics
