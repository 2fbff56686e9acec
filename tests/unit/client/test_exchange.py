from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll import errors
from atoll.client import ClientOptions, Request, Response
from atoll.client.calls import Asked, Call, Calls
from atoll.client.exchange import SessionState

from .world import Answer, Inventory, World, one_after_another, refused, shown, silent, unreachable, working

CALLS = Calls(None)


def get() -> Call[Inventory | None]:
    return CALLS.get(Inventory, "k")


def put() -> Call[Inventory]:
    return CALLS.put(Inventory(key="k"), None, create=False)


def test_first_region_that_works_answers() -> None:
    world = World("tokyo", "frankfurt")
    assert world.drive(world.exchanges.run(get())) == Inventory(key="k")
    assert world.asked == ["tokyo"]


@pytest.mark.parametrize("down", [unreachable, silent])
def test_reads_move_on_whatever_the_failure(down: object) -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = down  # type: ignore[assignment]
    world.drive(world.exchanges.run(get()))
    assert world.asked == ["tokyo", "frankfurt"]


def test_failed_region_is_not_asked_by_the_next_call() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = unreachable
    world.drive(world.exchanges.run(get()))
    world.drive(world.exchanges.run(get()))
    assert world.asked == ["tokyo", "frankfurt", "frankfurt"]


def test_write_that_surely_did_not_happen_moves_on_with_its_key() -> None:
    world = World("tokyo", "frankfurt", "virginia")
    world.regions["tokyo"] = unreachable
    world.regions["frankfurt"] = lambda _: refused(errors.ClockUnsafe("clock off"))
    world.drive(world.exchanges.run(put()))
    assert world.asked == ["tokyo", "frankfurt", "virginia"]
    assert {request.headers["idempotency-key"] for request in world.sent} == {"key-1"}


@pytest.mark.parametrize(
    "doubt",
    [
        errors.Indefinite("reset"),
        refused(errors.Indefinite("the owner did not say")),
        Response(502, {}, b"<html>Bad gateway</html>"),
        Response(503, {}, b"upstream reset"),
    ],
)
def test_write_in_doubt_is_repeated_in_its_region_alone(doubt: Answer) -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = one_after_another([doubt, errors.RegionUnreachable("refused"), shown()])
    world.drive(world.exchanges.run(put()))
    assert world.asked == ["tokyo"] * 3
    assert {request.headers["idempotency-key"] for request in world.sent} == {"key-1"}


def test_write_in_doubt_to_the_end_is_indefinite() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = one_after_another([errors.Indefinite("reset"), errors.RegionUnreachable("gone")])
    with pytest.raises(errors.Indefinite, match=r"may have happened.*tokyo") as caught:
        world.drive(world.exchanges.run(put()))
    assert set(world.asked) == {"tokyo"}
    assert caught.value.details["region"] == "tokyo"
    assert caught.value.details["idempotency_key"] == "key-1"


def test_repeating_an_indefinite_write_by_key_returns_to_its_region() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = silent
    with pytest.raises(errors.Indefinite):
        world.drive(world.exchanges.run(put()))
    world.sent.clear()
    world.regions["tokyo"] = working
    world.drive(world.exchanges.run(put(), key="key-1"))
    assert world.asked == ["tokyo"]
    assert world.sent[0].headers["idempotency-key"] == "key-1"
    assert world.router.held("key-1") is None


def test_no_region_reached_says_that_nothing_happened() -> None:
    world = World("tokyo", "frankfurt")
    world.regions = dict.fromkeys(world.regions, unreachable)
    with pytest.raises(errors.RegionUnreachable, match=r"not happened.*tokyo.*frankfurt"):
        world.drive(world.exchanges.run(put()))
    assert world.now_s <= 100.0 + ClientOptions().timeout_s


def test_read_that_nobody_answers_is_unreachable_not_indefinite() -> None:
    world = World("tokyo", "frankfurt")
    world.regions = dict.fromkeys(world.regions, silent)
    with pytest.raises(errors.RegionUnreachable):
        world.drive(world.exchanges.run(get()))


def test_region_that_lacks_the_token_is_not_suspected() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda _: refused(errors.TokenNotReached("not seen yet"))
    world.drive(world.exchanges.run(get()))
    assert world.asked == ["tokyo", "frankfurt"]
    assert world.router.order() == ("tokyo", "frankfurt")


def test_token_that_no_region_reaches_is_told_in_the_end() -> None:
    world = World("tokyo", "frankfurt")
    behind = refused(errors.TokenNotReached("not seen yet", missing={"virginia": 3}))
    world.regions = {"tokyo": lambda _: behind, "frankfurt": unreachable}
    with pytest.raises(errors.TokenNotReached) as caught:
        world.drive(world.exchanges.run(get()))
    assert caught.value.details == {"missing": {"virginia": 3}}


