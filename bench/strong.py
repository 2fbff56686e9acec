"""Strong documents, which a majority of regions decides, beside an etcd cluster of three, at the same distances.

Both have a process in each region, and callers at the process of their own region: bare connections that do as little
as they can, over HTTP to Atoll and over gRPC to etcd. Atoll emulates distances itself; etcd's members talk through
`bench.delayed`. A document *belongs* to the region that has written it last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.callers import apart
from bench.figures import Figure, Goal
from bench.peers import NotMeasured, etcd
from bench.rounds import Say, Scale
from bench.strong_calls import PROBE_S, Encoded, Request, probe
from bench.strong_systems import (
    LEADER,
    NAMES,
    RTT_MS,
    System,
    atoll_regions,
    etcd_members,
    majority_ms,
    rtt_ms,
)

CLIENTS = 64
_OWN = 500
"""Documents of a region that its callers write over and over."""
_APART = 100_000
"""Numbers of one region are not another's."""
_SHARED = 999_999
_BEFORE_S = 1.0
_AFTER_S = 4.0
_PREPARING = 16
Found = Mapping[str, float]
Rounds = dict[str, list[float]]


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    """As far apart as regions are."""
    with _contest("strong", scale, folder, say, RTT_MS) as contest:
        return _at_distance(contest)


