"""`Collection`: a team declares what its data is by subclassing it, once per kind of document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from atoll.errors import DeclarationError
from atoll.schema.declaration import build_forms, check_declaration
from atoll.schema.forms import CONFIG, FieldForm
from atoll.schema.policy import Consistency, Fallback, Policy, Resolver, Strategy, build_policy

if TYPE_CHECKING:
    from atoll.schema.placement import Placement

COLLECTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
RESERVED_NAMES = frozenset(
    {"batch", "changes", "conflicts", "events", "ids", "multiplex", "sagas", "transactions"}
)
"""Routes of their own below `/v1`: a collection of such a name could not be reached."""
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Collection(BaseModel):
    """One kind of document, and how its conflicts are resolved.

    Options stand in the class statement: `class Order(Collection, placement=home_region("region"))`.

    - `placement`: who writes a document; by default every region.
    - `consistency`: what a read waits for: `eventual` (default), `session`, `causal`, `bounded` or `strong`.
    - `max_staleness_s`: the bound of `bounded`.
    - `resolve`: `lww` (default), `fww`, `merge`, `manual`, or a function of the concurrent versions.
    - `fallback`: what a strong collection does in a region that is cut off from a majority: `escrow`, `eventual`,
      `stale-read` or `reject`.
    - `indexes`: fields that listings look documents up by, such as `["sku"]`.
    - `commit_wait`: whether a write is acknowledged only once every later one, anywhere, is stamped after it.
    - `read_lease_s`: for so long the region that changes a strong document reads it without asking others.
    - `name`: in URLs; by default the class's name in snake_case.

    A subclass of a collection inherits fields and options, except for the name. A class whose name starts
    with an underscore only serves as such a base. Raises DeclarationError where a declaration
    contradicts itself.
    """

    model_config = CONFIG

    key: str
    """Names the document within its collection. It is part of the URL, not of what is stored."""

    __atoll_name__: ClassVar[str] = ""
    __atoll_policy__: ClassVar[Policy] = Policy()
    __atoll_options__: ClassVar[dict[str, Any]] = {}
    __atoll_forms__: ClassVar[dict[str, FieldForm]] = {}
    __atoll_body__: ClassVar[bool] = False
    """Whether this is the twin without a key that `schema.compiled` derives."""

    if TYPE_CHECKING:

        def __init_subclass__(
            cls,
            *,
            placement: Placement | None = None,
            consistency: Consistency = "eventual",
            max_staleness_s: float | None = None,
            resolve: Strategy | Resolver | str = "lww",
            fallback: Fallback | None = None,
            indexes: Sequence[str] = (),
            commit_wait: bool = False,
            read_lease_s: float | None = None,
            name: str | None = None,
            system: bool = False,
        ) -> None: ...

    else:

        def __init_subclass__(cls, **options: Any) -> None:
            # pydantic calls the hook below with the same options, once it knows the fields.
            super().__init_subclass__()
            for given in vars(cls).values():
                if isinstance(given, FieldInfo) and given.default_factory is not None:
                    # It takes the place of a mergeable's.
                    given._attributes_set.setdefault("default", PydanticUndefined)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        if cls.__atoll_body__:
            return
        given = dict(options)
        name, system = given.pop("name", None), given.pop("system", False)
        cls.__atoll_options__ = {**cls.__atoll_options__, **given}
        cls.__atoll_policy__ = build_policy(cls.__name__, cls.__atoll_options__)
        abstract = cls.__name__.startswith("_")
        cls.__atoll_name__ = "" if abstract else _collection_name(cls.__name__, name, system=system)
        cls.__atoll_forms__ = build_forms(cls)
        check_declaration(cls, cls.__atoll_policy__, cls.__atoll_forms__, abstract=abstract)


def collection_name(model: type[Collection]) -> str:
    """The collection's name in URLs; empty for a shared base."""
    return model.__atoll_name__


def policy_of(model: type[Collection]) -> Policy:
    return model.__atoll_policy__


def is_base(model: type[Collection]) -> bool:
    """Whether the class only serves others to inherit from."""
    return not model.__atoll_name__


def _collection_name(class_name: str, given: Any, *, system: bool) -> str:
    name = _WORD_START.sub("_", class_name).lower() if given is None else given
    own = isinstance(name, str) and name.startswith("_")
    if own and not system:
        raise DeclarationError(
            f"{class_name}: names that begin with _ are Atoll's own, and {name!r} does; drop the underscore"
        )
    if not isinstance(name, str) or not COLLECTION_NAME.fullmatch(name[own:]):
        raise DeclarationError(
            f"{class_name}: {name!r} cannot be a collection's name; give name=… with small letters, digits"
            " and _, starting with a letter, at most 63 of them"
        )
    if name in RESERVED_NAMES:
        raise DeclarationError(
            f"{class_name}: /v1/{name} is a call of Atoll's own, so no collection can be called {name!r}; rename the"
            f' class, or give it another name, such as name="{name}_documents"'
        )
    return name
