"""Workloads in sessions, through the client: what a session has seen stays seen, wherever it goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from atoll import Add, Increment
from atoll.client import Database, Session
from atoll.demo.findings import Findings
from atoll.errors import AtollError, Indefinite, RequestError, StoreUnwritable, Unavailable

from . import shop
from .caller import Unanswered
from .workload import Workload, World, documents

T = TypeVar("T")

_TRAVELLERS = 6
_SHARED = 5


class Traveller:
    """One session, taken from region to region and from client to client by its token."""

    def __init__(self, world: World, name: int) -> None:
        self.number = 0
        """Last acknowledged in its own register."""
        self.gone: list[str] = []
        """Registers that it made and deleted."""
        self.items: dict[str, set[str]] = {}
        """cart → what it put in."""
        self._world = world
        self._name = name
        self._token: str | None = None
        self._numbers: dict[int, int] = {}
        self._views: dict[str, int] = {}
        self._steps = 0

    async def step(self) -> None:
        self._steps += 1
        random = self._world.random
        action = random.choice(
            (self._write, self._read, self._read_other, self._count, self._fill, self._come_and_go)
        )
        try:
            await action()
        except (Unavailable, Indefinite):
            pass  # of a read: not now
        except RequestError as error:
            self._check("no surprises", False, f"{error.type}: {error.message}")
        except AtollError as error:
            self._world.history.odd[f"a client raises {error.type}: {error.message[:160]}"] += 1

    @property
    def _key(self) -> str:
        return f"own-{self._name}"

    async def _write(self) -> None:
        number = self.number + 1
        register = shop.Register(key=self._key, number=number)
        shown = await self._insist(lambda session, key: session.put(register, idempotency_key=key))
        self.number = number
        self._check("read your writes", shown.number == number, f"wrote {number}, was shown {shown.number}")

    async def _read(self) -> None:
        found = await self._ask(lambda session: session.get(shop.Register, self._key))
        number = 0 if found is None else found.number
        self._check("read your writes", number == self.number, f"wrote {self.number}, read {number}")

    async def _read_other(self) -> None:
        other = self._world.random.randrange(_TRAVELLERS)
        found = await self._ask(lambda session: session.get(shop.Register, f"own-{other}"))
        number, before = 0 if found is None else found.number, self._numbers.get(other, 0)
        self._check("monotonic reads", number >= before, f"own-{other} was {before}, then {number}")
        self._numbers[other] = number

    async def _count(self) -> None:
        key = f"shared-{self._world.random.randrange(_SHARED)}"
        before = self._views.get(key, 0)
        if self._world.random.random() < 0.5:
            shown = await self._insist(
                lambda session, once: session.update(shop.Views, key, idempotency_key=once, seen=Increment())
            )
            # The write itself waits for nothing (counters commute); reads from now on must have it.
            self._views[key] = max(before, shown.seen)
            return
        found = await self._ask(lambda session: session.get(shop.Views, key))
        seen = 0 if found is None else found.seen
        self._check("monotonic reads", seen >= before, f"{key} was {before}, then {seen}")
        self._views[key] = seen

    async def _fill(self) -> None:
        key, item = f"session-{self._name}-{self._steps // 200}", f"item-{self._steps}"
        await self._insist(
            lambda session, once: session.update(shop.Cart, key, idempotency_key=once, items=Add(item))
        )
        mine = self.items.setdefault(key, set())
        mine.add(item)
        found = await self._ask(lambda session: session.get(shop.Cart, key))
        lacking = mine if found is None else mine - set(found.items)
        self._check("read your writes", not lacking, f"cart {key} lacks {lacking}")

    async def _come_and_go(self) -> None:
        key = f"gone-{self._name}-{self._steps}"
        register = shop.Register(key=key, number=self._steps)
        await self._insist(lambda session, once: session.put(register, idempotency_key=once))
        was = await self._insist(
            lambda session, once: session.delete(shop.Register, key, idempotency_key=once)
        )
        self._check("writes follow writes", was, f"{key} could not be found to be deleted")
        self.gone.append(key)
        found = await self._ask(lambda session: session.get(shop.Register, key))
        self._check("read your writes", found is None, f"{key} was deleted, and is {found}")

    def _check(self, promise: str, kept: bool, told: str) -> None:
        self._world.history.check(promise, kept, f"session {self._name}: {told}")

    async def _ask(self, read: Callable[[Session], Awaitable[T]]) -> T:
        session = self._world.database().session(self._token)
        found = await read(session)
        self._token = session.token
        return found

    async def _insist(self, write: Callable[[Session, str], Awaitable[T]]) -> T:
        """Until it is known what became of the write. Raises Unanswered."""
        world, history = self._world, self._world.history
        once = world.caller.fresh_key()
        database: Database = world.database()
        while True:
            session = database.session(self._token)
            try:
                done = await write(session, once)
            except Indefinite:
                pass  # this client knows which region has to be asked again
            except (Unavailable, StoreUnwritable) as error:
                history.answers[error.type] += 1
                database = world.database()
            except RequestError:
                raise
            except AtollError as error:
                history.odd[f"a client raises {error.type}: {error.message[:160]}"] += 1
                database = world.database() if error.definite else database
            else:
                self._token = session.token
                history.acknowledged["sessions"] += 1
                return done
            history.retries += 1
            if world.caller.over_time:
                history.unanswered.append(f"{once} of session {self._name}")
                raise Unanswered(once)


class Travellers(Workload):
    """Read your writes, monotonic reads, monotonic writes, writes follow reads."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._each = [Traveller(world, name) for name in range(_TRAVELLERS)]

    def tasks(self) -> list[Awaitable[None]]:
        return [self.world.repeat(each.step, 0.2) for each in self._each]

    def wrong(self, found: Findings) -> list[str]:
        registers, carts = documents(found, "register"), documents(found, "cart")
        wrong = []
        for name, each in enumerate(self._each):
            shown = registers.get(f"own-{name}", {"number": 0})["number"]
            if shown != each.number:
                wrong.append(f"own-{name}: wrote {each.number}, {found.region} has {shown}")
            wrong += [f"{key} was deleted, and is in {found.region}" for key in each.gone if key in registers]
            for key, items in each.items.items():
                if set(carts.get(key, {"items": []})["items"]) != items:
                    wrong.append(f"cart {key} in {found.region} is {carts.get(key)}, written {sorted(items)}")
        return wrong


