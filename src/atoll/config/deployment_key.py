"""The secret that a deployment's regions share: it signs session tokens and what replicates between them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.errors import ConfigError
from atoll.store.exclusive import sync

if TYPE_CHECKING:
    from atoll.config.config import Config

VARIABLE = "ATOLL_KEY"
FILE = "deployment.key"
SHORTEST = 16


def deployment_key(config: Config, environment: Mapping[str, str] | None = None) -> bytes:
    """The key from atoll.toml, else from ATOLL_KEY, else from `<data>/deployment.key`, made on first use.

    Of several regions that start at once, one makes the file and all read it. It suits regions that share a
    disk; others need the same `key` or ATOLL_KEY. Raises ConfigError.
    """
    if config.deployment.key is not None:
        return config.deployment.key.encode()
    given = (os.environ if environment is None else environment).get(VARIABLE)
    if given is not None:
        if len(given) < SHORTEST:
            raise ConfigError(f"{VARIABLE} is shorter than {SHORTEST} characters; use a long random secret")
        return given.encode()
    path = config.data / FILE
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: the deployment's key cannot be read or created: {error.strerror};"
            f" make the folder writable, or set {VARIABLE}"
        ) from error
    if len(key) < SHORTEST:
        raise ConfigError(
            f"{path}: shorter than {SHORTEST} bytes; restore it, or write a long random secret to it"
        )
    return key


def _make(path: Path) -> None:
    """Write a new key beside `path`, then link it there: the first one wins, and none sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{FILE}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(32).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
