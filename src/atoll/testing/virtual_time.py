"""An asyncio event loop on virtual time: no sockets, no threads, and nothing that differs between two runs.

Ready callbacks run in the order in which they were scheduled; when none is left, time jumps to the next timer.
Every callback belongs, by its context, to the node that scheduled it. A killed node's callbacks are never run again.
So a kill takes effect at whatever `await` the node stood, and runs none of its clean-up. A busy node's callbacks wait
until it is free. So a slow disk or a stopped process delays all that it does.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import sys
import time
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_PRUNE_FROM = 64


class Stalled(Exception):
    """No callback is ready and no timer is set: what is awaited can never happen."""


@dataclass(slots=True, eq=False)
class Life:
    """One run of a node's process, from its start to its end."""

    loop: VirtualLoop
    name: str
    number: int
    """Counts this node's runs, from 1."""
    region: str = ""
    """Whose node it is; its name if it is the only one."""
    alive: bool = True
    """Whether its callbacks are run."""
    over: bool = False
    """Whether it was killed; then nothing that it does reaches a disk or the network."""
    busy_until: float = 0.0
    deferred: deque[_Callback] = field(default_factory=deque)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    context: Context = field(default_factory=copy_context)

    def __post_init__(self) -> None:
        self.region = self.region or self.name
        self.context.run(_life.set, self)

    def __deepcopy__(self, memo: object) -> Life:
        """A copy of a disk knows whose leases it holds."""
        return self

    def spawn(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Run a coroutine as this node."""
        return self.loop.create_task(work, name=name or self.name, context=self.context.copy())

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a plain function as this node."""
        return self.context.copy().run(function, *args, **kwargs)

    @property
    def busy(self) -> bool:
        return self.busy_until > self.loop.time()

    def occupy(self, seconds: float) -> None:
        """The node does nothing else for so long."""
        self.busy_until = max(self.busy_until, self.loop.time()) + seconds


_life: ContextVar[Life | None] = ContextVar("atoll_simulated_life", default=None)


def running_life() -> Life | None:
    """Whose callback runs; None for what no node does."""
    return _life.get()


class _Callback(events.TimerHandle):
    """One that is ready, or a timer. A run makes hundreds of thousands of them: this one does only what is needed."""

    __slots__ = ()
    _callback: Callable[..., object] | None
    _args: Any
    _context: Context

    def __init__(
        self,
        when_s: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        self._when = when_s
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._scheduled = False
        self._repr = self._source_traceback = None

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None


class VirtualLoop(asyncio.BaseEventLoop):
    """Starts at time 0; `time()` is virtual seconds."""

    _ready: deque[_Callback]
    _scheduled: list[tuple[float, _Callback]]
    """A heap. Timers of one moment are neither before nor after each other."""
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        """Callbacks that were run."""
        self.defects: list[str] = []
        """Exceptions that nobody caught."""
        self._now = 0.0
        self._graveyard: list[Life] = []
        self.set_exception_handler(self._note_defect)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def kill(self, life: Life) -> None:
        """Nothing of this run ever happens again."""
        life.alive, life.over = False, True
        self._graveyard.append(life)

    def run_simulation(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end on virtual time, then dispose of all tasks that still wait, killed ones included."""
        collecting = gc.isenabled()
        gc.disable()  # finalizers would run at moments that differ from run to run
        try:
            with forbidding_real_time():
                try:
                    return self.run_until_complete(work)
                finally:
                    self._reap()
        finally:
            self.close()
            if collecting:
                gc.enable()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """A thread that takes no time."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(work)
        return future

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Callback:
        handle = _Callback(0.0, callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Callback:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Callback:
        handle = _Callback(when, callback, args, self, context)
        heapq.heappush(self._scheduled, (when, handle))
        return handle

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if not ready:
            while scheduled and scheduled[0][1]._cancelled:
                heapq.heappop(scheduled)
            if scheduled:
                self._now = max(self._now, scheduled[0][0])
            elif not self._stopping:
                raise Stalled(f"nothing can happen any more at {self._now:.3f} s")
        now = self._now
        while scheduled and scheduled[0][0] <= now:
            ready.append(heapq.heappop(scheduled)[1])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context = handle._context
            life = context.get(_life)
            if life is not None:
                if not life.alive:
                    life.deferred.append(handle)  # only for disposal at the end
                    continue
                if life.deferred or life.busy_until > now:
                    self._defer(life, handle)
                    continue
            self.steps += 1
            try:
                context.run(handle._callback, *handle._args)  # type: ignore[arg-type]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"Exception in {handle!r}", "exception": error})

    def _defer(self, life: Life, handle: _Callback) -> None:
        if not life.deferred:
            self.call_at(max(life.busy_until, self._now), self._resume, life, context=Context())
        life.deferred.append(handle)

    def _resume(self, life: Life) -> None:
        if not life.alive:
            return
        if life.busy and life.deferred:
            self.call_at(life.busy_until, self._resume, life, context=Context())
            return
        self._ready.extendleft(reversed(life.deferred))
        life.deferred.clear()

    def _reap(self) -> None:
        tasks: list[asyncio.Task[Any]] = []
        for life in self._graveyard:
            life.alive, life.busy_until = True, 0.0
            self._ready.extend(life.deferred)
            life.deferred.clear()
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            task.cancel()
            tasks.append(task)
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())
        self._graveyard.clear()

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Generator[Any, None, T] | Coroutine[Any, Any, T],
        **options: Any,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(work, loop=loop, **options)
        context: Context | None = options.get("context")
        life = _life.get() if context is None else context.get(_life)
        if life is not None:
            # Held, so that a killed task is not finalized, and its clean-up run, before the simulation ends.
            life.tasks.append(task)
            if len(life.tasks) > _PRUNE_FROM and len(life.tasks) & (len(life.tasks) - 1) == 0:
                life.tasks = [each for each in life.tasks if not each.done()]
        return task

    def _note_defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, NodeKilled):
            self.defects.append(f"{context.get('message')}: {error!r}")

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """A generator that nobody holds is left alone: its node was killed."""

    def _process_events(self, event_list: Any) -> None:
        """There are no file descriptors."""

    def _write_to_self(self) -> None:
        """There is no selector to wake."""


class NodeKilled(BaseException):
    """Unwinds the stack of the node that was killed inside a synchronous call, such as a commit."""


_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "sleep")
_DICE = ("random", "randrange", "randint", "choice", "choices", "shuffle", "sample", "uniform", "getrandbits")


@contextmanager
def forbidding_real_time() -> Iterator[None]:
    """Make the wall clock and the shared random generator fail for whoever asks for them."""
    saved = [(time, name, getattr(time, name)) for name in _CLOCKS]
    saved += [(random, name, getattr(random, name)) for name in _DICE]

    def forbid(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if sys._getframe(1).f_globals.get("__name__", "").startswith("atoll."):
                raise RuntimeError(f"{name} was called inside a simulation: it would not replay")
            return original(*args, **kwargs)

        return refuse

    for module, name, original in saved:
        setattr(module, name, forbid(name, original))
    try:
        yield
    finally:
        for module, name, original in saved:
            setattr(module, name, original)
