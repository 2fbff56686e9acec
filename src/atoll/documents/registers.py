"""The registers of one document by name, with what each edit asks of all of them.

A map of 50,000 members has as many registers, and an edit changes one. So names that matter to every edit, and the
encoded forms, are followed write by write.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from atoll.documents.register import Register, Version
from atoll.documents.rules import TOUCH, Rules

encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder(order="sorted").encode
"""As merge states are stored."""
MANY = 64
"""More registers than this are encoded one by one. The encoder's own order is quadratic for some names."""
_FEW = 1_000
"""More changes than these are not followed one by one: all is encoded anew."""


class _Encoded:
    """What a row says of each register, in the order of their names."""

    __slots__ = ("members", "names", "stale", "states")

    def __init__(self, rules: Rules, registers: Mapping[str, Register]) -> None:
        self.names = sorted(registers)
        self.states = [encode(name) + encode(registers[name]) for name in self.names]
        self.members = [_member(rules, name, registers[name]) for name in self.names]
        """Of members of maps, as readers see them; empty where they see nothing."""
        self.stale: set[str] = set()
        """Names written since."""

    def follow(self, rules: Rules, registers: Mapping[str, Register]) -> None:
        for name in self.stale:
            at = bisect_left(self.names, name)
            known = at < len(self.names) and self.names[at] == name
            place = slice(at, at + 1 if known else at)
            versions = registers.get(name)
            if versions is None:
                del self.names[place], self.states[place], self.members[place]
            else:
                self.names[place] = [name]
                self.states[place] = [encode(name) + encode(versions)]
                self.members[place] = [_member(rules, name, versions)]
        self.stale.clear()


class Registers(dict[str, Register]):
    """Written by assignment and `del` only."""

    __slots__ = ("_spare", "several", "touches")

    def __init__(self, held: Mapping[str, Register] | Iterable[tuple[str, Register]] = ()) -> None:
        super().__init__(held)
        self.touches = {name for name in self if name[:1] == TOUCH}
        """Names of touch registers, and of the purge."""
        self.several = {name for name, versions in self.items() if len(versions) > 1}
        """Names of those in conflict."""
        self._spare: _Encoded | None = None

    def copy(self) -> Registers:
        """The encoded forms go to the copy, which is the next to be encoded."""
        copied = Registers.__new__(Registers)
        dict.update(copied, self)
        copied.touches, copied.several = set(self.touches), set(self.several)
        copied._spare, self._spare = self._spare, None
        return copied

    def __setitem__(self, name: str, versions: Register) -> None:
        super().__setitem__(name, versions)
        if name[:1] == TOUCH:
            self.touches.add(name)
        if len(versions) > 1:
            self.several.add(name)
        else:
            self.several.discard(name)
        if self._spare is not None:
            self._spare.stale.add(name)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.touches.discard(name)
        self.several.discard(name)
        if self._spare is not None:
            self._spare.stale.add(name)

    def state(self, rules: Rules) -> bytes:
        """All of them as msgpack, in the order of their names."""
        if len(self) <= MANY:
            return encode(dict(self))
        return _map_header(len(self)) + b"".join(self._encoded(rules).states)

    def members(self, rules: Rules, field: str) -> bytes:
        """The members of a map that are shown, by its name in a life of the document, as one JSON object."""
        if len(self) <= MANY:
            start = field + "."
            names = sorted([name for name in self if name.startswith(start)])
            shown = [_member(rules, name, self[name]) for name in names]
        else:
            encoded = self._encoded(rules)
            # What follows the full stop in the order of texts ends the names that begin with it.
            first, last = (bisect_left(encoded.names, field + end) for end in "./")
            shown = encoded.members[first:last]
        return b"{" + b",".join(filter(None, shown)) + b"}"

    def _encoded(self, rules: Rules) -> _Encoded:
        spare = self._spare
        if spare is None or len(spare.stale) > _FEW:
            self._spare = spare = _Encoded(rules, self)
        elif spare.stale:
            spare.follow(rules, self)
        return spare


def shown_value(rules: Rules, name: str, versions: tuple[Version, ...]) -> bytes | None:
    """What readers see of a register that is not empty; None where its value is removed."""
    return versions[0].value if len(versions) == 1 else rules.strategy(name)(versions).value


def member(name: str, value: bytes) -> bytes:
    """One member of a JSON object."""
    return msgspec.json.encode(name) + b":" + value


def _member(rules: Rules, name: str, versions: Register) -> bytes:
    _, dot, key = name.partition(".")
    value = shown_value(rules, name, versions) if dot else None
    return b"" if value is None else member(key, value)


def _map_header(count: int) -> bytes:
    """Of a msgpack map with more than 15 entries."""
    return b"\xde" + count.to_bytes(2) if count < 1 << 16 else b"\xdf" + count.to_bytes(4)
