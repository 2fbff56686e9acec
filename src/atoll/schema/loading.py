"""Imports the file in which a team declares its collections."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from atoll.errors import AtollError, ConfigError
from atoll.schema.application import Application, application_of
from atoll.schema.collection import Collection, is_base
from atoll.schema.limits import Limits


def load_application(path: Path, *, limits: Limits | None = None) -> Application:
    """Import a file such as `shop.py` and compile its collections; the application is named after the file.

    The file may import modules beside it. Whatever is wrong with it, raises ConfigError naming file, line
    and reason.
    """
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; `app` in atoll.toml names the file that declares the collections"
        )
    try:
        module = _imported(path)
        models = [item for item in vars(module).values() if _is_collection(item)]
        application = application_of(*dict.fromkeys(models), name=path.stem, limits=limits)
    except (Exception, SystemExit) as error:
        raise ConfigError(_told(path, error), file=str(path), line=_line_of(path, error)) from error
    if not application.collections and not application.sagas:
        raise ConfigError(
            f"{path}: declares no collection; add a class such as `class Note(Collection): body: str`"
        )
    return application


def _imported(path: Path) -> ModuleType:
    # A name of its own, so that shop.py never shadows, nor is shadowed by, an installed package.
    name = f"atoll_application_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic looks annotations up there
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    return module


def _is_collection(item: object) -> bool:
    return (
        isinstance(item, type)
        and issubclass(item, Collection)
        and item is not Collection
        and not is_base(item)
    )


def _line_of(path: Path, error: BaseException) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return lines[-1] if lines else None


def _told(path: Path, error: BaseException) -> str:
    line = _line_of(path, error)
    place = f"{path}:{line}" if line else str(path)
    if isinstance(error, AtollError):
        return f"{place}: {error.message}"
    if isinstance(error, SyntaxError):
        return f"{place}: {error.msg}; correct the Python there"
    if isinstance(error, ModuleNotFoundError):
        return f"{place}: {error.msg}; install it, or put it beside {path.name}"
    return f"{place}: importing it raised {type(error).__name__}: {error}; correct the code there"
