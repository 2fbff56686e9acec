"""The real client and the real HTTP application: sessions, listings, conditions and retries, from region to region."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping
from random import Random
from typing import Any

import msgspec

from atoll.client.answers import PROBLEM_PREFIX
from atoll.client.database import Database, Session
from atoll.client.endpoints import endpoints_of
from atoll.client.multiplexing import Multiplexed
from atoll.client.options import ClientOptions
from atoll.client.transport import Request, Response
from atoll.errors import AtollError, Indefinite, InvalidToken, UnknownField, VersionMismatch, error_classes
from atoll.schema.operations import Increment
from atoll.simulation.application import Member, View
from atoll.simulation.failures import CrashFound
from atoll.simulation.world import Workload, World
from atoll.testing.http_transport import HttpFront, SimulatedTransport

READS_ITS_WRITES = "a client reads its own writes, wherever it goes"
LISTS_WHAT_IT_SAYS = "a listing shows what its token says"
MEETS_ITS_CONDITION = "a conditional write meets its condition"
COUNTS_ONCE = "a write that a client repeats counts once"
HAS_A_TYPE = "every problem has its type"

_KEYS = 3
_LOSS = 0.03


class Interface(Workload):
    """Each client writes documents of its own, so that it knows what it must find."""

    name = "interface"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._users: list[_User] = []

    def actors(self, world: World) -> list[Coroutine[Any, Any, None]]:
        front = HttpFront(world.cluster)
        self._users = [_User(world, front, number) for number in range(self.clients)]
        return [user.act(self.mean_s) for user in self._users]

    async def finish(self, world: World) -> None:
        for user in self._users:
            user.check_counter()


class _User:
    """One client with one session at a time."""

    def __init__(self, world: World, front: HttpFront, number: int) -> None:
        self._world = world
        self._front = front
        self._name = f"interface-{number}"
        self._random: Random = world.cluster.split(self._name)
        home = self._random.choice(world.names)
        self._transport = SimulatedTransport(front, home, self._random, self._answered)
        options = ClientOptions(timeout_s=self._random.choice((2.0, 8.0)))
        keys = itertools.count(1)
        self._database = Database(
            Multiplexed(self._transport, options),
            endpoints_of({name: f"http://{name}" for name in world.names}),
            near=home,
            options=options,
            clock=world.cluster.loop.time,
            random=self._random,
            new_key=lambda: f"{self._name}/{next(keys)}",
        )
        self._session: Session = self._database.session()
        self._count = 0
        self._written: dict[str, int] = {}
        """Key → the last number that was acknowledged to be written there."""
        self._in_doubt: set[int] = set()
        """Numbers that may still be written, by a request that its client gave up: whenever that comes through."""
        self._counted = self._doubtful = 0

    async def act(self, mean_s: float) -> None:
        self._transport.loss = self._random.choice((0.0, _LOSS))
        actions = (
            self._put,
            self._put,
            self._get,
            self._list,
            self._condition,
            self._increment,
            self._mistake,
        )
        while not self._world.stopped:
            await asyncio.sleep(self._random.expovariate(1 / mean_s))
            if self._random.random() < 0.1:
                # As the next request of a browser.
                self._session = self._database.session(self._session.token)
            try:
                await self._random.choice(actions)()
            except InvalidToken as error:
                self._world.note_error(error)
                if not self._world.journal.losses:
                    self._fail(READS_ITS_WRITES, f"the token of a region is refused: {error.message}")
                self._session, self._written = self._database.session(), {}
            except AtollError as error:
                self._world.note_error(error)
        self._transport.loss = 0.0
        await self._database.close()

    def _fail(self, invariant: str, message: str) -> None:
        self._world.verdict.safety(invariant, f"{self._name}: {message}")

    def _key(self) -> str:
        return f"{self._name}-{self._random.randrange(_KEYS)}"

    async def _put(self) -> None:
        await self._write(self._key())

    async def _write(self, key: str, **condition: Any) -> None:
        """Raises what the client raises. A number is in doubt until its write surely happened, or surely did not."""
        self._count += 1
        number = self._count
        self._in_doubt.add(number)
        try:
            await self._session.put(Member(key=key, text=str(number)), **condition)
        except AtollError as error:
            if not isinstance(error, Indefinite):
                self._in_doubt.discard(number)
            raise
        self._in_doubt.discard(number)
        self._written[key] = number

    async def _get(self) -> None:
        key = self._key()
        found = await self._session.get(Member, key)
        self._check_found(READS_ITS_WRITES, key, None if found is None else found.text)

    def _check_found(self, invariant: str, key: str, text: str | None) -> None:
        """It is what was acknowledged last, or what was written later and may have happened."""
        least, shown = self._written.get(key, 0), int(text or 0)
        if shown < least and shown not in self._in_doubt and not self._is_lost(key, least):
            self._fail(
                invariant, f"{key} is {text} in {self._session.region}, after {least} was acknowledged"
            )

    def _is_lost(self, key: str, number: int) -> bool:
        """Whether a region's data went back, and the entry that wrote the number with them."""
        journal = self._world.journal
        if not journal.losses:
            return False
        wanted = msgspec.json.encode({"text": str(number)})
        dots = [
            touch.entry.dot
            for touch in journal.touches("member", key)
            if wanted in touch.change.registers.values()
        ]
        return not dots or any(map(journal.may_be_lost, dots))

    async def _list(self) -> None:
        """One page, whose token is the session's."""
        page = await self._session.texts(Member, prefix=f"{self._name}-", limit=self._random.choice((1, 10)))
        shown = {key: msgspec.json.decode(text)["text"] for key, text in page.items}
        last = max(shown, default="")
        complete = page.cursor is None
        vector = self._front.codec.decode(self._session.token or "")
        for number in range(_KEYS):
            key = f"{self._name}-{number}"
            if complete or key <= last:
                self._check_found(READS_ITS_WRITES, key, shown.get(key))
                self._check_listed(key, shown.get(key), vector)

    def _check_listed(self, key: str, text: str | None, vector: Mapping[str, int]) -> None:
        if self._world.journal.losses:
            return  # a session's token may name what is lost
        expected = self._world.oracle.visible_plain("member", key, vector)
        shown = int(text or 0)
        if expected is not None and shown < int(expected["text"]) and shown not in self._in_doubt:
            self._fail(LISTS_WHAT_IT_SAYS, f"{key} is {text} in a listing at {vector}, and {expected} there")

    async def _condition(self) -> None:
        """On the version that is shown, or on one that this client has replaced itself."""
        key = self._key()
        found = await self._session.read(Member, key)
        stale = found.version is not None and self._random.random() < 0.5
        if stale:
            await self._write(key)
        create = found.version is None or self._random.random() < 0.2
        try:
            await self._write(key, **({"create": True} if create else {"if_match": found.version}))
        except VersionMismatch as error:
            self._world.note_error(error)
            return
        if (stale or (create and found.version is not None)) and not self._world.journal.losses:
            self._fail(MEETS_ITS_CONDITION, f"{key} was written over version {found.version}")

    async def _increment(self) -> None:
        try:
            await self._session.update(View, self._name, seen=Increment(1))
        except Indefinite:
            self._doubtful += 1
            raise
        self._counted += 1

    def check_counter(self) -> None:
        """Once all regions agree."""
        journal = self._world.journal
        counted = sum(1 for _ in journal.touches("view", self._name))
        if not journal.losses and not self._counted <= counted <= self._counted + self._doubtful:
            self._fail(
                COUNTS_ONCE,
                f"it incremented {self._counted} times and perhaps {self._doubtful} more: {counted} times it counted",
            )

    async def _mistake(self) -> None:
        """Bad input gets its own error through the client, too."""
        try:
            await self._session.patch(Member, self._key(), {"$set": {"nowhere": 1}})
        except UnknownField as error:
            self._world.note_error(error)
            return
        self._fail(HAS_A_TYPE, "a field that is not declared was written")

    def _answered(self, request: Request, response: Response) -> None:
        if response.status < 400 or request.path.startswith("/health/"):
            return
        kind = response.headers.get("content-type", "")
        try:
            document = msgspec.json.decode(response.body)
        except msgspec.DecodeError:
            document = {}
        name = str(document.get("type", "")).removeprefix(PROBLEM_PREFIX)
        known = error_classes().get(name)
        asked = f"{request.method} {request.path} in {request.region}"
        if (
            not kind.startswith("application/problem+json")
            or known is None
            or document["status"] != response.status
        ):
            self._fail(HAS_A_TYPE, f"{asked}: {response.status} {kind} {response.body[:200]!r}")
        elif known is AtollError:
            self._world.verdict.fail(CrashFound(HAS_A_TYPE, f"{asked}: {document.get('detail')}"))
