"""What happens next in a saga: `step(instance, plan, event, now_ms) → (instance, effects)`.

The instance is durable before any of its effects is performed. An event that is not about what is being done any more
changes nothing: the same instance is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, assert_never

import msgspec

from atoll.errors import Conflict, InvalidOperation
from atoll.sagas.instance import Cause, Instance, Outcome, Record, Status
from atoll.schema.saga import SagaSchema

_MOST_ERROR = 500
"""Characters of an error that are kept."""
_ACTIVE = frozenset({"running", "compensating"})
_UNDONE = 10
"""A compensation is attempted at least so often before the saga is stuck."""

Plan = SagaSchema | None
"""What the saga's class declares at present; None where none of that name is declared."""


class Resumed(NamedTuple):
    """A region begins to run it, or looks at it again."""


class Woken(NamedTuple):
    """Time has passed."""


class Done(NamedTuple):
    """The method of a step has come to its end."""

    at: int
    backwards: bool
    fields: dict[str, Any]
    """What it has left in the saga's fields."""


class Failed(NamedTuple):
    """An attempt has failed."""

    at: int
    backwards: bool
    attempts: int
    """That had failed before."""
    error: str
    jitter: float
    """Drawn from 0 to 1."""
    refused: bool = False
    """It has not happened, and another attempt is of no use."""


class Signalled(NamedTuple):
    name: str
    value: Any


class Retried(NamedTuple):
    """Someone wants another attempt now."""


class Skipped(NamedTuple):
    """Someone has done by hand what the saga is stuck at."""

    step: str = ""
    """What they take it to be; empty where they do not say."""


class Aborted(NamedTuple):
    """Someone wants it undone."""

    reason: str


Command = Signalled | Retried | Skipped | Aborted
_NAMED: dict[str, type[Command]] = {"signal": Signalled, "retry": Retried, "skip": Skipped, "abort": Aborted}
Event = Resumed | Woken | Done | Failed | Command


class Perform(NamedTuple):
    """Call the method of a step, or the one that undoes it."""

    at: int
    backwards: bool


class WakeAt(NamedTuple):
    """Nothing is to be done before, unless something comes."""

    at_ms: int


class Tell(NamedTuple):
    """People should know."""

    detail: str


Effect = Perform | WakeAt | Tell
Next = tuple[Instance, tuple[Effect, ...]]


class Begin(NamedTuple):
    """What a saga is started with."""

    id: str
    fields: dict[str, Any]
    given: str
    nonce: str


def encoded(command: Command) -> bytes:
    """For another region."""
    name = next(name for name, kind in _NAMED.items() if type(command) is kind)
    return msgspec.json.encode([name, *command])


def decoded(text: bytes) -> Command:
    """Raises what decoding raises, for what no region sends."""
    name, *members = msgspec.json.decode(text, type=list[Any])
    return _NAMED[name](*members)


def begun(plan: SagaSchema, begin: Begin, region: str, now_ms: int) -> Instance:
    """A saga before its first step."""
    instance = Instance(
        saga=plan.name,
        id=begin.id,
        home=region,
        status="running",
        step="",
        at=0,
        since_ms=now_ms,
        started_ms=now_ms,
        fields=begin.fields,
        plan=_signatures(plan),
        given=begin.given,
        nonce=begin.nonce,
        region=region,
    )
    return _enter(instance, plan, 0, now_ms)


def step(instance: Instance, plan: Plan, event: Event, now_ms: int) -> Next:
    """Raises Conflict for a command that does not fit the saga's status."""
    after = _after(instance, plan, event, now_ms)
    if after is not instance and after.status == "stuck" and instance.status != "stuck":
        return after, (Tell(told(after)),)
    return after, tuple(_due(after, plan, now_ms))


def takes_over_freely(instance: Instance, plan: SagaSchema) -> bool:
    """Whether a region may go on from here that does not know whether another one has begun what is next.

    It may wait, and it may repeat what acts outside, under the same key. It must not change documents a second time.
    """
    if instance.status in ("waiting", "stuck") or instance.over:
        return True
    options = plan.steps[instance.at].options
    return options.decided or options.repeatable


