"""The documents: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from batchenv.cli import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "batchenv").rglob("*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(path.read_text()) if kind == language]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p, "python")], ids=name)
def test_the_python_of_a_document_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a document, in order, in one namespace; training is cut short."""
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"learn\([\d_]+\)", "learn(2_000)", "\n".join(blocks(path, "python")))
    exec(compile(code, name(path), "exec"), {"__name__": "__document__"})


def commands() -> list[tuple[str, list[str]]]:
    found = []
    for path in DOCUMENTS:
        for block in blocks(path, "sh"):
            lines = (line.split("#")[0].strip() for line in block.splitlines())
            found += [(name(path), shlex.split(line)) for line in lines if line.startswith("batchenv ")]
    return found


def test_every_command_of_the_documents_exists_and_every_command_is_documented() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    seen = set()
    for where, words in commands():
        command = known.get(words[1])
        assert command is not None, f"{where}: there is no command {words[1]!r}"
        seen.add(words[1])
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words[2:]:
            assert not word.startswith("-") or word in options, f"{where}: {words[1]} has no option {word}"
    assert seen == set(known)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", FENCE.sub("", path.read_text())):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{name(path)}: {target}"


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for block in blocks(path, "sh"):
            for target in re.findall(r"^make ([\w-]+)", block, re.MULTILINE):
                assert target in targets, f"{name(path)}: make {target}"
