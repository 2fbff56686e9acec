"""Which timeline the region's database is on, and whether this node trusts it.

A standby that was promoted, or a copy put in the database's place, starts another timeline. It may lack commits that
this node has seen. Peers may hold the numbers of those, so no local write goes into it before the region has recovered
(`recovery.failover`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from atoll.causality.vector import descends, merge
from atoll.errors import StoreUnreachable, Unavailable
from atoll.region.progress import Progress
from atoll.store.port import View


class Timeline:
    """Of one node."""

    def __init__(
        self, progress: Progress, history_changed: Callable[[str, bool], None] | None = None
    ) -> None:
        """`history_changed(history, lossy)` is called when the database is in a history that is not trusted.

        `lossy` says whether it lacks what this node had seen. Without the callback every history is trusted.
        """
        self._progress = progress
        self._history_changed = history_changed
        self._trusted: str | None = None

    def trust(self, history: str) -> None:
        """Local writes may go into this history of the database, and into no other."""
        self._trusted = history

    def check(self, view: View) -> None:
        """Raises Unavailable for a local write while the history is not trusted."""
        if not self._trusts(view):
            raise Unavailable("another database has replaced this region's; the region asks its peers first")

    def take_up(self, view: View, known: Mapping[str, int]) -> None:
        """Go on from where the database stands: other nodes may have committed, or a commit in doubt happened.

        `known` is what this node knew when the transaction was asked for. Raises StoreUnreachable when the database
        has lost some of it.
        """
        progress = self._progress
        trusted = self._trusts(view)
        if trusted and view.positions == progress.vector:
            return  # nearly always
        behind = not descends(view.positions, known)
        if not trusted:
            if self._history_changed is not None:
                self._history_changed(view.history, False)
            if behind:
                progress.move(dict(view.positions))
            if view.positions == progress.vector:
                return
        if behind:
            # Seqs that were given out must not be given out again: peers may hold them.
            progress.move(dict(view.positions))
            self._trusted = None
            if self._history_changed is not None:
                self._history_changed(view.history, True)
            raise StoreUnreachable(
                f"the database is at {dict(view.positions)}, and was at {dict(known)} before: it has "
                "lost commits, by a failover or a restored copy. Peers send back what they hold of them"
            )
        if not descends(progress.vector, view.positions):
            progress.move(merge(progress.vector, view.positions))

    def _trusts(self, view: View) -> bool:
        return self._history_changed is None or view.history == self._trusted