def told(instance: Instance) -> str:
    """One line about a saga that is stuck."""
    doing = "undo" if instance.backwards else "do"
    return f"{instance.saga}/{instance.id} cannot {doing} {instance.step}: {instance.error}"


def misfit(instance: Instance, plan: Plan) -> tuple[Cause, str] | None:
    """Why the present declaration cannot go on with a saga; None when it can.

    What the saga has begun must still be declared as it was. What lies ahead of it may have changed.
    """
    if plan is None:
        return "unknown", f"no saga {instance.saga!r} is declared here; deploy the code that declares it"
    now = _signatures(plan)
    begun = instance.plan[: instance.at + (instance.status != "waiting")]
    for number, signature in enumerate(begun):
        here = now[number] if number < len(now) else "nothing"
        if here != signature:
            return "changed", (
                f"step {number + 1} was {signature!r} when the saga passed it, and is {here!r} now; deploy the code"
                " that it was started with, or give the changed saga another name"
            )
    if instance.at >= len(now):
        return "changed", f"it is at step {instance.at + 1}, and {len(now)} are declared now"
    return None


# -- transitions ---------------------------------------------------------------------------------------


def _after(instance: Instance, plan: Plan, event: Event, now_ms: int) -> Instance:
    if not isinstance(event, Command):
        if instance.over:
            return instance
        wrong = misfit(instance, plan)
        if wrong is not None:
            return _misfitting(instance, *wrong, now_ms)
    if plan is None:
        if isinstance(event, Signalled):
            return _with_signal(instance, event)
        raise Conflict(f"no saga {instance.saga!r} is declared here; deploy the code that declares it")
    match event:
        case Resumed():
            fits_again = instance.status == "stuck" and instance.cause in ("changed", "unknown")
            return _going_on(instance, plan, now_ms) if fits_again else instance
        case Woken():
            return _woken(instance, plan, now_ms)
        case Done():
            return _done(instance, plan, event, now_ms)
        case Failed():
            return _failed(instance, plan, event, now_ms)
        case Signalled():
            return _signalled(instance, plan, event, now_ms)
        case Retried():
            return _retried(instance, plan, now_ms)
        case Skipped(expected):
            return _skipped(instance, plan, expected, now_ms)
        case Aborted(reason):
            return _aborted(instance, plan, reason, now_ms)
        case _:
            assert_never(event)


def _due(instance: Instance, plan: Plan, now_ms: int) -> Sequence[Effect]:
    if instance.status == "waiting":
        return [WakeAt(instance.wake_ms)] if instance.wake_ms else []
    if instance.status in _ACTIVE and plan is not None:
        if instance.wake_ms > now_ms:
            return [WakeAt(instance.wake_ms)]
        return [Perform(instance.at, instance.backwards)]
    return []


def _enter(instance: Instance, plan: SagaSchema, at: int, now_ms: int) -> Instance:
    """Go on with this step, once what it waits for is there."""
    if at == len(plan.steps):
        return _with(instance, "completed", now_ms, step="", at=at, plan=_signatures(plan))
    found = plan.steps[at]
    options, wake_ms = found.options, 0
    status: Status = "running"
    if options.wait_s:
        wake_ms, status = now_ms + round(options.wait_s * 1000), "waiting"
    elif options.signal is not None and options.signal not in instance.signals:
        status = "waiting"
        wake_ms = 0 if options.within_s is None else now_ms + round(options.within_s * 1000)
    return _with(
        instance,
        status,
        now_ms,
        step=found.name,
        at=at,
        wake_ms=wake_ms,
        before="",
        cause="",
        error="",
        plan=_signatures(plan),
    )


def _go_back(instance: Instance, plan: SagaSchema, at: int, why: tuple[Cause, str], now_ms: int) -> Instance:
    """Undo this step, and those before it."""
    while at >= 0 and plan.steps[at].options.compensate is None:
        at -= 1
    status: Status = "compensated" if at < 0 else "compensating"
    return _with(
        instance,
        status,
        now_ms,
        step="" if at < 0 else plan.steps[at].name,
        at=max(at, 0),
        backwards=True,
        before="",
        cause=why[0],
        error=why[1],
        plan=_signatures(plan),
    )


