"""Directed graphs whose edges carry kinds: strongly connected components, and shortest cycles of given kinds.

Without recursion, since a history may have a hundred thousand transactions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

Node = int
Adjacency = dict[Node, dict[Node, int]]
"""node → node that depends on it → how"""


WW, WR, RW, LATER_WW, LATER_RW, REALTIME, SAME = (1 << bit for bit in range(7))
"""Why one transaction comes before another, as bits. The first three are those of Adya.

- `WW`, `WR`: it wrote the version that the other replaced, or read.
- `RW`: it read the version that the other replaced.
- `LATER_WW`, `LATER_RW`: as these, if what was seen earlier in real time is the older version.
- `REALTIME`: it ended before the other began.
- `SAME`: no dependency. It leads on from a node that stands for many edges.
"""


class Graph:
    """Nodes are numbers. Negative ones stand for no transaction: they join many edges to many."""

    def __init__(self) -> None:
        self.edges: Adjacency = {}

    def add(self, before: Node, after: Node, kind: int) -> None:
        """A transaction does not depend on itself."""
        if before != after:
            following = self.edges.setdefault(before, {})
            following[after] = following.get(after, 0) | kind

    def components(self, kinds: int, within: Iterable[Node] | None = None) -> list[list[Node]]:
        """Those with a cycle, by Tarjan's algorithm (1972)."""
        nodes = list(self.edges if within is None else within)
        allowed = None if within is None else set(nodes)
        indices: dict[Node, int] = {}
        lowest: dict[Node, int] = {}
        stack: list[Node] = []
        on_stack: set[Node] = set()
        found: list[list[Node]] = []
        for root in nodes:
            if root in indices:
                continue
            path = [(root, self._next(root, kinds, allowed))]
            indices[root] = lowest[root] = len(indices)
            stack.append(root)
            on_stack.add(root)
            while path:
                node, following = path[-1]
                for each in following:
                    if each not in indices:
                        indices[each] = lowest[each] = len(indices)
                        stack.append(each)
                        on_stack.add(each)
                        path.append((each, self._next(each, kinds, allowed)))
                        break
                    if each in on_stack:
                        lowest[node] = min(lowest[node], indices[each])
                else:
                    path.pop()
                    if path:
                        lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                    if lowest[node] == indices[node]:
                        component = _popped(stack, node)
                        on_stack.difference_update(component)
                        if len(component) > 1:
                            found.append(sorted(component))
        return found

    def _next(self, node: Node, kinds: int, allowed: set[Node] | None) -> Iterator[Node]:
        for each, kind in self.edges.get(node, {}).items():
            if kind & kinds and (allowed is None or each in allowed):
                yield each

    def path(
        self,
        source: Node,
        target: Node,
        allowed: set[Node],
        kinds: int,
        alone: int = 0,
        *,
        after_alone: bool = False,
    ) -> list[Node] | None:
        """A shortest path. An edge that is only of a kind in `alone` never follows or precedes another such edge.

        `after_alone`: the edges before and after the path are such ones.
        """
        start = (source, after_alone)
        came: dict[tuple[Node, bool], tuple[Node, bool] | None] = {start: None}
        waiting = deque([start])
        while waiting:
            here = waiting.popleft()
            node, was_alone = here
            if node == target and here != start and not (after_alone and was_alone):
                return _walked(came, here)
            for each, kind in self.edges.get(node, {}).items():
                if each not in allowed or not kind & kinds:
                    continue
                # A node that joins edges is no step of its own.
                is_alone = was_alone if kind & kinds == SAME else not kind & kinds & ~alone
                if is_alone and was_alone and kind & kinds != SAME:
                    continue
                step = (each, is_alone)
                if step not in came:
                    came[step] = here
                    waiting.append(step)
        return None


def _popped(stack: list[Node], until: Node) -> list[Node]:
    found: list[Node] = []
    while not found or found[-1] != until:
        found.append(stack.pop())
    return found


def _walked(came: Mapping[tuple[Node, bool], tuple[Node, bool] | None], end: tuple[Node, bool]) -> list[Node]:
    found: list[Node] = []
    here: tuple[Node, bool] | None = end
    while here is not None:
        found.append(here[0])
        here = came[here]
    return found[::-1]
