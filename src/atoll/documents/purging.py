"""What of a document is over, and goes: former lives, the content of a deleted document, removed members of maps.

Such things may go once every region has seen that they are over, and everything that was written before that is here.
That is causal stability (Baquero, Almeida and Shoker, "Making operation-based CRDTs operation-based", 2014). One region
finds it out and journals a purge. So the regions drop the same, whatever they hear first. The purge stays in the
register `PURGED`. So what an old copy brings is dropped again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from atoll.causality.vector import VersionVector, covers, merge
from atoll.documents.register import Register, Version
from atoll.documents.rules import PURGED, TOUCH, WHOLE, is_touch
from atoll.errors import HostileEntry

_MOST = 10**9


class Purge(msgspec.Struct, array_like=True, frozen=True):
    """The value of the register."""

    lives: int
    """Nothing of the lives before this one is left."""
    seen: dict[str, int]
    """What all regions had seen: removals up to it are dropped."""


_decode: Callable[[bytes], Purge] = msgspec.json.Decoder(Purge).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def check(value: bytes) -> None:
    """Raises HostileEntry for what is no purge."""
    try:
        purge = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise HostileEntry("a purge cannot be read") from None
    if not 0 <= purge.lives <= _MOST:
        raise HostileEntry(f"no document has {purge.lives} lives")


def purge_of(registers: Mapping[str, Register]) -> Purge:
    """All purges of the document together."""
    lives, seen = 0, VersionVector()
    for version in registers.get(PURGED, ()):
        if version.value is not None:
            purge = _decode(version.value)
            lives, seen = max(lives, purge.lives), merge(seen, purge.seen)
    return Purge(lives, seen)


def life_of(registers: Mapping[str, Register]) -> int:
    """How often the document was created anew after a deletion."""
    life = _latest(registers)
    return max(life, purge_of(registers).lives - 1) if PURGED in registers else life


def _latest(registers: Iterable[str]) -> int:
    """The highest life that a touch register is left of."""
    touched = [name for name in registers if name[:1] == TOUCH]
    return max((int(name[1:]) for name in touched if name not in (TOUCH, PURGED)), default=0)


def life_in(name: str) -> int:
    """The life that a register or state is of, by its name."""
    return int(name.partition(".")[0].partition(TOUCH)[2] or "0")


def drop(registers: dict[str, Register], lattices: dict[str, Any]) -> None:
    """Remove what was purged."""
    _drop(registers, lattices, purge_of(registers))


def _drop(registers: dict[str, Register], lattices: dict[str, Any], purge: Purge) -> None:
    dead = purge.lives > _latest(registers)
    for name in [name for name in lattices if life_in(name) < purge.lives]:
        del lattices[name]
    for name, versions in list(registers.items()):
        if name in (WHOLE, PURGED):
            continue
        if is_touch(name) or "." in name:
            if life_in(name) < purge.lives or _removed(name, versions, purge.seen):
                del registers[name]
        elif dead:  # plain fields under `merge`
            kept = tuple(version for version in versions if not _seen(version, purge.seen))
            if kept:
                registers[name] = kept
            else:
                del registers[name]


def unseen(registers: dict[str, Register], others: Mapping[str, Register]) -> None:
    """Remove from a whole state the members that another whole state had seen, and no longer has."""
    seen = purge_of(others).seen
    for name in [name for name in registers if "." in name and name not in others]:
        kept = tuple(version for version in registers[name] if not _seen(version, seen))
        if kept:
            registers[name] = kept
        else:
            del registers[name]


def purgeable(
    registers: Mapping[str, Register], lattices: Mapping[str, Any], seen: Mapping[str, int]
) -> bytes | None:
    """The purge of what is over for all regions, all of which have seen `seen`; None where that is nothing."""
    before, present = purge_of(registers), life_of(registers)
    lives = before.lives
    whole = registers.get(WHOLE, ())
    if whole and all(version.value is None and _seen(version, seen) for version in whole):
        lives = max(lives, present + 1)
    elif all(
        _ended(registers[name], seen) for name in registers if is_touch(name) and life_in(name) < present
    ):
        lives = max(lives, present)
    purge = Purge(lives, merge(before.seen, seen))
    left, states = dict(registers), dict(lattices)
    _drop(left, states, purge)
    return None if len(left) == len(registers) and len(states) == len(lattices) else _encode(purge)


def _ended(versions: Register, seen: Mapping[str, int]) -> bool:
    """Whether all regions have seen that the life of this touch register is over."""
    return any(version.value is None and _seen(version, seen) for version in versions)


def _removed(name: str, versions: Register, seen: Mapping[str, int]) -> bool:
    return "." in name and all(version.value is None and _seen(version, seen) for version in versions)


def _seen(version: Version, seen: Mapping[str, int]) -> bool:
    return covers(seen, version.origin, version.seq)
