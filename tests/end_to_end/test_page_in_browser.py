"""The page in a real browser with a fake camera: taught, asked, marked, and made to forget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import BALL, MUG, camera_options, find_chromium, page_server, write_video

import procmem

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# Sensors see a mug on brown wood or a ball on green grass: the middle of the upper edge tells.
SCENE = """() => {
  const video = document.getElementById("video");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d");
  pen.drawImage(video, 20, 20, 60, 60, 0, 0, 1, 1);
  const [red, green] = pen.getImageData(0, 0, 1, 1).data;
  return red > green ? "mug" : "ball";
}"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    write_video(path)
    return path


@pytest.fixture(scope="module")
def browser(video: Path) -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*camera_options(video), "--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, Any]]:
    with page_server("--vault", str(tmp_path / "vault")) as said:
        yield said


@pytest.fixture
def page(browser: Any, server: dict[str, Any]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1180, "height": 1000})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: line.type == "error" and problems.append(line.text))
    page.goto(server["url"])
    yield page
    context.close()
    assert problems == []


def wait_until(page: Any, expression: str, *, seconds: float = 20) -> None:
    """Polls, because the page's own policy forbids Playwright's wait to evaluate text in it."""
    for _ in range(int(seconds / 0.05)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {seconds} s: {expression}")


def said_while_nothing_changes(page: Any) -> list[str]:
    """What a screen reader would say in half a second of answers that stay the same."""
    wait_for_scene(page, BALL)
    page.wait_for_timeout(500)
    return page.evaluate(
        """() => new Promise((resolve) => {
          const said = [];
          const spoken = "[aria-live], [role=status], [role=alert]";
          for (const region of document.querySelectorAll(spoken))
            new MutationObserver(() => said.push(region.id))
              .observe(region, { childList: true, characterData: true, subtree: true });
          setTimeout(() => resolve(said), 500);
        })"""
    )


def wait_for_scene(page: Any, scene: str) -> None:
    # Wait for its beginning, so that it lasts for what is to come.
    wait_until(page, f"({SCENE})() !== '{scene}'")
    wait_until(page, f"({SCENE})() === '{scene}'")


def wait_for_answer(page: Any, scene: str) -> None:
    """Until a scene is named while it is shown; a busy machine may miss its first turn."""
    named = f"document.getElementById('label').textContent.trim() === '{scene}'"
    wait_until(page, f"({SCENE})() === '{scene}' && {named}", seconds=60)


def wait_for_rest(page: Any) -> int:
    """Until for a second no item has come, and how many there are then."""
    items, since = -1, 0
    while since < 20:
        page.wait_for_timeout(50)
        now = int(page.get_attribute("#status", "data-items"))
        items, since = now, since + 1 if now == items else 0
    return items


def teach(page: Any, scene: str, *, seconds: float = 1.5) -> None:
    page.fill("#name", scene)
    wait_for_scene(page, scene)
    button = page.locator("#teach")
    button.hover()
    page.mouse.down()
    page.wait_for_timeout(1000 * seconds)
    page.mouse.up()
    wait_until(page, f"document.getElementById('lesson').textContent.includes('{scene}')")


def test_teach_two_recognize_both_mark_one_and_forget(page, server, tmp_path):
    page.click("#camera")
    page.wait_for_selector("#label:text('Nothing is remembered')")

    page.check("#keep")
    teach(page, MUG)
    teach(page, BALL)
    for scene in (MUG, BALL):
        wait_for_answer(page, scene)
    assert "answers/s" in page.inner_text("#pace")
    assert said_while_nothing_changes(page) == []
    assert page.locator("#voters li").count() > 1

    # Places of the frame and of the neighbor's small picture, by the same numbers.
    page.check("#match")
    page.wait_for_selector("#voters li.matched canvas")
    page.uncheck("#match")

    # Mark the mug on one frame; it is found in later ones and the rest is not.
    wait_for_scene(page, MUG)
    page.click("#freeze")
    paint(page, "1", [(0.48, 0.42), (0.48, 0.72)])
    paint(page, "0", [(0.1, 0.15), (0.9, 0.15)])
    page.click("#find")
    page.wait_for_selector("#region:not([hidden])")
    found = f"(([inside, outside]) => inside > 0.6 && outside < 0.25)(({COVERED})())"
    wait_until(page, f"({SCENE})() === '{MUG}' && {found}", seconds=60)

    # Forget one label: the report is on the screen, the receipt holds, the other stays.
    page.click(f"#labels button:has-text('Forget {BALL}')")
    page.click("#yes")
    page.wait_for_selector(".report .clean")
    with page.expect_download() as download:
        page.click("text=Download the signed receipt")
    receipt = procmem.read_receipt(Path(download.value.path()))
    assert procmem.check_receipt(receipt) == ()
    wait_for_scene(page, BALL)
    wait_until(page, "!document.getElementById('label').textContent.includes('ball')")
    assert page.locator(f"#labels button:has-text('{BALL}')").count() == 0
    assert page.locator("#grid b:text-is('ball')").count() == 0

    with procmem.VisualMemory(server["vault"], read_only=True) as memory:
        assert set(memory.stats().labels) == {MUG}
        assert {f"{id_}" for id_ in receipt.erased_ids}.isdisjoint(
            str(item.id) for item in memory.items()
        )


# Shares of the mug's middle and of the frame's upper band that are marked, [0, 1].
COVERED = """() => {
  const image = document.getElementById("region");
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const share = (x, y, w, h) => {
    const box = [x * canvas.width, y * canvas.height, w * canvas.width, h * canvas.height];
    const data = pen.getImageData(...box.map(Math.round)).data;
    let marked = 0;
    for (let at = 3; at < data.length; at += 4) marked += data[at] > 0;
    return marked / (data.length / 4);
  };
  return [share(0.40, 0.40, 0.2, 0.3), share(0, 0, 1, 0.12)];
}"""


def paint(page: Any, brush: str, stroke: list[tuple[float, float]]) -> None:
    """Draws a line on the frozen frame; places are shares of the stage."""
    page.check(f"input[name=brush][value='{brush}']")
    box = page.locator("#paint").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[-1], steps=12)
    page.mouse.up()


