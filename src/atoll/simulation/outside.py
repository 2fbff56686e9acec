"""The world outside of the database, as a saga's effects meet it: it keeps every call, and honours stable keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from weakref import WeakKeyDictionary

from atoll.schema.saga import Abort
from atoll.simulation.failures import Verdict
from atoll.testing.virtual_time import Life, running_life

ONE_REGION = "no step runs in two regions at once"
_TROUBLE = 0.1
"""Probability that a call fails before it has happened; and that its answer is lost."""
_LONG = 0.1
"""Probability of a call that takes seconds."""


@dataclass(eq=False, slots=True)
class Call:
    """One call of an effect."""

    what: str
    saga: str
    key: str
    life: Life
    began_s: float
    happened: bool = False
    """Whether it came to anything outside."""
    answered: bool = False
    """Whether its caller was told so."""
    over: bool = False
    """Whether its caller has gone on."""

    @property
    def at_work(self) -> bool:
        """Whether its caller still runs. A process that is stopped does nothing, and ends the call once it goes on."""
        return not (self.over or self.life.over or self.life.busy)


class Outside:
    """Of one simulation."""

    def __init__(self, random: Random, verdict: Verdict, stopped: Callable[[], bool]) -> None:
        """`stopped` says that nothing goes wrong any more."""
        self.calls: list[Call] = []
        self._random = random
        self._verdict = verdict
        self._stopped = stopped

    def open(self) -> None:
        """Be what this simulation's effects find."""
        _OPEN[asyncio.get_running_loop()] = self

    async def act(self, what: str, saga: str, key: str, *, refused: bool = False) -> None:
        """Raises Abort where it is refused, and OSError where the call fails, before it has happened or after."""
        life = running_life()
        assert life is not None, "a region calls"
        random = self._random
        call = Call(what, saga, key, life, life.loop.time())
        self._check_alone(call)
        self.calls.append(call)
        try:
            mean_s = 1.5 if random.random() < _LONG else 0.1
            await asyncio.sleep(random.expovariate(2 / mean_s))
            if refused:
                raise Abort(f"{what} is refused")
            self._fail_at_times(f"no {what}")
            call.happened = True
            await asyncio.sleep(random.expovariate(2 / mean_s))
            self._fail_at_times(f"the answer to {what} was lost")
            call.answered = True
        finally:
            call.over = True

    def _fail_at_times(self, why: str) -> None:
        if self._random.random() < _TROUBLE and not self._stopped():
            raise OSError(why)

    def _check_alone(self, call: Call) -> None:
        for other in self.calls:
            if other.saga == call.saga and other.at_work and other.life is not call.life:
                self._verdict.safety(
                    ONE_REGION,
                    f"{call.life.name} calls {call.what} of {call.saga} while {other.life.name} is still at"
                    f" {other.what}, since {call.began_s - other.began_s:.2f} s",
                )


_OPEN: WeakKeyDictionary[asyncio.AbstractEventLoop, Outside] = WeakKeyDictionary()


def outside() -> Outside:
    """Of the simulation that runs."""
    return _OPEN[asyncio.get_running_loop()]
