"""Yjs documents as lattice states: the one place that knows pycrdt.

Nicolaescu, Jahns, Derntl and Klamma, "Near real-time peer-to-peer shared editing on extensible data types"
(YATA), 2016. An update is a set of insertions and deletions, with ids (client, clock) and references to other
ids; union of updates is the join. An update that refers to an unseen one waits. The library's documents do
not export waiting updates, and do not always retry them when more arrives. Therefore a state with a waiting
update keeps the union itself and builds its document again. Causal delivery never leads to this.

Yjs keeps a few bytes of each deleted run, since others may refer to it. So a region that empties a sequence *resets*
it instead, and journals how many insertions of each client it had seen. Nothing else of these is kept. What others
inserted meanwhile stays; see `resets.rerooted` for its order. A state is a vector of resets, joined by maximum,
and the union of the updates without what the vector covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from pycrdt import Array, Doc, Text, TransactionEvent, get_update, merge_updates

from atoll.errors import AtollError, DeclarationError, HostileEntry
from atoll.lattices.base import Actor
from atoll.lattices.resets import Reset, beyond, cleared, covers, reaches, rerooted, split, with_reset
from atoll.lattices.update_format import Cursor, check_update, with_runs

ROOT = ""
EMPTY = b"\0\0"
_NOBODY = 0
_MAX_LATER = 256

Document = Doc[Any]


class Opened:
    """The library's document, for as long as a state needs it."""

    __slots__ = ("client", "document", "shown")

    def __init__(self, document: Document, client: int) -> None:
        self.document = document
        self.client = client
        """Whose edits it can make."""
        self.shown: Any = None
        """What a reader sees, as the field type keeps it; None until somebody asks."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceState:
    """A reset, and the union of some updates: of `whole`, and of `later` ones that no document was asked to fold in.

    `spare` holds at most one document that shows this state. `merge` moves it to the next state instead
    of building another. A state that lost it builds its own from the updates at the next use.
    """

    whole: bytes = EMPTY
    later: tuple[bytes, ...] = ()
    apart: bool = False
    """Whether something in it refers to what the library's document does not hold: it is to come, or was reset."""
    spare: list[Opened] = field(default_factory=list, repr=False)
    clients: frozenset[int] = frozenset()
    """Of a state that was just decoded: whose insertions are in it."""
    edited: list[tuple[SequenceState, Opened]] = field(default_factory=list, repr=False)
    """Of the delta of an edit: the state that was edited, and the document that shows both. `join` takes it."""
    reset: Reset = field(default_factory=dict)
    folded: list[bytes] = field(default_factory=list, repr=False)
    """Of a state that is `apart`: at most one update that holds all of it. What comes after it begins there."""

    @property
    def updates(self) -> tuple[bytes, ...]:
        """All of the state but the reset."""
        return self.later if self.whole == EMPTY else (self.whole, *self.later)


def join(state: SequenceState, delta: SequenceState) -> SequenceState:
    """The union; HostileEntry where the library cannot integrate the delta."""
    new = tuple(update for update in delta.updates if update not in state.updates)
    resets = any(clock > state.reset.get(client, 0) for client, clock in delta.reset.items())
    if not new and not resets:
        return state
    with refusing_garbage():
        if delta.edited and delta.edited[0][0] is state and not (resets and state.apart):
            opened = delta.edited.pop()[1]
            return _followed(state, new, opened, delta.reset if resets else state.reset)
        if not (resets or state.apart or (state.reset and any(reaches(u, state.reset) for u in new))):
            opened = state.spare.pop() if state.spare else _open(state, _NOBODY)
            opened.shown = None
            for update in new:
                opened.document.apply_update(update)
            vector = opened.document.get_state()
            if not any(_waits(update, vector) for update in new):
                return _followed(state, new, opened, state.reset)
        reset = _joined((state.reset, delta.reset))
        old = () if resets and _covers(delta.reset, state) else state.updates
        return _restored(_merged((*old, *new), {}), reset)


def _followed(state: SequenceState, new: tuple[bytes, ...], opened: Opened, reset: Reset) -> SequenceState:
    """What comes after `state` with the updates, or with the reset and the updates, which `opened` shows."""
    whole, later = (state.folded[0], new) if state.folded else (state.whole, state.later + new)
    if reset is not state.reset or (len(later) > _MAX_LATER and not state.apart):
        return SequenceState(opened.document.get_update(), spare=[opened], reset=reset)
    if len(later) > _MAX_LATER:
        return SequenceState(_merged((whole, *later), reset), (), True, [opened], reset=reset)
    return SequenceState(whole, later, state.apart, [opened], reset=reset)


