"""The page fits a phone and a desk screen, and asks nobody for anything, in a real browser.

Chromium opens it from a local server, in a frame as wide as the screen, and a script beside the
frame measures it. Every host name leads to that server, so that it sees whatever is asked for.
"""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.validation.report.html import render_html
from albert_deploy.validation.report.pictures import draw_pictures
from albert_deploy.validation.report.report import as_json

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, e.g. apt-get install chromium"),
]
WIDTHS = (390, 1280)
# Texts of a plot are measured against its box and each other; elsewhere what is wider than its
# box and cannot be scrolled is clipped or runs over its neighbour.
MEASURE = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow, found = [];
  page.querySelectorAll("details").forEach((d) => { d.open = OPEN; });
  for (const e of page.querySelectorAll("body *:not(svg *)")) {
    const scrolls = ["auto", "scroll"].includes(view.getComputedStyle(e).overflowX);
    if (!scrolls && e.clientWidth && e.scrollWidth > e.clientWidth + 1)
      found.push("clipped: " + e.tagName + " " + e.textContent.slice(0, 60));
  }
  for (const svg of page.querySelectorAll("svg.plot")) {
    const box = svg.getBoundingClientRect();
    const place = (e) => e.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map((e) => [e.textContent, place(e)]);
    texts.forEach(([text, t], i) => {
      const across = t.left < box.left - 1 || t.right > box.right + 1;
      if (across || t.top < box.top - 1 || t.bottom > box.bottom + 1)
        found.push("outside of its plot: " + text);
      for (const [other, o] of texts.slice(0, i)) {
        const beside = t.left >= o.right - 1 || o.left >= t.right - 1;
        // A line of text is higher than its letters.
        if (!beside && t.top < o.bottom - 3 && o.top < t.bottom - 3)
          found.push("over each other: " + text + " and " + other);
      }
    });
  }
  const root = page.documentElement;
  const count = (what) => page.querySelectorAll(what).length;
  const seen = { width: root.scrollWidth, window: view.innerWidth, found };
  Object.assign(seen, { plots: count("svg.plot"), rows: count("tr") });
  document.querySelector("pre").textContent = JSON.stringify(seen);
};
"""


class _Server(ThreadingHTTPServer):
    def __init__(self, pages: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages = pages
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path
        self.server.asked.append(self.headers.get("Host", "") + path)
        page = self.server.pages.get(path)
        self.send_response(404 if page is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write((page or "").encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the output of the tests clean."""


class _Browser:
    """Opens a page at a width and returns what was measured and what was asked for."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile

    def open(
        self, page: str, width: int, *, opened: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        script = MEASURE.replace("OPEN", json.dumps(opened))
        # No icon is asked for where the page names one.
        outer = (
            '<!DOCTYPE html><link rel="icon" href="data:,"><body style="margin:0">'
            f'<iframe src="/report.html" style="width:{width}px;height:900px;border:0"></iframe>'
            f"<pre></pre><script>{script}</script>"
        )
        server = _Server({"/outer.html": outer, "/report.html": page})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            text = self._dump(server.server_address[1])
        finally:
            server.shutdown()
            server.server_close()
        measured = text.split("<pre>")[1].split("</pre>")[0]
        return json.loads(html.unescape(measured)), server.asked

    def _dump(self, port: int) -> str:
        switches = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
            "--disable-background-networking --disable-component-update --disable-sync "
            "--disable-dev-shm-usage --window-size=1400,1000 --virtual-time-budget=20000"
        )
        command = [
            str(CHROMIUM),
            *switches.split(),
            f"--user-data-dir={self._profile}",
            f"--host-resolver-rules=MAP * 127.0.0.1:{port}",
            "--dump-dom",
            f"http://127.0.0.1:{port}/outer.html",
        ]
        run = subprocess.run(command, capture_output=True, timeout=600, check=True)
        return run.stdout.decode()


@pytest.fixture
def browser(tmp_path: Path) -> _Browser:
    return _Browser(tmp_path / "profile")


def _foreign(asked: list[str]) -> list[str]:
    own = ("/outer.html", "/report.html")
    # Chromium itself looks for updates of its parts now and then.
    return [url for url in asked if not url.endswith(own) and "google" not in url]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("opened", [False, True])
def test_nothing_overflows_or_is_clipped(
    browser: _Browser, full_report: dict[str, Any], width: int, opened: bool
) -> None:
    plain = as_json(full_report)
    seen, asked = browser.open(render_html(plain, draw_pictures(plain)), width, opened=opened)
    assert seen["window"] == width
    assert seen["width"] <= width
    assert seen["plots"] == 6
    assert seen["rows"] > 100
    assert seen["found"] == []
    assert _foreign(asked) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_least_report_fits(browser: _Browser, least_report: dict[str, Any], width: int) -> None:
    seen, asked = browser.open(render_html(least_report), width)
    assert seen["width"] <= width
    assert seen["found"] == []
    assert _foreign(asked) == []


def test_the_browser_would_have_noticed(browser: _Browser) -> None:
    page = (
        "<!DOCTYPE html><title>x</title><p style='width:90px;overflow:hidden'>"
        f"{'a' * 200}</p><p style='width:3000px'>wide</p>"
        "<svg class='plot' width='100' height='50'><text x='90' y='20'>leaves</text>"
        "<text x='5' y='40'>over</text><text x='8' y='40'>other</text></svg>"
        "<img src='http://elsewhere.example/picture.png'>"
    )
    seen, asked = browser.open(page, 390)
    assert seen["width"] >= 3000
    assert len([text for text in seen["found"] if text.startswith("clipped: P")]) == 1
    assert "outside of its plot: leaves" in seen["found"]
    assert "over each other: other and over" in seen["found"]
    assert any("elsewhere.example" in url for url in _foreign(asked))
