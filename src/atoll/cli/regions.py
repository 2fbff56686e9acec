"""Asks the regions of atoll.toml over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import urllib3

from atoll.config.config import Config, RegionConfig, load_config
from atoll.errors import AtollError, ConfigError, RegionUnreachable, error_classes
from atoll.schema.application import Application
from atoll.schema.loading import load_application

_MOST_AT_ONCE = 32
_JSON = {"content-type": "application/json"}
_PROBLEM = "urn:atoll:problem:"
_PROBLEM_MEMBERS = frozenset({"type", "title", "status", "detail", "definite"})


def open_config(path: str) -> Config:
    """Raises ConfigError."""
    return load_config(Path(path))


def open_application(path: str) -> tuple[Config, Application]:
    """With what it declares. Raises ConfigError, DeclarationError."""
    config = open_config(path)
    return config, load_application(config.app, limits=config.limits)


class Node(NamedTuple):
    """What one node of a region answered."""

    region: str
    number: int
    url: str
    answer: Any
    """JSON, or the AtollError of asking."""


class Regions:
    """The deployment as its operator sees it from outside."""

    def __init__(self, config: Config, *, timeout_s: float = 5.0) -> None:
        self.config = config
        self._pool = urllib3.PoolManager(
            num_pools=len(config.regions) + len(config.witnesses),
            retries=False,
            timeout=urllib3.Timeout(connect=min(2.0, timeout_s), read=timeout_s),
        )

    def ask(self, region: str, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """GET from one region. Raises RegionUnreachable, or the error that the region answered."""
        asked = self.config.region(region)
        return self._answer(asked, f"{path}?{urlencode(parameters)}" if parameters else path, asked.urls)

    def ask_nodes(
        self, path: str, *, among: Sequence[str] | None = None, body: Mapping[str, Any] | None = None
    ) -> list[Node]:
        """Every node of these regions and witnesses, or of all regions, at a time: what each answered, or why not.

        GET; POST with a `body`.
        """

        def one(asked: tuple[RegionConfig, int, str]) -> Node:
            region, number, url = asked
            try:
                return Node(region.name, number, url, self._answer(region, path, (url,), body))
            except AtollError as error:
                return Node(region.name, number, url, error)

        nodes = [
            (region, number, url)
            for region in (*self.config.regions, *self.config.witnesses)
            if (not region.witness if among is None else region.name in among)
            for number, url in enumerate(region.nodes or (region.url,), 1)
        ]
        with ThreadPoolExecutor(max_workers=min(len(nodes), _MOST_AT_ONCE)) as pool:
            return list(pool.map(one, nodes))

    def ask_first(
        self, path: str, parameters: Mapping[str, str] | None = None, *, only: str | None = None
    ) -> tuple[str, Any]:
        """GET from the first region that answers, or from one. Raises RegionUnreachable when none does."""
        return self._first(lambda region: self.ask(region, path, parameters), only)

    def tell_first(self, path: str, body: Mapping[str, Any], *, only: str | None = None) -> Any:
        """POST to the first region that can be reached, or to one. Raises as `ask_first`."""

        def tell(region: str) -> Any:
            asked = self.config.region(region)
            return self._answer(asked, path, asked.urls, body)

        return self._first(tell, only)[1]

    def _first(self, ask: Callable[[str], Any], only: str | None) -> tuple[str, Any]:
        failures = []
        for region in self.config.region_names if only is None else [self.config.region(only).name]:
            try:
                return region, ask(region)
            except RegionUnreachable as error:
                failures.append(error.message)
        raise RegionUnreachable("; ".join(failures))

    def _answer(
        self, region: RegionConfig, path: str, urls: Sequence[str], body: Mapping[str, Any] | None = None
    ) -> Any:
        """Of the first of its nodes that can be reached."""
        response = self._first_response(region, path, urls, body)
        try:
            answer = json.loads(response.data)
        except ValueError:
            raise ConfigError(
                f"{region.url} answers {response.status} and is not an Atoll region;"
                f" correct the url of {region.name} in {self.config.source}"
            ) from None
        if response.status == 200:
            return answer
        raise _error_of(region, response.status, answer)

    def _first_response(
        self, region: RegionConfig, path: str, urls: Sequence[str], body: Mapping[str, Any] | None
    ) -> urllib3.BaseHTTPResponse:
        method, sent = ("GET", None) if body is None else ("POST", json.dumps(body))
        failures: list[urllib3.exceptions.HTTPError] = []
        for url in urls:
            try:
                return self._pool.request(method, f"{url}{path}", body=sent, headers=_JSON)
            except urllib3.exceptions.HTTPError as error:
                failures.append(error)
        raise RegionUnreachable(
            f"{region.name} does not answer at {', '.join(urls)} ({_reason(failures[0])});"
            f" `atoll serve --region {region.name}` starts it",
            region=region.name,
        ) from failures[0]


def _reason(error: Exception) -> str:
    match error:
        case urllib3.exceptions.NewConnectionError():
            return "nothing listens there"
        case urllib3.exceptions.TimeoutError():
            return "no answer in time"
        case _:
            return type(error).__name__


def _error_of(region: RegionConfig, status: int, body: Any) -> AtollError:
    """The error that a problem document describes."""
    problem = body if isinstance(body, dict) else {}
    kind = str(problem.get("type", "")).removeprefix(_PROBLEM)
    details = {name: value for name, value in problem.items() if name not in _PROBLEM_MEMBERS}
    message = f"{region.name}: {problem.get('detail') or f'answered {status}'}"
    return error_classes().get(kind, AtollError)(message, **details)
