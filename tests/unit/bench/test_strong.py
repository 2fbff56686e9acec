from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench import strong
from bench.figures import Goal
from bench.load import HttpConnection
from bench.peers import NotMeasured
from bench.rounds import QUICK
from bench.strong import Contest
from bench.strong_systems import NAMES, System, atoll_regions, majority_ms

SCALE = replace(QUICK, rounds=1, requests=240)


def system(label: str) -> System:
    return System(
        label,
        {},
        HttpConnection,
        strong._shared,
        strong._shared,
        strong._shared,
        NAMES,
        lambda name: None,
        lambda name: None,
    )


def test_the_nearest_majority_is_one_peer_away() -> None:
    assert {name: majority_ms(name) for name in NAMES} == {"tokyo": 150, "frankfurt": 90, "virginia": 90}


def test_each_system_has_its_rounds_in_turn() -> None:
    said: list[str] = []
    contest = Contest("strong", SCALE, said.append, system("Atoll"), system("etcd"))
    ours, theirs = contest.take("writes", lambda each: {"rate": float(len(each.label))}, 2)
    assert (ours, theirs) == ({"rate": [5.0, 5.0]}, {"rate": [4.0, 4.0]})
    assert [each.split()[1] for each in said] == ["Atoll,", "etcd,", "Atoll,", "etcd,"]
    figure = contest.figure("writes", "/s", [3.0, 5.0, 4.0], [2.0], Goal("ratio", at_least=1.2))
    assert (figure.value, figure.peer, figure.ratio, figure.met) == (4.0, "etcd", 2.0, True)


def test_documents_of_one_use_are_not_those_of_another() -> None:
    contest = Contest("strong", SCALE, print, system("Atoll"), NotMeasured("no etcd"))
    first, second = contest.fresh(10), contest.fresh(5)
    assert second == first + 10
    assert not set(strong._numbers("tokyo", 100_000)) & set(strong._numbers("frankfurt", 100_000))


@pytest.mark.timeout(120)
def test_regions_without_etcd_have_their_figures(tmp_path: Path) -> None:
    with atoll_regions(tmp_path, {}) as ours:
        contest = Contest("strong", SCALE, lambda what: None, ours, NotMeasured("no etcd"))
        distinct, shared = strong._at_none(contest)
        assert (distinct.met, distinct.not_measured) == (None, "no etcd")
        assert shared.met is not None
        assert min(each.value or 0 for each in (distinct, shared)) > 0
        alone = strong._alone(contest, "reads", lambda each: each.get)
        assert {each.met for each in alone if not each.not_measured} == {True}
        transfers = strong._transfers(contest)
        assert {each.met for each in transfers if each.goal is not None} == {True}
        assert strong._stopped_s(ours, "tokyo", range(1_000, 1_020)) > 0
        # The region is back, and has what it had written.
        ours.send(ours.plan("tokyo", ours.get, range(1_000, 1_020)))