def gathered(deltas: Sequence[SequenceState]) -> SequenceState:
    """The union of deltas, without opening a document for it."""
    if len(deltas) == 1:
        return deltas[0]
    reset = _joined(delta.reset for delta in deltas)
    with refusing_garbage():
        updates = [update for delta in deltas for update in delta.updates]
        return SequenceState(_merged(updates, reset), apart=True, reset=reset)


def read(state: SequenceState) -> Opened:
    """A document that shows the state; not to be changed, and not to be kept past the call."""
    if not state.spare:
        with refusing_garbage():
            state.spare.append(_open(state, _NOBODY))
    return state.spare[0]


def read_for(state: SequenceState, actor: Actor) -> Opened:
    """The same, of which the actor's region can make the next edit."""
    client = client_of(actor.origin, actor.regions)
    if not state.spare or state.spare[0].client != client:
        with refusing_garbage():
            state.spare[:] = [_open(state, client)]
    return state.spare[0]


def change(
    state: SequenceState, actor: Actor, edit: Callable[[Opened], None], *, anew: bool = False
) -> SequenceState | None:
    """The delta of `edit`, performed by the actor's region on a document that shows the state.

    `anew`: nothing of what it shows stays. It is then reset, and `edit` is given an empty document.

    The ids continue from the region's last clock in the state, so it must hold all that the region wrote.
    `edit` makes one transaction at most. The document goes on to the state that the delta is merged into.
    """
    opened = shows = read_for(state, actor)
    reset = _reset(state, anew)
    with refusing_garbage():
        if reset:
            opened = _open(SequenceState(reset=reset), shows.client)
        state.spare.clear()
        written: list[bytes] = []
        try:
            written = _recorded(opened, edit)
        finally:
            if reset or not written:
                state.spare[:] = [shows]
    if not written and not reset:
        return None
    return SequenceState(written[0] if written else EMPTY, apart=True, edited=[(state, opened)], reset=reset)


def change_runs(
    state: SequenceState, actor: Actor, edit: Callable[[Opened], list[list[str]]], *, anew: bool = False
) -> SequenceState | None:
    """As `change`, for long insertions: `edit` inserts one string for each, and returns the runs that they stand for.

    It is given a document of its own. `join` then integrates each run in one step.
    """
    reset = _reset(state, anew)
    with refusing_garbage():
        opened = _open(SequenceState(reset=reset) if reset else state, client_of(actor.origin, actor.regions))
        runs: list[list[str]] = []
        written = _recorded(opened, lambda opened: runs.extend(edit(opened)))
        return SequenceState(with_runs(written[0], runs), apart=True, reset=reset) if written else None


def _reset(state: SequenceState, anew: bool) -> Reset:
    """All insertions that the state shows to have been there; empty where an earlier reset covers them."""
    seen = _clocks(read(state).document.get_state()) if anew else {}
    return {} if seen == state.reset else seen


def _recorded(opened: Opened, edit: Callable[[Opened], None]) -> list[bytes]:
    """The updates of the transactions that `edit` makes."""
    written: list[bytes] = []

    def record(event: TransactionEvent) -> None:
        written.append(event.update)

    # The event of a transaction is a tenth of an export since a vector, which repeats every deletion.
    subscription = opened.document.observe(record)
    try:
        edit(opened)
    finally:
        opened.document.unobserve(subscription)
    return written


def encode(state: SequenceState) -> bytes:
    """The reset, and one update that holds all else of the state, deleted content left out."""
    update = state.whole
    if state.later:
        update = _folded(state) if state.apart else read(state).document.get_update()
    return with_reset(state.reset, update)


def _folded(state: SequenceState) -> bytes:
    """All updates of a state that is `apart` as one. What the reset covers went from `whole` already."""
    if not state.folded:
        trimmed = any(covers(update, state.reset) for update in state.later)
        state.folded.append(_merged(state.updates, state.reset if trimmed else {}))
    return state.folded[0]


def decode(data: bytes, content: int, check: Callable[[str], object]) -> SequenceState:
    """HostileEntry for bytes that no `encode` wrote of this kind of content, or whose strings fail `check`."""
    with refusing_garbage():
        reset, update = split(data)
        clients = check_update(update, content, check)
        state = _restored(update, reset)
    return replace(state, clients=clients)


def inserted_by(state: SequenceState, origin: str) -> bool:
    """Whether a decoded state holds only insertions of this origin."""
    return state.clients <= {client_of(origin)}


def restore(data: bytes) -> SequenceState:
    """The state of bytes that `encode` made here, or `decode` let in."""
    with refusing_garbage():
        reset, update = split(data)
        return _restored(update, reset)


