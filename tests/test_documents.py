"""The documents: links lead somewhere, and files that they name are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md"))
    if not path.parts[len(ROOT.parts)].startswith(".")
)
OURS = r"(?:benchmarks|config|dawm|docs|results/published|tests|workflow)/[\w./-]*\w"


def anchors(document: Path) -> list[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]


def broken(document: Path) -> list[str]:
    """Links that lead nowhere."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not link.startswith("https://") and not (target.exists() and (not anchor or anchor in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert not broken(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(document: Path) -> None:
    named = re.findall(rf"(?<![\w./]){OURS}", document.read_text(encoding="utf-8"))
    placeholders = re.compile(r"/[A-Z]+\b(?!\.)")  # such as TASK
    assert not [name for name in named if not placeholders.search(name) and not (ROOT / name).exists()]


def test_what_a_notebook_is_told_to_call_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/running.md").read_text(), re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)
    rows = len(namespace["synthetic"])
    assert rows > 1000 and capsys.readouterr().out.startswith(f"({rows}, 11) ({rows}, 3) ")
    table = namespace["table"]
    np.testing.assert_array_equal(np.stack(table["action"]), namespace["synthetic"].action)


def test_broken_links_are_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# A title\n[a](#a-title) [b](#b) [c](page.md#a-title) [d](absent.md) [e](https://example.org)\n"
    )
    assert broken(document) == ["#b", "absent.md"]
