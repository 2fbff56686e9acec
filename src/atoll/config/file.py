"""The shape of `atoll.toml`, and the advice for each mistake."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from atoll.schema.bounds import DOCUMENT_BYTES, MOST_DOCUMENT_BYTES, MOST_KEY_BYTES
from atoll.schema.problems import meant

MOST_REGIONS = 32
"""Identifiers keep five bits for the region."""
MOST_NODES = 32
"""And five for the node."""
_HOST = r"^(\*|[a-z0-9._-]+)$"
_ORIGIN = r"^(\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LimitsSection(Section):
    document_bytes: int = Field(DOCUMENT_BYTES, ge=1, le=MOST_DOCUMENT_BYTES)
    depth: int = Field(64, ge=1, le=128)
    key_bytes: int = Field(512, ge=1, le=MOST_KEY_BYTES)


class DeploymentSection(Section):
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    app: str = Field(min_length=1)
    data: str = Field("./data", min_length=1)
    key: str | None = Field(None, min_length=16, repr=False)
    max_clock_offset_ms: int = Field(500, ge=1, le=60_000)
    require_synchronised_clocks: bool = False
    audit_days: int = Field(30, ge=1, le=3650)
    audit_max: int = Field(1_000_000, ge=1)
    events_days: int = Field(30, ge=1, le=3650)
    events_max: int = Field(10_000, ge=0, le=1_000_000)
    sagas_days: int = Field(30, ge=1, le=3650)
    heir_minutes: float = Field(10, ge=0, le=525_600)
    idempotency_hours: int = Field(24, ge=1, le=8760)
    journal_hours: float = Field(24, ge=0, le=8760)
    journal_absent_hours: float = Field(168, gt=0, le=8760)
    journal_max_gb: float | None = Field(None, gt=0, le=1e6)
    allowed_hosts: list[Annotated[str, Field(pattern=_HOST)]] = []
    allowed_origins: list[Annotated[str, Field(pattern=_ORIGIN)]] = []
    limits: LimitsSection = LimitsSection()


class RegionSection(Section):
    url: str | None = None
    nodes: Annotated[list[str], Field(min_length=1, max_length=MOST_NODES)] | None = None
    location: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    store: str = "sqlite"
    number: int | None = Field(None, ge=0, le=MOST_REGIONS - 1)
    witness: bool = False


class EmulateSection(Section):
    rtt_ms: dict[str, Annotated[float, Field(ge=0, le=60_000)]] = {}
    clock_offset_ms: dict[str, Annotated[int, Field(ge=-86_400_000, le=86_400_000)]] = {}


class ConfigFile(Section):
    deployment: DeploymentSection
    regions: dict[str, RegionSection] = Field(min_length=1, max_length=MOST_REGIONS)
    emulate: EmulateSection | None = None


def advice(where: tuple[str, ...], kind: str, message: str) -> str:
    """How to correct what pydantic found at `where`."""
    match kind:
        case "extra_forbidden":
            return f"is unknown; {meant(where[-1], _names_beside(where))}"
        case "missing":
            return f"is missing; add {_EXAMPLES.get(where[-1], f'`{where[-1]} = …`')}"
        case "string_pattern_mismatch" if where[-2:-1] == ("allowed_hosts",):
            return 'give a name in small letters without port, such as "shop.example", or "*"'
        case "string_pattern_mismatch" if where[-2:-1] == ("allowed_origins",):
            return 'give an origin in small letters without path, such as "https://shop.example", or "*"'
        case "string_pattern_mismatch":
            return "use small letters, digits, - and _, starting with a letter"
        case "too_short" if where == ("regions",):
            return f"is empty; add {_EXAMPLES['regions']}"
        case _:
            return message.replace("Input should", "must").replace("should have", "must have")


_EXAMPLES = {
    "deployment": 'a section [deployment] with name = "shop" and app = "shop.py"',
    "regions": 'a section such as [regions.tokyo] with url = "http://127.0.0.1:8401"',
    "name": 'name = "shop"',
    "app": 'app = "shop.py", the file that declares the collections',
    "url": 'url = "http://127.0.0.1:8401", where clients and peers reach the region',
}


def _names_beside(where: tuple[str, ...]) -> list[str]:
    """What the section that holds the unknown key may hold."""
    sections: dict[int, dict[str, type[Section]]] = {
        2: {"deployment": DeploymentSection, "emulate": EmulateSection}
    }
    section: Any = sections.get(len(where), {}).get(where[0], ConfigFile)
    if where[0] == "regions":
        section = RegionSection
    elif where[:2] == ("deployment", "limits"):
        section = LimitsSection
    return list(section.model_fields)
