from __future__ import annotations

import sys
from pathlib import Path

import pytest

from atoll.errors import ConfigError
from atoll.schema import load_application


def write(folder: Path, text: str, name: str = "shop.py") -> Path:
    path = folder / name
    path.write_text("from atoll.schema import Collection\n" + text)
    return path


def test_collections_of_the_file_are_found(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "class _Base(Collection):\n    a: int\nclass B(_Base): ...\nclass A(Collection): ...\nX = A\n",
    )
    application = load_application(path)
    assert application.name == "shop"
    assert list(application.collections) == ["b", "a"]


def test_postponed_annotations_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "later.py"
    path.write_text(
        "from __future__ import annotations\nfrom atoll.schema import Collection, SetOf\n"
        "from datetime import datetime\nclass A(Collection):\n    at: datetime\n    s: SetOf[str]\n"
    )
    assert load_application(path).collection("a").fields == ("at", "s")


def test_modules_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_for_test.py").write_text(
        "from atoll.schema import Collection\nclass Thing(Collection): ...\n"
    )
    before = list(sys.path)
    path = write(tmp_path, "from beside_for_test import Thing\nclass A(Collection): ...\n")
    assert set(load_application(path).collections) == {"thing", "a"}
    assert sys.path == before


def test_file_never_shadows_an_installed_module(tmp_path: Path) -> None:
    load_application(write(tmp_path, "class A(Collection): ...\n", "json.py"))
    import json

    assert json.loads("1") == 1


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("class A(Collection:\n", 2, "correct the Python"),
        ("\nclass A(Collection, consistency='strnog'): ...\n", 3, 'did you mean "strong"'),
        ("import nowhere_at_all\n", 2, "install it"),
        ("x = 1\ny = x / 0\n", 3, "ZeroDivisionError"),
        ("class A(Collection):\n    x = 3\n", 2, "PydanticUserError"),
        ("raise SystemExit(3)\n", 2, "SystemExit"),
    ],
)
def test_error_names_file_and_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_application(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")


def test_two_collections_with_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both called 'a'"):
        load_application(write(tmp_path, "class A(Collection): ...\nclass B(Collection, name='a'): ...\n"))


def test_file_without_collections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="declares no collection"):
        load_application(write(tmp_path, ""))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.py: no such file"):
        load_application(tmp_path / "nothing.py")
