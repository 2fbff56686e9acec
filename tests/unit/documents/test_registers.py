"""Registers that follow their encoded forms are those of a document that was never encoded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp
from atoll.documents import purging
from atoll.documents import registers as module
from atoll.documents.document import Document, decode_row, encode_row, merge
from atoll.documents.mutation import patch_of, put_of
from atoll.documents.register import Register, Version
from atoll.documents.registers import MANY, Registers

from ..commit.replica import Replica, rules_of, settle
from ..commit.shop import SHOP

RULES = rules_of(SHOP)["cart"]
MEMBERS = [f"labels.m{number:03}" for number in range(MANY + 4)]
NAMES = [
    *MEMBERS,
    "",
    "note",
    "~",
    "~1",
    "~~",
    "labels~1.a",
    "labelsx.a",
    "other.a",
    "labels./",
    "labels.\U0001f600",
]
_plain = msgspec.msgpack.Encoder(order="sorted").encode


def version(origin: str, seq: int, value: bytes | None) -> Version:
    return Version(Origin(origin), Seq(seq), Stamp(seq), 0, 1, {origin: seq - 1}, value)


def filled() -> Registers:
    return Registers({name: (version("a", 1, b"1"),) for name in MEMBERS})


written: st.SearchStrategy[Register] = st.sets(
    st.tuples(st.sampled_from("abc"), st.integers(1, 9)), min_size=1, max_size=3
).flatmap(
    lambda dots: st.tuples(
        *(
            st.builds(version, st.just(o), st.just(s), st.sampled_from([None, b"1", b"2"]))
            for o, s in sorted(dots)
        )
    )
)
steps = st.lists(
    st.tuples(st.sampled_from(NAMES), st.none() | written, st.sampled_from(["", "encode", "copy"])),
    max_size=25,
)


def check(held: Registers) -> None:
    anew = Registers(dict(held))
    assert (held.touches, held.several) == (anew.touches, anew.several)
    assert held.state(RULES) == anew.state(RULES) == _plain(dict(sorted(held.items())))
    for field in ("labels", "labels~1", "other"):
        shown = {
            name.partition(".")[2]: msgspec.json.decode(value)
            for name, versions in sorted(held.items())
            if name.startswith(field + ".")
            and (value := module.shown_value(RULES, name, versions)) is not None
        }
        assert held.members(RULES, field) == anew.members(RULES, field) == msgspec.json.encode(shown)


@pytest.mark.parametrize("few", [2, 1_000])
@given(steps=steps)
def test_what_is_followed_is_what_would_be_encoded_anew(few: int, steps: list[tuple[str, Any, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", few)
        held = filled()
        for name, versions, then in steps:
            if versions is not None:
                held[name] = versions
            elif name in held:
                del held[name]
            if then:
                check(held)
            if then == "copy":
                left, held = held, held.copy()
                left["note"] = (version("b", 9, b"0"),)
        check(held)


def test_a_row_of_many_registers_is_read_back() -> None:
    registers = {f"labels.m{number:05}": (version("a", 1, b"1"),) for number in range(70_000)}
    for count in (MANY, MANY + 1, 65_535, 65_536):
        some = dict(list(registers.items())[:count])
        assert decode_row(RULES, encode_row(RULES, Document(some, {}))).registers == some


def test_an_edit_of_a_large_map_encodes_what_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica("a", rules_of(SHOP))
    members = ",".join(f'"m{number}":1' for number in range(500)).encode()
    replica.write(put_of(RULES, "k", b'{"note":"n","address":{},"items":[],"labels":{' + members + b"}}"))
    replica.write(patch_of(RULES, "k", {"$unset": ["labels.m9"]}))
    batch = replica.batch()
    batch.purge([("cart", "k")], dict(replica.vector))
    replica._take(batch)
    assert "~~" in decode_row(RULES, replica.rows["cart", "k"]).registers
    encoded: list[Any] = []

    def counting(value: Any) -> bytes:
        encoded.append(value)
        return _plain(value)

    monkeypatch.setattr(module, "encode", counting)
    for number in range(3):
        replica.write(patch_of(RULES, "k", {"$set": {f"labels.m{number}": 2}}))
    assert 0 < len(encoded) < 30
    peer = Replica("b", replica.rules)
    settle([replica, peer])
    encoded.clear()
    peer.write(patch_of(RULES, "k", {"$set": {"labels.m7": 3}}))
    settle([replica, peer])
    assert 0 < len(encoded) < 20


def test_a_merge_looks_for_what_was_purged_in_what_it_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    purge = version("a", 3, b'[0,{"a":2},{}]')
    many = {name: (version("a", 1, b"1"),) for name in MEMBERS}
    ours = Document({**many, "": (version("a", 1, b"{}"),), "~~": (purge,)}, {})
    theirs = Document({MEMBERS[0]: (version("a", 2, None),), MEMBERS[1]: (version("b", 1, b"2"),)}, {})
    seen: list[str] = []

    def counting(registers: Registers, name: str, versions: Register) -> None:
        seen.append(name)
        keep(registers, name, versions)

    keep = purging._keep
    monkeypatch.setattr(purging, "_keep", counting)
    merged = merge(RULES, ours, theirs)
    assert seen == MEMBERS[:2]
    assert MEMBERS[0] not in merged.registers
    assert merge(
        RULES, Document({}, {}), Document({**theirs.registers, "~~": (purge,)}, {})
    ).registers.keys() == {
        MEMBERS[1],
        "~~",
    }
