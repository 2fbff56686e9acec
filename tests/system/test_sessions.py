from __future__ import annotations

import pytest

from atoll.causality.origin import region_of

from .cluster import Cluster, until

pytestmark = pytest.mark.xdist_group("shared")


def test_a_session_reads_its_writes_wherever_it_goes(shared: Cluster) -> None:
    regions = list(shared)
    session: dict[str, str] = {}
    for number in range(60):
        here, there = regions[number % 3], regions[(number + 1) % 3]
        session = here.request("PUT", "/v1/note/ryw", {"body": f"{number}"}, session).token
        answer = there.request("GET", "/v1/note/ryw", headers=session)
        assert answer.value["body"] == f"{number}"
        session = answer.token


def test_what_a_session_saw_stays_seen(shared: Cluster) -> None:
    frankfurt, tokyo, virginia = shared
    frankfurt.put("note", "mono", {"body": "0"})
    shared.settled()
    for number in range(1, 30):
        frankfurt.put("note", "mono", {"body": f"{number}"})
        seen = tokyo.get("note", "mono")
        later = virginia.get("note", "mono", Atoll_Session=seen.headers["atoll-session"])
        assert int(later.value["body"]) >= int(seen.value["body"])


def test_a_reply_is_never_seen_without_its_post(shared: Cluster) -> None:
    frankfurt, tokyo, virginia = shared
    for number in range(20):
        post = frankfurt.put("note", f"post-{number}", {"body": "who is there?"})
        until(lambda: tokyo.get("note", f"post-{number}").status == 200, "the post arrives")  # noqa: B023
        tokyo.put("note", f"reply-{number}", {"body": "me"})
        while virginia.get("note", f"reply-{number}").status != 200:
            pass
        assert virginia.get("note", f"post-{number}").status == 200
        assert post.status == 200


def test_a_listing_holds_what_the_session_wrote(shared: Cluster) -> None:
    frankfurt, tokyo, _ = shared
    for number in range(20):
        session = frankfurt.put("note", f"list-{number:02}", {}).token
        page = tokyo.request("GET", "/v1/note?prefix=list-&limit=1000", headers=session).json
        assert len(page["items"]) == number + 1


def test_a_region_that_cannot_know_asks_one_that_does(shared: Cluster) -> None:
    frankfurt, tokyo, virginia = shared
    with shared.apart(("frankfurt", "tokyo"), ("frankfurt", "virginia")):
        session = frankfurt.put("note", "lonely", {"body": "alone"}).token
        refused = tokyo.get("note", "lonely", "?max_wait=0.1", **{"Atoll_Session": session["Atoll-Session"]})
        assert (refused.status, refused.problem) == (503, "token-not-reached")
        assert {*map(region_of, refused.json["missing"])} == {"frankfurt"}
        assert "retry-after" in refused.headers
        listing = tokyo.request("GET", "/v1/note?max_wait=0.1", headers=session)
        assert (listing.status, listing.problem) == (503, "token-not-reached")
    answer = virginia.request("GET", "/v1/note/lonely", headers=session)
    assert answer.value["body"] == "alone"


def test_an_eventual_read_waits_for_nothing(shared: Cluster) -> None:
    frankfurt, tokyo, _ = shared
    with shared.apart():
        session = frankfurt.put("note", "far", {"body": "x"}).token
        path = "/v1/note/far?consistency=eventual"
        assert tokyo.request("GET", path, headers=session).status == 404
        # The session's token forgets nothing on the way.
        token = tokyo.request("GET", path, headers=session).token
        assert tokyo.request("GET", "/v1/note/far?max_wait=0", headers=token).status == 503


def test_staleness_is_bounded_or_told(shared: Cluster) -> None:
    _, tokyo, _ = shared
    path = "/v1/note?limit=1"
    assert tokyo.request("GET", path).status == 200
    tokyo.put("note", "fresh", {})
    assert tokyo.get("note", "fresh", "?consistency=bounded&max_staleness=5").status == 200
    with shared.apart():
        until(
            lambda: (
                tokyo.get("note", "fresh", "?consistency=bounded&max_staleness=0.5&max_wait=0").status == 503
            ),
            "the region knows that it lags",
        )
        answer = tokyo.get("note", "fresh", "?consistency=bounded&max_staleness=0.5&max_wait=0")
        assert answer.problem == "too-stale"


def test_a_region_under_steady_load_is_not_taken_for_stale(shared: Cluster) -> None:
    frankfurt, tokyo, _ = shared
    for number in range(150):
        frankfurt.put("note", "steady", {"body": str(number)})
    assert tokyo.get("note", "steady", "?consistency=bounded&max_staleness=1").status == 200
