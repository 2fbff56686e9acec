"""The figures of a run, as text."""

from __future__ import annotations

from collections.abc import Iterator

from .history import Fault
from .run import Outcome


def lines(outcome: Outcome) -> Iterator[str]:
    history = outcome.history
    yield (
        f"{outcome.seconds:.0f} s; {sum(history.acknowledged.values())} writes acknowledged, "
        f"{history.retries} retries, {history.replayed} of them of writes that had happened, "
        f"{history.moved} taken by another region than asked first"
    )
    yield "  " + ", ".join(f"{name} {count}" for name, count in history.acknowledged.most_common())
    yield (
        f"{outcome.documents} documents, {outcome.entries} entries, {outcome.conflicts} conflicts, "
        f"{outcome.size_bytes >> 20} MiB on three disks; {outcome.wires['broken']} connections torn, "
        f"{outcome.wires['bytes_changed']} bytes changed on the way, {outcome.reconnects} feeds taken up again"
    )
    yield "problems answered to writes: " + (
        ", ".join(f"{k} {n}" for k, n in history.answers.most_common()) or "none"
    )
    yield f"{len(history.faults)} faults:"
    for kind in sorted({fault.kind for fault in history.faults}):
        yield _fault_line(kind, [fault for fault in history.faults if fault.kind == kind])
    for region, found in sorted(outcome.availability.items()):
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.most_common())
        yield (
            f"{region}: no writes for {found.writes_lost_s:.1f} s ({found.longest_s:.1f} s at most), "
            f"no reads for {found.reads_lost_s:.1f} s; refused by {reasons or 'nothing'}"
        )
    settled = "never" if outcome.settled_s is None else f"{outcome.settled_s:.2f} s"
    yield f"after the last write, one position everywhere: {settled}"
    yield "checked: " + ", ".join(f"{promise} {count}" for promise, count in sorted(history.checked.items()))
    for told, count in history.odd.most_common(30):
        yield f"odd, {count} times: {told}"
    yield from (f"VIOLATION {each}" for each in history.violations[:100])
    yield f"{len(history.violations)} violations" if history.violations else "no promise was broken"


def _fault_line(kind: str, faults: list[Fault]) -> str:
    healed = sorted(fault.healed_s for fault in faults if fault.healed_s is not None)
    told = f"  {kind:16} {len(faults):4}, {sum(fault.lasted_s for fault in faults):7.1f} s in all"
    if healed:
        told += f"; alone {len(healed)} times, then healed in {healed[len(healed) // 2]:.2f} s (worst {healed[-1]:.2f})"
    return told
