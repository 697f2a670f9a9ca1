"""Published reports in a real browser: they draw, without errors or a network. Pictures go to build/screenshots."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
REPORTS = sorted((ROOT / "results" / "published").glob("*/report.html"))
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


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.parent.name)
def test_report_asks_no_network_for_anything(report: Path) -> None:
    text = report.read_text()
    for loading in ('src="http', "src='http", "url(http", "@import", '<link rel="stylesheet"', "fetch("):
        assert loading not in text, f"{report}: loads something by {loading}"


def test_there_are_reports_to_open() -> None:
    assert REPORTS and os.access(REPORTS[0], os.R_OK)
