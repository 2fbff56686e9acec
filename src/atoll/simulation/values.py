"""Random documents and operators for any declared collection, from its JSON schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from atoll.documents.rules import Rules
from atoll.schema.placement import HomeRegion

_WORDS = ("", "ann", "bo", "tokyo", "blue", "crème", "ünï", "long " * 6, '"quoted"', "0")


class Generator:
    """Draws for one collection. Strings carry a number, so that most values are unique."""

    def __init__(self, rules: Rules, random: Random, regions: Sequence[str]) -> None:
        self._rules = rules
        self._random = random
        self._regions = regions
        schema = rules.schema.json_schema()
        self._definitions: Mapping[str, Any] = schema.get("$defs", {})
        self._properties: Mapping[str, Any] = schema.get("properties", {})
        self._count = 0

    def document(self, key: str) -> dict[str, Any]:
        """A whole document; the declaration may still refuse it."""
        found = {
            name: self._value(self._properties.get(name, {})) for name in self._rules.plain if name != "key"
        }
        placement = self._rules.schema.policy.placement
        if isinstance(placement, HomeRegion):
            found[placement.field] = self._home(key)
        return found

    def operators(self, key: str) -> dict[str, Any]:
        """A patch of one or two fields."""
        fields = self._rules.schema.fields
        patch: dict[str, dict[str, Any]] = {}
        for name in self._random.sample(fields, min(len(fields), self._random.choice((1, 1, 2)))):
            operator, argument = self._operator(name)
            patch.setdefault(operator, {}).update(argument)
        placement = self._rules.schema.policy.placement
        if isinstance(placement, HomeRegion) and placement.field in patch.get("$set", {}):
            patch["$set"][placement.field] = self._home(key)
        return patch

    def _operator(self, name: str) -> tuple[str, dict[str, Any]]:
        random, rules = self._random, self._rules
        shape = self._properties.get(name, {})
        if name in rules.maps:
            member = f"{name}.{random.choice('abc')}"
            if random.random() < 0.25:
                return "$set", {name: {}}
            return "$set", {member: self._value(shape.get("additionalProperties") or {})}
        lattice = rules.lattices.get(name)
        if lattice is None:
            return "$set", {name: self._value(shape)}
        match lattice.kind:
            case "counter":
                return "$inc", {name: random.randint(-3, 5)}
            case "bounded_counter":
                return "$inc", {name: random.choice((-3, -1, -1, 2, 5))}
            case "text":
                return "$append", {name: self._text()}
            case _:
                element = self._value(shape.get("items") or {})
                return random.choice(("$add", "$add", "$remove")), {name: [element]}

    def _home(self, key: str) -> str:
        return self._regions[sum(key.encode()) % len(self._regions)]

    def _text(self) -> str:
        self._count += 1
        return f"{self._random.choice(_WORDS)}{self._count}"

    def _value(self, shape: Any, depth: int = 0) -> Any:
        random = self._random
        shape = shape if isinstance(shape, dict) else {}
        if "$ref" in shape:
            return self._value(self._definitions.get(shape["$ref"].rsplit("/", 1)[-1], {}), depth)
        for choice in ("anyOf", "oneOf", "allOf"):
            if choice in shape:
                return self._value(random.choice(shape[choice]), depth)
        if "enum" in shape:
            return random.choice(shape["enum"])
        if "const" in shape:
            return shape["const"]
        match shape.get("type"):
            case "string":
                return self._text()[: shape.get("maxLength", 200)]
            case "integer":
                return random.randint(int(shape.get("minimum", -9)), int(shape.get("maximum", 99)))
            case "number":
                return random.randint(0, 1000) / 8
            case "boolean":
                return random.random() < 0.5
            case "null":
                return None
            case "array":
                return [self._value(shape.get("items", {}), depth + 1) for _ in range(random.randint(0, 3))]
            case "object" if "properties" in shape:
                return {name: self._value(inner, depth + 1) for name, inner in shape["properties"].items()}
        if depth > 2 or random.random() < 0.5:
            return self._text()
        inner = shape.get("additionalProperties") or {}
        return {name: self._value(inner, depth + 1) for name in random.sample("abcd", random.randint(0, 3))}
