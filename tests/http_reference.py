"""The tables of calls, parameters and headers in docs/reference.md, made of the table of routes by `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from atoll.http.parameters import Choice, Kind, Moment, Parameter, Seconds, Whole
from atoll.http.route import Route
from atoll.http.routes import TABLE

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
_MARKED = re.compile(r"(<!-- routes (\w+) (\w+): begin -->\n).*?(<!-- routes \2 \3: end -->)", re.DOTALL)
_OF_DOCUMENTS = ("/v1/{collection}", "/v1/batch", "/v1/multiplex")


def group_of(route: Route) -> str:
    if route.path.startswith(_OF_DOCUMENTS):
        return "documents"
    first = route.path.split("/")[1]
    return {"v1": "data", "admin": "admin", "replication": "regions"}.get(first, "health")


def calls(routes: list[Route]) -> list[str]:
    rows = [f"| `{route.method} {route.path}` | {route.meaning} |" for route in routes]
    return ["| call | what it does |", "|---|---|", *rows]


def parameters(routes: list[Route]) -> list[str]:
    return _table(
        "parameter", [(each, route) for route in routes for each in route.parameters if each.place == "query"]
    )


def requests(routes: list[Route]) -> list[str]:
    headers = [(each, route) for route in routes for each in route.parameters if each.place == "header"]
    return _table("request header", headers)


def answers(routes: list[Route]) -> list[str]:
    return _table(
        "response header",
        [(each, route) for route in routes for answer in route.answers for each in answer.headers],
    )


def _table(what: str, found: list[tuple[Parameter, Route]]) -> list[str]:
    of: dict[Parameter, list[str]] = {}
    for parameter, route in found:
        names = of.setdefault(parameter, [])
        if route.name not in names:
            names.append(route.name)
    rows = [
        f"| `{each.name}` | {', '.join(names)} | {each.meaning}{_form(each.kind, each)} |"
        for each, names in sorted(of.items(), key=lambda item: item[0].name)
    ]
    return [f"| {what} | of | meaning |", "|---|---|---|", *rows]


def _form(kind: Kind, parameter: Parameter) -> str:
    """What a caller may give, after the meaning."""
    default = "" if parameter.default in (None, "") else f" ({parameter.default})"
    match kind:
        case Choice(words) if len(words) > 1 or words == ("*",):
            form = ", ".join(f"`{word}`" for word in words)
        case Whole(least, most):
            form = f"{least} to {most}{default}"
        case Seconds(most):
            form = f"0 to {most} seconds"
        case Moment():
            form = "unix milliseconds, or ISO 8601 with a time zone"
        case _:
            form = ""
    if parameter.most > 1:
        form = f"up to {parameter.most} times"
    return f". Takes {form}" if form else ""


TABLES = {"calls": calls, "parameters": parameters, "requests": requests, "answers": answers}


def with_tables(page: str) -> str:
    """The page with the tables between its marks made anew."""

    def made(found: re.Match[str]) -> str:
        begin, group, what, end = found.groups()
        routes = [route for route in TABLE.routes if group in ("all", group_of(route))]
        return begin + "\n".join(TABLES[what](routes)) + "\n" + end

    return _MARKED.sub(made, page)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
