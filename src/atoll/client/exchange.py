"""One call from start to end: attempts, failover, deadline. No I/O: the twins drive it.

    steps = exchanges.run(call, state)      yields Request, is sent Response or the transport's error
                                            yields Pause, is sent None
                                            returns the result, or raises

Reads go from region to region until one answers. A write moves to another region only after a definite
failure. After an indefinite attempt, only the region that got it can know the outcome, by the idempotency
key. So all further attempts go there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from random import Random
from typing import Any, NoReturn, TypeVar

import msgspec

from atoll.client.answers import AnotherAnswer, problem_of
from atoll.client.calls import Call
from atoll.client.options import ClientOptions
from atoll.client.routing import Router
from atoll.client.transport import Request, Response
from atoll.errors import (
    AtollError,
    ConfigError,
    Indefinite,
    InvalidOperation,
    OrderUncertain,
    Overloaded,
    RegionUnreachable,
    RequestError,
    StoreUnwritable,
    TokenNotReached,
    TooLarge,
    TooStale,
    Unavailable,
)
from atoll.schema.limits import IDEMPOTENCY_KEY_CHARACTERS, may_repeat

T = TypeVar("T")


class Pause(msgspec.Struct, frozen=True):
    """Wait before the next step."""

    seconds: float


@dataclass(slots=True)
class SessionState:
    """The newest token that a region returned, and which region that was.

    A token cannot be compared with another by the client, so a session's calls must follow one another.
    """

    token: str | None = None
    region: str | None = None
    degraded: str | None = None

    def answered(self, region: str, headers: Mapping[str, str]) -> None:
        """Note what an answer says; `region` was asked, another one may have answered."""
        self.token = headers.get("atoll-session") or self.token
        self.region = headers.get("atoll-region") or region
        self.degraded = headers.get("atoll-degraded")


Outcome = Response | AtollError | None
Steps = Generator[Request | Pause, Outcome, T]


@dataclass(slots=True)
class _Attempts:
    """What one call has been through."""

    deadline_s: float
    key: str | None
    """The idempotency key of a write."""
    pinned: str | None
    """The region that may have executed the write."""
    state: SessionState | None = None
    failures: dict[str, AtollError] = field(default_factory=dict)
    """The last one of each region."""
    written: OrderUncertain | None = None
    """The write is done; what is waited for is its order."""
    rounds: int = 0
    count: int = 0


@dataclass(slots=True)
class Exchanges:
    """Shared by everything that one client does. Clock, randomness and keys are given to it."""

    router: Router
    urls: Mapping[str, str]
    options: ClientOptions
    _: KW_ONLY
    clock: Callable[[], float]
    """Monotonic, in seconds."""
    random: Random
    new_key: Callable[[], str]
    closed: bool = False
    """The client is: no further attempt is worth a pause."""

    def run(self, call: Call[T], state: SessionState | None = None, key: str | None = None) -> Steps[T]:
        """`key`: an idempotency key to use instead of a new one, to repeat a write that was indefinite.

        Raises what the region answered; RegionUnreachable when none answered in time; Indefinite when a
        write may have happened; ConfigError when something else than Atoll answers.
        """
        attempts = self._begin(call, key)
        attempts.state = state
        while True:
            regions = self.router.order() if attempts.pinned is None else (attempts.pinned,)
            for region in regions:
                remaining_s = attempts.deadline_s - self.clock()
                if remaining_s <= 0:
                    self._give_up(attempts)
                attempts.count += 1
                outcome = yield self._request(call, attempts, region, remaining_s)
                if isinstance(outcome, Response):
                    try:
                        if 200 <= outcome.status < 300:
                            return self._result(call, outcome, region, attempts)
                        failure = problem_of(outcome)
                        if _is_final(failure, attempts):
                            return self._refused(call, outcome, region, failure, attempts)
                        if state is not None:
                            state.answered(region, outcome.headers)
                    except AnotherAnswer as error:  # as if the connection had broken
                        failure = Indefinite(str(error))
                else:
                    assert outcome is not None, "the driver answers a request with a response or an error"
                    failure = outcome
                    if _is_final(failure, attempts):
                        self._not_an_answer(failure, region, attempts)
                self._note(region, failure, attempts, answered=isinstance(outcome, Response))
                if attempts.pinned is not None:
                    break
            yield self._pause(attempts)

    def ask_health(self, region: str) -> Steps[float | None]:
        """Whether a region should be used: the seconds until it said yes, or None. Tells the router."""
        started_s = self.clock()
        outcome = yield Request(
            region, "GET", "/health/serving", "", self.options.headers, b"", self.options.health_timeout_s
        )
        now_s = self.clock()
        if isinstance(outcome, Response) and outcome.status == 200:
            self.router.well(region)
            return now_s - started_s
        self.router.unwell(region, now_s)
        return None

    def region_to_ask(self) -> str | None:
        """A region whose health is due to be asked."""
        return self.router.to_ask(self.clock())

    def jitter_s(self, rounds: int) -> float:
        """How long to pause after so many rounds of attempts (full jitter over an exponential bound)."""
        longest = min(self.options.backoff_max_s, self.options.backoff_s * 2.0 ** min(rounds, 30))
        return self.random.uniform(0.0, longest)

    def where(self, region: str) -> str:
        url = self.urls.get(region)
        return f"{region} ({url})" if url else region

    def _begin(self, call: Call[Any], key: str | None) -> _Attempts:
        timeout_s = self.options.timeout_s
        if call.wait_s:
            timeout_s = max(timeout_s, call.wait_s + self.options.read_timeout_s)
        deadline_s = self.clock() + timeout_s
        if not call.writes:
            return _Attempts(deadline_s, None, None)
        if key is None:
            return _Attempts(deadline_s, self.new_key(), None)
        check_key(key)
        return _Attempts(deadline_s, key, self.router.held(key))

    def _request(self, call: Call[Any], attempts: _Attempts, region: str, remaining_s: float) -> Request:
        headers = {**self.options.headers, **call.headers}
        if attempts.key is not None:
            headers["idempotency-key"] = attempts.key
        if attempts.state is not None and attempts.state.token is not None:
            headers["atoll-session"] = attempts.state.token
        usual_s = self.options.write_timeout_s if call.writes else self.options.read_timeout_s + call.wait_s
        timeout_s = usual_s if usual_s < remaining_s else remaining_s
        return Request(region, call.method, call.path, call.query, headers, call.body, timeout_s, remaining_s)

    def _result(self, call: Call[T], response: Response, region: str, attempts: _Attempts) -> T:
        try:
            result = call.read(response, region)
        except ConfigError as error:
            self._believe(response, region, attempts)
            raise self._misconfigured(region, error) from None
        except RequestError as error:
            self._believe(response, region, attempts)
            if not call.writes:
                raise
            raise unreturned(region, error, attempts.key) from error
        self._believe(response, region, attempts)
        return result

    def _refused(
        self, call: Call[T], response: Response, region: str, failure: AtollError, attempts: _Attempts
    ) -> T:
        if call.absent is not None and failure.type == "not-found":
            found = failure.details.get("key", call.key)
            if found != call.key:
                raise AnotherAnswer(call.key, found)
            result = call.absent(response, region)
            self._believe(response, region, attempts)
            return result
        self._believe(response, region, attempts)
        raise self._misconfigured(region, failure) if isinstance(failure, ConfigError) else failure

    def _believe(self, response: Response, region: str, attempts: _Attempts) -> None:
        """It is the answer to this call, and ends it."""
        if attempts.key is not None:
            self.router.settle(attempts.key)
        if attempts.state is not None:
            attempts.state.answered(region, response.headers)

    def _not_an_answer(self, failure: AtollError, region: str, attempts: _Attempts) -> NoReturn:
        if isinstance(failure, TooLarge) and attempts.key is not None:
            self.router.hold(attempts.key, region)
            raise Indefinite(
                f"{region} answered this write, but the answer was not read: {failure.message}",
                region=region,
                idempotency_key=attempts.key,
            )
        raise self._misconfigured(region, failure) if isinstance(failure, ConfigError) else failure

    def _misconfigured(self, region: str, error: AtollError) -> ConfigError:
        return ConfigError(f"{self.where(region)}: {error.message}", region=region)

    def _note(self, region: str, failure: AtollError, attempts: _Attempts, *, answered: bool) -> None:
        attempts.failures[region] = failure
        if isinstance(failure, OrderUncertain):
            attempts.written = failure
        if attempts.key is not None and isinstance(failure, Indefinite):
            attempts.pinned = region
            self.router.hold(attempts.key, region)
        if _speaks_against(failure) if answered else not isinstance(failure, Overloaded):
            self.router.failed(region, self.clock())

    def _pause(self, attempts: _Attempts) -> Pause:
        seconds = self.jitter_s(attempts.rounds)
        attempts.rounds += 1
        if self.closed or self.clock() + seconds >= attempts.deadline_s:
            self._give_up(attempts)
        return Pause(seconds)

    def _give_up(self, attempts: _Attempts) -> NoReturn:
        told = "; ".join(f"{region}: {error.message}" for region, error in attempts.failures.items())
        told = told or "no time was left to ask"
        if attempts.written is not None:
            raise OrderUncertain(
                attempts.written.message,
                **{**attempts.written.details, "region": attempts.pinned, "idempotency_key": attempts.key},
            )
        if attempts.pinned is not None:
            raise Indefinite(
                f"this write may have happened: {self.where(attempts.pinned)} received it and did not confirm it"
                f" ({told}). Repeat it with idempotency_key={attempts.key!r}: it then counts once and you"
                " learn the outcome. This client repeats it in that region; another one should be"
                f" connected near={attempts.pinned!r}",
                region=attempts.pinned,
                idempotency_key=attempts.key,
                attempts=attempts.count,
            ) from attempts.failures.get(attempts.pinned)
        for failure in attempts.failures.values():
            if not isinstance(failure, RegionUnreachable | Indefinite):
                raise failure  # a region that answers says more than those that do not
        what = "read" if attempts.key is None else "write; it has not happened"
        raise RegionUnreachable(
            f"no region could serve this {what} ({told})",
            regions=list(attempts.failures),
            attempts=attempts.count,
        )


def _is_final(failure: AtollError, attempts: _Attempts) -> bool:
    """Whether nothing is gained by another attempt."""
    if isinstance(failure, Unavailable | Indefinite | StoreUnwritable):
        return False
    # Where an earlier attempt is in doubt, only a region that has looked for its idempotency key knows more.
    return attempts.pinned is None or isinstance(failure, RequestError)


def _speaks_against(failure: AtollError) -> bool:
    """Whether an error that came as an answer means that other calls had better begin elsewhere."""
    if isinstance(failure, TokenNotReached | TooStale | StoreUnwritable | RegionUnreachable):
        return False  # it concerns this call, or a third region, or writes only
    return not isinstance(failure, Indefinite) or failure.gateway_status is not None


def check_key(key: str | None) -> None:
    """Raises InvalidOperation for what cannot be an idempotency key."""
    if key is not None and not may_repeat(key):
        raise InvalidOperation(
            f"an idempotency key has 1 to {IDEMPOTENCY_KEY_CHARACTERS} printable ASCII characters"
        )


def unreturned(region: str, error: RequestError, idempotency_key: str | None) -> Indefinite:
    """RequestErrors promise that nothing happened; this write did happen."""
    return Indefinite(
        f"the write was done, but what {region} shows now cannot be returned: {error.message}",
        **{**error.details, "region": region, "idempotency_key": idempotency_key},
    )
