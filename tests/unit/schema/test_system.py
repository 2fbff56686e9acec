from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import ConfigError, DeclarationError, UnknownCollection
from atoll.schema import Collection, application_of, load_application
from atoll.schema.system import EVENTS, SYSTEM, Event, system_collections


class Note(Collection):
    text: str = ""


APPLICATION = application_of(Note)


def test_every_application_stores_system_collections() -> None:
    assert set(APPLICATION.stored) == {"note", *system_collections()}
    assert list(APPLICATION.collections) == ["note"]


def test_system_names_begin_with_an_underscore() -> None:
    assert all(name.startswith("_") for name in system_collections())
    assert len(system_collections()) == len(SYSTEM)


@pytest.mark.parametrize("name", system_collections())
def test_a_system_name_is_unknown(name: str) -> None:
    with pytest.raises(UnknownCollection, match="there are note"):
        APPLICATION.collection(name)


@pytest.mark.parametrize("name", [EVENTS, "_mine", "__"])
def test_a_team_cannot_take_such_a_name(name: str) -> None:
    with pytest.raises(DeclarationError, match="drop the underscore"):
        type("Mine", (Collection,), {"__annotations__": {"text": str}}, name=name)


def test_a_team_cannot_list_a_system_class() -> None:
    with pytest.raises(DeclarationError, match="part of every application; leave it out"):
        application_of(Note, Event)


def test_a_file_that_imports_a_system_class_is_told(tmp_path: Path) -> None:
    path = tmp_path / "shop.py"
    path.write_text(
        "from atoll import Collection\nfrom atoll.schema.system import Event\n"
        "class Note(Collection):\n    text: str = ''\n"
    )
    with pytest.raises(ConfigError, match="Event is Atoll's own"):
        load_application(path)


def test_the_interface_does_not_describe_them() -> None:
    assert set(APPLICATION.json_schemas()) == {"note"}
