"""The laws of a join-semilattice, on states of real histories, for every field type."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import HostileEntry

from .harness import CASES, Case

SEEDS = st.integers(0, 2**32)
every_type = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def parts(case: Case, data: st.DataObject, count: int) -> list[Any]:
    """States that each hold some deltas of one history, in some order, with or without their causes."""
    deltas = data.draw(case.deltas())
    rng = random.Random(data.draw(SEEDS))
    chosen = [[delta for delta in deltas if rng.random() < 0.6] for _ in range(count)]
    for some in chosen:
        rng.shuffle(some)
    return [case.joined(some) for some in chosen]


@every_type
@given(data=st.data())
def test_merge_is_commutative(case: Case, data: st.DataObject) -> None:
    a, b = parts(case, data, 2)
    assert case.seen(case.lattice.merge(a, b)) == case.seen(case.lattice.merge(b, a))


@every_type
@given(data=st.data())
def test_merge_is_associative(case: Case, data: st.DataObject) -> None:
    merge = case.lattice.merge
    a, b, c = parts(case, data, 3)
    assert case.seen(merge(merge(a, b), c)) == case.seen(merge(a, merge(b, c)))


@every_type
@given(data=st.data())
def test_merge_is_idempotent_and_has_a_bottom(case: Case, data: st.DataObject) -> None:
    merge, empty = case.lattice.merge, case.lattice.empty
    a, b = parts(case, data, 2)
    both = merge(a, b)
    expected = case.seen(both)
    for repeated in (a, b, both, empty()):
        assert case.seen(merge(both, repeated)) == expected
        assert case.seen(merge(repeated, both)) == expected


@every_type
@given(data=st.data())
def test_merge_changes_neither_side(case: Case, data: st.DataObject) -> None:
    a, b = parts(case, data, 2)
    before = case.seen(a), case.lattice.encode(a), case.seen(b), case.lattice.encode(b)
    case.lattice.merge(a, b)
    assert before == (case.seen(a), case.lattice.encode(a), case.seen(b), case.lattice.encode(b))


@every_type
@given(data=st.data(), seed=SEEDS)
def test_state_is_a_function_of_the_operations_seen(case: Case, data: st.DataObject, seed: int) -> None:
    deltas = data.draw(case.deltas())
    rng = random.Random(seed)
    delivered = deltas + rng.choices(deltas, k=len(deltas)) if deltas else []
    rng.shuffle(delivered)
    assert case.seen(case.joined(delivered)) == case.seen(case.joined(deltas))


@every_type
@given(data=st.data(), seed=SEEDS)
def test_disk_between_every_two_deliveries_loses_nothing(case: Case, data: st.DataObject, seed: int) -> None:
    lattice = case.lattice
    deltas = data.draw(case.deltas())
    delivered = random.Random(seed).sample(deltas, len(deltas))
    state = lattice.empty()
    for delta in delivered:
        state = lattice.restore(lattice.encode(lattice.merge(state, delta)))
    assert case.seen(state) == case.seen(case.joined(deltas))


@every_type
@given(data=st.data())
def test_decoded_state_shows_and_merges_as_the_encoded(case: Case, data: st.DataObject) -> None:
    a, b = parts(case, data, 2)
    decoded = case.lattice.decode(case.lattice.encode(a))
    assert case.seen(decoded) == case.seen(a)
    assert case.seen(case.lattice.merge(decoded, b)) == case.seen(case.lattice.merge(a, b))


def mutated(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(damaged))
        match rng.randrange(4):
            case 0:
                damaged[at : at + 1] = rng.randbytes(1)
            case 1:
                del damaged[at : at + rng.randint(1, 4)]
            case 2:
                damaged[at:at] = rng.choice([b"\xff", b"\x80", b"\0", b"\xdf\xff\xff\xff\xff"])
            case _:
                damaged[at:] = damaged[: rng.randint(0, len(damaged))]
    return bytes(damaged)


@every_type
@given(data=st.data(), seed=SEEDS)
def test_mutated_bytes_are_refused_or_merge(case: Case, data: st.DataObject, seed: int) -> None:
    lattice = case.lattice
    (state,) = parts(case, data, 1)
    try:
        foreign = lattice.decode(mutated(lattice.encode(state), random.Random(seed)))
        merged = lattice.merge(state, foreign)
    except HostileEntry:
        return
    case.seen(merged)
    case.seen(lattice.decode(lattice.encode(merged)))


@every_type
@given(noise=st.binary(max_size=64))
def test_noise_is_refused_or_merges(case: Case, noise: bytes) -> None:
    try:
        state = case.lattice.decode(noise)
    except HostileEntry:
        return
    assert case.seen(case.lattice.merge(case.lattice.empty(), state)) == case.seen(state)
