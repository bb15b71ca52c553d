"""Pictures of the page at work in a real browser, and how long a camera's frame takes to an answer.

    python benchmarks/draw_page.py --out docs/pictures --seconds 20

Needs `pip install '.[cpu,page]' playwright` and Chromium. The camera is the drawn video of
tests/browser.py, 640x480 at 30 frames per second. The table goes to stdout: latency is from the
moment at which the browser takes the frame to the moment at which its answer is on the screen's
thread; browser, server and model share the machine's processors.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.browser import BALL, MUG, camera_options, find_chromium, page_server, write_video
from tests.end_to_end.test_page_in_browser import paint, teach, wait_for_scene, wait_until

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1180, "height": 1180}

# Notes every answer's times as the page hears it.
LISTEN = """() => {
  window.heard = [];
  const at = document.getElementById("pace");
  new MutationObserver(() => window.heard.push([at.title, at.dataset.latencies]))
    .observe(at, { childList: true, characterData: true, subtree: true });
}"""


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/pictures"))
@click.option("--seconds", type=float, default=20, help="How long to measure.")
def main(out: Path, seconds: float) -> None:
    """Drives the page through everything that it can do."""
    out.mkdir(parents=True, exist_ok=True)
    chromium = find_chromium()
    if chromium is None:
        raise click.ClickException("no Chromium here; install it, for example by apt-get")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        video = Path(name) / "camera.mjpeg"
        write_video(video)
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*camera_options(video), "--no-sandbox"]
        )
        with page_server("--vault", str(Path(name) / "vault")) as said:
            context = browser.new_context(viewport=DESK, color_scheme="light")
            page = context.new_page()
            page.goto(said["url"])
            _tour(page, out)
            _measure(page, seconds)
            context.close()
            dark = browser.new_context(
                viewport=PHONE, color_scheme="dark", device_scale_factor=2, has_touch=True
            )
            page = dark.new_page()
            page.goto(said["url"])
            page.click("#camera")
            wait_for_scene(page, MUG)
            page.wait_for_selector(f"#label:text-is('{MUG}')")
            page.screenshot(path=out / "page-phone.jpg", quality=85)
            dark.close()
        browser.close()


def _tour(page: Any, out: Path) -> None:
    page.click("#camera")
    page.wait_for_selector("#label:text('Nothing is remembered')")
    page.check("#keep")
    teach(page, MUG)
    teach(page, BALL)
    page.check("#match")
    wait_for_scene(page, BALL)
    page.wait_for_selector("#voters li.matched canvas")
    page.wait_for_timeout(700)
    page.screenshot(path=out / "page-answer.jpg", quality=85)
    page.uncheck("#match")
    wait_for_scene(page, MUG)
    page.click("#freeze")
    paint(page, "1", [(0.45, 0.36), (0.45, 0.74)])
    paint(page, "0", [(0.08, 0.12), (0.92, 0.12)])
    paint(page, "0", [(0.08, 0.88), (0.92, 0.88)])
    page.locator("#stage").screenshot(path=out / "page-paint.jpg", quality=85)
    page.click("#find")
    wait_for_scene(page, MUG)
    page.wait_for_timeout(700)
    page.locator("#stage").screenshot(path=out / "page-mark.jpg", quality=85)
    page.click("#unmark")
    page.click("#map-tab")
    page.wait_for_selector("#map circle")
    page.locator("#memory").screenshot(path=out / "page-map.png")
    page.click("#grid-tab")
    page.click(f"#labels button:has-text('Forget {BALL}')")
    page.click("#yes")
    page.wait_for_selector(".report .clean")
    page.locator("#do").screenshot(path=out / "page-forget.png")


def _measure(page: Any, seconds: float) -> None:
    wait_until(page, "document.getElementById('pace').textContent !== ''")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate(LISTEN)
    page.wait_for_timeout(1000 * seconds)
    heard = page.evaluate("window.heard")
    latencies = np.array(
        page.evaluate("JSON.parse(document.getElementById('pace').dataset.latencies)")
    )
    steps: dict[str, list[float]] = {}
    for title, _ in heard:
        for part in title.partition("of the last: ")[2].split(", "):
            step, took = part.split(" ")[:2]
            steps.setdefault(step, []).append(float(took))
    median = float(np.median(latencies))
    print(
        f"Chromium, {platform.machine()}, {len(os.sched_getaffinity(0))} processors; "
        f"{len(heard)} answers in {seconds:.0f} s: {len(heard) / seconds:.1f} per second.\n"
    )
    print("| | ms | share |\n|---|--:|--:|")
    print(f"| frame to answer, p50 | {median:.0f} | |")
    print(f"| frame to answer, p95 | {np.percentile(latencies, 95):.0f} | |")
    known = 0.0
    names = {
        "wait": "waits for the frame before it",
        "decode": "JPEG to pixels",
        "answer": "resize, model, search, vote",
    }
    for step, label in names.items():
        value = float(np.median(steps.get(step, [0.0])))
        known += value
        print(f"| {label} | {value:.1f} | {value / median:.0%} |")
    rest = median - known
    print(f"| browser: draw, encode, send, receive | {rest:.1f} | {rest / median:.0%} |")


if __name__ == "__main__":
    main()
