"""The screenshots of the README: the page of `rosepo serve`, and the top of the report, of the demo's run.

    python -m benchmarks.screenshots [--run runs/demo] [--user 1]

Needs Chromium on the path. Writes benchmarks/results/page.png and benchmarks/results/report.png.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

RESULTS = Path(__file__).parent / "results"
WIDTH, HEIGHT = 1400, 900
PATIENCE = 600.0
"""Seconds for the server to load the run, and for all models to answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--user", default="1", help="a user of the log")
    asked = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no chromium and no google-chrome on the path")
    port = free_port()
    command = [sys.executable, "-m", "rosepo_cli", "serve", str(asked.run), "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser)
            page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            show_user(page, f"http://127.0.0.1:{port}/", asked.user)
            page.screenshot(path=RESULTS / "page.png")
            page.goto((asked.run / "report.html").resolve().as_uri())
            page.screenshot(path=RESULTS / "report.png")
            chromium.close()
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with urlopen(url) as answer:
                if answer.status == 200:
                    return
        except (URLError, ConnectionError):
            time.sleep(0.5)
    sys.exit(f"{url} did not answer")


def show_user(page: Page, url: str, user: str) -> None:
    """The lists of all models for a user, when all are there."""
    page.goto(url)
    page.locator("#user").fill(user)
    page.locator("#user-options li").first.wait_for()
    page.locator("#user-options li", has_text=user).first.click()
    page.locator(".card").first.wait_for(timeout=1000 * PATIENCE)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.card')].every(card => card.querySelector('li .title'))",
        timeout=1000 * PATIENCE,
    )
    page.wait_for_function(
        "() => [...document.querySelectorAll('.card')].every(card => getComputedStyle(card).opacity === '1')"
    )
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
