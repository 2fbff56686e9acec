"""`Saga`: a team declares a sequence of steps, and how each is undone, by subclassing it.

What a saga knows is a document of its own: the fields of its class. So a saga is data, and its steps are ordinary
methods. Nothing is ever replayed, and a step may use any library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeVar, overload

from atoll.errors import DeclarationError
from atoll.schema.collection import Collection, is_base
from atoll.schema.compiled import CollectionSchema, compile_collection
from atoll.schema.fields import marker_of
from atoll.schema.limits import Limits
from atoll.schema.problems import meant
from atoll.schema.references import reference_of

F = TypeVar("F", bound=Callable[..., Any])
Takes = Literal["tx", "key", "db", "signal"]

_OF_CHANGES: frozenset[str] = frozenset({"tx", "signal"})
_OF_EFFECTS: frozenset[str] = frozenset({"key", "db", "signal"})
_DECLARED = "__atoll_step__"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < float("inf")


class Abort(Exception):
    """A step raises it for what has not happened and will not: the saga goes back at once, without a retry.

    A step with effects outside may raise it only if nothing has happened under its key, in earlier attempts either.
    """


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is attempted, and how long it pauses in between: longer each time, and never quite as long."""

    attempts: int | None = 5
    """All attempts, the first among them; None for no bound."""
    first_s: float = 0.2
    factor: float = 2.0
    most_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts is not None and (not _is_whole(self.attempts) or self.attempts < 1):
            raise DeclarationError(
                f"Retry takes a whole number of attempts from 1, or None, not {self.attempts!r}"
            )
        for name, least in (("first_s", 0.0), ("factor", 1.0), ("most_s", 0.0)):
            value = getattr(self, name)
            if not _is_number(value) or value < least:
                raise DeclarationError(f"Retry({name}={value!r}): give a number from {least:g}")

    def ended(self, failed: int) -> bool:
        """Whether there is no attempt after so many that failed."""
        return self.attempts is not None and failed >= self.attempts

    def pause_s(self, failed: int, jitter: float) -> float:
        """Before the next attempt, after so many that failed; `jitter` is drawn from 0 to 1."""
        longest = min(self.most_s, self.first_s * self.factor ** min(failed - 1, 64))
        return longest * (0.5 + jitter / 2)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What stands in `@step(...)`."""

    compensate: str | None = None
    effect: bool = False
    retry: Retry = Retry()
    timeout_s: float = 30.0
    wait_s: float = 0.0
    signal: str | None = None
    within_s: float | None = None
    repeatable: bool = False
    transaction: bool = False

    @property
    def decided(self) -> bool:
        """Whether it happens apart from the saga's entry, so that it may have happened where that is not here."""
        return self.effect or self.transaction


@overload
def step(function: F, /) -> F: ...
@overload
def step(
    *,
    compensate: str | None = None,
    effect: bool = False,
    retry: Retry = ...,
    timeout_s: float = ...,
    wait_s: float = ...,
    signal: str | None = None,
    within_s: float | None = None,
    repeatable: bool = False,
    transaction: bool = False,
) -> Callable[[F], F]: ...


def step(function: Any = None, /, **options: Any) -> Any:
    """Make a method a step of its saga. Steps are done in the order in which they stand.

    - `compensate`: the method that undoes it.
    - `effect`: it acts outside of the database. It is done at least once, with the same `key` each time.
    - `retry`: how often it is attempted, and its compensation.
    - `timeout_s`: an attempt that takes longer has failed.
    - `wait_s`: how long the saga waits before it.
    - `signal`: the saga waits for this signal before it, for `within_s` seconds at most.
    - `repeatable`: done twice it changes nothing more. Another region need not know whether it was done.
    - `transaction`: it changes strong documents, all or nothing, and once.
    """
    found = StepOptions(**options)

    def declare(method: F) -> F:
        setattr(method, _DECLARED, found)
        return method

    return declare if function is None else declare(function)


@dataclass(frozen=True, slots=True)
class StepSchema:
    """A step, worked out."""

    name: str
    options: StepOptions
    is_pivot: bool
    takes: frozenset[str]
    """Which of `tx`, `key`, `db` and `signal` its method has parameters for."""
    undo_takes: frozenset[str]

    @property
    def signature(self) -> str:
        """What must not change while a saga is past it."""
        options = self.options
        parts = [
            self.name,
            *(["effect"] if options.effect else []),
            *(["transaction"] if options.transaction else []),
        ]
        parts += [f"compensate={options.compensate}"] if options.compensate else []
        return " ".join([*parts, *(["pivot"] if self.is_pivot else [])])


@dataclass(frozen=True, slots=True, eq=False)
class SagaSchema:
    """One saga. Made by `compile_saga`; holds no state."""

    name: str
    model: type[Saga]
    fields: CollectionSchema
    """Of the document that it is."""
    steps: tuple[StepSchema, ...]
    pivot: int
    """The number of the step after which nothing is undone; as many as there are steps without one."""