def _stuck(instance: Instance, cause: Cause, error: str, now_ms: int) -> Instance:
    kept = {"attempts": instance.attempts, "wake_ms": instance.wake_ms}
    return _with(instance, "stuck", now_ms, before=instance.status, cause=cause, error=error, **kept)


def _misfitting(instance: Instance, cause: Cause, error: str, now_ms: int) -> Instance:
    if instance.status == "stuck":
        return instance
    return _stuck(instance, cause, error, now_ms)


def _woken(instance: Instance, plan: SagaSchema, now_ms: int) -> Instance:
    if instance.status != "waiting" or not 0 < instance.wake_ms <= now_ms:
        return instance
    options = plan.steps[instance.at].options
    if options.signal is None:
        return _with(instance, "running", now_ms)
    error = f"no signal {options.signal!r} came within {options.within_s:g} s"
    if instance.at > plan.pivot:
        return _stuck(instance, "too-late", error, now_ms)
    return _go_back(instance, plan, instance.at - 1, ("too-late", error), now_ms)


def _done(instance: Instance, plan: SagaSchema, event: Done, now_ms: int) -> Instance:
    if instance.at == event.at and instance.backwards and not event.backwards and not instance.attempts:
        # It was aborted meanwhile. What the step has noted is needed to undo it.
        return msgspec.structs.replace(instance, fields=event.fields)
    if (instance.at, instance.backwards) != (event.at, event.backwards) or instance.status not in _ACTIVE:
        return instance
    found = plan.steps[instance.at]
    signals = {name: value for name, value in instance.signals.items() if name != found.options.signal}
    after = _recorded(instance, "undone" if instance.backwards else "done", now_ms)
    after = msgspec.structs.replace(after, fields=event.fields, signals=signals)
    return _onwards(after, plan, now_ms)


def _onwards(instance: Instance, plan: SagaSchema, now_ms: int) -> Instance:
    if instance.backwards:
        return _go_back(instance, plan, instance.at - 1, (instance.cause, instance.error), now_ms)
    return _enter(instance, plan, instance.at + 1, now_ms)


def _failed(instance: Instance, plan: SagaSchema, event: Failed, now_ms: int) -> Instance:
    about = (event.at, event.backwards, event.attempts)
    if (instance.at, instance.backwards, instance.attempts) != about or instance.status not in _ACTIVE:
        return instance
    options, failed = plan.steps[instance.at].options, instance.attempts + 1
    error = event.error[:_MOST_ERROR]
    retry = options.retry
    most = (
        None
        if retry.attempts is None
        else max(retry.attempts, _UNDONE)
        if instance.backwards
        else retry.attempts
    )
    if not event.refused and (most is None or failed < most):
        wake_ms = now_ms + round(retry.pause_s(failed, event.jitter) * 1000)
        return msgspec.structs.replace(instance, attempts=failed, wake_ms=wake_ms, error=error)
    cause: Cause = "refused" if event.refused else "failed"
    instance = msgspec.structs.replace(instance, attempts=failed)
    if instance.backwards or instance.at > plan.pivot:
        return _stuck(instance, cause, error, now_ms)
    in_doubt = options.effect and not event.refused
    if in_doubt and instance.at == plan.pivot and options.compensate is None:
        return _stuck(instance, cause, f"{error}; whether it has happened is not known", now_ms)
    return _go_back(instance, plan, instance.at - (not in_doubt), (cause, error), now_ms)


def _signalled(instance: Instance, plan: SagaSchema, event: Signalled, now_ms: int) -> Instance:
    ahead = [each.options.signal for each in plan.steps[0 if instance.over else instance.at :]]
    if event.name not in ahead and not instance.over:
        awaited = ", ".join(sorted(filter(None, ahead))) or "none"
        raise InvalidOperation(
            f"{instance.saga}/{instance.id} waits for no signal {event.name[:64]!r} from here on; it waits for"
            f" {awaited}"
        )
    instance = _with_signal(instance, event)
    if instance.status == "waiting" and plan.steps[instance.at].options.signal == event.name:
        return _with(instance, "running", now_ms)
    return instance


