"""Teach and forget in front of a camera: live answers, one key to learn, one key to forget.

    python examples/camera_demo.py --labels cup,phone,hand
    python examples/camera_demo.py --source clip.mp4 --headless --out annotated.mp4 \
        --script "10:teach cup,40:forget last"

Keys: 1-9 teach the current frame as that label, f forget what was taught last, F forget the label
that is shown, s mark what is like the middle of the last taught frame, q quit.
A script does the same at given frames (counted from 0): teach NAME, forget last, forget label,
segment. The vault holds no frame, only what the model made of it. Of a camera the newest frame is
answered and older ones are dropped; of a file every frame is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import procmem

try:
    import cv2
except ImportError as error:
    message = f"the camera demo needs OpenCV ({error}); run pip install 'procmem[camera]'"
    if __name__ == "__main__":
        sys.exit(f"error: {message}")
    raise procmem.MissingExtraError(message) from error

UInt8 = npt.NDArray[np.uint8]
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
BLUE, GREEN, WHITE, GRAY = (233, 180, 86), (140, 220, 90), (255, 255, 255), (190, 190, 190)  # BGR


class TimedEmbedder(procmem.Embedder):
    """An embedder that notes how long its last call took."""

    milliseconds = 0.0

    def embed(self, *arguments: Any, **options: Any) -> procmem.Embedding:
        """Like `Embedder.embed`."""
        start = time.perf_counter()
        embedding = super().embed(*arguments, **options)
        self.milliseconds = 1000 * (time.perf_counter() - start)
        return embedding


@dataclass
class Shown:
    """An answered frame, as it is drawn."""

    frame: UInt8
    answer: procmem.Answer | None
    mask: UInt8 | None
    status: str
    milliseconds: dict[str, float]


class Session:
    """What is taught and shown. Every action returns the line that tells the person about it.

    Used by one thread; only `pending`, the keys pressed meanwhile, is filled by another.
    """

    def __init__(
        self,
        memory: procmem.VisualMemory,
        embedder: TimedEmbedder,
        script: dict[int, list[str]] | None = None,
    ) -> None:
        self.memory, self.embedder, self.script = memory, embedder, script or {}
        self.pending: deque[str] = deque()
        self.taught: list[tuple[int, str]] = []  # of this session, oldest first
        self.answer: procmem.Answer | None = None
        self.status = ""
        self.segmenting = False
        self.milliseconds: dict[str, float] = {}
        self._prompt: tuple[int, UInt8, UInt8] | None = None  # id, frame, mask

    def see(self, job: tuple[int, UInt8, float]) -> Shown:
        """Does what is to be done at a frame, and answers it.

        A job is the frame's number, its pixels, and the milliseconds that reading it took.
        """
        number, frame, read = job
        actions = [*self.script.get(number, ())]
        while self.pending:
            actions.append(self.pending.popleft())
        for action in actions:
            self.do(action, frame, number)
        self.milliseconds = {"read": read}
        mask = self.ask(frame)
        return Shown(frame, self.answer, mask, self.status, self.milliseconds)

    def teach(self, frame: UInt8, label: str, number: int) -> str:
        """Remembers a frame, and its middle as the example for marking."""
        (id_,) = self.memory.add([frame], labels=[label], sources=[f"camera frame {number}"])
        self.taught.append((id_, label))
        y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
        middle = (2 * y / frame.shape[0] - 1) ** 2 + (2 * x / frame.shape[1] - 1) ** 2 < 0.36
        self._prompt = (id_, frame.copy(), middle.astype(np.uint8))
        return f"taught {label} ({len(self.memory)} remembered)"

    def forget_last(self) -> str:
        """Forgets what was taught last."""
        if not self.taught:
            return "nothing was taught in this session"
        id_, label = self.taught[-1]
        return f"{label}: " + self._report(self.memory.delete(id_))

    def forget_label(self) -> str:
        """Forgets all that has the label that is shown."""
        if self.answer is None or self.answer.label is None:
            return "no label is shown"
        return f"{self.answer.label}: " + self._report(self.memory.delete(label=self.answer.label))

    def ask(self, frame: UInt8) -> UInt8 | None:
        """Classifies a frame; returns its mask if regions are to be marked."""
        start = time.perf_counter()
        self.answer = self.memory.classify(frame, k=5)
        total = 1000 * (time.perf_counter() - start)
        embed = self.embedder.milliseconds
        self.milliseconds |= {"embed": embed, "search+vote": total - embed}
        if not self.segmenting or self._prompt is None:
            return None
        start = time.perf_counter()
        mask = self.memory.segment(frame, prompt=self._prompt[1:]).mask
        self.milliseconds["segment"] = 1000 * (time.perf_counter() - start)
        return mask

    def do(self, action: str, frame: UInt8, number: int) -> None:
        """Runs "teach NAME", "forget last", "forget label" or "segment"."""
        try:
            if action == "segment":
                self.segmenting = not self.segmenting
                self.status = f"marking {'on' if self.segmenting else 'off'}"
            elif action in ("forget last", "forget label"):
                self.status = self.forget_last() if "last" in action else self.forget_label()
            else:
                self.status = self.teach(frame, action.removeprefix("teach "), number)
        except procmem.ProcmemError as error:
            self.status = f"error: {error}"
        print(f"frame {number}: {self.status}", file=sys.stderr)

    def _report(self, report: procmem.ErasureReport) -> str:
        gone = set(report.erased_ids)
        self.taught = [(id_, label) for id_, label in self.taught if id_ not in gone]
        # The example frame is a memory of the photo, too.
        if self._prompt is not None and self._prompt[0] in gone:
            self._prompt = None
        return (
            f"forgot {len(gone)}, {report.remaining} remain, "
            f"{report.windows_found} of {report.windows_checked} pieces found in the files"
        )


def draw(shown: Shown, names: list[str], frames_per_second: float) -> UInt8:
    """Paints the answer over its RGB frame; returns BGR, as OpenCV shows it."""
    canvas = np.ascontiguousarray(shown.frame[:, :, ::-1])
    if shown.mask is not None:
        inside = shown.mask == 1
        canvas[inside] = canvas[inside] // 2 + np.array(BLUE, dtype=np.uint8) // 2
    answer = shown.answer
    size = max(0.35, canvas.shape[0] / 900)
    line = int(34 * size)
    if answer is None or answer.label is None:
        title, color = "nothing taught yet: press 1-9", GRAY
    else:
        title = f"{answer.label} {answer.confidence:.0%}" + (" (novel)" if answer.is_novel else "")
        color = GRAY if answer.is_novel else GREEN
    stages = "  ".join(f"{name} {value:.0f}" for name, value in shown.milliseconds.items())
    rate = f"{frames_per_second:.1f} frames/s   ms: {stages}"
    for band in (canvas[: int(3.2 * line)], canvas[-int(2.6 * line) :]):
        band[:] = band // 3  # so that the texts stand out
    put(canvas, title, (line // 2, int(1.6 * line)), size * 1.6, color)
    put(canvas, rate, (line // 2, int(2.8 * line)), size * 0.9, WHITE)
    keys = " ".join(f"{at}={name}" for at, name in enumerate(names[:9], start=1))
    put(canvas, shown.status, (line // 2, canvas.shape[0] - int(1.4 * line)), size * 0.9, WHITE)
    help_text = f"{keys}  f=forget last F=forget label s=mark q=quit"
    put(canvas, help_text, (line // 2, canvas.shape[0] - line // 2), size * 0.8, GRAY)
    return canvas


def put(canvas: UInt8, text: str, at: tuple[int, int], scale: float, color: Any) -> None:
    face, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale * 1.6))
    width = cv2.getTextSize(text, face, scale, thick)[0][0]
    scale *= min(1.0, (canvas.shape[1] - 2 * at[0]) / max(1, width))
    cv2.putText(canvas, text, at, face, scale, color, thick, cv2.LINE_AA)


def frames_of(source: str) -> Iterator[UInt8]:
    """RGB frames of a camera (its number), a folder of pictures or a video file."""
    if Path(source).is_dir():
        files = (file for file in Path(source).iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
        yield from map(procmem.load_image, sorted(files))
        return
    camera = source.isdigit()
    if not camera and not Path(source).is_file():
        raise procmem.InputError(f"{source} is no camera number, video file or folder")
    capture = cv2.VideoCapture(int(source) if camera else source)
    try:
        if not capture.isOpened():
            advice = "plug it in, close other programs" if camera else "convert it to pictures"
            raise procmem.InputError(f"OpenCV cannot open {source}: {advice}, or take another")
        while True:
            good, frame = capture.read()
            if not good:
                return
            yield np.ascontiguousarray(frame[:, :, ::-1])
    finally:
        capture.release()


def timed(frames: Iterator[UInt8]) -> Iterator[tuple[int, UInt8, float]]:
    """Frames with their numbers and the milliseconds that reading each took."""
    number, start = 0, time.perf_counter()
    for frame in frames:
        yield number, frame, 1000 * (time.perf_counter() - start)
        number, start = number + 1, time.perf_counter()


def answered(frames: Iterator[UInt8], session: Session, *, live: bool) -> Iterator[Shown]:
    """The newest frames of a camera, or all of a file. One is answered while another is drawn."""
    jobs = timed(frames)
    if not live:
        waiting: deque[Future[Shown]] = deque()
        with ThreadPoolExecutor(1) as worker:
            for job in jobs:
                waiting.append(worker.submit(session.see, job))
                if len(waiting) > 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        return
    first = next(jobs, None)  # here, so that a camera that cannot be opened is an error here
    with procmem.FrameStream(session.see) as stream:
        camera = threading.Thread(target=offer_all, args=(first, jobs, stream))
        camera.start()
        try:
            for result in stream:
                if result.value is None:
                    raise result.error or AssertionError
                result.value.milliseconds["wait"] = 1000 * result.waited_seconds
                yield result.value
        finally:
            stream.close()
            camera.join()


def offer_all(first: Any, jobs: Iterator[Any], stream: procmem.FrameStream[Any, Shown]) -> None:
    """Offers frames until the camera ends or the stream is closed."""
    with suppress(procmem.InputError):  # closed
        if first is not None:
            stream.offer(first)
        for job in jobs:
            stream.offer(job)
    stream.close()


class Output:
    """A video file, or a folder of PNG files if that is wanted or no codec is there."""

    def __init__(self, path: Path) -> None:
        self.path, self._writer, self._count = path, None, 0

    def write(self, picture: UInt8) -> None:
        """Adds a BGR picture."""
        if self._count == 0:
            self._open(picture)
        if self._writer is not None:
            self._writer.write(picture)
        else:
            data = cv2.imencode(".png", picture)[1].tobytes()
            (self.path / f"{self._count:06d}.png").write_bytes(data)
        self._count += 1

    def _open(self, picture: UInt8) -> None:
        if self.path.suffix:
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), 15, size)
            if writer.isOpened():
                self._writer = writer
                return
            self.path = self.path.with_suffix("")
            print(f"no video codec here: writing pictures to {self.path}", file=sys.stderr)
        self.path.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()


def open_window() -> None:
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise procmem.InputError("there is no display here; use --headless --out annotated.mp4")
    try:
        cv2.namedWindow("procmem", cv2.WINDOW_NORMAL)
    except (cv2.error, AttributeError) as error:
        raise procmem.MissingExtraError(
            "this OpenCV was built without windows (opencv-python-headless); run "
            "pip uninstall opencv-python-headless && pip install opencv-python, "
            "or use --headless --out annotated.mp4"
        ) from error


def parse_script(text: str) -> dict[int, list[str]]:
    """Frame -> actions, of a text like "10:teach cat,40:forget last"."""
    actions: dict[int, list[str]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(\d+)\s*:\s*(teach \S.*|forget last|forget label|segment)", part)
        if match is None:
            wanted = "FRAME:teach NAME, FRAME:forget last, FRAME:forget label or FRAME:segment"
            raise procmem.InputError(f"script has {part!r}, wanted {wanted}")
        actions.setdefault(int(match[1]), []).append(match[2])
    return actions


def main(arguments: list[str] | None = None) -> Session:
    parser = argparse.ArgumentParser(description="Teach and forget in front of a camera.")
    parser.add_argument("--source", default="0", help="camera number, video file or folder")
    parser.add_argument("--labels", default="1,2,3,4,5,6,7,8,9", help="names of the keys 1-9")
    parser.add_argument("--vault", default="camera-vault", help="folder of the memory")
    parser.add_argument("--model", default="vit-tiny", help="bundled model or .onnx file")
    parser.add_argument("--headless", action="store_true", help="no window")
    parser.add_argument("--out", type=Path, help="annotated video (.mp4), or folder of pictures")
    parser.add_argument("--script", default="", help='e.g. "10:teach cat,40:forget last"')
    options = parser.parse_args(arguments)
    script = parse_script(options.script)
    if not options.headless:
        open_window()
    output = None if options.out is None else Output(options.out)
    embedder = TimedEmbedder(options.model)
    with embedder, procmem.VisualMemory(options.vault, embedder=embedder) as memory:
        session, names = Session(memory, embedder, script), options.labels.split(",")
        actions = {"f": "forget last", "F": "forget label", "s": "segment"}
        actions |= {str(at): f"teach {name}" for at, name in enumerate(names[:9], start=1)}
        rate, before, draw_ms = 0.0, time.perf_counter(), 0.0
        frames = frames_of(options.source)
        for shown in answered(frames, session, live=options.source.isdigit()):
            now = time.perf_counter()
            rate, before = 0.9 * rate + 0.1 / (now - before) if rate else 1 / (now - before), now
            shown.milliseconds["draw"] = draw_ms
            picture = draw(shown, names, rate)
            draw_ms = 1000 * (time.perf_counter() - now)
            if output is not None:
                output.write(picture)
            if options.headless:
                continue
            cv2.imshow("procmem", picture)
            key = chr(cv2.waitKey(1) & 0xFF)
            if key == "q":
                break
            if key in actions:
                session.pending.append(actions[key])
        if output is not None:
            output.close()
            print(f"wrote {output.path}")
        print(f"items in {options.vault}: {len(memory)}")
    return session


if __name__ == "__main__":
    try:
        main()
    except procmem.ProcmemError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was taught is kept")
