"""Python environments of peers: installed once from the package registry, each into a folder of `bench/.cache`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.peers import NotMeasured
from bench.rounds import Say

CACHE = Path(__file__).parents[1] / ".cache"
_INSTALL_S = 300.0


@dataclass(frozen=True, slots=True)
class Environment:
    label: str
    folder: Path
    packages: tuple[str, ...]
    """As pip takes them."""

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def require(self, say: Say, *, install: bool) -> None:
        """Raises NotMeasured where it is not here, and may or can not be installed."""
        ready = self.folder / "installed"
        if ready.exists():
            return
        if not install:
            raise NotMeasured(f"{self.label} is not installed yet; a run without --quick does that")
        say(f"pip installs {self.label}, once")
        for command in (
            [sys.executable, "-m", "venv", str(self.folder)],
            [str(self.python), "-m", "pip", "install", "--quiet", *self.packages],
        ):
            done = run(command, _INSTALL_S)
            if done.returncode != 0:
                raise NotMeasured(f"pip cannot install {self.label}: {done.stderr.strip()[-300:]}")
        ready.touch()


def run(command: list[str], within_s: float) -> subprocess.CompletedProcess[str]:
    """Raises NotMeasured where it takes longer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"`{' '.join(command[:4])}` did not end in {within_s:.0f} s") from None
