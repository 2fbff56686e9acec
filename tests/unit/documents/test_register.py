from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.register import Register, Version, canonical_order, merge

REGIONS = ("a", "b", "c")


class Writer:
    """A region that writes one register, having seen what was merged into it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.vector: dict[str, int] = {}
        self.register: Register = ()
        self.log: list[tuple[dict[str, int], Register]] = []

    def write(self, stamp: int) -> None:
        seq = self.vector.get(self.name, 0) + 1
        context = {**self.vector, self.name: seq - 1}
        self.register = (Version(self.name, seq, stamp, 5, 1, context, b"%d" % stamp),)
        self.vector[self.name] = seq
        self.log.append((dict(self.vector), self.register))

    def receive(self, other: Writer, upto: int) -> None:
        """Merge another's state as it stood after its `upto`-th write."""
        if upto < len(other.log):
            vector, register = other.log[upto]
            self.register = merge(self.register, register)
            self.vector = {r: max(self.vector.get(r, 0), vector.get(r, 0)) for r in REGIONS}
            self.log.append((dict(self.vector), self.register))


@st.composite
def registers(draw: st.DrawFn) -> list[Register]:
    """States that regions can come to by writing and merging."""
    writers = {name: Writer(name) for name in REGIONS}
    for stamp in range(1, draw(st.integers(1, 14))):
        writer = writers[draw(st.sampled_from(REGIONS))]
        if draw(st.booleans()):
            writer.write(stamp // 2)  # stamps may tie between regions
        else:
            writer.receive(writers[draw(st.sampled_from(REGIONS))], draw(st.integers(0, 9)))
    return [register for writer in writers.values() for _, register in writer.log] or [()]


states = registers().flatmap(lambda found: st.tuples(*[st.sampled_from(found)] * 3))


@given(states)
def test_merge_is_commutative_associative_and_idempotent(three: tuple[Register, Register, Register]) -> None:
    a, b, c = three
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)


@given(states)
def test_a_merge_is_in_canonical_order_and_holds_no_dot_twice(three: tuple[Register, ...]) -> None:
    merged = merge(merge(three[0], three[1]), three[2])
    assert list(merged) == sorted(merged, key=canonical_order)
    assert len({(version.origin, version.seq) for version in merged}) == len(merged)


@given(states)
def test_no_version_that_is_kept_has_seen_another(three: tuple[Register, ...]) -> None:
    merged = merge(merge(three[0], three[1]), three[2])
    for one, other in permutations(merged, 2):
        assert other.context.get(one.origin, 0) < one.seq


def test_a_successor_replaces_what_it_has_seen_and_nothing_else() -> None:
    seen = Version("a", 1, 10, 5, 0, {}, b"1")
    concurrent = Version("b", 1, 11, 5, 0, {}, b"2")
    successor = Version("a", 2, 12, 5, 1, {"a": 1}, b"3")
    assert merge((seen, concurrent), (successor,)) == (concurrent, successor)
