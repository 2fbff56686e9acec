"""Compares what was acknowledged with what the regions hold: pure functions, each of which can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from atoll.demo.deliveries import PRICE_CENTS
from atoll.demo.findings import Findings
from atoll.demo.ledger import Collision, Ledger
from atoll.demo.nemesis import VICTIM

_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Check:
    """One claim and whether it holds."""

    name: str
    told: str
    """The figures."""
    wrong: tuple[str, ...] = ()
    """What contradicts the claim; nothing when it holds."""

    @property
    def ok(self) -> bool:
        return not self.wrong


def prove(ledger: Ledger, found: Sequence[Findings]) -> list[Check]:
    """All checks. `found` holds every region."""
    return [
        same_positions(found),
        same_documents(found),
        orders_kept(ledger, found),
        stock_adds_up(ledger, found),
        deliveries_whole(ledger, found),
        views_add_up(ledger, found),
        edits_kept(ledger, found),
        same_audit(found),
        losing_versions_audited(ledger, found),
        sessions_held(ledger),
        everything_answered(ledger, found),
    ]


def same_positions(found: Sequence[Findings]) -> Check:
    first = found[0]
    wrong = [
        f"{other.region} is at {other.position}, {first.region} at {first.position}"
        for other in found[1:]
        if other.position != first.position
    ]
    told = ", ".join(f"{seq} of {origin}" for origin, seq in sorted(first.position.items()))
    return Check("all regions have seen the same entries", told, tuple(wrong))


def same_documents(found: Sequence[Findings]) -> Check:
    """Digests cover the merge state too; the listed documents are compared besides."""
    first = found[0]
    wrong: list[str] = []
    for other in found[1:]:
        for collection in sorted(first.digests.keys() | other.digests.keys()):
            ours, theirs = first.digests.get(collection), other.digests.get(collection)
            if ours != theirs:
                wrong.append(f"{collection}: {first.region} has {ours}, {other.region} {theirs}")
            here, there = first.documents.get(collection, {}), other.documents.get(collection, {})
            wrong += [
                f"{collection}/{key}: {first.region} shows {here.get(key)}, {other.region} {there.get(key)}"
                for key in sorted(here.keys() | there.keys())
                if here.get(key) != there.get(key)
            ]
    for each in found:
        wrong += [f"{each.region} lists {address} twice" for address in each.listed_twice]
        wrong += [
            f"{each.region} counts {digest['documents']} in {collection} and lists {len(each.documents[collection])}"
            for collection, digest in each.digests.items()
            if digest["documents"] != len(each.documents.get(collection, {}))
        ]
    total = sum(digest["documents"] for digest in first.digests.values())
    told = f"{total} documents in {len(first.digests)} collections, digests equal in {len(found)} regions"
    return Check("all regions hold the same documents", told, tuple(wrong))


def orders_kept(ledger: Ledger, found: Sequence[Findings]) -> Check:
    wrong: list[str] = []
    for each in found:
        orders = each.documents.get("order", {})
        wrong += [f"order {key} is lost in {each.region}" for key in ledger.orders.keys() - orders.keys()]
        wrong += [
            f"order {key} is in {each.region}, and nobody placed it"
            for key in orders.keys() - ledger.orders.keys()
        ]
        wrong += [
            f"order {key} is {orders[key]} in {each.region}, and was acknowledged as {document}"
            for key, document in ledger.orders.items()
            if key in orders and orders[key] != document
        ]
    told = f"{len(ledger.orders)} acknowledged, found in each region: " + ", ".join(
        f"{each.region} {len(each.documents.get('order', {}))}" for each in found
    )
    return Check("no order lost, none doubled", told, tuple(sorted(wrong)))


def stock_adds_up(ledger: Ledger, found: Sequence[Findings]) -> Check:
    """Given less sold is what is left, in every region, for every product; and never below zero."""
    wrong: list[str] = []
    for each in found:
        inventory = each.documents.get("inventory", {})
        for sku, given in ledger.given.items():
            left = inventory.get(sku, {}).get("stock")
            if left != given - ledger.sold[sku]:
                wrong.append(f"{sku}: {given} given, {ledger.sold[sku]} sold, {left} left in {each.region}")
            if left is not None and left < 0:
                wrong.append(f"{sku}: oversold, {left} left in {each.region}")
    ordered: Counter[str] = Counter()
    for order in ledger.orders.values():
        ordered[order["sku"]] += order["quantity"]
    wrong += [
        f"{sku}: {ordered[sku]} ordered, {given} given"
        for sku, given in ledger.given.items()
        if ordered[sku] > given
    ]
    given, sold = sum(ledger.given.values()), sum(ledger.sold.values())
    empty = sum(1 for sku, units in ledger.given.items() if units == ledger.sold[sku])
    told = f"{given} units given, {sold} sold, {given - sold} left; {empty} products sold to the last unit"
    return Check("never oversold, not a unit astray", told, tuple(wrong))


def deliveries_whole(ledger: Ledger, found: Sequence[Findings]) -> Check:
    """Each is done or undone as a whole: stock, money and parcels tell the same."""
    wrong: list[str] = []
    for each in found:
        wrong += [
            f"delivery {key} is lost in {each.region}" for key in ledger.deliveries.keys() - each.sagas.keys()
        ]
        wrong += [
            f"delivery {key} is {saga['status']} at {saga['step']!r} in {each.region}: {saga['error']}"
            for key, saga in each.sagas.items()
            if saga["status"] not in ("completed", "compensated")
        ]
        done = {key: saga for key, saga in each.sagas.items() if saga["status"] == "completed"}
        parcels = each.documents.get("parcel", {}).keys()
        wrong += [f"delivery {key} and its parcel differ in {each.region}" for key in parcels ^ done.keys()]
        paid = Counter(saga["fields"]["wallet"] for saga in done.values())
        for wallet, cents in ledger.wallets.items():
            left = each.documents.get("wallet", {}).get(wallet, {}).get("cents")
            if left != cents - paid[wallet] * PRICE_CENTS:
                wrong.append(
                    f"{paid[wallet]} deliveries were paid from {cents} of {wallet}; {left} left in {each.region}"
                )
    sagas = found[0].sagas.values()
    statuses = Counter(saga["status"] for saga in sagas)
    amid = sum(1 for saga in sagas if saga["home"] == VICTIM and _spans(saga, ledger.killed_ms))
    told = (
        f"{statuses['completed']} delivered, {statuses['compensated']} undone for want of money; {amid} were between"
        f" two steps when {VICTIM} was killed"
    )
    return Check("each delivery is whole: stock, money and parcel", told, tuple(sorted(wrong)))


def _spans(saga: dict[str, Any], at_ms: int) -> bool:
    return bool(saga["started_ms"] < at_ms < max((each["at_ms"] for each in saga["done"]), default=0))


def views_add_up(ledger: Ledger, found: Sequence[Findings]) -> Check:
    wrong = []
    for each in found:
        shown = {key: view["views"] for key, view in each.documents.get("page_view", {}).items()}
        wrong += [
            f"{sku}: {ledger.views[sku]} views acknowledged, {shown.get(sku, 0)} in {each.region}"
            for sku in sorted(ledger.views.keys() | shown.keys())
            if shown.get(sku, 0) != ledger.views[sku]
        ]
    told = f"{sum(ledger.views.values())} increments of {len(ledger.views)} counters, from all regions"
    return Check("page views counted once each", told, tuple(wrong))


def edits_kept(ledger: Ledger, found: Sequence[Findings]) -> Check:
    """Of texts and sets edited in two regions at once, everything stays."""
    wrong: list[str] = []
    for each in found:
        for key, chunks in ledger.notes.items():
            body = each.documents.get("note", {}).get(key, {}).get("body", "")
            wrong += [
                f"note {key} in {each.region} has {body.count(chunk)} times {chunk!r}: {body!r}"
                for chunk in chunks
                if body.count(chunk) != 1
            ]
        for key, items in ledger.items.items():
            there = set(each.documents.get("cart", {}).get(key, {}).get("items", []))
            wrong += [f"cart {key} in {each.region} lacks {item!r}" for item in sorted(items - there)]
    told = f"{len(ledger.notes)} notes, {len(ledger.items)} carts, nothing missing"
    return Check("concurrent edits merged", told, tuple(wrong))


def same_audit(found: Sequence[Findings]) -> Check:
    """The same records in every region, each once."""
    wrong: list[str] = []
    first = _by_id(found[0].conflicts)
    for each in found:
        counted = Counter(record["id"] for record in each.conflicts)
        wrong += [f"{each.region} has record {id_} {n} times" for id_, n in counted.items() if n > 1]
        theirs = _by_id(each.conflicts)
        for id_ in sorted(first.keys() | theirs.keys()):
            if id_ not in theirs or id_ not in first:
                missing = each.region if id_ not in theirs else found[0].region
                wrong.append(f"record {_title(first.get(id_) or theirs[id_])} is missing in {missing}")
            elif _encode(first[id_]) != _encode(theirs[id_]):
                wrong.append(f"record {_title(first[id_])} differs in {found[0].region} and {each.region}")
    return Check(
        "every region has the same audit", f"{len(first)} records, each once in each region", tuple(wrong)
    )


def losing_versions_audited(ledger: Ledger, found: Sequence[Findings]) -> Check:
    """Each value that a collision dropped is in the audit, and filed as what it was."""
    records: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in found[0].conflicts:
        records.setdefault((record["collection"], record["key"], record["field"]), []).append(record)
    sure = [collision for collision in ledger.collisions if collision.surely]
    wrong: list[str] = []
    for collision in sure:
        about = records.get((collision.collection, collision.key, collision.field), [])
        shown = found[0].documents.get(collision.collection, {}).get(collision.key)
        wrong += _unaudited(collision, about, shown)
    told = f"{len(sure)} collisions staged, every value that was not shown is on record"
    return Check("every dropped value audited", told, tuple(wrong))


def _unaudited(collision: Collision, about: list[dict[str, Any]], shown: Any) -> Iterable[str]:
    where = f"{collision.collection}/{collision.key}" + (f".{collision.field}" if collision.field else "")
    if len(about) != len(collision.values) - 1:
        yield f"{where}: {len(collision.values)} concurrent writes, {len(about)} records"
    visible = shown.get(collision.field) if collision.field and shown is not None else shown
    kept = {_encode(visible)}
    for record in about:
        kept |= {_encode(record[side]["value"]) for side in ("losing", "winning")}
        if record["kind"] != collision.kind:
            yield f"{where}: filed as {record['kind']}, and it was {collision.kind}"
    for value in collision.values:
        if _encode(value) not in kept:
            yield f"{where}: {value} is neither shown nor on record"


def sessions_held(ledger: Ledger) -> Check:
    told = (
        f"{ledger.sessions_checked} orders looked up in another region at once; "
        f"{ledger.sessions_late} answered 'not yet here', none with an old state"
    )
    return Check("customers see their own orders, wherever they look", told, tuple(ledger.sessions_broken))


def everything_answered(ledger: Ledger, found: Sequence[Findings]) -> Check:
    wrong = [*(f"never answered: {each}" for each in ledger.unanswered), *ledger.surprises]
    if ledger.replayed < ledger.pressed_twice:
        wrong.append(f"{ledger.pressed_twice} writes were sent twice, and only {ledger.replayed} recognised")
    wrong += [f"{each.region} parked {each.parked} changes" for each in found if each.parked]
    told = (
        f"{ledger.acknowledged} acknowledged; {ledger.retries} retried until answered, {ledger.pressed_twice} sent "
        f"twice on purpose; {ledger.replayed} recognised as having happened, and not done again"
    )
    return Check("every write answered, and done once", told, tuple(wrong))


def conflict_counts(conflicts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many of each kind there are, and what became of them."""
    names = ("kind", "collection", "strategy", "outcome", "status")
    counted = Counter(tuple(record[name] for name in names) for record in conflicts)
    uncertain = Counter(tuple(record[name] for name in names) for record in conflicts if record["uncertain"])
    return [
        {**dict(zip(names, group, strict=True)), "count": count, "within_clock_uncertainty": uncertain[group]}
        for group, count in sorted(counted.items())
    ]


def _by_id(conflicts: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {record["id"]: record for record in conflicts}


def _title(record: dict[str, Any]) -> str:
    return f"{record['id']} ({record['collection']}/{record['key']}, {record['kind']})"
