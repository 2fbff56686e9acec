"""Histories as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from .recording import Recorded


def line(found: Recorded, histories: int, left_s: float) -> str:
    """What came of one history, and how long the others will take."""
    outcomes = _counts(found.outcomes)
    left = f"; about {left_s / 60:.0f} min left" if found.number < histories else ""
    return (
        f"{found.number:4}/{histories} {found.verdict:7} {found.operations} operations "
        f"({outcomes}) in {found.seconds:.1f} s; {_counts(found.faults) or 'no faults'}{left}"
    )


def wrong(found: Recorded) -> Iterator[str]:
    yield f"     kept in {found.file}"
    for each in found.wrong:
        yield f"     {each}"


def summary(all_found: Sequence[Recorded], seconds: float) -> Iterator[str]:
    outcomes, faults, odd = Counter[str](), Counter[str](), Counter[str]()
    for found in all_found:
        outcomes += found.outcomes
        faults += found.faults
        odd += found.odd
    verdicts = Counter(found.verdict for found in all_found)
    operations = sum(found.operations for found in all_found)
    yield f"{len(all_found)} histories, {operations} operations in {seconds:.0f} s: {_counts(verdicts)}"
    yield f"outcomes: {_counts(outcomes)}"
    yield f"faults: {_counts(faults) or 'none'}"
    yield from (f"odd, {count} times: {told}" for told, count in odd.most_common(20))
    failed = [str(found.file) for found in all_found if not found.ok]
    yield f"failed: {', '.join(failed)}" if failed else "every history is valid, and nothing was lost"


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))
