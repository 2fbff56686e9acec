"""How a collection is kept: placement, consistency, conflicts; and what contradicts itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal, get_args

from atoll.errors import DeclarationError
from atoll.schema.placement import Everywhere, Placement, Tenants
from atoll.schema.problems import meant

Consistency = Literal["eventual", "session", "causal", "bounded", "strong"]
Strategy = Literal["lww", "fww", "merge", "manual"]
Fallback = Literal["escrow", "eventual", "stale-read", "reject"]
Resolver = Callable[[Any], Any]

CONSISTENCIES: tuple[str, ...] = get_args(Consistency)
STRATEGIES: tuple[str, ...] = get_args(Strategy)
FALLBACKS: tuple[str, ...] = get_args(Fallback)
_MOST_LEASE_S = 3.0
"""A region that is lost must not stop the others for longer."""
OPTIONS = (
    "placement",
    "consistency",
    "max_staleness_s",
    "resolve",
    "fallback",
    "indexes",
    "commit_wait",
    "read_lease_s",
    "name",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """A collection's options."""

    placement: Placement = field(default_factory=Everywhere)
    """Who writes a document; by default every region."""
    consistency: Consistency = "eventual"
    """What a read waits for, and for `strong` also what a write asks."""
    max_staleness_s: float | None = None
    """Under `bounded`: reads here never show a state older than this; None under every other consistency."""
    resolve: Literal["lww", "fww", "merge", "manual", "custom"] = "lww"
    """How concurrent versions become one."""
    resolver: Resolver | None = None
    """The team's own function under `custom`: pure and deterministic, or regions would differ for good."""
    fallback: Fallback | None = None
    """What a strong collection does in a region that is cut off from a majority.

    `reject`, or None: refuse. `stale-read`: read the region's own copy. `eventual`: also accept writes that may
    conflict. `escrow`: spend the rights of bounded counters that the region holds, which it does at any time."""
    indexes: tuple[str, ...] = ()
    """Fields that listings look documents up by. Each region's own affair: it changes nothing that regions agree on."""
    commit_wait: bool = False
    """Whether a write is acknowledged only once every later one, anywhere, is stamped after it.

    Each region's own affair, too."""
    read_lease_s: float | None = None
    """For so long the region that changes a strong document reads it without asking others.

    If it is lost, they wait for so long."""

    @property
    def by_quorum(self) -> bool:
        """Whether a majority of regions decides each document, rather than one region that owns it."""
        return (
            self.consistency == "strong"
            and self.fallback != "escrow"
            and isinstance(self.placement, Everywhere)
        )

    @property
    def reads_when_cut_off(self) -> bool:
        """Whether a region that is cut off from a majority reads its own copy."""
        return self.fallback in ("eventual", "stale-read")

    @property
    def writes_when_cut_off(self) -> bool:
        """Whether it also takes writes, which may conflict with what the majority decides meanwhile."""
        return self.fallback == "eventual"

    def describe(self) -> dict[str, Any]:
        """As plain JSON data, equal in every process: for fingerprints and reports."""
        resolver = self.resolver
        return {
            "placement": repr(self.placement),
            "consistency": self.consistency,
            "max_staleness_s": self.max_staleness_s,
            "resolve": self.resolve,
            "resolver": getattr(resolver, "__qualname__", type(resolver).__name__) if resolver else None,
            "fallback": self.fallback,
        }


def build_policy(where: str, options: Mapping[str, Any]) -> Policy:
    """Read the keywords of a class statement; `where` names the class. Raises DeclarationError."""
    for unknown in options.keys() - set(OPTIONS):
        raise DeclarationError(f"{where}: no option is called {unknown!r}; {meant(unknown, OPTIONS)}")
    placement = options.get("placement") or Everywhere()
    if not isinstance(placement, Placement):
        raise DeclarationError(
            f"{where}: placement={placement!r} is not a placement;"
            " use home_region(field), key_ranges({...}) or tenants({...})"
        )
    consistency = options.get("consistency", "eventual")
    _one_of(where, "consistency", consistency, CONSISTENCIES)
    fallback = options.get("fallback")
    if fallback is not None:
        _one_of(where, "fallback", fallback, FALLBACKS)
    resolve, resolver = _resolution(where, options.get("resolve", "lww"))
    staleness = options.get("max_staleness_s")
    policy = Policy(
        placement,
        consistency,
        staleness,
        resolve,
        resolver,
        fallback,
        _indexes(where, options),
        options.get("commit_wait", False),
        options.get("read_lease_s"),
    )
    _refuse_contradictions(where, policy)
    _refuse_waits(where, policy)
    _refuse_leases(where, policy)
    return policy


