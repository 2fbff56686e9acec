"""What every store refuses in the same words."""

from __future__ import annotations

from atoll.errors import ConfigError, FenceLost, SerializationConflict, TooLarge, UnknownCollection


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


def unknown_collection(name: str) -> UnknownCollection:
    return UnknownCollection(
        f"the store has no table for collection {name!r}: open_collections makes it", collection=name
    )


def fence_lost(lease: str, held: int, generation: int) -> FenceLost:
    return FenceLost(f"the lease {lease!r} is in generation {held}, not {generation}", lease=lease)


def lost_to_another_node() -> SerializationConflict:
    return SerializationConflict("another node of this region has committed since this transaction began")


def too_much(most_bytes: int) -> TooLarge:
    return TooLarge(
        f"the documents to be changed hold more than {most_bytes} bytes together; change fewer at once",
        limit_bytes=most_bytes,
    )