def test_one_is_forgotten_from_the_grid_by_the_keyboard(page):
    page.click("#camera")
    page.fill("#name", "thing")
    page.locator("#teach:not([disabled])").focus()
    page.keyboard.down("Space")
    page.wait_for_timeout(800)
    page.keyboard.up("Space")
    page.wait_for_selector("#grid li >> nth=1")
    before = wait_for_rest(page)  # what was sent before the key was let go is taught now

    page.locator("#grid button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#confirm[open]")
    assert page.evaluate("document.activeElement.id") == "no"  # a hasty Enter keeps
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")

    page.wait_for_selector(".report .clean")
    wait_until(page, f"document.getElementById('status').dataset.items === '{before - 1}'")


def test_dropped_photos_are_taught_together_and_one_is_asked(page, tmp_path):
    from tests.browser import draw_scene

    photos = []
    for number in range(3):
        photos.append(tmp_path / f"{number}.png")
        draw_scene(MUG, 10 * number).save(photos[-1])
    page.fill("#name", MUG)
    page.set_input_files("#files", photos)
    page.wait_for_selector(f"#lesson:text-is('taught {MUG} 3 times')")
    page.wait_for_selector(f"#label:text-is('{MUG}')")

    page.click("#map-tab")
    page.wait_for_selector("#map circle >> nth=2")
    page.fill("#least", "0.5")
    page.click("#similar")
    page.click("#yes")
    page.wait_for_selector(".report .clean")
    page.wait_for_selector("#label:text('Nothing is remembered')")


def test_a_second_tab_without_the_token_gets_nothing(browser, server):
    origin = server["url"].rsplit("/", 2)[0]
    context = browser.new_context()
    page = context.new_page()
    page.goto(server["url"])
    page.wait_for_selector("#status[data-items='0']")
    other = context.new_page()  # the same browser, cookies and all
    for address in (f"{origin}/", f"{origin}/api/state", f"{origin}/page.js", f"{origin}/wrong/"):
        response = other.goto(address)
        assert response.status == 403
        assert "token" in json.loads(response.text())["error"]
    opened = other.evaluate(
        """(address) => new Promise((resolve) => {
          const socket = new WebSocket(address);
          socket.onopen = () => resolve(true);
          socket.onclose = () => resolve(false);
        })""",
        origin.replace("http", "ws") + "/live",
    )
    assert opened is False
    assert context.cookies() == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_every_control_has_a_name(browser, server, scheme):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server["url"])
    page.wait_for_selector("#status[data-items='0']")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, [role=tab]")].filter((control) =>
          !control.innerText?.trim() && !control.labels?.length
          && !control.getAttribute("aria-label")).map((control) => control.id)"""
    )
    assert nameless == []
    assert page.evaluate(LEAST_CONTRAST) >= 4.5  # WCAG 2.2, success criterion 1.4.3
    context.close()


# Of all visible text on the page against the first opaque ground behind it.
LEAST_CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, n) => sum + value * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let least = 21;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.disabled) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
}"""
