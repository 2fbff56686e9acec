"""What a node knows of one register."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from atoll.causality.types import Ballot
from atoll.commit.identity import Address
from atoll.consensus.acceptor import NEVER
from atoll.consensus.acceptor_set import Counted
from atoll.consensus.decided import Decided
from atoll.region.learning import Change, Placing

_TALLIED = 16


class Held(NamedTuple):
    """What was decided last, by this node, and a ballot that a majority has promised it.

    The value remembers no more than the next one has to.
    """

    ballot: Ballot
    value: Decided
    counted: Counted

    @property
    def size_bytes(self) -> int:
        return len(self.value.value or b"")


class Register:
    """Of one node."""

    __slots__ = ("address", "held", "mine", "older", "running", "seen", "tally", "waiting")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.waiting: list[Change] = []
        self.running = False
        self.older: Callable[[Change], None] | None = None
        """Looks at what comes while an intent stands in the way."""
        self.held: Held | None = None
        self.seen = NEVER
        """The highest ballot that is known."""
        self.mine = False
        """Whether changes should be proposed here, though another region has proposed the last one."""
        self.tally: deque[str] = deque(maxlen=_TALLIED)
        """For each of the latest proposals, the region that most of its changes came from; empty for this one."""

    def note(self, changes: Sequence[Change]) -> None:
        """They are decided. Where many regions change it, what one has sent at once must not make it propose."""
        sent = Counter(
            change.by for change in changes if change.write is not None or isinstance(change, Placing)
        )
        if sent:
            self.tally.append(sent.most_common(1)[0][0])

    @property
    def size_bytes(self) -> int:
        """Of the document that is known."""
        return 0 if self.held is None else self.held.size_bytes

    @property
    def name(self) -> str:
        return "/".join(self.address)
