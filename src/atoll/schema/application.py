"""All collections and sagas of a deployment, by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from atoll.errors import DeclarationError, UnknownCollection, UnknownSaga
from atoll.schema.collection import Collection, collection_name, is_base
from atoll.schema.compiled import CollectionSchema, compile_collection
from atoll.schema.limits import Limits
from atoll.schema.policy import Policy
from atoll.schema.references import referrers_in, resolved
from atoll.schema.saga import Saga, SagaSchema, compile_saga
from atoll.schema.system import SYSTEM, system_collections

__all__ = ["Application", "CollectionSchema", "Limits", "Policy", "application_of", "compile_collection"]


@dataclass(frozen=True, slots=True)
class Application:
    """What a team declared."""

    name: str
    collections: Mapping[str, CollectionSchema]
    """By name, in declaration order: what the interface shows."""
    sagas: Mapping[str, SagaSchema] = field(default_factory=dict)
    """By name."""
    _fingerprint: list[str] = field(default_factory=list, repr=False, compare=False)

    @property
    def stored(self) -> Mapping[str, CollectionSchema]:
        """All that a region stores and replicates: the team's collections and the system's."""
        return {**self.collections, **system_collections()}

    def collection(self, name: str) -> CollectionSchema:
        """Raises UnknownCollection, naming what may have been meant."""
        found = self.collections.get(name)
        if found is None:
            close = get_close_matches(name, self.collections, n=3)
            hint = (
                f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(self.collections)}"
            )
            raise UnknownCollection(
                f"no collection is called {name[:64]!r}; {hint}", collection=name[:256], close=close
            )
        return found

    def saga(self, name: str) -> SagaSchema:
        """Raises UnknownSaga, naming what may have been meant."""
        found = self.sagas.get(name)
        if found is None:
            close = get_close_matches(name, self.sagas, n=3)
            known = ", ".join(self.sagas) or "none"
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {known}"
            raise UnknownSaga(f"no saga is called {name[:64]!r}; {hint}", saga=name[:256], close=close)
        return found

    def schema_of(self, model: type[Collection]) -> CollectionSchema:
        """The compiled collection of a model class. Raises UnknownCollection."""
        return self.collection(collection_name(model) or model.__name__)

    def regions(self) -> tuple[str, ...]:
        """Regions that placements mention, sorted: the deployment must have them all."""
        return tuple(
            sorted({region for c in self.collections.values() for region in c.policy.placement.regions()})
        )

    def json_schemas(self) -> dict[str, Any]:
        """OpenAPI's `components.schemas`: per collection, and `{collection}.{type}` for nested types."""
        schemas: dict[str, Any] = {}
        for name, collection in self.collections.items():
            schema = collection.json_schema(f"#/components/schemas/{name}.{{model}}")
            for kept in schema["properties"].values():
                kept.pop("uniqueItems", None)  # a set takes an element that is given twice as given once
            for nested, definition in schema.pop("$defs", {}).items():
                schemas[f"{name}.{nested}"] = definition
            schemas[name] = schema
        return schemas

    def fingerprint(self) -> str:
        """Sixteen hex digits, equal in every process that has the same declarations."""
        if self._fingerprint:
            return self._fingerprint[0]  # each comparison of clocks between two regions asks for it
        described = {name: schema.describe() for name, schema in self.collections.items()}
        text = json.dumps(described, sort_keys=True, separators=(",", ":"), default=repr)
        self._fingerprint.append(hashlib.sha256(text.encode()).hexdigest()[:16])
        return self._fingerprint[0]


def application_of(*models: type[Collection], name: str = "app", limits: Limits | None = None) -> Application:
    """Compile the collections and sagas. Raises DeclarationError when two of a kind have one name."""
    collections: dict[str, CollectionSchema] = {}
    sagas: dict[str, SagaSchema] = {}
    for model in models:
        if is_base(model):
            raise DeclarationError(
                f"{model.__name__} is only a base class; list the classes that inherit from it"
            )
        if model in SYSTEM:
            raise DeclarationError(
                f"{model.__name__} is Atoll's own and part of every application; leave it out, and import it"
                " inside a function if a file that declares collections needs it"
            )
        if issubclass(model, Saga):
            saga = compile_saga(model, limits)
            _check_name(model, saga.name, sagas.get(saga.name))
            sagas[saga.name] = saga
        else:
            schema = compile_collection(model, limits)
            _check_name(model, schema.name, collections.get(schema.name))
            collections[schema.name] = schema
    references = resolved(collections)
    for named, referrers in referrers_in(references).items():
        collections[named] = replace(
            collections[named], references=references.get(named, ()), referrers=referrers
        )
    return Application(name, collections, sagas)


def _check_name(model: type[Collection], name: str, other: CollectionSchema | SagaSchema | None) -> None:
    if other is not None:
        raise DeclarationError(
            f"{other.model.__name__} and {model.__name__} are both called {name!r};"
            ' rename one, or give it name="…"'
        )
