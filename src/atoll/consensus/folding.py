"""Writes that were taken while no majority answered become part of the register's order.

Under `fallback="eventual"` a region that is cut off writes documents in the ordinary way. Such a version has seen a
decided revision, and is not decided itself. Whoever proposes the register next and has the version folds it in. The
collection's strategy makes the next revision of it and of the decided value. What the strategy drops is in the audit.
The register's value carries those records for a while, so that they come to every region, whoever journals what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from atoll.causality.clock import stamp_ms
from atoll.causality.floor import fold
from atoll.causality.types import Seq, Stamp
from atoll.causality.vector import covers
from atoll.conflicts import records
from atoll.consensus.decided import Decided, Lost, carried, version_in
from atoll.documents import register as registers
from atoll.documents.decided import DECIDED
from atoll.documents.document import Document, decode_row, shown_plain
from atoll.documents.register import Operation, Version
from atoll.documents.rules import WHOLE, Rules
from atoll.store.port import Row


def undecided(rules: Rules, row: Row | None) -> bool:
    """Whether a stored document has versions that no majority has decided."""
    return row is not None and any(version.origin != DECIDED for version in _versions(rules, row))


def folded(rules: Rules, key: str, before: Decided, row: Row | None, now: Callable[[], Stamp]) -> Decided:
    """The register with the undecided versions that `row` holds; `before` itself where there are none.

    While a transaction holds it there is nothing to fold: its outcome comes first.
    """
    if row is None or before.intent is not None or not rules.schema.policy.writes_when_cut_off:
        return before
    found = [
        version
        for version in _versions(rules, row)
        if version.origin != DECIDED and not covers(before.base, version.origin, version.seq)
    ]
    if not found:
        return before
    ours = (version_in(before),) if before.revision else ()
    document = Document({WHOLE: registers.merge(ours, tuple(found))}, {})
    value, now_stamp = shown_plain(rules, document), now()
    seen = max(before.revision, *(version.context.get(DECIDED, 0) for version in found))
    # As in `changed`: acceptors may have dropped the register of a deleted document.
    revision = max(seen + 1, stamp_ms(now_stamp) if before.value is None else 0)
    # That of what was written, not of now: whoever had seen and overwritten it elsewhere was later.
    stamp = Stamp(max(before.stamp + 1, *(version.stamp for version in found)))
    by = (stamp, DECIDED, Seq(revision))
    lost = records.open_records(rules, key, document).values()
    dropped = [Lost(now_stamp, records.resolve(each, by)) for each in lost]
    operation = Operation.INSERT if before.value is None else Operation.UPDATE
    return msgspec.structs.replace(
        before,
        revision=revision,
        stamp=stamp,
        operation=Operation.DELETE if value is None else operation,
        value=value,
        base=_seen(before, found),
        lost=(*carried(before.lost, now_stamp), *dropped),
    )


def _versions(rules: Rules, row: Row) -> Sequence[Version]:
    return decode_row(rules, row).registers.get(WHOLE, ())


def _seen(before: Decided, found: Sequence[Version]) -> dict[str, int]:
    """Of ordinary origins: what the register has seen by now."""
    seen = dict(before.base)
    for version in found:
        for origin, seq in (*version.context.items(), (version.origin, version.seq)):
            if origin != DECIDED:
                seen[origin] = max(seq, seen.get(origin, 0))
    return dict(fold(seen))
