from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.documents import document_body, document_key
from bench.peers import NotMeasured, pouchdb
from bench.peers.pouchdb import batch_of, put_document, replicating


def test_requests_hold_the_documents_that_everybody_writes() -> None:
    single = put_document(2, first=5)
    assert (single.path, single.body) == (f"/record/{document_key(7)}", document_body(7))
    documents = json.loads(batch_of(1, size=3, first=10).body)["docs"]
    assert [document.pop("_id") for document in documents] == [
        document_key(number) for number in (13, 14, 15)
    ]
    assert documents == [json.loads(document_body(number)) for number in (13, 14, 15)]


def test_it_is_not_installed_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pouchdb, "_PROGRAM", tmp_path / "none")
    with pytest.raises(NotMeasured, match="not installed yet"), replicating(tmp_path, print, install=False):
        pass


def test_without_npm_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pouchdb, "_PROGRAM", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotMeasured, match="no npm"), replicating(tmp_path, print, install=True):
        pass


def test_an_npm_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(pouchdb, "_PROGRAM", tmp_path / "none")
    monkeypatch.setattr(pouchdb, "_CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(NotMeasured, match="no such package"), replicating(tmp_path, print, install=True):
        pass
