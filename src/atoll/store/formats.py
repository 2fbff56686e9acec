"""What a store or a backup of another format is told."""

from __future__ import annotations

from atoll.errors import ConfigError


def check_format(what: str, found: int, known: int) -> None:
    """Raises ConfigError unless `what` is in the one format that this version reads and writes.

    Journals, links and backups hold entries in one encoding, so an older format is not converted in place.
    """
    if found > known:
        raise ConfigError(
            f"{what} has format {found}; this Atoll knows up to {known}: use the newer Atoll that wrote it"
        )
    if found < known:
        raise ConfigError(
            f"{what} has format {found}; this Atoll reads format {known} only, and has changed nothing. To move: with "
            "the Atoll that wrote it, restore the backup if it is one, start the region and run `atoll export`; then "
            "give the region a new, empty store, start it with this Atoll and run `atoll import`"
        )
