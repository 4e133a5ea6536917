"""Take the pictures of the README from a running `anlyt up --demo`: python tools/screenshots.py [ADDRESS [DATA_DIR]].

In: the demo's address and its data directory, where its keys are kept. Out: docs/images/*.png, light and dark, each
under PICTURE_BYTES_MAX. Needs a Chromium (Debian's package chromium).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES: Final = Path(__file__).resolve().parent.parent / "docs/images"
PICTURE_BYTES_MAX: Final = 300_000
SIZE: Final = (1280, 920)
SETTLE_MS: Final = 500  # for fonts and the last charts
THEMES: Final = ("light", "dark")


def main(address: str = "http://127.0.0.1:8080", data_dir: str = ".anlyt") -> None:
    """Sign in as the platform and take each theme's picture."""
    key: str = json.loads((Path(data_dir) / "keys.json").read_bytes())["platform"]
    chromium = shutil.which("chromium") or sys.exit("there is no chromium; install Debian's package chromium")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for theme in THEMES:
            path = IMAGES / f"overview-{theme}.png"
            take(browser, theme, (address, key), path)
            size = path.stat().st_size
            print(f"{path}: {size:,} bytes")
            if size > PICTURE_BYTES_MAX:
                sys.exit(f"{path} has more than {PICTURE_BYTES_MAX:,} bytes")
        browser.close()


def take(browser: Browser, theme: str, demo: tuple[str, str], path: Path) -> None:
    """One picture of the platform's page; `demo` is its address and a key."""
    address, key = demo
    width, height = SIZE
    scheme = "dark" if theme == "dark" else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#panel-accounts tbody tr")
    page.wait_for_function("() => !document.querySelector('anlyt-panel[aria-busy=true]')")
    page.mouse.move(0, height - 1)
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=path)
    context.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