class Saga(Collection):
    """A sequence of steps, each with the way to undo it.

    Either all steps are done, or those that were done are undone again, the last one first. After the step that `pivot`
    names, nothing is undone any more. Its fields are what it knows, and what its steps note. `key` tells one saga from
    another. Raises DeclarationError where a declaration contradicts itself.
    """

    pivot: ClassVar[str] = ""
    """The last step that may fail for good. What comes after it is attempted until it is done."""
    __atoll_steps__: ClassVar[tuple[StepSchema, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        if cls.__atoll_body__:
            return
        for given in options.keys() - {"name"}:
            raise DeclarationError(f"{cls.__name__}: a saga takes no option {given!r}; it has `name` alone")
        super().__pydantic_init_subclass__(**options)
        for name, info in cls.model_fields.items():
            if (marker := marker_of(info)) is not None:
                raise DeclarationError(
                    f"{cls.__name__}.{name}: one region runs a saga, so a {marker.kind} has nothing to merge; declare a"
                    " plain field"
                )
            if reference_of(info) is not None:
                raise DeclarationError(
                    f"{cls.__name__}.{name}: what a saga knows is not checked; declare the key as str"
                )
        cls.__atoll_steps__ = () if is_base(cls) else _steps(cls)


Saga.__atoll_name__ = ""  # a base


@lru_cache(maxsize=1024)
def compile_saga(model: type[Saga], limits: Limits | None = None) -> SagaSchema:
    """Work out a declared saga; its declaration was checked where it stands."""
    fields = compile_collection(model, limits)
    steps = model.__atoll_steps__
    pivots = [number for number, each in enumerate(steps) if each.is_pivot]
    return SagaSchema(fields.name, model, fields, steps, pivots[0] if pivots else len(steps))


def _steps(cls: type[Saga]) -> tuple[StepSchema, ...]:
    where, members = cls.__name__, _members(cls)
    declared = {name: getattr(each, _DECLARED) for name, each in members.items() if hasattr(each, _DECLARED)}
    if not declared:
        raise DeclarationError(f"{where}: a saga needs a step; write @step above a method")
    if cls.pivot and cls.pivot not in declared:
        raise DeclarationError(f"{where}: pivot={cls.pivot!r} is no step; {meant(cls.pivot, list(declared))}")
    steps: list[StepSchema] = []
    passed = False
    for name, options in declared.items():
        at = f"{where}.{name}"
        _check_options(at, options)
        takes = _taken(at, members[name], options, options.signal)
        undo = options.compensate
        undo_takes: frozenset[str] = frozenset()
        if undo is not None:
            if passed:
                raise DeclarationError(
                    f"{at}: it comes after the pivot, and is never undone; drop compensate"
                )
            method = members.get(undo)
            if method is None or hasattr(method, _DECLARED):
                others = [each for each in members if each not in declared]
                hint = meant(undo, others) if others else "define one, without @step"
                raise DeclarationError(f"{at}: compensate={undo!r} names no method that undoes it; {hint}")
            undo_takes = _taken(f"{where}.{undo}", method, options, None)
        passed = passed or name == cls.pivot
        steps.append(StepSchema(name, options, name == cls.pivot, takes, undo_takes))
    return tuple(steps)


def _members(cls: type[Saga]) -> Mapping[str, Callable[..., Any]]:
    """Functions of the class and its bases, those of the bases first."""
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(Saga)]):
        found.update({name: each for name, each in vars(base).items() if inspect.isfunction(each)})
    return found


def _taken(
    where: str, method: Callable[..., Any], options: StepOptions, signal: str | None
) -> frozenset[str]:
    """The parameters of a method. Raises DeclarationError for others than those of its kind of step."""
    names = list(inspect.signature(method).parameters)[1:]
    allowed = (_OF_EFFECTS if options.effect else _OF_CHANGES) - (frozenset() if signal else {"signal"})
    for name in names:
        if name not in allowed:
            kind = "a step with effect=True" if options.effect else "a step that changes documents"
            raise DeclarationError(
                f"{where}: {name!r} is no parameter of {kind}; it takes self and any of {', '.join(sorted(allowed))}"
            )
    if options.effect and not inspect.iscoroutinefunction(method):
        raise DeclarationError(
            f"{where}: what acts outside must not hold up the region; write `async def`, and asyncio.to_thread for"
            " a library that blocks"
        )
    return frozenset(names)


def _check_options(where: str, options: StepOptions) -> None:
    for name, text in (("compensate", options.compensate), ("signal", options.signal)):
        if text is not None and (not isinstance(text, str) or not text.isidentifier()):
            raise DeclarationError(f"{where}: {name}={text!r} is no name")
    if options.effect and options.transaction:
        raise DeclarationError(
            f"{where}: a step acts outside (effect=True) or changes strong documents (transaction=True); make two steps"
            " of it"
        )
    if not isinstance(options.retry, Retry):
        raise DeclarationError(f"{where}: retry={options.retry!r} is no Retry; write retry=Retry(5)")
    for name, least in (("timeout_s", 0.001), ("wait_s", 0.0), ("within_s", 0.001)):
        value = getattr(options, name)
        if not (value is None and name == "within_s") and (not _is_number(value) or value < least):
            raise DeclarationError(f"{where}: {name}={value!r} is no number of seconds")
    if options.signal is None and options.within_s is not None:
        raise DeclarationError(f"{where}: within_s bounds the wait for a signal; name it with signal=")
    if options.signal is not None and options.wait_s:
        raise DeclarationError(f"{where}: a step waits for a signal or for a time; make two steps of it")
