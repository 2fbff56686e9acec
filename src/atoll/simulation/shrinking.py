"""Cuts a failing run down to a short one that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from atoll.simulation.plan import Plan, with_kernels, with_rollout
from atoll.simulation.runner import Report

_MOST_RUNS = 80


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a plan; None leaves that part as the seed drew it."""

    faults: tuple[int, ...] | None = None
    """Numbers of the faults that stay."""
    workloads: tuple[str, ...] | None = None
    duration_s: float | None = None
    clients: int | None = None
    detour: bool = True

    def apply(self, plan: Plan) -> Plan:
        if "versions" in (self.workloads or ()) and not plan.versions:
            plan = with_rollout(plan)
        if "external" in (self.workloads or ()) and not plan.margins_ms:
            plan = with_kernels(plan)
        duration_s = plan.duration_s if self.duration_s is None else self.duration_s
        kept = range(len(plan.faults)) if self.faults is None else self.faults
        faults = tuple(
            fault._replace(until_s=min(fault.until_s, duration_s))
            for number, fault in enumerate(plan.faults)
            if number in kept and fault.at_s < duration_s
        )
        return replace(
            plan,
            faults=faults,
            duration_s=duration_s,
            workloads=plan.workloads if self.workloads is None else self.workloads,
            clients=plan.clients if self.clients is None else self.clients,
            detour=plan.detour if self.detour else (),
        )

    def arguments(self) -> str:
        """As options of `atoll simulate`."""
        said = []
        if self.faults is not None:
            said.append(f"--faults {','.join(map(str, self.faults)) or 'none'}")
        if self.workloads is not None:
            said.append(f"--workloads {','.join(self.workloads)}")
        if self.duration_s is not None:
            said.append(f"--duration {self.duration_s:g}")
        if self.clients is not None:
            said.append(f"--clients {self.clients}")
        if not self.detour:
            said.append("--no-detour")
        return " ".join(said)


def shrink(
    plan: Plan,
    failing: Report,
    run: Callable[[Plan], Report],
    tried: Callable[[Cut, bool], None] = lambda cut, fails: None,
    start: Cut = Cut(),
) -> tuple[Cut, Report]:
    """Try one reduction after the other for as long as the same invariant fails; greedy, at most 80 runs."""
    best, report, runs = start, failing, 0
    invariant = failing.failure.invariant if failing.failure else ""
    progress = True
    while progress and runs < _MOST_RUNS:
        progress = False
        for cut in _smaller(plan, best):
            if runs >= _MOST_RUNS:
                break
            runs += 1
            found = run(cut.apply(plan))
            fails = found.failure is not None and found.failure.invariant == invariant
            tried(cut, fails)
            if fails:
                best, report, progress = cut, found, True
                break
    return best, report


def _smaller(plan: Plan, cut: Cut) -> Iterator[Cut]:
    now = cut.apply(plan)
    if now.detour:
        yield replace(cut, detour=False)
    if len(now.workloads) > 1:
        for name in now.workloads:
            yield replace(cut, workloads=tuple(each for each in now.workloads if each != name))
    kept = tuple(range(len(plan.faults))) if cut.faults is None else cut.faults
    if kept:
        yield replace(cut, faults=())
        if len(kept) > 1:
            for number in kept:
                yield replace(cut, faults=tuple(each for each in kept if each != number))
    if now.clients > 1:
        yield replace(cut, clients=1)
    for share in (0.5, 0.8):
        if now.duration_s * share >= 0.5:
            yield replace(cut, duration_s=round(now.duration_s * share, 2))