def _indexes(where: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    given = options.get("indexes", ())
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise DeclarationError(f'{where}: indexes={given!r} is not a list of fields; write indexes=["sku"]')
    return tuple(dict.fromkeys(given))


def _refuse_contradictions(where: str, policy: Policy) -> None:
    strong = policy.consistency == "strong"
    staleness = policy.max_staleness_s
    if policy.consistency == "bounded" and staleness is None:
        raise DeclarationError(
            f'{where}: consistency="bounded" needs its bound; add max_staleness_s=5, in seconds'
        )
    if policy.consistency != "bounded" and staleness is not None:
        raise DeclarationError(
            f'{where}: max_staleness_s has no meaning under consistency="{policy.consistency}";'
            ' use consistency="bounded", or drop it'
        )
    if staleness is not None and (
        isinstance(staleness, bool)
        or not isinstance(staleness, int | float)
        or not 0 < staleness < float("inf")
    ):
        raise DeclarationError(f"{where}: max_staleness_s={staleness!r} is not a positive number of seconds")
    if policy.fallback is not None and not strong:
        raise DeclarationError(
            f'{where}: fallback="{policy.fallback}" only helps strong collections, and'
            f' consistency="{policy.consistency}" accepts writes anyway; drop it, or use consistency="strong"'
        )
    if strong and isinstance(policy.placement, Tenants) and policy.placement.default is None:
        raise DeclarationError(
            f'{where}: under consistency="strong" each document needs one region that orders its writes, and tenants'
            " outside the mapping have none; give tenants(..., default=) a region"
        )
    if strong and policy.resolve != "lww" and policy.fallback != "eventual":
        raise DeclarationError(
            f'{where}: under consistency="strong" no conflict is left for resolve="{policy.resolve}";'
            ' drop resolve, or add fallback="eventual"'
        )
    if policy.fallback not in (None, "reject") and not isinstance(policy.placement, Everywhere):
        raise DeclarationError(
            f"{where}: with placement={policy.placement!r} one region orders the writes of each document, whether a"
            f' majority answers or not, so fallback="{policy.fallback}" has no meaning; drop one of them'
        )
    if policy.fallback == "eventual" and policy.resolve in ("merge", "manual"):
        raise DeclarationError(
            f'{where}: under consistency="strong" a document has one value, which resolve="{policy.resolve}" cannot'
            ' give; use resolve="lww", "fww" or a function'
        )


def _refuse_waits(where: str, policy: Policy) -> None:
    if not isinstance(policy.commit_wait, bool):
        raise DeclarationError(f"{where}: commit_wait={policy.commit_wait!r} is not True or False")
    if policy.commit_wait and policy.consistency == "strong":
        raise DeclarationError(
            f'{where}: commit_wait only helps where every region stamps its own writes; under consistency="strong"'
            " drop it, or use another consistency"
        )


def _refuse_leases(where: str, policy: Policy) -> None:
    lease_s = policy.read_lease_s
    if lease_s is None:
        return
    if (
        isinstance(lease_s, bool)
        or not isinstance(lease_s, int | float)
        or not 0.1 <= lease_s <= _MOST_LEASE_S
    ):
        raise DeclarationError(
            f"{where}: read_lease_s={lease_s!r} is not a number of seconds from 0.1 to {_MOST_LEASE_S:g}"
        )
    if not policy.by_quorum or policy.fallback is not None:
        raise DeclarationError(
            f'{where}: read_lease_s only helps where a majority is asked: under consistency="strong" without placement'
            " and fallback"
        )


def _resolution(
    where: str, resolve: Any
) -> tuple[Literal["lww", "fww", "merge", "manual", "custom"], Resolver | None]:
    if isinstance(resolve, str) and ":" in resolve:
        resolve = _imported(where, resolve)
    if not callable(resolve):
        _one_of(where, "resolve", resolve, STRATEGIES, ', a function, or "module:function"')
        return resolve, None
    name = getattr(resolve, "__qualname__", repr(resolve))
    if inspect.iscoroutinefunction(resolve):
        raise DeclarationError(
            f"{where}: resolve={name} is async; a resolver is a plain function without I/O"
        )
    try:
        signature = inspect.signature(resolve)
    except ValueError:  # some built-ins have none
        return "custom", resolve
    try:
        signature.bind(())
    except TypeError:
        raise DeclarationError(
            f"{where}: resolve={name}{signature} cannot be called with one argument, the list of concurrent"
            " versions; declare it as `def resolve(versions)`"
        ) from None
    return "custom", resolve


def _imported(where: str, target: str) -> Resolver:
    module, _, name = target.partition(":")
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise DeclarationError(
            f'{where}: resolve="{target}" cannot be imported ({error}); write "module:function"'
        ) from error
    if not callable(found):
        raise DeclarationError(f'{where}: resolve="{target}" is a {type(found).__name__}, not a function')
    return found


def _one_of(where: str, option: str, value: Any, allowed: tuple[str, ...], more: str = "") -> None:
    if value in allowed:
        return
    close = get_close_matches(str(value), allowed, n=1)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    listed = ", ".join(f'"{item}"' for item in allowed)
    raise DeclarationError(f"{where}: {option}={value!r} is unknown; {hint}use {listed}{more}")
