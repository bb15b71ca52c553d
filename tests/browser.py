"""A real browser with a fake camera, and the page's command: what drives the page from outside.

Used by tests/end_to_end/test_page_in_browser.py and benchmarks/draw_page.py. The camera's video is
drawn here: a mug on a table for four seconds, then a striped ball on grass, for ever.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 640, 480
SCENE_FRAMES = 120  # at the 30 frames per second of a fake camera
MUG, BALL = "mug", "ball"


def find_chromium() -> str | None:
    """The system's Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def draw_scene(scene: str, frame: int) -> Image.Image:
    """One frame of the fake camera's video; things sway a little, and the sensor has noise."""
    random = np.random.default_rng(frame + (0 if scene == MUG else 10_000))
    sway = 14 * np.sin(2 * np.pi * frame / SCENE_FRAMES)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    if scene == MUG:
        grain = 10 * np.sin(y / 7 + 3 * np.sin(x / 90))
        base = np.stack([172 + grain, 126 + grain, 84 + grain], axis=-1)
    else:
        blades = 26 * np.sin(x / 2.3 + y / 5) * np.sin(y / 3.1 - x / 11)
        base = np.stack([66 + blades / 2, 132 + blades, 58 + blades / 2], axis=-1)
    pixels = np.clip(base + random.normal(0, 4, base.shape), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    (_draw_mug if scene == MUG else _draw_ball)(ImageDraw.Draw(picture), 320 + sway, 250 + sway / 3)
    return picture


def _draw_mug(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    pen.ellipse((x - 120, y + 110, x + 130, y + 160), fill=(120, 84, 52))
    pen.arc((x + 50, y - 60, x + 160, y + 70), -100, 100, fill=(32, 66, 130), width=24)
    pen.rectangle((x - 100, y - 110, x + 90, y + 120), fill=(40, 84, 160))
    pen.ellipse((x - 100, y + 90, x + 90, y + 150), fill=(40, 84, 160))
    pen.rectangle((x - 100, y - 20, x + 90, y + 20), fill=(226, 226, 220))
    pen.ellipse((x - 100, y - 140, x + 90, y - 80), fill=(26, 56, 116))
    pen.ellipse((x - 86, y - 132, x + 76, y - 90), fill=(64, 36, 20))


def _draw_ball(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    pen.ellipse((x - 130, y + 90, x + 140, y + 150), fill=(34, 74, 30))
    box = (x - 120, y - 120, x + 120, y + 120)
    for n, color in enumerate([(226, 60, 44), (244, 238, 224)] * 4):
        pen.pieslice(box, 45 * n, 45 * (n + 1), fill=color)
    pen.ellipse((x - 26, y - 26, x + 26, y + 26), fill=(244, 196, 48))


def write_video(path: Path) -> None:
    """Both scenes as Motion JPEG, which Chromium plays in place of a camera."""
    with path.open("wb") as file:
        for scene in (MUG, BALL):
            for frame in range(SCENE_FRAMES):
                data = io.BytesIO()
                draw_scene(scene, frame).save(data, "JPEG", quality=88)
                file.write(data.getvalue())


def camera_options(video: Path) -> list[str]:
    """Chromium's arguments for that camera, allowed without a question."""
    return [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={video}",
        # It may itself call its maker's servers; what is tested is the page.
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]


@contextmanager
def page_server(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Runs `procmem demo --page` and gives what it says; stops it as Ctrl-C does."""
    command = [sys.executable, "-c", "from procmem.cli import main; main()"]
    full: Sequence[str] = [*command, "demo", "--page", "--json", *arguments]
    process = subprocess.Popen(
        full,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None
        lines = []
        # One JSON document over several lines.
        while not lines or lines[-1].rstrip() != "}":
            line = process.stdout.readline()
            if not line:
                assert process.stderr is not None
                raise RuntimeError(f"the page did not start: {process.stderr.read()}")
            lines.append(line)
        said: dict[str, Any] = json.loads("".join(lines))
        said["process"] = process
        yield said
    finally:
        process.send_signal(2)
        try:
            _, errors = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
    assert "Traceback" not in errors, errors