def measure_near(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    """What both can do where the network costs nothing."""
    with _contest("strong, near", scale, folder, say, {}) as contest:
        return _at_none(contest)


@contextmanager
def _contest(
    name: str, scale: Scale, folder: Path, say: Say, distances: Mapping[str, float]
) -> Iterator[Contest]:
    with ExitStack() as stack:
        ours = stack.enter_context(atoll_regions(folder, distances))
        theirs: System | NotMeasured
        try:
            theirs = stack.enter_context(etcd_members(folder / "etcd", distances, say, install=scale.install))
        except NotMeasured as reason:
            theirs = reason
        yield Contest(name, scale, say, ours, theirs)


class Contest:
    """Rounds of both systems in turn; where there is no etcd, of Atoll alone."""

    def __init__(self, name: str, scale: Scale, say: Say, ours: System, theirs: System | NotMeasured) -> None:
        self._name = name
        self.scale = scale
        self.ours = ours
        self._say = say
        self._theirs = theirs
        self._fresh = count(_OWN)

    def fresh(self, documents: int) -> int:
        """The first of so many documents, within a region's numbers, that nobody has written."""
        first = next(self._fresh)
        self._fresh = count(first + documents)
        return first

    def take(self, what: str, work: Callable[[System], Found], rounds: int) -> tuple[Rounds, Rounds]:
        """By name what each round found: Atoll's, and its peer's."""
        found: tuple[Rounds, Rounds] = ({}, {})
        for number in range(1, rounds + 1):
            for system, results in zip((self.ours, self._theirs), found, strict=True):
                if isinstance(system, System):
                    self._say(f"{what}: {system.label}, round {number} of {rounds}")
                    for name, value in work(system).items():
                        results.setdefault(name, []).append(value)
        return found

    def figure(
        self,
        measure: str,
        unit: str,
        ours: Sequence[float],
        theirs: Sequence[float] | None = None,
        goal: Goal | None = None,
        *,
        of: Callable[[Sequence[float]], float] = median,
    ) -> Figure:
        """`theirs` is None where there is nothing to compare."""
        missing = isinstance(self._theirs, NotMeasured) and theirs is not None
        return Figure(
            name=self._name,
            measure=measure,
            unit=unit,
            value=of(ours),
            peer=self._theirs.label if theirs and isinstance(self._theirs, System) else "",
            peer_value=of(theirs) if theirs else None,
            goal=goal,
            durability=etcd.DURABILITY if theirs else "",
            not_measured=str(self._theirs) if missing and (goal is None or goal.of == "ratio") else "",
            details={"atoll_rounds": list(ours), "peer_rounds": list(theirs or ())},
        )


# -- at a distance -------------------------------------------------------------------------------------


def _at_distance(contest: Contest) -> list[Figure]:
    contest.take("first writes", _first_writes, 1)
    return [
        *_alone(contest, "write of an own document", lambda system: system.put),
        *_alone(contest, "linearizable read", lambda system: system.get),
        *_crowds(contest),
        *_of_others(contest),
        *_transfers(contest),
        _after_kill(contest),
    ]


def _alone(contest: Contest, what: str, request: Callable[[System], Request]) -> list[Figure]:
    """One caller in each region."""
    samples = contest.scale.samples

    def work(system: System) -> Found:
        plans = (system.plan(region, request(system), _numbers(region, samples)) for region in NAMES)
        return {region: sent.p50_ms for region, sent in zip(NAMES, system.send(*plans), strict=True)}

    ours, theirs = contest.take(what, work, contest.scale.rounds)
    figures = []
    for region in NAMES:
        name = f"{what}, {region}, p50"
        bound = Goal("value", at_most=1.1 * majority_ms(region))
        figures.append(
            contest.figure(f"{name}, round trip {majority_ms(region):g} ms", "ms", ours[region], goal=bound)
        )
        beside = Goal("ratio", at_most=1.1 if region == LEADER else 1)
        figures.append(contest.figure(name, "ms", ours[region], theirs.get(region, ()), beside))
    return figures


def _crowds(contest: Contest) -> list[Figure]:
    """Many callers, in one region after the other."""
    requests = contest.scale.requests // 5

    def work(system: System) -> Found:
        found = {}
        for region in NAMES:
            (sent,) = system.send(system.plan(region, _own(system, region), range(requests), CLIENTS))
            found[region] = sent.per_second
        return found

    ours, theirs = contest.take(f"{CLIENTS} clients in one region", work, contest.scale.rounds)
    figures = []
    for region in NAMES:
        name = f"writes of {CLIENTS} clients in {region}"
        most = CLIENTS / majority_ms(region) * 1000
        bound = Goal("value", at_least=0.9 * most)
        figures.append(contest.figure(f"{name}, at most {most:.0f}/s", "/s", ours[region], goal=bound))
        figures.append(contest.figure(name, "/s", ours[region], theirs.get(region, ())))
    return figures


def _of_others(contest: Contest) -> list[Figure]:
    """Writes of documents that belong to another region. Each is written once: else it would soon be one's own."""
    samples = min(contest.scale.samples, _OWN // 2)
    figures = []
    for step in (1, 2):
        owners = {region: NAMES[(NAMES.index(region) + step) % len(NAMES)] for region in NAMES}
        first = contest.fresh(samples)

        def work(system: System, owners: Mapping[str, str] = owners, first: int = first) -> Found:
            system.send(
                *(
                    system.plan(owner, system.put, _numbers(owner, samples, first), _PREPARING)
                    for owner in NAMES
                )
            )
            plans = (
                system.plan(region, system.put, _numbers(owner, samples, first))
                for region, owner in owners.items()
            )
            return {region: sent.p50_ms for region, sent in zip(owners, system.send(*plans), strict=True)}

        ours, theirs = contest.take("write of a document of another region", work, 1)
        for region, owner in owners.items():
            bound = Goal("value", at_most=rtt_ms(region, owner) + 1.1 * majority_ms(owner))
            name = f"write in {region} of a document of {owner}, p50"
            figures.append(contest.figure(name, "ms", ours[region], theirs.get(region, ()), bound))
    return figures


def _transfers(contest: Contest) -> list[Figure]:
    """Between two accounts of the same region, by one caller in each. No account is used again soon."""
    samples = contest.scale.samples

    def work(system: System) -> Found:
        plans = [system.plan(region, system.transfer, _numbers(region, samples)) for region in NAMES]
        return {region: sent.p50_ms for region, sent in zip(NAMES, system.send(*plans), strict=True)}

    contest.take("first transfers", work, 1)
    ours, theirs = contest.take("transfer between two accounts", work, contest.scale.rounds)
    figures = []
    for region in NAMES:
        name = f"transfer between two accounts, {region}, p50"
        bound = Goal("value", at_most=2.2 * majority_ms(region))
        figures.append(
            contest.figure(f"{name}, round trip {majority_ms(region):g} ms", "ms", ours[region], goal=bound)
        )
        figures.append(contest.figure(name, "ms", ours[region], theirs.get(region, ())))
    return figures


# -- a region is lost ----------------------------------------------------------------------------------


def _after_kill(contest: Contest) -> Figure:
    """From the kill until the first answer to a write that was begun after it, in the slower of the others."""
    probes = round((_BEFORE_S + _AFTER_S) / PROBE_S)

    def work(system: System, first: int) -> Found:
        found = {}
        for number, victim in enumerate(system.victims):
            found[victim] = _stopped_s(
                system, victim, _numbers(victim, 2 * probes, first + 2 * probes * number)
            )
        return found

    ours: Rounds = {}
    theirs: Rounds = {}
    for _ in range(contest.scale.failures):
        first = contest.fresh(2 * probes * len(NAMES))
        taken = contest.take("kill -9 of a region", partial(work, first=first), 1)
        for all_of, found in zip((ours, theirs), taken, strict=True):
            for victim, seconds in found.items():
                all_of.setdefault(victim, []).extend(seconds)
    return contest.figure(
        "kill -9 of a region: the others write its documents again after at most",
        "s",
        [max(seconds) for seconds in ours.values()],
        [max(seconds) for seconds in theirs.values()],
        Goal("value", at_most=1.0),
        of=max,
    )


def _stopped_s(system: System, victim: str, numbers: range) -> float:
    """`numbers`: of documents that nobody has written; each of the others writes half of them."""
    system.send(system.plan(victim, system.put, numbers, CLIENTS))
    half = len(numbers) // 2
    others = [name for name in NAMES if name != victim]
    plans = [
        system.plan(name, system.put, part)
        for name, part in zip(others, (numbers[:half], numbers[half:]), strict=True)
    ]
    with ThreadPoolExecutor(1) as beside:
        probing = beside.submit(apart, probe, system.kind, plans)
        time.sleep(_BEFORE_S)
        system.kill(victim)
        killed = perf_counter()
        found = probing.result()
    system.restart(victim)
    never = killed + _AFTER_S
    first = [min((each.ended for each in probes if each.began > killed), default=never) for probes in found]
    return max(first) - killed


# -- without distance ----------------------------------------------------------------------------------


def _at_none(contest: Contest) -> list[Figure]:
    scale = contest.scale
    contest.take("first writes", _first_writes, 1)
    ours, theirs = contest.take(
        "distinct documents", partial(_together, requests=scale.requests // 2), scale.rounds
    )
    shared = partial(_together, requests=scale.requests // 4, shared=True)
    ours_shared, theirs_shared = contest.take("one document", shared, scale.rounds)
    return [
        contest.figure(
            f"writes of {CLIENTS} clients in all regions, distinct documents",
            "/s",
            ours["rate"],
            theirs.get("rate", ()),
            Goal("ratio", at_least=1.2),
        ),
        contest.figure(
            f"writes of {CLIENTS} clients in all regions, one document",
            "/s",
            ours_shared["rate"],
            theirs_shared.get("rate", ()),
            Goal("value", at_least=1_000),
        ),
    ]


def _together(system: System, requests: int, shared: bool = False) -> Found:
    """In all regions at once."""
    share = requests // len(NAMES)
    sent = system.send(
        *(
            system.plan(
                region,
                partial(_shared, system.put) if shared else _own(system, region),
                range(share),
                len(range(number, CLIENTS, len(NAMES))),
            )
            for number, region in enumerate(NAMES)
        )
    )
    return {"rate": sum(each.succeeded for each in sent) / max(each.seconds for each in sent)}


# -- documents -----------------------------------------------------------------------------------------


def _first_writes(system: System) -> Found:
    """Each region writes its documents, so that they are its own; and one that all write."""
    system.send(*(system.plan(region, _own(system, region), range(_OWN), _PREPARING) for region in NAMES))
    return {}


def _numbers(region: str, documents: int, first: int = 0) -> range:
    first += NAMES.index(region) * _APART
    return range(first, first + documents)


def _own(system: System, region: str) -> Request:
    return partial(_over_and_over, system.put, _numbers(region, 0).start)


def _over_and_over(request: Request, first: int, number: int) -> Encoded:
    return request(first + number % _OWN)


def _shared(request: Request, number: int) -> Encoded:
    return request(_SHARED)
