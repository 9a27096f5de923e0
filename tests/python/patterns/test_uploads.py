"""`examples/patterns/uploads/` in a browser: Chromium without a screen, driven by Playwright.

`CELERIAC_KEEP_PICTURE=1` keeps the screenshot in the documentation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ..servers.run import free_port
from .conftest import EXAMPLES, ROOT, Pattern

#: What a page needs in a container that has no screen, no GPU and no way out.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PICTURES = ("hills.jpg", "rings.png", "grain.jpg", "sea.png")
PATIENCE_MS = 60_000
#: Notes each value that a bar ever has.
WATCH = """() => {
  window.seen = {};
  const note = () => document.querySelectorAll("li").forEach(item => {
    const name = item.querySelector(".name").textContent;
    (window.seen[name] ??= []).push(item.querySelector("progress").value);
  });
  new MutationObserver(note).observe(document.querySelector("ul"), {subtree: true, childList: true, attributes: true});
}"""


@pytest.fixture
def page() -> Iterator[Page]:
    """A browser's page. Debian's Chromium: none is downloaded."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is missing: `make servers` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=ARGUMENTS)
        made = browser.new_page(viewport={"width": 860, "height": 620})
        made.set_default_timeout(PATIENCE_MS)
        yield made
        browser.close()


def draw(folder: Path) -> list[str]:
    """Pictures to upload."""
    folder.mkdir()
    size = (1500, 1000)
    gradient = Image.linear_gradient("L").resize(size)
    noise = Image.effect_noise(size, 70)
    fractal = Image.effect_mandelbrot(size, (-2.2, -1.2, 1.0, 1.2), 50)
    rings = Image.radial_gradient("L").resize(size)
    bands = (
        (gradient, rings, fractal),
        (rings, fractal, gradient),
        (noise, gradient, rings),
        (fractal, noise, gradient),
    )
    for name, channels in zip(PICTURES, bands, strict=True):
        Image.merge("RGB", channels).save(folder / name)
    return [str(folder / name) for name in PICTURES]


@pytest.mark.parametrize("kind", ["embedded"], indirect=True)
def test_a_page_shows_live_progress_of_uploaded_pictures(pattern: Pattern, page: Page, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pattern.environment.update(UPLOADS_FOLDER=str(out), UPLOADS_KEY="a key", FLASK_APP="uploads")
    pattern.environment["PYTHONPATH"] += f"{os.pathsep}{EXAMPLES / 'uploads'}"
    pattern.start_worker("uploads", "-c", "2")
    port = free_port()
    pattern.start("-m", "flask", "run", "--port", str(port), until="Running on")
    page.goto(f"http://127.0.0.1:{port}/")
    page.evaluate(WATCH)

    page.locator("input[type=file]").set_input_files(draw(tmp_path / "drawn"))
    page.wait_for_function(
        "() => document.querySelectorAll('li.PROGRESS').length >= 2 && document.querySelector('li img')"
    )
    page.screenshot(path=str(tmp_path / "uploads.png"))
    page.wait_for_function("() => document.querySelectorAll('li.SUCCESS img').length === 4")
    page.wait_for_function("() => [...document.images].every(one => one.complete && one.naturalWidth > 0)")

    seen = page.evaluate("() => window.seen")
    assert sorted(seen) == sorted(PICTURES)
    for values in seen.values():
        between = {value for value in values if 0 < value < 1}
        assert between, seen
        assert values == sorted(values)
        assert values[-1] == 1
    assert len(list(out.glob("poster-*.png"))) == len(PICTURES)
    # Another browser, without the cookie, may not see them.
    stranger = page.context.browser.new_context()  # type: ignore[union-attr]
    task = page.evaluate(
        "() => performance.getEntriesByType('resource').map(one => one.name).find(one => one.includes('events'))"
    )
    assert stranger.request.get(task).status == 403
    if os.environ.get("CELERIAC_KEEP_PICTURE"):
        shutil.copy(tmp_path / "uploads.png", ROOT / "docs/pictures/uploads.png")
