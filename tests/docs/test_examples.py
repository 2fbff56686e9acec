"""Runs every block of code in README.md and docs/, as a reader would: in order, in one folder for each page.

    python     saved under the name in its first comment (`# shop.py`) and imported; without a name, run
    output     what the python block before it prints
    console    `$ command`, and below it what it prints; a command that ends with & stays up
    bash       a script that must succeed
    toml       a whole atoll.toml (`# atoll.toml`), or a part of one, that must load
    json       must be JSON
    text       anything else; not run, as are diagrams (mermaid) and blocks without a language

`…` stands for any text. The ports 8401 to 8419 become free ones. `curl` is played by this module, since not
every machine has it. What only reads is repeated until it prints what it should, for a bounded time: other
regions see a write a moment later.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest
import urllib3
from tests.ports import free_ports

from atoll.config.config import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATIENCE_S = 20.0
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w./-]+\.(?:py|toml))\b")
_READS = re.compile(r"curl (?!.*-X)|atoll (status|verify|conflicts)\b")

_SHOP = """
$ atoll init .
$ atoll serve --region tokyo &
$ atoll serve --region frankfurt &
$ atoll serve --region virginia &
"""
SETTINGS = {"client": _SHOP, "clocks": _SHOP}
"""page → commands before its first block"""
FRAMES = {
    "client": """
import asyncio, atoll
from atoll import Decrement
from atoll.errors import Indefinite
from shop import Inventory, Profile

saved_cursor = None

def index(key, profile):
    assert (key, profile.name) == ("ann", "Ann")

def save(cursor):
    raise SystemExit(0)  # the feed has no end

async def example(db):
    BODY

async def main():
    async with atoll.connect("atoll.toml", near="tokyo") as db:
        await db.put(Inventory(key="sku-1", title="Tea", stock=30))
        await example(db)

asyncio.run(main())
"""
}
"""page → what stands around its fragments of Python"""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in _FENCE.finditer(text)
    ]


def steps_of(console: str) -> Iterator[tuple[str, str]]:
    """(command, what it should print)"""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, expected = part.replace("\\\n", " ").partition("\n")
        yield " ".join(command.split("\n")), expected


def encoded(fragment: str, frame: str) -> str:
    """The fragment where BODY stands, as far to the right."""
    return re.sub(r"^( *)BODY$", lambda found: indent(fragment, found[1]), frame, flags=re.MULTILINE)


def matches(expected: str, printed: str) -> bool:
    """Whether the text is what the page shows; `…` stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@dataclass
