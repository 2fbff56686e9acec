"""Does a bank keep its money? Transfers move amounts between accounts, so every snapshot has the same total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from atoll.errors import InvalidHistory
from atoll.histories.history import Event, Operation, Verdict, operations_of


@dataclass
class Bank:
    """Snapshots that no bank shows, each with what is wrong."""

    wrong: list[tuple[Operation, str]] = field(default_factory=list)
    snapshots: int = 0

    @property
    def verdict(self) -> Verdict:
        return "invalid" if self.wrong else "valid"

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"{why}: {operation}" for operation, why in self.wrong)])


def check_bank(events: Sequence[Event], *, total: int, overdraft: bool = False) -> Bank:
    """Check every `ok` of `read`, whose value maps each account to its balance.

    `total`: of all balances, in the unit of the balances. `overdraft`: balances may be below zero. Other operations
    may be anything. Raises InvalidHistory if a snapshot is not a map of integers.
    """
    found = Bank()
    for operation in operations_of(events):
        if operation.f != "read" or operation.outcome != "ok":
            continue
        balances = operation.value
        if not isinstance(balances, dict) or any(type(each) is not int for each in balances.values()):
            raise InvalidHistory(f"{operation} is not a map of accounts to whole numbers")
        found.snapshots += 1
        below = sorted(account for account, balance in balances.items() if balance < 0)
        if sum(balances.values()) != total:
            found.wrong.append((operation, f"the total is {sum(balances.values())} instead of {total}"))
        elif below and not overdraft:
            found.wrong.append((operation, f"below zero: {', '.join(below)}"))
    return found