class Replies(Workload):
    """Nobody sees a reply whose post is not there, with or without a session."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._recent: deque[int] = deque(maxlen=30)
        self._replied: set[int] = set()
        self._number = 0

    def tasks(self) -> list[Awaitable[None]]:
        return [
            *(self.world.repeat(self._talk, 0.3) for _ in range(2)),
            *(self.world.repeat(self._listen, 0.15) for _ in range(2)),
        ]

    async def _talk(self) -> None:
        caller = self.world.caller
        self._number += 1
        number, elsewhere = self._number, caller.region()
        body = {"text": f"text {number}"}
        await caller.write("posts", caller.region(), "PUT", f"/v1/post/post-{number}", body)
        while not self.world.over.is_set():
            seen = await caller.read(elsewhere, f"/v1/post/post-{number}")
            if seen is not None and seen.done:
                self._recent.append(number)
                path, reply = f"/v1/reply/reply-{number}", {"post": f"post-{number}"}
                await caller.write("posts", elsewhere, "PUT", path, reply, token=seen.token)
                self._replied.add(number)
                return
            await self.world.pause(0.1)

    async def _listen(self) -> None:
        caller = self.world.caller
        if not self._recent:
            return
        number, region = self.world.random.choice(self._recent), caller.region()
        reply = await caller.read(region, f"/v1/reply/reply-{number}?consistency=eventual")
        if reply is not None and reply.done:
            post = await caller.read(region, f"/v1/post/post-{number}?consistency=eventual")
            if post is not None:
                self.world.history.check(
                    "causal order", post.done, f"reply {number} in {region} without its post"
                )

    def wrong(self, found: Findings) -> list[str]:
        replies = documents(found, "reply")
        return [f"reply {n} is lost in {found.region}" for n in self._replied if f"reply-{n}" not in replies]