class Stage:
    """The folder, ports and processes of one page."""

    folder: Path
    frame: str = "BODY"
    ports: dict[str, str] = field(default_factory=dict)
    jobs: list[tuple[subprocess.Popen[bytes], Path]] = field(default_factory=list)
    printed: str = ""
    count: int = 0

    def __post_init__(self) -> None:
        self.ports = dict(zip(map(str, range(8401, 8420)), map(str, free_ports(19)), strict=True))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        plain = {name: value for name, value in os.environ.items() if name != "ATOLL_KEY"}
        self.environment = {**plain, "PATH": path, "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def here(self, text: str) -> str:
        return re.sub(r"\b84[01]\d\b", lambda match: self.ports.get(match[0], match[0]), text)

    def as_shown(self, text: str) -> str:
        for shown, port in self.ports.items():
            text = re.sub(rf"\b{port}\b", shown, text)
        return text.replace(str(self.folder), "…")

    def play(self, block: Block) -> None:
        match block.language:
            case "python":
                self.python(block.text)
            case "output":
                assert matches(block.text, self.printed), f"it printed:\n{self.printed}"
            case "console":
                for command, expected in steps_of(block.text):
                    self.command(command, expected)
            case "bash":
                self.shell(f"set -euo pipefail\n{block.text}")
            case "toml":
                self.toml(block.text)
            case "json":
                json.loads(block.text)
            case "text" | "mermaid" | "":
                pass
            case other:
                pytest.fail(f"a block in {other!r}: nobody knows how to run that")

    def python(self, text: str) -> None:
        named = _NAMED.match(text)
        self.count += 1
        path = self.folder / (named[1] if named else f"example_{self.count}.py")
        path.write_text(self.here(text if named else encoded(text, self.frame)), "utf-8")
        self.printed = self.shell(f"python -c 'import {path.stem}'" if named else f"python {path.name}")

    def toml(self, text: str) -> None:
        named = _NAMED.match(text)
        if not named:
            if "[deployment]" not in text:
                text = f'[deployment]\nname = "shop"\napp = "shop.py"\n{text}'
            if "[regions." not in text:
                text += '[regions.tokyo]\nurl = "http://127.0.0.1:8401"\n'
        path = self.folder / (named[1] if named else "part.toml")
        path.write_text(self.here(text), "utf-8")
        load_config(path)

    def command(self, command: str, expected: str) -> None:
        if command.startswith("cd "):
            self.folder /= command[3:]
            return
        if command.endswith(" &"):
            self.begin(command[:-2], expected)
            return
        until = time.monotonic() + (PATIENCE_S if expected and _READS.match(command) else 0)
        while True:
            printed = self.curl(command) if command.startswith("curl ") else self.shell(self.here(command))
            printed = self.as_shown(printed)
            if not expected or matches(expected, printed):
                return
            assert time.monotonic() < until, f"$ {command}\nprinted:\n{printed}\nand not:\n{expected}"
            time.sleep(0.05)

    def shell(self, script: str) -> str:
        script = re.sub(r"%(\d+)", lambda match: str(self.jobs[int(match[1]) - 1][0].pid), script)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        told = f"{script}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, told
        for path in self.folder.glob("**/atoll.toml"):  # `atoll init` wrote the ports of the page
            text = path.read_text("utf-8")
            if self.here(text) != text:
                path.write_text(self.here(text), "utf-8")
        return done.stdout

    def begin(self, command: str, expected: str) -> None:
        """Start a process in the background; it is up once it has printed a line."""
        log = self.folder / f"job_{len(self.jobs) + 1}.log"
        with log.open("wb") as file:
            job = subprocess.Popen(
                shlex.split(self.here(command)),
                cwd=self.folder,
                env={**self.environment, "PYTHONUNBUFFERED": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.jobs.append((job, log))
        until = time.monotonic() + PATIENCE_S
        while "\n" not in log.read_text("utf-8"):
            assert job.poll() is None, f"{command} ended:{self.logs()}"
            assert time.monotonic() < until, f"{command} said nothing:{self.logs()}"
            time.sleep(0.02)
        printed = self.as_shown(log.read_text("utf-8"))
        assert not expected or matches(expected, printed), f"$ {command}\nprinted:\n{printed}"

    def curl(self, command: str) -> str:
        """As curl would print it; knows -X, --json, -H, -i, -s and -N."""
        words = iter(shlex.split(self.here(command))[1:])
        method, url, body, headers, head = "", "", None, {}, False
        for word in words:
            match word:
                case "-X":
                    method = next(words)
                case "--json":
                    body = next(words)
                    headers |= {"content-type": "application/json", "accept": "application/json"}
                case "-H":
                    name, _, value = next(words).partition(": ")
                    headers[name] = value
                case "-i":
                    head = True
                case "-s" | "-N":
                    pass
                case _:
                    assert not word.startswith("-"), f"curl {word} is not played here"
                    url = word if "://" in word else f"http://{word}"
        with urllib3.PoolManager() as http:
            answer = http.request(
                method or ("GET" if body is None else "POST"), url, body=body, headers=headers, retries=False
            )
        text = answer.data.decode()
        if not head:
            return text
        lines = [f"{name}: {value}" for name, value in answer.headers.items()]
        return "\n".join([f"HTTP/1.1 {answer.status} {answer.reason}", *lines, "", text])

    def logs(self) -> str:
        return "".join(f"\n-- {log.name}:\n{log.read_text('utf-8')}" for _, log in self.jobs)

    def close(self) -> None:
        for job, _ in self.jobs:
            if job.poll() is None:
                job.terminate()
        for job, _ in self.jobs:
            try:
                job.wait(10)
            except subprocess.TimeoutExpired:
                job.kill()
                job.wait()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Where a page is played; its processes end with it."""
    found = Stage(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_does_what_the_page_says(page: Path, stage: Stage) -> None:
    stage.frame = FRAMES.get(page.stem, "BODY")
    for block in [Block("console", SETTINGS.get(page.stem, ""), 0), *blocks_of(page)]:
        try:
            stage.play(block)
        except AssertionError as error:
            pytest.fail(f"{page.name}:{block.line}: {error}{stage.logs()}")
