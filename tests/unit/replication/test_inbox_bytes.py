"""What waits is counted by the link that brought it, whatever happens to it: the links' backpressure."""

from __future__ import annotations

from collections import defaultdict

from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import integers, sampled_from, sets

from atoll.documents.entry import Change, EncodedEntry, Entry, decode_frames, encode_frame
from atoll.replication.inbox import Inbox

LINKS = sampled_from("abx")
ORIGINS = sampled_from("abc")


def encoded(origin: str, seq: int) -> EncodedEntry:
    change = Change("c", "k" * (seq * 7 % 5), 0, {})
    entry = Entry(origin, seq, 0, 0, {origin: seq - 1} if seq > 1 else {}, (change,))
    return next(decode_frames(encode_frame(entry)))


class Accounting(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.vector: dict[str, int] = {}
        self.waiting: dict[tuple[str, int], tuple[str, int]] = {}
        """dot → (link, bytes), by the slow and sure way."""

    @rule(origin=ORIGINS, seq=integers(1, 6), link=LINKS)
    def add(self, origin: str, seq: int, link: str) -> None:
        new = seq > self.vector.get(origin, 0) and (origin, seq) not in self.waiting
        each = encoded(origin, seq)
        assert self.inbox.add(each, link, self.vector) == new
        if new:
            self.waiting[origin, seq] = (link, len(each.frame))

    @rule(limit=integers(0, 4), without=sets(ORIGINS), fails=sampled_from([False, False, True]))
    def take(self, limit: int, without: set[str], fails: bool) -> None:
        taken = self.inbox.ready(self.vector, limit, without)
        assert len(taken) <= limit
        assert not {each.entry.origin for each in taken} & without
        for each in taken:
            del self.waiting[each.entry.origin, each.entry.seq]
        if fails:
            self.inbox.give_back(taken, self.vector)
            for each in taken:
                self.waiting[each.entry.origin, each.entry.seq] = (each.entry.origin, len(each.frame))
        else:
            self.vector.update({each.entry.origin: each.entry.seq for each in taken})

    @invariant()
    def every_byte_is_somebodys(self) -> None:
        counted: dict[str, int] = defaultdict(int)
        for link, size in self.waiting.values():
            counted[link] += size
        for link in "abcx":
            assert self.inbox.bytes_of(link) == counted[link]
        assert self.inbox.size_bytes == sum(counted.values())
        assert len(self.inbox) == len(self.waiting)


TestAccounting = Accounting.TestCase