def _restored(update: bytes, reset: Reset) -> SequenceState:
    state = SequenceState(update, reset=reset)
    opened = _open(state, _NOBODY)
    whole = opened.document.get_update()
    if whole != update and reset and reaches(update, reset):
        state = SequenceState(beyond(update, reset), apart=True, reset=reset)
        state.spare.append(_open(state, _NOBODY))
        return state
    if _waits(update, opened.document.get_state()):  # it may show what comes behind a gap
        # After a reset, this document has insertions at other places than one that `_open` builds.
        return SequenceState(update, apart=True, spare=[] if reset else [opened], reset=reset)
    return SequenceState(whole, spare=[opened], reset=reset)


def _merged(updates: Sequence[bytes], reset: Reset) -> bytes:
    """The union of updates, without what the reset covers."""
    merged = merge_updates(*updates) if updates else EMPTY
    return beyond(merged, reset) if reset else merged


def _joined(resets: Iterable[Reset]) -> Reset:
    joined: dict[int, int] = {}
    for reset in resets:
        for client, clock in reset.items():
            joined[client] = max(clock, joined.get(client, 0))
    return joined


def _covers(reset: Reset, state: SequenceState) -> bool:
    """Whether nothing of the state is left after the reset."""
    seen = _clocks(read(state).document.get_state())
    return not state.apart and all(clock <= reset.get(client, 0) for client, clock in seen.items())


def identity(state: SequenceState) -> tuple[Any, ...]:
    """The insertions (client, count), deletions (client, first clock, end) and resets of which the state consists."""
    document = read(state).document
    vector = document.get_state()
    ranges: list[tuple[int, int, int]] = []
    for client, start, end in sorted(_deletions(document.get_update(vector))):
        if ranges and ranges[-1][0] == client and ranges[-1][2] >= start:
            ranges[-1] = (client, ranges[-1][1], max(end, ranges[-1][2]))
        else:
            ranges.append((client, start, end))
    found = sorted(_clocks(vector).items()), ranges
    return (*found, sorted(state.reset.items())) if state.reset else found


@contextmanager
def refusing_garbage() -> Iterator[None]:
    """Turn what the library raises over bytes from elsewhere, panics included, into HostileEntry."""
    try:
        yield
    except AtollError:
        raise
    except BaseException as error:
        # A Rust panic derives from BaseException, and its class cannot be imported.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise HostileEntry(f"the bytes are not a sequence of edits: {error}") from None
        raise


def client_of(origin: str, others: Iterable[str] = ()) -> int:
    """The Yjs client id of an origin. Raises DeclarationError if one of the others has the same."""
    return _clients(tuple(sorted({origin, *others})))[origin]


@lru_cache(maxsize=64)
def _clients(regions: tuple[str, ...]) -> dict[str, int]:
    # 32 bits as in browsers; wider ids make states a fifth larger. So a clash has to be looked for.
    clients = {r: int.from_bytes(blake2b(r.encode(), digest_size=4).digest(), "big") for r in regions}
    if len(set(clients.values())) < len(clients):
        raise DeclarationError(f"two of the region names {', '.join(regions)} share a client id; rename one")
    return clients


def _open(state: SequenceState, client: int) -> Opened:
    document: Document = Doc(client_id=client)
    updates = state.updates
    if state.reset:
        document.apply_update(cleared(state.reset))
        if state.apart:
            whole = _merged(updates, state.reset) if state.later else state.whole
            updates = (rerooted(whole, state.reset),)
    for update in updates:
        document.apply_update(update)
    return Opened(document, client)


def _waits(update: bytes, vector: bytes) -> bool:
    """Whether the update holds anything that a document with this state vector has not integrated."""
    unseen = get_update(update, vector)
    if unseen[0]:
        return True
    known = _clocks(vector)
    return any(end > known.get(client, 0) for client, _, end in _deletions(unseen))


def _clocks(vector: bytes) -> dict[int, int]:
    cursor = Cursor(vector)
    return {cursor.number(): cursor.number() for _ in range(cursor.number())}


def _deletions(update: bytes) -> Iterator[tuple[int, int, int]]:
    """Of an update that has no insertions."""
    cursor = Cursor(update)
    cursor.number()
    return cursor.deletions()


def text_of(opened: Opened) -> Text:
    """The text that a text field's document consists of."""
    text: Text = opened.document.get(ROOT, type=Text)
    return text


def array_of(opened: Opened) -> Array[str]:
    """The elements, as JSON texts, that a list field's document consists of."""
    array: Array[str] = opened.document.get(ROOT, type=Array)
    return array
