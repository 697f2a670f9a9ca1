"""Published reports in a real browser: they draw, without errors or a network. Pictures go to build/screenshots."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
REPORTS = sorted((ROOT / "results" / "published").glob("*/report.html"))
TEMPLATE = ROOT / "dawm" / "analysis" / "report.html.j2"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: str, *options: str, profile: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}", *options]
    return subprocess.run([*command, page], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.parent.name)
def test_report_draws_in_a_browser_without_errors(report: Path, tmp_path: Path) -> None:
    picture = ROOT / "build" / "screenshots" / f"{report.parent.name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    options = ("--enable-logging=stderr", "--window-size=1300,9000", f"--screenshot={picture}")
    result = browse(report.as_uri(), *options, profile=tmp_path)
    messages = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    assert result.returncode == 0 and not messages, messages or result.stderr
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (9000, 1300)
    rows_with_ink = (pixels < 128).any(axis=1)
    assert rows_with_ink[:1000].mean() > 0.1, "the first screen is empty"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
@pytest.mark.parametrize(("clicks", "order"), [(1, "cabde"), (2, "edbac")])
def test_a_click_sorts_numbers_by_what_they_are_and_not_as_written(tmp_path: Path, clicks: int, order: str) -> None:
    script = re.findall("<script>.*?</script>", TEMPLATE.read_text(encoding="utf-8"), re.S)[0]
    cells = {"e": (1200, "1,200"), "b": (4e-8, "4·10⁻⁸"), "d": (0.5, "0.5"), "a": (-3, "-3 to 9"), "c": ("", "–")}
    rows = [
        f'<tr><td>{name}</td><td class="n" data-value="{value}">{shown}</td></tr>'
        for name, (value, shown) in cells.items()
    ]
    head = "<table class=sortable><thead><tr><th>arm</th><th>error</th></tr></thead>"
    click = "document.querySelectorAll('th')[1].click();" * clicks
    page = tmp_path / "page.html"
    page.write_text(
        f"<meta charset=utf-8>{head}<tbody>{''.join(rows)}</tbody></table>{script}<script>{click}</script>",
        encoding="utf-8",
    )
    result = browse(page.as_uri(), "--dump-dom", profile=tmp_path / "profile")
    assert result.returncode == 0, result.stderr
    assert "".join(re.findall(r"<tr><td>(\w)</td>", result.stdout)) == order


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.parent.name)
def test_report_asks_no_network_for_anything(report: Path) -> None:
    text = report.read_text()
    for loading in ('src="http', "src='http", "url(http", "@import", '<link rel="stylesheet"', "fetch("):
        assert loading not in text, f"{report}: loads something by {loading}"


def test_there_are_reports_to_open() -> None:
    assert REPORTS and os.access(REPORTS[0], os.R_OK)
