"""Group commit: every change to a region's data passes here, whoever asks for it.

All work that waits when a commit begins becomes one transaction with one fsync. The first arrival wakes the task at the
event loop's next turn, so work that is ready in this turn joins it. While turns bring more work, the commit waits for
them; an idle region commits without delay. Work that arrives during a commit joins the next one.

No kind of work is known here: see `commit.work`. A group of great weight is performed in a thread, so that the event
loop goes on meanwhile. The next group waits, as it does for the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from atoll.causality.clock import HybridLogicalClock
from atoll.causality.types import Stamp
from atoll.causality.vector import descends, merge
from atoll.commit.batch import Batch
from atoll.commit.contexts import outdated
from atoll.commit.identity import Identity
from atoll.commit.recent import Recent
from atoll.commit.work import Gate, Step, Wants, Work
from atoll.documents.mutation import MERGED_BYTES
from atoll.documents.rules import Rules
from atoll.errors import AtollError, Indefinite, Overloaded, SerializationConflict, TooLarge
from atoll.region.progress import Progress
from atoll.region.timeline import Timeline
from atoll.replication.beside import beside_loop
from atoll.schema.bounds import COMMIT_BYTES, LOADED_BYTES
from atoll.store.port import Transactions, View

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class GroupCommitOptions:
    works_per_commit: int = 256
    """More works than this wait for the next commit."""
    queued_works: int = 10_000
    """Beyond it a work is refused with Overloaded: better an error now than an answer too late."""
    retry_s: float = 0.5
    """How long to wait before the store is asked whether a commit in doubt has happened."""
    closing_s: float = 5.0
    """How long `close` waits for a commit that is under way, before it cuts it."""


_MOST_TURNS = 8
"""Of the event loop, that a work waits at most while each brings others."""
_AT_ONCE_BYTES = 2 << 20
"""A group that weighs more is performed beside the event loop. Such a group takes several milliseconds."""
_MOST_LOST = 8
"""Transactions that may be lost to other nodes before the works are told."""


def paced(at_once: int, most: int, done: int, left: int) -> int:
    """How many the next commit should take, if one had room for `done` and not for `left`."""
    return max(1, done) if left else min(most, 2 * at_once)


def _weight(rules: Mapping[str, Rules], wants: Wants, view: View, recent: Recent) -> int:
    """About how long the group will take, in bytes."""
    weight = wants.weight_bytes + sum(map(len, view.states.values()))
    for address, row in view.rows.items():
        declared = rules.get(address[0])
        if declared is None or declared.simple:
            weight += row.size_bytes
        elif recent.quick(address, row):
            weight += row.size_bytes * wants.changes(*address)  # each may have it encoded
        else:
            weight += row.size_bytes * MERGED_BYTES
    return weight


class Awaited(Generic[Answer]):
    """A work that one caller waits for."""

    __slots__ = ("done", "result")
    done: asyncio.Future[Answer]
    result: Answer | AtollError
    """Set when it is performed."""

    @property
    def abandoned(self) -> bool:
        return self.done.done()

    def committed(self) -> None:
        if self.done.done():
            return
        if isinstance(self.result, AtollError):
            self.done.set_exception(self.result)
        else:
            self.done.set_result(self.result)

    def failed(self, error: AtollError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _AwaitedStep(Awaited[None]):
    __slots__ = ("perform", "want")

    def __init__(self, step: Step) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.result = None
        self.want, self.perform = step.want, step.perform


class _LeftOut(Exception):
    """One work of a group could not be performed; what it has left in the batch goes with the batch."""

    def __init__(self, work: Work, error: AtollError, defect: Exception | None = None) -> None:
        super().__init__(error)
        self.work, self.error, self.defect = work, error, defect


class GroupCommit:
    """Serialises all commits of one node. Belongs to one event loop: `open` it there, and `close` it."""

    def __init__(
        self,
        store: Transactions,
        rules: Mapping[str, Rules],
        clock: HybridLogicalClock,
        identify: Callable[[], Identity],
        now_ms: Callable[[], int],
        *,
        progress: Progress,
        timeline: Timeline,
        options: GroupCommitOptions = GroupCommitOptions(),
    ) -> None:
        self.store_error: AtollError | None = None
        """Why the last commit failed; None while the store takes writes."""
        self._store = store
        self._rules = rules
        self._clock = clock
        self._identify = identify
        self._now_ms = now_ms
        self.progress = progress
        self._timeline = timeline
        self._options = options
        self._recent = Recent()
        self._queue: deque[Work] = deque()
        self._at_once = options.works_per_commit
        """Fewer while works are large: all that they address is loaded at once."""
        self._loaded_bytes = LOADED_BYTES
        """Of the documents that one transaction loads, at most."""
        self._background: deque[Work] = deque()
        self._supplies: list[Callable[[], Work | None]] = []
        self._companions: list[Step] = []
        self._listeners: list[Callable[[Batch], None]] = []
        self._called = asyncio.Event()
        """Set when there is something to do."""
        self._waited = 0
        """How many works waited when it was set."""
        self._task: asyncio.Task[None] | None = None
        self._in_doubt = False
        """Whether a commit has been sent, and nothing was heard of it."""
        self._unsure = False
        """Whether a commit may have happened of which nothing was heard."""
        self._closed = False

    async def open(self) -> None:
        """Find out where the region stands, and take what comes from now on. Raises what the store raises.

        Idempotent: a region whose first start failed elsewhere may be started again.
        """
        self._clock.last = Stamp(max(self._clock.last, await self.progress.open()))
        self._loaded_bytes = max(LOADED_BYTES, self._identify().entry_bytes)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="group commit")

    def listen(self, listener: Callable[[Batch], None]) -> None:
        """`listener` is called after each durable commit of this node, in commit order; it must not raise."""
        self._listeners.append(listener)

    def supply(self, take: Callable[[], Work | None]) -> None:
        """`take` is asked, whenever a group is gathered, for what is ready by then; `call` says that there is some."""
        self._supplies.append(take)

    def accompany(self, step: Step) -> None:
        """`step` is part of every transaction that has anything to commit, and comes last in it."""
        self._companions.append(step)

    def submit(self, work: Work) -> None:
        """Let it be part of the next commit. Raises Overloaded."""
        if len(self._queue) >= self._options.queued_works or self._closed:
            raise Overloaded(
                "this region is closing"
                if self._closed
                else f"{len(self._queue)} writes are waiting; send fewer at once"
            )
        self._queue.append(work)
        self.call()

    async def commit(self, step: Step) -> None:
        """Do it beside the works, one such step a commit; durable on return.

        Raises what the step and the store raise, and Overloaded.
        """
        if self._closed:
            raise Overloaded("this region is closing")
        work = _AwaitedStep(step)
        self._background.append(work)
        self.call()
        await work.done

    def call(self) -> None:
        """There is something to do."""
        if not self._called.is_set():
            self._waited = len(self._queue)
            self._called.set()

    def trouble(self) -> str | None:
        """Why the last commit failed, if the store has taken no write since."""
        return None if self.store_error is None else self.store_error.message

    async def close(self) -> None:
        """Refuse what still waits; nothing of it was acknowledged. A commit under way may end, or is cut."""
        self._closed = True
        for work in (*self._queue, *self._background):
            work.failed(Overloaded("this region is closing"))
        self._queue.clear()
        self._background.clear()
        if self._task is not None:
            self._called.set()
            await asyncio.wait({self._task}, timeout=self._options.closing_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- gathering -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._closed:
                if self._called.is_set():
                    await asyncio.sleep(0)  # those who were just answered may have more
                else:
                    await self._called.wait()
                await self._gather()
                self._called.clear()
                if not self._closed:
                    await self._commit(self._gathered())
        except KeyboardInterrupt:
            # As in a notebook: it stops whoever runs the event loop, who may run it on.
            if self._task is not None:
                # It has been raised where the loop is run.
                self._task.add_done_callback(asyncio.Task.exception)
            self._called.set()
            self._task = asyncio.create_task(self._run(), name="group commit")
            raise

    async def _gather(self) -> None:
        """Wait until an iteration of the event loop brings no new work: one commit for all that is on its way."""
        waited = self._waited
        for _ in range(_MOST_TURNS - 1):
            waiting = len(self._queue)
            if not waited < waiting < self._at_once:
                return
            waited = waiting
            await asyncio.sleep(0)

    def _gathered(self) -> list[Work]:
        taken = (self._queue.popleft() for _ in range(min(len(self._queue), self._at_once)))
        group = [work for work in taken if not work.abandoned]
        for take in self._supplies:
            work = take()
            if work is not None:
                group.append(work)
        if self._background:
            group.append(self._background.popleft())
        return group

    # -- committing ------------------------------------------------------------------------------------

    async def _commit(self, group: list[Work]) -> None:
        try:
            if group:
                await self._run_transactions(group)
            elif self._unsure:
                await self.progress.refresh()
                self._unsure = False
        except AtollError as error:
            self.store_error = error
            self._unsure = self._unsure or not error.definite
            self._fail(group, error)
        except BaseException as error:
            self._unsure = self._unsure or self._in_doubt
            self._fail(group, self._unexpected(error))
            if not isinstance(error, Exception):
                raise
            # A defect: nobody may wait for ever on it, and it must not pass unseen.
            self._report(error)
        finally:
            self._in_doubt = False
        if self._queue or self._background:
            self.call()

    async def _run_transactions(self, group: list[Work]) -> None:
        """Until one is not lost to another node. A work that cannot be performed is left out of the next one."""
        lost = 0
        while group:
            try:
                await self._run_transaction(group)
                return
            except SerializationConflict:
                self._in_doubt = False
                lost += 1
                if lost == _MOST_LOST:
                    raise
            except TooLarge as error:
                self._divide(group, error)
            except _LeftOut as left_out:
                if left_out.defect is not None:
                    self._report(left_out.defect)
                group.remove(left_out.work)
                left_out.work.failed(left_out.error)

    async def _run_transaction(self, group: list[Work]) -> None:
        known = self.progress.vector
        wants = Wants(self._rules)
        for work in group:
            work.want(wants)
        for companion in self._companions:
            companion.want(wants)
        wanted = wants.wanted(self._loaded_bytes if wants.divisible or len(group) > 1 else None)
        async with self._store.begin(wanted) as transaction:
            self._clock.last = Stamp(max(self._clock.last, transaction.clock))
            self._unsure = False
            self._timeline.take_up(transaction, known)
            # Gates belong to the event loop: no thread asks them.
            closed = self._closed_by(wants.gates, transaction)
            heavy = _weight(self._rules, wants, transaction, self._recent) > _AT_ONCE_BYTES
            if heavy:
                batch, waiting = await beside_loop(self._performed, group, transaction, closed)
            else:
                batch, waiting = self._performed(group, transaction, closed)
            self._at_once = paced(
                self._at_once, self._options.works_per_commit, len(group) - len(waiting), len(waiting)
            )
            if waiting:
                self._put_back(group, waiting)
            if not batch.empty:
                for companion in self._companions:
                    companion.perform(batch, transaction)
                commit = await beside_loop(batch.commit) if heavy else batch.commit()
                self._in_doubt = True
                await transaction.commit(commit)
                self._in_doubt = False
                self.store_error = None
            # Nothing is awaited between the commit and its announcement.
            here = self.progress.vector
            self.progress.move(batch.vector if descends(batch.vector, here) else merge(batch.vector, here))
            for work in group:
                work.committed()
            for listener in self._listeners:
                listener(batch)

    def _closed_by(self, gates: Sequence[Gate], view: View) -> AtollError | None:
        """Why local writes are refused in this transaction."""
        try:
            for gate in gates:
                gate(view)
        except AtollError as error:
            return error
        except Exception as error:
            self._report(error)
            return self._unexpected(error)
        return None

    def _performed(
        self, group: list[Work], view: View, closed: AtollError | None
    ) -> tuple[Batch, list[Work]]:
        """What the works come to, and those for which the commit has no room. Another thread may do it."""
        identity = self._identify()
        batch = Batch(
            identity,
            self._rules,
            self._clock,
            view.positions,
            rows=view.rows,
            remembered=view.remembered,
            audit=view.audit,
            now_ms=self._now_ms(),
        )
        batch.recent = self._recent
        batch.closed = closed or outdated(view.positions, identity.origin)
        waiting: list[Work] = []
        for work in group:
            if batch.size_bytes >= COMMIT_BYTES and isinstance(work, Awaited):
                waiting.append(work)
                continue
            try:
                work.perform(batch, view)
            except AtollError as error:
                raise _LeftOut(work, error) from error
            except Exception as error:
                raise _LeftOut(work, self._unexpected(error), error) from error
        return batch, waiting

    def _divide(self, group: list[Work], error: TooLarge) -> None:
        """Together the works would have too much loaded. One alone is told, and may come back in pieces."""
        kept = len(group) // 2
        self._at_once = max(1, kept)
        rest = group[kept:]
        self._put_back(group, [work for work in rest if isinstance(work, Awaited)] if kept else [])
        for work in group[kept:]:
            group.remove(work)
            work.failed(error)

    def _put_back(self, group: list[Work], waiting: list[Work]) -> None:
        """The commit would be too large: these begin the next one."""
        left = {id(work) for work in waiting}
        group[:] = [work for work in group if id(work) not in left]
        if self._closed:
            for work in waiting:
                work.failed(Overloaded("this region is closing"))
        else:
            self._queue.extendleft(reversed(waiting))

    # -- failing ---------------------------------------------------------------------------------------

    def _fail(self, group: list[Work], error: AtollError) -> None:
        for work in group:
            work.failed(error)
        if self._unsure and not self._closed:
            asyncio.get_running_loop().call_later(self._options.retry_s, self.call)

    def _unexpected(self, error: BaseException) -> AtollError:
        if self._in_doubt:
            return Indefinite(f"the commit was cut short ({error!r}): the write may have happened")
        if isinstance(error, asyncio.CancelledError):
            return Overloaded("this region is closing")
        return AtollError(f"the commit failed unexpectedly: {error!r}")

    @staticmethod
    def _report(error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a commit failed unexpectedly", "exception": error}
        )