def test_full_disk_sends_writes_elsewhere_and_leaves_reads() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda request: (
        shown() if request.method == "GET" else refused(errors.StoreUnwritable("disk full"))
    )
    world.drive(world.exchanges.run(put()))
    world.drive(world.exchanges.run(get()))
    assert world.asked == ["tokyo", "frankfurt", "tokyo"]


def test_refusals_are_final() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda _: refused(errors.BoundExceeded("not enough", left_here=1, left_in_all=2))
    with pytest.raises(errors.BoundExceeded, match="not enough") as caught:
        world.drive(world.exchanges.run(put()))
    assert world.asked == ["tokyo"]
    assert caught.value.details == {"left_here": 1, "left_in_all": 2}


def test_absent_document_is_none_and_still_moves_the_session() -> None:
    world = World("tokyo")
    state = SessionState("old")
    absent = refused(errors.NotFound("none"), **{"atoll-session": "new", "atoll-region": "tokyo"})
    world.regions["tokyo"] = lambda _: absent
    assert world.drive(world.exchanges.run(get(), state)) is None
    assert (state.token, state.region) == ("new", "tokyo")


def test_session_sends_the_newest_token() -> None:
    world = World("tokyo")
    state = SessionState()
    answers = [shown(version="v1"), Response(200, {"atoll-degraded": "cut off"}, shown().body), shown()]
    world.regions["tokyo"] = one_after_another(answers)
    for _ in answers:
        world.drive(world.exchanges.run(get(), state))
    assert [request.headers.get("atoll-session") for request in world.sent] == [None, "seen-v1", "seen-v1"]
    assert state.degraded is None


def test_something_else_than_atoll_is_named_with_its_url() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda _: Response(200, {"content-type": "text/html"}, b"<html>It works!</html>")
    with pytest.raises(errors.ConfigError, match=r"tokyo \(http://tokyo\).*not an Atoll server.*It works"):
        world.drive(world.exchanges.run(get()))
    assert world.asked == ["tokyo"]


def test_write_whose_answer_is_too_large_is_indefinite() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda _: errors.TooLarge("more than 10 bytes")
    with pytest.raises(errors.TooLarge):
        world.drive(world.exchanges.run(get()))
    with pytest.raises(errors.Indefinite, match="answered this write"):
        world.drive(world.exchanges.run(put()))


def test_done_write_that_does_not_fit_the_declaration_is_not_called_a_refusal() -> None:
    world = World("tokyo")
    world.regions["tokyo"] = lambda _: shown(stock="many")
    with pytest.raises(errors.Indefinite, match="the write was done"):
        world.drive(world.exchanges.run(put()))


@pytest.mark.parametrize(
    "later",
    [
        refused(errors.AtollError("a defect")),
        Response(404, {}, b"<html>not here</html>"),
        errors.ConfigError("does not speak HTTP"),
    ],
)
def test_doubt_stays_until_the_region_speaks_of_the_key(later: Answer) -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = one_after_another([errors.Indefinite("reset"), later])
    with pytest.raises(errors.Indefinite, match="may have happened"):
        world.drive(world.exchanges.run(put()))
    assert set(world.asked) == {"tokyo"}


def test_refusal_of_the_repeated_write_ends_the_doubt() -> None:
    world = World("tokyo", "frankfurt")
    mismatch = refused(errors.VersionMismatch("another version"))
    world.regions["tokyo"] = one_after_another([errors.Indefinite("reset"), mismatch])
    with pytest.raises(errors.VersionMismatch):
        world.drive(world.exchanges.run(put()))
    assert world.router.held("key-1") is None


@pytest.mark.parametrize("key", ["", "é", "a\nb", "x" * 256])
def test_idempotency_key_must_fit_a_header(key: str) -> None:
    world = World("tokyo")
    with pytest.raises(errors.InvalidOperation):
        world.drive(world.exchanges.run(put(), key=key))


def test_longer_wait_extends_attempt_and_deadline() -> None:
    world = World("tokyo")
    world.drive(world.exchanges.run(CALLS.get(Inventory, "k", Asked(max_wait_s=25.0))))
    assert world.sent[0].timeout_s == pytest.approx(28.0)


def test_a_patient_reader_does_not_make_writes_longer() -> None:
    world = World("tokyo", options=ClientOptions(timeout_s=6.0, read_timeout_s=30.0))
    world.regions["tokyo"] = silent
    with pytest.raises(errors.Indefinite):
        world.drive(world.exchanges.run(put()))
    assert world.now_s <= 106.0


def test_a_client_short_of_connections_blames_no_region() -> None:
    world = World("tokyo", "frankfurt")
    busy = errors.Overloaded("all connections were in use")
    world.regions = dict.fromkeys(world.regions, lambda _: busy)
    with pytest.raises(errors.Overloaded):
        world.drive(world.exchanges.run(put()))
    assert world.router.order()[0] == "tokyo"


