"""Raise an alarm when a video shows what it never showed before.

    python examples/06_novelty_alarm.py VIDEO [SECONDS]

The first SECONDS (5 unless given) teach what is normal; later frames that are less like it than
normal frames are like each other raise the alarm. Without VIDEO, one is drawn in which something
crosses the scene. A VIDEO needs pip install 'procmem[camera]'.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

import procmem

RATE = 10  # frames looked at per second
IN_A_ROW = 3  # one odd frame is noise


def main(video: Path | None, seconds: float = 5, model: str | None = None) -> None:
    normal, novel, alarms = int(seconds * RATE), 0, 0
    with (
        tempfile.TemporaryDirectory() as scratch,
        procmem.VisualMemory(Path(scratch, "vault"), embedder=model) as memory,
    ):
        for number, frame in enumerate(frames_of(video) if video else demo_frames()):
            if number < normal:
                memory.add([frame], labels="normal")
                continue
            answer = memory.classify(frame)
            # p_value: how many normal frames are as unlike the others as this one is.
            novel = novel + 1 if answer.is_novel else 0
            if novel == IN_A_ROW:
                alarms += 1
                print(f"{number / RATE:5.1f} s: alarm (p = {answer.p_value:.3f})")
        print(f"{number + 1} frames, the first {normal} taught; {alarms} alarm(s)")


def frames_of(video: Path) -> Iterator[npt.NDArray[np.uint8]]:
    import cv2

    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise procmem.InputError(f"OpenCV cannot open {video}; convert it, or take another")
    step = max(1, round(capture.get(cv2.CAP_PROP_FPS) / RATE))
    for number in count():
        good, frame = capture.read()
        if not good:
            return
        if number % step == 0:
            yield np.ascontiguousarray(frame[:, :, ::-1])


def demo_frames() -> Iterator[npt.NDArray[np.uint8]]:
    y, x = np.mgrid[:240, :320]  # waves; from 8 to 10 seconds a checkered thing drifts across
    for number in range(120):
        wave = 20 * np.sin(x / 17 + number / 3) * np.sin(y / 11 - number / 4)
        frame = np.stack([40 + wave, 90 + wave, 150 + wave], axis=-1)
        if 80 <= number < 100:
            inside = np.hypot(x - 12 * (number - 74), y - 120) < 60
            frame[inside] = np.where(((x // 12 + y // 12) % 2 == 0)[inside], 240, 30)[:, None]
        yield frame.clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    try:
        main(
            Path(sys.argv[1]) if len(sys.argv) > 1 else None,
            float(sys.argv[2]) if len(sys.argv) > 2 else 5,
        )
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
