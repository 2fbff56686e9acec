"""Turns pydantic's findings into the errors that callers know."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from atoll.errors import InvalidDocument, MalformedRequest, RequestError, UnknownField

_POSITION = re.compile(r" at line (\d+) column (\d+)$")
_NOT_AN_OBJECT = ("model_type", "model_attributes_type", "dict_type")
MOST_PROBLEMS = 20


def request_error(error: ValidationError, collection: str, fields: Collection[str]) -> RequestError:
    """What to raise for a document of `collection` that pydantic refused."""
    found = error.errors(include_url=False, include_input=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return _malformed(str(first["ctx"]["error"]), collection)
    if first["type"] in _NOT_AN_OBJECT and not first["loc"]:
        return InvalidDocument(f"{collection}: a document is a JSON object, such as {{}}; this body is none")
    unknown = [
        str(item["loc"][0]) for item in found if item["type"] == "extra_forbidden" and len(item["loc"]) == 1
    ]
    if unknown:
        return unknown_field(unknown[0], collection, fields)
    return invalid_document(collection, [problem(item) for item in found[:MOST_PROBLEMS]])


def meant(name: str, candidates: Collection[str]) -> str:
    """The candidate that was probably meant, or the candidates."""
    close = get_close_matches(name, candidates, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(candidates)[:12])}"


def unknown_field(field: str, collection: str, fields: Collection[str]) -> UnknownField:
    """Names the field, the collection and what may have been meant."""
    close = get_close_matches(field, fields, n=3)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"its fields are {', '.join(fields)}"
        if fields
        else "it has no fields"
    )
    return UnknownField(
        f"{collection} has no field {field[:64]!r}; {hint}",
        collection=collection,
        field=field[:256],
        close=close,
    )


def invalid_document(collection: str, problems: Sequence[Mapping[str, str]]) -> InvalidDocument:
    """One message for all problems; `details["problems"]` lists them as {field, problem}."""
    told = "; ".join(
        f"{item['field']}: {item['problem']}" if item["field"] else item["problem"] for item in problems
    )
    return InvalidDocument(
        f"{collection}: {told}", collection=collection, problems=[dict(p) for p in problems]
    )


def problem(found: Mapping[str, Any]) -> dict[str, str]:
    """One finding as {field, problem}; the field as a dotted path."""
    text = str(found["msg"])
    if found["type"] == "extra_forbidden":
        text = "no such member is declared"
    elif found["type"] == "missing":
        text = "required, and missing"
    elif found["type"] in ("value_error", "assertion_error"):
        text = text.partition(", ")[2] or text
    else:
        text = text.replace("Input should be", "must be")
    return {"field": ".".join(str(part) for part in found["loc"]), "problem": text}


def _malformed(reason: str, collection: str) -> RequestError:
    if reason.startswith(("recursion limit", "number out of range")):
        what = "nested too deeply" if reason.startswith("recursion") else "a number has too many digits"
        return InvalidDocument(f"{collection}: {what}", collection=collection)
    position = _POSITION.search(reason)
    details = {"line": int(position[1]), "column": int(position[2])} if position else {}
    return MalformedRequest(f"the body is not valid JSON: {reason}", **details)
