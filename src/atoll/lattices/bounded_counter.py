"""Bounded counter: never below its minimum, because each region spends only rights that it holds.

Balegas et al., "Extending eventually consistent cloud databases for enforcing numeric invariants", 2015.
Every unit above the minimum is a right, held by one region. Creating, spending and handing over rights are
decided from a region's own cells of the state. No other region writes those, so no coordination is needed.

Cells belong to origins. The present incarnation of a region spends what a former one held, in the former's own row.
That is once nothing of the former is still to come.

The heir of a region that has left spends its rights, too, and counts them in its own row. So no region writes another's
row. Such a row may have used more than was granted to it: the rows of all origins that its region holds make up for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from atoll.causality.origin import region_of
from atoll.errors import BoundExceeded, InvalidOperation
from atoll.lattices import encoding
from atoll.lattices.base import Actor, Escrowed
from atoll.lattices.encoding import TOTAL_MAX, Origin, Total
from atoll.lattices.json_values import INT_MAX, check_integer
from atoll.membership.heirs import NOBODY, Heirs

Row = tuple[int, dict[str, int]]
"""(rights that the region used, region → rights that it granted it); to itself it grants what it creates."""
BoundedCounterState = dict[str, Row]
"""Origin → the row that only its region writes, and whose cells only grow."""

_decoder = msgspec.msgpack.Decoder(dict[Origin, tuple[Total, dict[Origin, Total]]])


@dataclass(frozen=True, slots=True)
class BoundedCounterLattice(Escrowed[BoundedCounterState]):
    """An integer of 64 bits, at least `minimum`.

    `split` says who holds new rights. `equal` shares them among the actor's regions and leaves the remainder
    with the actor. `creator` leaves all with the actor, which transfers them on request.
    """

    minimum: int = 0
    split: Literal["equal", "creator"] = "equal"

    kind = "bounded_counter"
    operators = frozenset({"$inc"})

    def empty(self) -> BoundedCounterState:
        return {}

    def merge(self, state: BoundedCounterState, delta: BoundedCounterState) -> BoundedCounterState:
        merged = dict(state)
        for region, (used, grants) in delta.items():
            row = merged.get(region)
            if row is None:
                merged[region] = (used, grants)
            else:
                cells = dict(row[1])
                for holder, granted in grants.items():
                    cells[holder] = max(cells.get(holder, 0), granted)
                merged[region] = (max(row[0], used), cells)
        return merged

    def value(self, state: BoundedCounterState) -> int:
        return min(INT_MAX, self.minimum + self.left(state))

    def left(self, state: BoundedCounterState) -> int:
        """Rights of all regions together: how far the value is above the minimum.

        Causal delivery shows a right's creation before its use. Without it, what is short counts as zero.
        """
        left = 0
        for region, (used, grants) in state.items():
            left += grants.get(region, 0) - used
        return max(0, left)

    def rights(self, state: BoundedCounterState, region: str, heirs: Heirs = NOBODY) -> int:
        """What `region` may spend without asking, as far as is known here."""
        held = (_held(state, holder) for holder in _holders(state) if heirs.holder_of(holder)[0] == region)
        return max(0, sum(held))

    def spent(self, state: BoundedCounterState, region: str) -> int:
        """What `region` has spent so far, as far as is known here."""
        return sum(used for origin, (used, _) in state.items() if region_of(origin) == region)

    def spendable(self, state: BoundedCounterState, actor: Actor) -> int:
        """What the actor may spend without asking: exact."""
        return max(0, sum(_held(state, origin) for origin in _theirs(state, actor)))

    def transfer(
        self, state: BoundedCounterState, actor: Actor, target: str, amount: int
    ) -> BoundedCounterState:
        """The delta that hands rights of the actor over. Raises BoundExceeded if it lacks them."""
        if check_integer(amount, "transfer") <= 0 or actor.origin == target:
            raise InvalidOperation(
                f"cannot transfer {amount} from {actor.origin} to {target}; give a positive amount"
            )
        return {
            origin: (0, {target: _grown(_row(state, origin)[1].get(target, 0), part)})
            for origin, part in self._taken(state, actor, amount).items()
        }

    def difference(self, state: BoundedCounterState, target: Any, actor: Actor) -> BoundedCounterState | None:
        shown = self.minimum + self.left(state)
        return self._add(state, check_integer(target, "bounded counter") - shown, actor)

    def operate(
        self, state: BoundedCounterState, operator: str, argument: Any, actor: Actor
    ) -> BoundedCounterState | None:
        if operator != "$inc":
            raise InvalidOperation(f"a bounded counter does not take {operator}; use $inc with an integer")
        return self._add(state, check_integer(argument, "$inc"), actor)

    def decode(self, data: bytes) -> BoundedCounterState:
        return encoding.decode(_decoder, data, "bounded counter")

    def written_by(self, delta: BoundedCounterState, region: str) -> bool:
        return {region_of(origin) for origin in delta} <= {region_of(region)}

    def canonical(self, state: BoundedCounterState) -> bytes:
        rows = {
            region: (used, {h: n for h, n in grants.items() if n}) for region, (used, grants) in state.items()
        }
        return encoding.encode({region: row for region, row in rows.items() if row != (0, {})})

    def _add(self, state: BoundedCounterState, amount: int, actor: Actor) -> BoundedCounterState | None:
        if amount == 0:
            return None
        if amount < 0:
            return {
                origin: (_grown(_row(state, origin)[0], part), {})
                for origin, part in self._taken(state, actor, -amount).items()
            }
        if self.minimum + self.left(state) + amount > INT_MAX:
            raise InvalidOperation(f"the counter would exceed 64 bits: {self.value(state)} + {amount}")
        _, grants = _row(state, actor.origin)
        granted: dict[str, int] = {actor.origin: _grown(grants.get(actor.origin, 0), amount)}
        own = region_of(actor.origin)
        others = [actor.heirs.address(region) for region in actor.regions if region != own]
        share = amount // (len(others) + 1) if self.split == "equal" else 0
        if share:
            for other in others:
                granted[other] = _grown(grants.get(other, 0), share)
        return {actor.origin: (0, granted)}

    def _taken(self, state: BoundedCounterState, actor: Actor, amount: int) -> dict[str, int]:
        """Origin → how many of its rights make up the amount; what is inherited is counted as the actor's own."""
        held = self.spendable(state, actor)
        if amount > held:
            raise self._exceeded(state, actor, held, amount)
        taken: dict[str, int] = {}
        left = amount
        for origin in (actor.origin, *actor.former):
            if actor.holds(origin) and (part := min(left, max(0, _held(state, origin)))):
                taken[origin] = part
                left -= part
        if left:
            taken[actor.origin] = taken.get(actor.origin, 0) + left
        return taken

    def _exceeded(self, state: BoundedCounterState, actor: Actor, held: int, wanted: int) -> BoundExceeded:
        left = self.left(state)
        holders = ((each, actor.heirs.holder_of(each)[0]) for each in _holders(state))
        behind = max(0, sum(_held(state, each) for each, region in holders if region not in actor.regions))
        details, advice = {"wanted": wanted, "left_here": held, "left_in_all": left}, "ask for less"
        if left - behind >= wanted:
            advice += ", or move rights here first"
        elif behind:
            details["left_behind"] = behind
            advice += f"; {behind} are held by regions that have left, until another one takes their place"
        return BoundExceeded(
            f"{wanted} wanted in {region_of(actor.origin)}, which may spend {held}; "
            f"{left} are left in all regions: {advice}",
            **details,
        )


def _holders(state: BoundedCounterState) -> set[str]:
    return state.keys() | {holder for _, grants in state.values() for holder in grants}


def _theirs(state: BoundedCounterState, actor: Actor) -> list[str]:
    """The origins whose rights the actor may spend."""
    own: list[str] = [origin for origin in (actor.origin, *actor.former) if actor.holds(origin)]
    if not actor.heirs.spans:
        return own
    return own + [each for each in _holders(state) if each not in own and actor.holds(each)]


def _row(state: BoundedCounterState, origin: str) -> Row:
    return state.get(origin, (0, {}))


def _held(state: BoundedCounterState, origin: str) -> int:
    """Below 0 where an heir has counted here what it inherited."""
    used, grants = _row(state, origin)
    held = grants.get(origin, 0) - used
    held -= sum(granted for other, granted in grants.items() if other != origin)
    return held + sum(row[1].get(origin, 0) for other, row in state.items() if other != origin)


def _grown(total: int, amount: int) -> int:
    if total + amount > TOTAL_MAX:
        raise InvalidOperation(
            "the total of all operations on this counter would exceed 2^64; use a new document"
        )
    return total + amount
