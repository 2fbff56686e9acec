"""Clients that ask for what cannot be: each request gets a typed error, changes nothing and stops nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import msgspec

from atoll.documents.mutation import Delete, Mutation, Put, Transfer, Write, patch_of, put_of
from atoll.errors import Indefinite, RequestError, StoreUnwritable, Unavailable
from atoll.region.reading import ReadOptions
from atoll.region.region import Region
from atoll.simulation.journal import trace_of
from atoll.simulation.world import Solo, World

_CHANGES_NOTHING = "bad input changes nothing"


class Mistakes(Solo):
    """One client makes every mistake that the interface of a region lets it make."""

    name = "mistakes"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._traces: list[str] = []

    async def finish(self, world: World) -> None:
        for trace in self._traces:
            if dots := world.journal.dots(trace):
                world.verdict.safety(_CHANGES_NOTHING, f"{trace} is {dots}")
        await world.check_takes_writes(world.client("mistakes-last"), "well-made", "bad input stops nothing")

    async def draw(self, world: World, random: Random) -> None:
        kind = random.choice(sorted(_MISTAKES))
        trace = f"mistake {len(self._traces)}: {kind}"
        self._traces.append(trace)
        node = world.node(random.choice(world.names))
        try:
            answer = await node.ask(lambda region: _MISTAKES[kind](region, random, trace))
        except (RequestError, Unavailable, Indefinite, StoreUnwritable) as error:
            # The last three say that the region is in trouble, which faults may bring it into.
            if not error.message:
                world.verdict.safety("every error says what was wrong", f"{trace} in {node.name}")
        except Exception as error:
            world.verdict.safety("bad input gets its own error", f"{trace} in {node.name}: {error!r}")
        else:
            world.verdict.safety(_CHANGES_NOTHING, f"{node.name} answered {trace} with {answer}")


Mistake = Callable[[Region, Random, str], Awaitable[Any]]


def _writing(make: Callable[[Region, Random], Mutation | list[Mutation]]) -> Mistake:
    async def act(region: Region, random: Random, trace: str) -> Any:
        made = make(region, random)
        mutations = tuple(made) if isinstance(made, list) else (made,)
        # What is good in the batch must not be there either.
        good = put_of(region.rules["row"], "beside", msgspec.json.encode({"mark": trace}))
        if 0 < len(mutations) < 900 and random.random() < 0.3:
            mutations = (good, *mutations)
        return await region.write(Write(mutations, None, trace_of(trace)))

    return act


def _reading(collection: str, **options: Any) -> Mistake:
    async def act(region: Region, random: Random, trace: str) -> Any:
        return await region.read(collection, "k0", ReadOptions(**options))

    return act


def _body(region: Region, random: Random) -> Mutation:
    rules = region.rules[random.choice(("profile", "cart", "setting", "view", "note"))]
    return put_of(rules, "k0", random.choice((
        b"", b"{", b"[]", b"17", b"null", b'{"nobody":1}', b'{"name":17}', b'{"name":"x","age":"old"}', b"\xff\xfe",
        b'{"name":"\xff"}', b'{"name":"x","age":1e999}', b'{"name":"x","age":99999999999999999999}', b'{"key":"k1"}',
        b'{"note":' + b"[" * 500 + b"]" * 500 + b"}", b'{"address":' + b'{"a":' * 90 + b"1" + b"}" * 90 + b"}",
        b'{"name":"' + b"x" * (1 << 20) + b'"}', b'{"seen":"many"}', b'{"body":7}', b'{"flags":{"a":1}}',
    )))  # fmt: skip


def _operators(region: Region, random: Random) -> Mutation:
    collection, operators = random.choice((
        ("profile", {}), ("profile", []), ("profile", {"$set": 1}), ("profile", {"$inc": {"age": 1}}),
        ("profile", {"$set": {"age": "old"}}), ("profile", {"$set": {"nobody": 1}}), ("profile", {"name": "x"}),
        ("profile", {"$unset": "age"}), ("profile", {"$set": {"name.first": "x"}}), ("cart", {"$add": {"items": "x"}}),
        ("cart", {"$inc": {"items": 1}}), ("cart", {"$set": {"labels.a": "x"}}), ("cart", {"$add": {"labels": ["x"]}}),
        ("view", {"$set": {"seen": "x"}}), ("view", {"$set": {"seen": 1 << 70}}),
        ("note", {"$set": {"body": ["x"]}}), ("setting", {"$set": {"flags": 1}}), ("profile", {"$nothing": {"age": 1}}),
    ))  # fmt: skip
    return patch_of(region.rules[collection], "k0", operators)


def _unfit(region: Region, random: Random) -> Mutation:
    """Operators whose arguments only the lattice can judge."""
    collection, operators = random.choice((
        ("view", {"$inc": {"seen": "x"}}), ("view", {"$inc": {"seen": 1.5}}), ("view", {"$inc": {"seen": 1 << 64}}),
        ("note", {"$append": {"body": 7}}), ("note", {"$splice": {"body": {"at": 1 << 40, "insert": "x"}}}),
        ("note", {"$splice": {"body": {"at": -1}}}), ("note", {"$splice": {"body": "x"}}),
        ("stock", {"$inc": {"left": -(1 << 40)}}),
        ("stock", {"$inc": {"left": "x"}}), ("stock", {"$set": {"left": -9}}),
    ))  # fmt: skip
    return patch_of(region.rules[collection], "mistaken", operators)


def _several_owners(region: Region, random: Random) -> list[Mutation]:
    order = region.rules["order"]
    return [
        put_of(order, f"mistaken-{name}", msgspec.json.encode({"region": name, "quantity": 1}))
        for name in region.regions[:2]
    ]


_MISTAKES: Mapping[str, Mistake] = {
    "a body that is no document": _writing(_body),
    "operators that do not fit": _writing(_operators),
    "arguments that do not fit": _writing(_unfit),
    "an empty batch": _writing(lambda region, random: []),
    "a batch without end": _writing(lambda region, random: [Delete("profile", "k0")] * 1001),
    "too many operations": _writing(
        lambda region, random: patch_of(
            region.rules["setting"], "k0", {"$set": {f"flags.{n}": "x" for n in range(1001)}}
        )
    ),
    "a version that nobody has seen": _writing(
        lambda region, random: put_of(
            region.rules["profile"], "k0", b'{"name":"x"}', if_match="no-such-version"
        )
    ),
    "deletion of what is not there": _writing(lambda region, random: Delete("profile", "never-made")),
    "a change of what is not there": _writing(
        lambda region, random: patch_of(region.rules["profile"], "never-made", {"$set": {"age": 1}})
    ),
    "rights of what has none": _writing(
        lambda region, random: Transfer("profile", "k0", random.choice(("name", "nobody")), "tokyo", 5)
    ),
    "one batch for several owners": _writing(_several_owners),
    "a home that is no region": _writing(
        lambda region, random: put_of(
            region.rules["order"], "mistaken", b'{"region":"atlantis","quantity":1}'
        )
    ),
    "a document grown too large": _writing(
        lambda region, random: Put("profile", "k0", b'{"name":"' + b"x" * (1 << 20) + b'","age":0}')
    ),
    "a strong read of what has no order": _reading("profile", consistency="strong"),
    "a bound that nobody says": _reading("profile", consistency="bounded"),
    "a token of no region": _reading("member", token={"atlantis": 1 << 40}, max_wait_s=0.1),
    "a token from the future": _reading(
        "member", token={"tokyo": 1 << 40, "virginia": 1 << 40}, max_wait_s=0.1
    ),
}
