"""One group commit: what was loaded and what was asked for go in, a `Commit` and the answers come out.

Local writes and remote entries pass through here in turn, each on top of the one before. Nothing is
visible outside until the store has made the whole batch durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from atoll.causality.clock import HybridLogicalClock
from atoll.causality.origin import Origin
from atoll.causality.place import Place
from atoll.causality.types import Seq
from atoll.causality.vector import descends, missing
from atoll.commit import idempotency
from atoll.commit.checks import check_answer, check_document, entry_too_large
from atoll.commit.contexts import Contexts
from atoll.commit.draft import Draft, leaves_remains, resolved_records, told_of
from atoll.commit.identity import Address, Identity, remains_of
from atoll.commit.recent import Recent
from atoll.conflicts import records
from atoll.conflicts.records import Record
from atoll.documents import document as documents
from atoll.documents.decided import DECIDED, decision_of
from atoll.documents.document import Document
from atoll.documents.entry import (
    UNREADABLE,
    Change,
    EncodedEntry,
    Entry,
    LosingVersion,
    decode_entry,
    encode_frame,
    has_sections,
)
from atoll.documents.mutation import Put, Receipt, Write, Written
from atoll.documents.register import Operation, Version
from atoll.documents.rules import WHOLE, Rules, undeclared
from atoll.errors import AtollError
from atoll.schema.bounds import SEGMENT_BYTES
from atoll.schema.limits import ANY_KEY, validate_key
from atoll.schema.system import RECORDS
from atoll.store.port import AuditRow, Cause, Commit, Parked, Remembered, Row, Segment

Admit = Callable[[Write, Callable[[Address], Row | None]], None]
"""Raises an AtollError where a write may not be committed here, given the documents as its transaction shows them."""

_PURGE = Write((), brief=True)
_INSERT, _UPDATE, _DELETE = map(int, (Operation.INSERT, Operation.UPDATE, Operation.DELETE))


class Batch:
    """Created for one group commit and then dropped."""

    def __init__(
        self,
        identity: Identity,
        rules: Mapping[str, Rules],
        clock: HybridLogicalClock,
        vector: Mapping[str, int],
        *,
        rows: Mapping[Address, Row],
        remembered: Mapping[str, bytes],
        audit: Mapping[str, AuditRow],
        now_ms: int,
    ) -> None:
        """`rows`: the stored documents among those addressed; `audit`: the records that entries resolve."""
        self.vector = dict(vector)
        self.detected: list[Record] = []
        """Conflicts that were seen for the first time, for the metrics and the alarms."""
        self.written: list[Entry] = []
        """Entries of local writes."""
        self.applied: list[Entry] = []
        """Entries of peers that were merged."""
        self.pending = Commit()
        """What the store is to make durable, as far as it is known before `commit`."""
        self.size_bytes = 0
        """Of the rows and frames to be written."""
        self.closed: AtollError | None = None
        """Why no local write is allowed in this transaction."""
        self.recent = Recent()
        """Of the node, where it keeps any."""
        self._identity, self._actor = identity, identity.actor
        self._contexts = Contexts(identity, vector)
        self._rules = rules
        self.clock = clock
        self._rows = rows
        self._documents: dict[Address, Document] = {}
        self._changed: dict[Address, Row] = {}
        self._known_audit = audit
        self._audit: dict[str, AuditRow | None] = {}
        self._remembered = dict(remembered)
        self._erased: set[Address] = set()
        self._runs: list[tuple[Origin, Seq, list[bytes]]] = []
        """(origin, first seq, frames): dense, so the last seq follows.

        Frames with sections have runs of their own. So a sender sees by the first frame whether a segment may go out.
        """
        self._sectioned = False
        """Whether the last run has sections."""
        self._room = 0
        """For so many bytes of frames the last run has room."""
        self.now_ms = now_ms

    # -- local ---------------------------------------------------------------------------------------

    def write(self, write: Write, admit: Admit | None = None, degraded: str | None = None) -> Receipt:
        """Add one entry. Raises a RequestError, or what `admit` raises, and then leaves no trace of the request."""
        if (given := self._remembered.get(write.idempotency_key or "")) is not None:
            return idempotency.replay(given, write)
        if admit is not None:
            admit(write, self.row)
        dot = self._next()
        receipt = self._replace(write, dot)
        if receipt is None:
            drafts = self.drafts(write, dot)
            seq = dot.seq if self._commit_drafts(drafts, dot, write) else Seq(0)
            rows = () if write.brief else told_of(write, drafts, self.row)
            receipt = Receipt(dot.origin, seq, dot.stamp, rows)
        if degraded is not None:
            receipt = msgspec.structs.replace(receipt, degraded=degraded)
        if (key := write.idempotency_key) is not None:
            self._remembered[key] = answer = idempotency.answer_of(receipt, write)
            self.pending.remembered.append(Remembered(key, self.now_ms, answer))
        return receipt

    def _replace(self, write: Write, dot: Version) -> Receipt | None:
        """The commonest write in few steps: the whole of documents that are one register each, uncontested.

        None where a mutation is not that, or is to be refused: the write then takes the long way.
        """
        identity, uncertainty_ms = self._identity, dot.uncertainty_ms
        origin, seq, stamp, context = dot.origin, dot.seq, dot.stamp, dot.context
        changes: list[Change] = []
        after: dict[Address, Row] = {}
        for put in write.mutations:
            if type(put) is not Put or put.if_match is not None or put.if_absent:
                return None
            address = (put.collection, put.key)
            rules, row = self._rules[put.collection], self.row(address)
            over = documents.succeeded(row, context) and not documents.follows_decided(row)
            if not rules.quick or address in after or not over:
                return None
            shown = None if row is None else row.value
            if row is not None and shown is not None and not documents.shows_register(row):
                return None
            plain = documents.carried_over(rules, shown, put.plain)
            if len(plain) > identity.document_bytes:
                return None
            operation = _INSERT if shown is None else _UPDATE
            changes.append(Change(put.collection, put.key, operation, {WHOLE: plain}))
            version = Version(origin, seq, stamp, uncertainty_ms, operation, context, documents.ELSEWHERE)
            after[address] = documents.row_of(plain, version)
        entry = Entry(origin, seq, stamp, uncertainty_ms, context, tuple(changes), write.trace)
        frame = encode_frame(entry)
        if len(frame) > identity.entry_bytes:
            return None
        self._append(entry, frame)
        self.size_bytes += len(frame)  # once more: the rows hold about the same
        self.written.append(entry)
        for address in after:
            self._documents.pop(address, None)
        self._changed |= after
        if write.brief:
            return Receipt(origin, seq, stamp, ())
        written = [Written(*address, row.value, documents.version_tag(row)) for address, row in after.items()]
        return Receipt(origin, seq, stamp, tuple(written))

    def drafts(self, write: Write, dot: Version | None = None) -> dict[Address, Draft]:
        """What a write would make of its documents. Raises a RequestError."""
        drafts, dot, size_bytes = dict[Address, Draft](), dot or self._next(), 0
        for index, mutation in enumerate(write.mutations):
            rules = self._rules[mutation.collection]
            key = Place(dot.stamp, dot.origin, dot.seq, index).key if rules.appended else mutation.key
            address = (mutation.collection, key)
            if (draft := drafts.get(address)) is None:
                before, row = self._document(address), self.row(address)
                drafts[address] = draft = Draft(rules, key, before, row, dot=dot, actor=self._actor)
            size_bytes -= draft.size_bytes
            draft.mutate(mutation)
            size_bytes += draft.size_bytes
            if size_bytes > self._identity.entry_bytes:
                raise entry_too_large(self._identity.entry_bytes)
        return drafts

    def _next(self) -> Version:
        """Dot, stamp and context of the next local entry."""
        origin, uncertainty_ms = self._identity.origin, self._identity.uncertainty_ms
        seen = self._contexts.next(self.vector, origin)
        return Version(origin, Seq(seen[origin] + 1), self.clock.now(), uncertainty_ms, 0, seen, None)

    def learn(self, changes: Sequence[Change], beside: Write) -> Entry | None:
        """Add an entry of what was decided, and of a write of any size; None for nothing. Raises as `drafts`."""
        fresh: list[Change] = []
        for change in changes:
            decision, here = decision_of(change.deltas), self.row((change.collection, change.key))
            if documents.revision_in(here) < decision.revision:
                self.clock.update(decision.stamp)
                fresh.append(change)
        if not fresh and not beside.mutations:
            return None
        dot = self._next()
        return self.written[-1] if self._commit_drafts(self.drafts(beside, dot), dot, beside, fresh) else None

    def purge(self, addresses: Sequence[Address], seen: Mapping[str, int]) -> None:
        """Add an entry that lets go what is over in these documents; every region has seen `seen`."""
        dot, drafts = self._next(), dict[Address, Draft]()
        for address in addresses:
            self.pending.states.setdefault(remains_of(address), None)
            rules, row = self._rules.get(address[0]), self.row(address)
            if rules is not None and row is not None:
                document = self._document(address)
                drafts[address] = draft = Draft(rules, address[1], document, row, dot=dot, actor=self._actor)
                draft.purge(seen)
        self._commit_drafts(drafts, dot, _PURGE)

    def _commit_drafts(
        self,
        drafts: Mapping[Address, Draft],
        dot: Version,
        write: Write,
        decided: Sequence[Change] | None = None,
    ) -> bool:
        """Add the entry of what the drafts wrote, and of what was decided; whether there is any."""
        identity = self._identity
        origin, seq, stamp, context = dot.origin, dot.seq, dot.stamp, dot.context
        changed, changes = list[tuple[Address, Draft, Row]](), [*(decided or ())]
        for address, draft in drafts.items():
            if draft.empty:
                continue
            row = documents.encode_row(draft.rules, draft.document)
            if draft.added and decided is None:
                here = None if (known := self.row(address)) is None else known.value
                check_document(address, here, row.value, identity.document_bytes)
            resolved: tuple[LosingVersion, ...] = ()
            if draft.before.contested or draft.rules.records:
                lost = resolved_records(draft, address[1])
                resolved = tuple(records.resolve(record, (stamp, origin, seq)) for record in lost)
            changed.append((address, draft, row))
            changes.append(draft.change(resolved))
        if len(drafts) > 1 and not write.brief and decided is None:
            after = {address: row for address, _, row in changed}
            check_answer([after.get(address) or self.row(address) for address in drafts])
        if changes:
            entry = Entry(origin, seq, stamp, identity.uncertainty_ms, context, tuple(changes), write.trace)
            frame = encode_frame(entry)
            if len(frame) > identity.entry_bytes:
                raise entry_too_large(identity.entry_bytes)
            for change in decided or ():
                self._apply_change(self._rules[change.collection], entry, change)
            for (address, draft, row), change in zip(changed, changes[len(decided or ()) :], strict=True):
                self._install(address, draft.before, draft.document, row, change.resolved)
                if identity.purges and not draft.rules.simple and leaves_remains(draft):
                    self.pending.states[remains_of(address)] = str(dot.dot).encode()
            self._append(entry, frame)
            self.written.append(entry)
        return bool(changes)

    # -- remote --------------------------------------------------------------------------------------

    def apply(self, encoded: EncodedEntry) -> None:
        """Merge a peer's entry whose context is covered. Raises CorruptEntry for one that is not in turn.

        A change that cannot be merged is parked with its reason, and the entry goes on: nothing that a
        peer sends stops a link.
        """
        entry = encoded.entry
        here = self.vector.get(entry.origin, 0)
        if entry.seq <= here:
            return
        if not descends(self.vector, entry.context):
            self.advance(self._contexts.adopted(self.vector, entry))
        assert entry.seq == here + 1, "it follows the last one of its origin"
        self.clock.update(entry.stamp)
        for index, change in enumerate(entry.changes):
            if (parked := self.taken(entry, index, change)) is not None:
                self.pending.parked.append(parked)
        sectioned = entry.extension is not None and has_sections(encoded.frame)
        self._append(entry, encoded.frame, sectioned=sectioned)
        self.applied.append(entry)

    def reapply(self, parked: Parked) -> None:
        """Try again what was parked: this region's declarations may have a place for it by now.

        Merging does not ask when, so the outcome is that of regions that could take it at once.
        """
        entry = decode_entry(parked.body)
        left = self.taken(entry, parked.change, entry.changes[0])
        if left is None:
            self.pending.unparked.append((parked.origin, parked.seq, parked.change))
        elif left != parked:
            self.pending.parked.append(left)

    def taken(self, entry: Entry, index: int, change: Change) -> Parked | None:
        """Merge a change; what of it has to be parked, and why."""
        left = change
        cause: Cause = "refused"
        try:
            rules = self._rules.get(change.collection)
            if change.operation == UNREADABLE:
                cause, reason = "unreadable", "the changes of the entry cannot be read"
            elif rules is None:
                cause, reason = "undeclared", f"no collection {change.collection!r} is declared here"
            else:
                self._apply_change(rules, entry, change)
                unknown = documents.unknown_part(rules, change) if change.deltas else None
                if unknown is None:
                    return None
                names = ", ".join(sorted(unknown.deltas))
                left, cause = unknown, "undeclared"
                reason = f"no mergeable field {names} of {rules.name!r} is declared here"
        except Exception as error:  # whatever it is, it must not stop the link
            reason = f"{type(error).__name__}: {error}"
        whole = msgspec.structs.replace(entry, changes=(left,))
        return Parked(entry.origin, entry.seq, index, cause, reason, msgspec.msgpack.encode(whole))

    def _apply_change(self, rules: Rules, entry: Entry, change: Change) -> None:
        validate_key(change.key, ANY_KEY)
        address = (change.collection, change.key)
        if (
            rules.quick
            and len(change.registers) == 1
            and WHOLE in change.registers
            and not change.resolved
            and (not change.deltas or change.deltas.keys() == {DECIDED})
            and _INSERT <= change.operation <= _DELETE
            and (writer := documents.writer_of(rules, entry, change) if change.deltas else entry)
            and documents.succeeded(self.row(address), writer.context)
        ):
            # Nearly every entry: its writer had seen the one version that is here.
            value = change.registers[WHOLE]
            if value is not None:
                documents.check_value(rules, change.key, WHOLE, value)
            self._documents.pop(address, None)
            version = documents.version_of(writer, change.operation, value and documents.ELSEWHERE)
            self._changed[address] = row = documents.row_of(value, version)
            self.size_bytes += len(row.meta) if value is None else len(row.meta) + len(value)
            return
        for losing in change.resolved:
            records.check_resolved(losing, entry, change)
        delta = documents.delta_of(rules, entry, change)
        if not (delta.registers or delta.lattices or change.resolved):
            return  # all of it is for a field that is not declared here
        before = self._document(address)
        after = documents.merge(rules, before, delta)
        self._install(address, before, after, documents.encode_row(rules, after), change.resolved)

    def keep(self, collection: str, key: str, data: bytes) -> None:
        """Put bytes aside, in a collection that nobody declares."""
        self.pending.documents.setdefault(collection, []).append((key, None, data))
        self.size_bytes += len(data)

    def install(self, collection: str, key: str, row: Row, stamp: int) -> None:
        """Merge a peer's whole state of a document; `stamp` is the highest that the peer has seen.

        One of a collection that is not declared here is kept for a declaration to come.
        Raises HostileEntry for what no region could have come to hold, and Unavailable for what cannot be merged here.
        """
        address = (collection, key)
        rules = self._rules.get(collection) or undeclared(collection)
        theirs = documents.received(rules, key, row, stamp)
        before = self._document(address)
        after = documents.merge(rules, before, theirs, whole=True)
        shown = documents.encode_row(rules, after)
        if collection in self._rules:
            self._install(address, before, after, shown, ())
        else:  # its records follow from the document once the strategy is known
            self._documents[address], self._changed[address] = after, shown
            self.pending.schemas.setdefault(collection, "")

    def erase(self, address: Address) -> None:
        """Remove a row for good, unless this batch writes it: only for documents that no region shows any more."""
        self._erased.add(address)

    def park(self, parked: Parked) -> None:
        """Take over what a peer has parked: merge it if there is a place for it here, else keep it."""
        try:
            entry = decode_entry(parked.body)
            left = self.taken(entry, parked.change, entry.changes[0])
        except (AtollError, IndexError):
            left = parked
        if left is not None:
            self.pending.parked.append(left)

    def advance(self, vector: Mapping[str, int]) -> None:
        """What the region has from now on, as it holds it in some form."""
        moved = missing(self.vector, vector)
        self.pending.positions |= moved
        self.vector |= moved
        self._contexts.refold()

    def re_resolve(self, address: Address, recorded: Sequence[AuditRow]) -> None:
        """Show a stored document, and what it lost, as the present declarations say: others may have written it.

        `recorded` are the open records of the audit for this document.
        """
        if (row := self.row(address)) is None:
            return
        document = self._document(address)
        now = records.open_records(self._rules[address[0]], address[1], document)
        for known in records.following(recorded):
            if known.id not in now and known.id not in self._audit:
                self._audit[known.id] = None
        for record_id, record in now.items():
            self._audit[record_id] = records.row_of(record)
        shown = documents.encode_row(self._rules[address[0]], document)
        if shown != row:
            self._changed[address] = shown

    # -- both ----------------------------------------------------------------------------------------

    def row(self, address: Address) -> Row | None:
        return self._changed.get(address) or self._rows.get(address)

    def _document(self, address: Address) -> Document:
        found = self._documents.get(address)
        if found is None:
            if (row := self.row(address)) is None:
                found = Document({}, {})
            else:
                found = self.recent.take(address, row) or documents.decode_row(
                    self._rules.get(address[0]) or undeclared(address[0]), row
                )
            self._documents[address] = found
        return found

    def _install(
        self, address: Address, before: Document, after: Document, row: Row, resolved: Sequence[LosingVersion]
    ) -> None:
        if before.contested or after.contested or address[0] in RECORDS:
            rules = self._rules[address[0]]
            was = records.open_records(rules, address[1], before)
            now = records.open_records(rules, address[1], after)
            for record_id in was.keys() - now.keys():
                self._audit[record_id] = None
            for record_id, record in now.items():
                self._audit[record_id] = records.row_of(record)
                if record_id not in was:
                    self.detected.append(record)
        self.resolved(resolved)
        self._documents[address] = after
        self._changed[address] = row
        self.size_bytes += row.size_bytes

    def resolved(self, resolved: Sequence[LosingVersion]) -> None:
        """Record versions whose conflicts are resolved, as a writer or a peer's audit says."""
        for losing in resolved:
            known = dict(self._known_audit)
            known.update({key: value for key, value in self._audit.items() if value is not None})
            audit_row = records.resolved_row(losing, known)
            if audit_row is not None:
                self._audit[losing.id] = audit_row

    def _append(self, entry: Entry, frame: bytes, *, sectioned: bool = False) -> None:
        self.vector[entry.origin] = self.pending.positions[entry.origin] = entry.seq
        if self._contexts.raises:
            self.advance(self._contexts.raised(entry))
        run = self._runs[-1] if self._runs else None
        if run is not None and run[0] == entry.origin and self._sectioned == sectioned and self._room > 0:
            run[2].append(frame)
        else:
            self._runs.append((entry.origin, entry.seq, [frame]))
            self._sectioned, self._room = sectioned, SEGMENT_BYTES
        self._room -= len(frame)
        self.size_bytes += len(frame)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        to_do = self.pending
        moved = (to_do.positions, self._changed, to_do.documents, self._erased, self._audit, to_do.remembered)
        return not any((*moved, to_do.parked, to_do.unparked, to_do.schemas, to_do.states))

    def commit(self) -> Commit:
        """What the store must make durable before any answer leaves; empty when nothing changed. Called once."""
        commit = self.pending
        commit.segments = [
            Segment(origin, first, Seq(first + len(frames) - 1), b"".join(frames))
            for origin, first, frames in self._runs
        ]
        commit.clock, commit.size_bytes = self.clock.last, self.size_bytes
        commit.audit = [row for row in self._audit.values() if row is not None]
        commit.audit_removed = [record_id for record_id, row in self._audit.items() if row is None]
        for address, row in self._changed.items():
            commit.documents.setdefault(address[0], []).append((address[1], row.value, row.meta))
            document = self._documents.get(address)
            if document is not None and document.costly and address[0] in self._rules:
                quick = documents.followed(self._rules[address[0]], document)
                self.recent.keep(address, row, document, quick=quick)
        for collection, key in sorted(self._erased - self._changed.keys()):
            commit.erased.setdefault(collection, []).append(key)
        # One by one: to free large ones takes long, and no other thread runs meanwhile.
        while self._documents:
            self._documents.popitem()
        return commit