def _with_signal(instance: Instance, event: Signalled) -> Instance:
    if instance.over:
        raise Conflict(f"{instance.saga}/{instance.id} is over: it is {instance.status}")
    return msgspec.structs.replace(instance, signals={**instance.signals, event.name: event.value})


def _retried(instance: Instance, plan: SagaSchema, now_ms: int) -> Instance:
    if instance.status == "stuck":
        if (wrong := misfit(instance, plan)) is not None:
            raise Conflict(f"{instance.saga}/{instance.id} cannot go on: {wrong[1]}")
        return _going_on(instance, plan, now_ms)
    if instance.status in _ACTIVE:
        return msgspec.structs.replace(instance, wake_ms=0)
    raise Conflict(f"{instance.saga}/{instance.id} is {instance.status}: there is nothing to retry")


def _going_on(instance: Instance, plan: SagaSchema, now_ms: int) -> Instance:
    """From where it was stuck."""
    assert instance.before, "a saga that is stuck has another status before"
    if instance.cause in ("changed", "unknown"):  # nothing has failed
        kept = {"attempts": instance.attempts, "wake_ms": instance.wake_ms}
        return _with(instance, instance.before, now_ms, before="", cause="", error="", **kept)
    if instance.before == "waiting":
        return _enter(instance, plan, instance.at, now_ms)
    return _with(instance, instance.before, now_ms, before="")


def _skipped(instance: Instance, plan: SagaSchema, expected: str, now_ms: int) -> Instance:
    if instance.status != "stuck":
        raise Conflict(
            f"{instance.saga}/{instance.id} is {instance.status}: only what a saga is stuck at can be skipped"
        )
    if expected not in ("", instance.step):
        raise Conflict(
            f"{instance.saga}/{instance.id} is stuck at {instance.step!r}, not at {expected[:64]!r}"
        )
    if (wrong := misfit(instance, plan)) is not None:
        raise Conflict(f"{instance.saga}/{instance.id} cannot go on: {wrong[1]}")
    return _onwards(_recorded(instance, "skipped", now_ms), plan, now_ms)


def _aborted(instance: Instance, plan: SagaSchema, reason: str, now_ms: int) -> Instance:
    where = f"{instance.saga}/{instance.id}"
    if instance.over or instance.backwards:
        raise Conflict(f"{where} is {instance.status}: there is nothing to abort")
    if (wrong := misfit(instance, plan)) is not None:
        raise Conflict(f"{where} cannot be undone: {wrong[1]}")
    if instance.at > plan.pivot:
        raise Conflict(
            f"{where} has passed its pivot {plan.steps[plan.pivot].name!r}: it can go forward only; retry or skip"
            f" {instance.step!r}"
        )
    options = plan.steps[instance.at].options
    in_doubt = options.decided and instance.status != "waiting" and instance.cause != "refused"
    why: tuple[Cause, str] = ("aborted", reason[:_MOST_ERROR])
    return _go_back(instance, plan, instance.at - (not in_doubt), why, now_ms)


def _recorded(instance: Instance, outcome: Outcome, now_ms: int) -> Instance:
    attempts = instance.attempts + (outcome != "skipped")
    error = instance.error if instance.attempts or outcome == "skipped" else ""
    record = Record(instance.step, outcome, now_ms, instance.region, attempts, error)
    return msgspec.structs.replace(instance, done=(*instance.done, record))


def _with(instance: Instance, status: Status, now_ms: int, **changes: Any) -> Instance:
    since_ms = instance.since_ms if status == instance.status else now_ms
    return msgspec.structs.replace(
        instance, **{"status": status, "since_ms": since_ms, "attempts": 0, "wake_ms": 0, **changes}
    )


def _signatures(plan: SagaSchema) -> tuple[str, ...]:
    return tuple(each.signature for each in plan.steps)
