"""The edits that turn one sequence into another, so that a written whole merges like typing.

Myers, "An O(ND) difference algorithm and its variations", 1986, the greedy algorithm, over words. Python's
difflib is quadratic in frequent words: 67–156 ms for 10 kB of prose, against 0.3–3 ms here. The work is
bounded: where two sequences differ too much, the edits found so far stand and the rest is replaced whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

MAX_EDITS = 400
MAX_STEPS = 4_000_000
MAX_COPIED = 1_000_000
"""Edits of a list times its length: the library copies a run of elements to take one out of it."""

# Words of alphabets are edited as units, so that a new word does not borrow letters of an old one. Scripts
# without spaces between words, punctuation and emoji go by character.
_words = re.compile(r"[0-9A-Za-z_\u00c0-\u052f]+|.", re.DOTALL).findall


class Edit(NamedTuple):
    """Replace old[start:end] by new[first:last]."""

    start: int
    end: int
    first: int
    last: int


def text_edits(old: str, new: str) -> list[Edit]:
    """Edits between texts, ascending and apart, in code points."""
    lead, tail = _common(old, new)
    a, b = _words(old[lead : len(old) - tail]), _words(new[lead : len(new) - tail])
    at_old = list(accumulate(map(len, a), initial=lead))
    at_new = list(accumulate(map(len, b), initial=lead))
    edits = []
    for edit in _script(a, b):
        start, end = at_old[edit.start], at_old[edit.end]
        first, last = at_new[edit.first], at_new[edit.last]
        lead, tail = _common(old[start:end], new[first:last])
        edits.append(Edit(start + lead, end - tail, first + lead, last - tail))
    return edits


def list_edits(old: Sequence[str], new: Sequence[str]) -> list[Edit]:
    """Edits between lists of elements, ascending and apart."""
    lead, tail = _common(old, new)
    script = _script(old[lead : len(old) - tail], new[lead : len(new) - tail])
    most = _most(old)
    if len(script) > most:
        begin, last = script[most - 1], script[-1]
        script[most - 1 :] = [Edit(begin.start, last.end, begin.first, last.last)]
    return [Edit(*(lead + position for position in edit)) for edit in script]


def removals(old: Sequence[str], positions: Sequence[int]) -> tuple[list[Edit], list[str]]:
    """Edits that remove the elements at these ascending positions, and what they insert past `MAX_COPIED`."""
    runs: list[Edit] = []
    for position in positions:
        if runs and runs[-1].end == position:
            runs[-1] = runs[-1]._replace(end=position + 1)
        else:
            runs.append(Edit(position, position + 1, 0, 0))
    most = _most(old)
    if len(runs) <= most:
        return runs, []
    start, end, gone = runs[most - 1].start, runs[-1].end, set(positions)
    kept = [old[position] for position in range(start, end) if position not in gone]
    return [*runs[: most - 1], Edit(start, end, 0, len(kept))], kept


def _most(old: Sequence[str]) -> int:
    return max(1, MAX_COPIED // (len(old) + 1))


def _common(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """Lengths of the common beginning and of the common end of what that leaves."""
    lead = _common_lead(a, b)
    return lead, _common_lead(a[lead:][::-1], b[lead:][::-1])


def _common_lead(a: Sequence[str], b: Sequence[str]) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _script(a: Sequence[str], b: Sequence[str]) -> list[Edit]:
    edits, x, y = [], 0, 0
    for i, j in (*_matches(a, b), (len(a), len(b))):
        if i > x or j > y:
            edits.append(Edit(x, i, y, j))
        x, y = i + 1, j + 1
    return edits


def _matches(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Ascending pairs of equal positions: a longest common subsequence, unless a limit ends the search."""
    n, m = len(a), len(b)
    if not n or not m:
        return []
    furthest = {1: 0}  # diagonal k = x - y → the furthest x reached on it
    history: list[dict[int, int]] = []
    for d in range(min(n + m, MAX_EDITS, MAX_STEPS // (n + m)) + 1):
        history.append(furthest.copy())
        for k in range(-d, d + 1, 2):
            down = k == -d or (k != d and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            while x < n and 0 <= x - k < m and a[x] == b[x - k]:
                x += 1
            furthest[k] = x
            if x >= n and x - k >= m:
                return _trace(history, k, x)
    d = len(history) - 1
    inside = (k for k in range(-d, d + 1, 2) if furthest[k] <= n and furthest[k] - k <= m)
    best = max(inside, key=lambda k: 2 * furthest[k] - k, default=None)
    return [] if best is None else _trace(history, best, furthest[best])


def _trace(history: list[dict[int, int]], k: int, x: int) -> list[tuple[int, int]]:
    """Walk back from x on diagonal k, through what was furthest before each edit."""
    matches = []
    for d in range(len(history) - 1, -1, -1):
        before = history[d]
        down = k == -d or (k != d and before[k - 1] < before[k + 1])
        previous = k + 1 if down else k - 1
        entered = before[previous] + (0 if down else 1)
        while x > entered:
            x -= 1
            matches.append((x, x - k))
        x, k = before[previous], previous
    return matches[::-1]
