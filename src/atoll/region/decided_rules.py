"""Which collections a majority of regions decides: the team's, and those of Atoll's own that these need."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.documents.rules import Rules
from atoll.schema.application import Application
from atoll.schema.system import BUILDS, CLAIMS, HEIRS, MARKS, REFERRED, RIGHTS, STEPS


def decided_rules(
    application: Application, rules: Mapping[str, Rules], stored: Mapping[str, Rules]
) -> dict[str, Rules]:
    """The team's collections, all of them, and those system collections."""
    schemas = application.collections.values()
    needed = {
        RIGHTS: bool(application.sagas),
        STEPS: bool(application.sagas),
        CLAIMS: any(each.unique for each in schemas),
        REFERRED: any(each.references for each in schemas),
        MARKS: any(each.references for each in schemas),
        BUILDS: any(each.policy.by_quorum and (each.unique or each.references) for each in schemas),
        HEIRS: any(each.escrowed for each in schemas),
    }
    return {**rules, **{name: stored[name] for name, needs in needed.items() if needs}}