ANSWERS: list[Answer] = [
    errors.RegionUnreachable("refused"),
    errors.Indefinite("reset"),
    refused(errors.Overloaded("full")),
    refused(errors.Indefinite("lost")),
    shown(),
]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=6))
def test_write_is_never_asked_elsewhere_after_doubt(behaviour: list[tuple[int, int, int]]) -> None:
    names = ("tokyo", "frankfurt", "virginia")
    world = World(*names)
    for name, column in zip(names, zip(*behaviour, strict=True), strict=True):
        world.regions[name] = one_after_another([ANSWERS[choice] for choice in column])
    doubtful: list[str] = []

    def watch(request: Request, inner: object) -> Answer:
        answer: Answer = inner(request)  # type: ignore[operator]
        if isinstance(answer, errors.Indefinite) or (isinstance(answer, Response) and answer.status == 504):
            doubtful.append(request.region)
        elif doubtful:
            assert request.region == doubtful[0]
        return answer

    for name, inner in world.regions.items():
        world.regions[name] = lambda request, inner=inner: watch(request, inner)
    try:
        world.drive(world.exchanges.run(put()))
    except errors.Indefinite:
        assert doubtful
    except errors.Unavailable:
        assert not doubtful
    assert len(set(doubtful)) <= 1
    assert world.now_s <= 100.0 + ClientOptions().timeout_s + 1e-6


def test_healthy_answer_ends_suspicion() -> None:
    world = World("tokyo", "frankfurt")
    world.router.failed("tokyo", world.now_s)
    world.regions["tokyo"] = lambda _: Response(200, {}, b"{}")
    world.drive(world.exchanges.ask_health("tokyo"))
    assert world.sent[0].path == "/health/serving"
    assert world.router.order() == ("tokyo", "frankfurt")


@pytest.mark.parametrize("answer", [Response(503, {}, b"{}"), errors.RegionUnreachable("refused")])
def test_unhealthy_answer_makes_suspect(answer: Answer) -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda _: answer
    assert world.drive(world.exchanges.ask_health("tokyo")) is None
    assert world.router.order() == ("frankfurt", "tokyo")


def test_answer_about_another_document_is_not_believed() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda _: shown("other")
    assert world.drive(world.exchanges.run(get())) == Inventory(key="k")
    assert world.asked == ["tokyo", "frankfurt"]


def test_absence_of_another_document_is_not_believed() -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = lambda _: refused(errors.NotFound("inventory/other is not there", key="other"))
    assert world.drive(world.exchanges.run(get())) == Inventory(key="k")


@pytest.mark.parametrize(
    "call", [put(), CALLS.patch(Inventory, "k", None, {}), CALLS.delete(Inventory, "k", None)]
)
def test_write_answered_about_another_document_stays_with_its_region(call: Call[object]) -> None:
    world = World("tokyo", "frankfurt")
    world.regions["tokyo"] = one_after_another([shown("other", version="other"), shown(version="own")])
    state = SessionState("before")
    world.drive(world.exchanges.run(call, state))
    assert world.asked == ["tokyo", "tokyo"]
    assert {request.headers["idempotency-key"] for request in world.sent} == {"key-1"}
    assert [request.headers["atoll-session"] for request in world.sent] == ["before", "before"]
    assert state.token == "seen-own"


def test_closed_client_makes_no_further_attempt() -> None:
    world = World("tokyo")

    def close(request: Request) -> Answer:
        world.exchanges.closed = True
        return errors.Indefinite("the connection ended")

    world.regions["tokyo"] = close
    with pytest.raises(errors.Indefinite, match="may have happened"):
        world.drive(world.exchanges.run(put()))
    assert world.asked == ["tokyo"]


def test_write_whose_order_is_uncertain_is_repeated_under_its_key_until_it_is_not() -> None:
    world = World("tokyo", "frankfurt")
    uncertain = refused(errors.OrderUncertain("the write is durable", seq=7))
    world.regions["tokyo"] = one_after_another([uncertain, uncertain, shown()])
    world.drive(world.exchanges.run(put()))
    assert world.asked == ["tokyo"] * 3
    assert {request.headers["idempotency-key"] for request in world.sent} == {"key-1"}


def test_write_whose_order_stays_uncertain_is_told_to_be_done() -> None:
    world = World("tokyo", "frankfurt")
    uncertain = refused(errors.OrderUncertain("the write is durable", seq=7))
    world.regions["tokyo"] = one_after_another([uncertain, errors.RegionUnreachable("gone")])
    with pytest.raises(errors.OrderUncertain, match="the write is durable") as caught:
        world.drive(world.exchanges.run(put()))
    assert set(world.asked) == {"tokyo"}
    assert caught.value.details["seq"] == 7
    assert caught.value.details["idempotency_key"] == "key-1"
