"""What of a document is over, and goes: former lives, the content of a deleted document, removed members of maps.

Such things may go once every region has seen that they are over, and everything that was written before that is here.
That is causal stability (Baquero, Almeida and Shoker, "Making operation-based CRDTs operation-based", 2014). One region
finds it out and journals a purge. So the regions drop the same, whatever they hear first. The purge stays in the
register `PURGED`. So what an old copy brings is dropped again.

A region that lost its disk may write to a life that is purged. The values are dropped. The version in the touch
register of that life stays while no purge has seen it. It stands for a record of the audit (`unseen_touches`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import msgspec

from atoll.causality.floor import fold
from atoll.causality.vector import VersionVector, covers, merge
from atoll.documents.register import Register, Version
from atoll.documents.registers import Registers
from atoll.documents.rules import PURGED, TOUCH, WHOLE, is_touch
from atoll.errors import HostileEntry

_MOST = 10**9


class Purge(msgspec.Struct, array_like=True, frozen=True):
    """The value of the register."""

    lives: int
    """Nothing of the lives before this one is left."""
    seen: dict[str, int]
    """What all regions had seen: removals up to it are dropped, and touches of former lives."""
    deleted: dict[str, int] = {}
    """The same, when the document was last found deleted as a whole. Plain fields up to it are dropped."""


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


_FIRST_LIFE = {TOUCH}


def purges_of(registers: Mapping[str, Register]) -> list[Purge]:
    """Concurrent purges of the document."""
    return [_decode(version.value) for version in registers.get(PURGED, ()) if version.value is not None]


def purge_of(registers: Mapping[str, Register]) -> Purge:
    """All purges of the document together."""
    purges = purges_of(registers)
    return Purge(
        max((purge.lives for purge in purges), default=0),
        reduce(merge, (purge.seen for purge in purges), VersionVector()),
        reduce(merge, (purge.deleted for purge in purges), VersionVector()),
    )


def life_of(registers: Mapping[str, Register]) -> int:
    """How often the document was created anew after a deletion. A life that was purged is over."""
    if isinstance(registers, Registers) and registers.touches <= _FIRST_LIFE:
        return 0  # nearly every document
    life = _latest(registers)
    return max(life, purge_of(registers).lives) if PURGED in registers else life


def unseen_touches(registers: Mapping[str, Register]) -> dict[str, Register]:
    """Touch registers of purged lives → the operations in them that no purge had seen."""
    if PURGED not in registers:
        return {}
    lives, found = purge_of(registers).lives, {}
    for name in _touches(registers):
        if is_touch(name) and life_in(name) < lives:
            lost = tuple(version for version in registers[name] if version.value is not None)
            if lost:
                found[name] = lost
    return found


def _latest(registers: Mapping[str, Register]) -> int:
    """The highest life that a touch register is left of."""
    return max((int(name[1:]) for name in _touches(registers) if name not in (TOUCH, PURGED)), default=0)


def _touches(registers: Mapping[str, Register]) -> Iterable[str]:
    """Names of touch registers, and of the purge."""
    if isinstance(registers, Registers):
        return sorted(registers.touches)
    return [name for name in registers if name[:1] == TOUCH]


def life_in(name: str) -> int:
    """The life that a register or state is of, by its name."""
    return int(name.partition(".")[0].partition(TOUCH)[2] or "0")


def drop(
    registers: dict[str, Register], lattices: dict[str, Any], written: Iterable[str] | None = None
) -> None:
    """Remove what was purged. `written`: what was written since it was removed last; without it, everything."""
    _drop(registers, lattices, purges_of(registers), purge_of(registers), written)


def _drop(
    registers: dict[str, Register],
    lattices: dict[str, Any],
    purges: Sequence[Purge],
    together: Purge,
    written: Iterable[str] | None = None,
) -> None:
    for name in [name for name in lattices if life_in(name) < together.lives]:
        del lattices[name]
    for name in list(registers) if written is None else written:
        versions = registers[name]
        if name in (WHOLE, PURGED):
            continue
        if is_touch(name):
            # One purge must have seen the version and the end of its life: that one has resolved the record of it.
            of_life = [purge.seen for purge in purges if life_in(name) < purge.lives]
            kept = _left(versions, *of_life)
        elif "." in name:
            over = life_in(name) < together.lives
            kept = () if over else tuple(each for each in versions if not _removed(each, together.seen))
        else:  # plain fields under `merge`
            kept = _left(versions, together.deleted)
        _keep(registers, name, kept)


def _left(versions: Register, *seen: Mapping[str, int]) -> Register:
    """The versions that none of the vectors covers."""
    return tuple(version for version in versions if not any(_seen(version, each) for each in seen))


def _keep(registers: dict[str, Register], name: str, versions: Register) -> None:
    """Leave some of its versions. A register that keeps all is not written, so that its encoded form stays."""
    if not versions:
        del registers[name]
    elif len(versions) < len(registers[name]):
        registers[name] = versions


def unseen(registers: dict[str, Register], others: Mapping[str, Register]) -> None:
    """Remove from a whole state what another whole state had seen of the members of maps, and no longer has."""
    seen = purge_of(others).seen
    for name in [name for name in registers if "." in name]:
        held, versions = others.get(name, ()), registers[name]
        _keep(registers, name, tuple(each for each in versions if each in held or not _seen(each, seen)))


def purgeable(
    registers: Mapping[str, Register], lattices: Mapping[str, Any], seen: Mapping[str, int]
) -> bytes | None:
    """The purge of what is over for all regions, all of which have seen `seen`; None where that is nothing."""
    before, present = purge_of(registers), life_of(registers)
    lives, deleted = before.lives, before.deleted
    whole = registers.get(WHOLE, ())
    if whole and all(_removed(version, seen) for version in whole):
        # Whoever creates it anew has seen these, too, and so begins no earlier life than this.
        known = [
            name
            for name in registers
            if is_touch(name) and len(_left(registers[name], seen)) < len(registers[name])
        ]
        lives = max(lives, 1 + max(map(life_in, known), default=-1))
        deleted = dict(fold(merge(deleted, seen)))
    elif all(
        _ended(registers[name], seen)
        for name in registers
        if is_touch(name) and before.lives <= life_in(name) < present
    ):
        lives = present
    purge = Purge(lives, dict(fold(merge(before.seen, seen))), deleted)
    left, states = dict(registers), dict(lattices)
    _drop(left, states, [purge], purge)
    return None if left == registers and len(states) == len(lattices) else _encode(purge)


def _ended(versions: Register, seen: Mapping[str, int]) -> bool:
    """Whether all regions have seen that the life of this touch register is over."""
    return any(_removed(version, seen) for version in versions)


def _removed(version: Version, seen: Mapping[str, int]) -> bool:
    return version.value is None and _seen(version, seen)


def _seen(version: Version, seen: Mapping[str, int]) -> bool:
    return covers(seen, version.origin, version.seq)
