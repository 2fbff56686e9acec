from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from bench.traces import main, parsed, replayed

CONCURRENT: dict[str, Any] = {
    "kind": "concurrent",
    "numAgents": 2,
    "endContent": "Hi, all there!",
    "txns": [
        {"agent": 0, "parents": [], "patches": [[0, 0, "hi there"]]},
        {"agent": 1, "parents": [0], "patches": [[2, 0, ", all"]]},
        {"agent": 0, "parents": [0], "patches": [[0, 1, "H"]]},
        {"agent": 0, "parents": [2], "patches": [[8, 0, "?"]]},
        {"agent": 1, "parents": [1, 3], "patches": [[13, 1, "!"]]},
    ],
}


def test_a_run_ends_where_another_agent_heard_of_it() -> None:
    trace = parsed(CONCURRENT)
    assert [(run.agent, run.heard, len(run.edits)) for run in trace.runs] == [
        (0, {}, 1),
        (1, {0: 1}, 1),
        (0, {}, 2),
        (1, {0: 2}, 1),
    ]


@pytest.mark.parametrize("collection", ["paper", "sheet"])
def test_concurrent_agents_end_with_the_recorded_content(collection: str) -> None:
    it = replayed(parsed(CONCURRENT), collection, None)
    assert (it.edits, it.journal_bytes > 0) == (5, True)
    with pytest.raises(AssertionError, match="another content"):
        replayed(parsed({**CONCURRENT, "endContent": "Hi"}), collection, None)


def test_a_recorded_file_is_replayed_durably(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, content, txns = random.Random(5), "", []
    for _ in range(300):
        at = rng.randint(0, len(content))
        gone = rng.randint(0, min(3, len(content) - at)) if rng.random() < 0.3 else 0
        new = "" if gone else rng.choice(["a", "é", "😀", "two words "])
        content = content[:at] + new + content[at + gone :]
        txns.append({"patches": [[at, gone, new]]})
    (tmp_path / "typed.json").write_text(json.dumps({"endContent": content, "txns": txns}), "utf-8")
    main([str(tmp_path / "typed.json")])
    assert capsys.readouterr().out.count("300 edits in     1 runs") == 2
