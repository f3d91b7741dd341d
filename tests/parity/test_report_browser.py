"""The report in a real browser, where there is one; without, its structure is all that can be checked here."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from export.parity.report import write_report
from tests.parity.reports import DIFFERENT, EQUAL, Page, broken, ladder, result

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NETWORK = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", *NETWORK)
WIDTH, HEIGHT = 1280, 900


def browse(page: Path, folder: Path, *options: str) -> str:
    """Open a page; what the browser prints."""
    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    command = [browser, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{HEIGHT}", *options]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout


def pixels(path: Path) -> bytes:
    """The unpacked rows of a PNG of WIDTH x HEIGHT with 8-bit colours."""
    data, at, packed = path.read_bytes(), 8, b""
    assert struct.unpack(">II", data[16:24]) == (WIDTH, HEIGHT)
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        packed += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    return zlib.decompress(packed)


@pytest.mark.parametrize("verdict", [EQUAL, DIFFERENT])
def test_a_browser_shows_the_page(tmp_path: Path, verdict: str) -> None:
    page = tmp_path / "parity.html"
    rungs = ladder() if verdict == EQUAL else broken(0.5)
    write_report(result(*rungs, scenes=("a.ply", "b.ply"), verdict=verdict), page)
    written = Page(page.read_text())
    if not any(map(shutil.which, BROWSERS)):
        assert written.all("html"), "parsed whole: every element is closed by its own end"
        return
    assert Page(browse(page, tmp_path, "--dump-dom")).text == written.text, "the browser reads what was written"
    shown = {}
    for scheme in ("light", "dark"):
        dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
        browse(page, tmp_path, f"--screenshot={tmp_path / scheme}.png", *dark)
        shown[scheme] = pixels(tmp_path / f"{scheme}.png")
        assert len(set(shown[scheme])) > 50, "not one colour"
    assert shown["light"] != shown["dark"]
