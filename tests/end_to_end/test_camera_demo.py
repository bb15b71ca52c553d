"""The camera demo without a camera: on a video file and on a folder of frames."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from tests.tiny_model import write_tiny_model

from procmem import InputError, VisualMemory

cv2 = pytest.importorskip("cv2", reason="needs pip install 'procmem[camera]'")

DEMO = Path(__file__).parents[2] / "examples" / "camera_demo.py"
RED, BLUE = (220, 40, 30), (30, 60, 220)
FRAMES = 30  # red, then blue from the middle on
# Teaches both while they are shown, then forgets the second and marks regions.
SCRIPT = "2:teach red, 17:teach blue, 24:forget last, 26:segment"


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("camera_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setitem(sys.modules, "camera_demo", module)  # dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    monkeypatch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def frame(number: int) -> np.ndarray:
    """(120, 160, 3) uint8 RGB with a little noise."""
    noise = np.random.default_rng(number).integers(-10, 10, (120, 160, 3))
    color = np.array(RED if number < FRAMES // 2 else BLUE)
    return np.clip(color + noise, 0, 255).astype(np.uint8)


@pytest.fixture(params=["folder", "video"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "folder":
        folder = tmp_path / "frames"
        folder.mkdir()
        for number in range(FRAMES):
            Image.fromarray(frame(number)).save(folder / f"{number:03d}.png")
        return folder
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 15, (160, 120))
    if not writer.isOpened():
        pytest.skip("this OpenCV has no encoder for Motion JPEG")
    for number in range(FRAMES):
        writer.write(np.ascontiguousarray(frame(number)[:, :, ::-1]))
    writer.release()
    return path


def start(demo: ModuleType, source: Path, model: Path, folder: Path, **options: str):
    words = ["--source", source, "--model", model, "--vault", folder / "vault", "--headless"]
    for name, value in options.items():
        words += [f"--{name}", value]
    return demo.main([str(word) for word in words])


def test_what_a_script_teaches_and_forgets_stands_in_the_vault(demo, source, model, tmp_path):
    start(demo, source, model, tmp_path, script=SCRIPT)

    with VisualMemory(tmp_path / "vault", embedder=model, read_only=True) as memory:
        held = [(item.label, item.source) for item in memory.items()]
    assert held == [("red", "camera frame 2")]


def test_answers_follow_what_is_taught_and_forgotten(
    demo, source, model, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    answers = []
    real_ask = demo.Session.ask

    def noted_ask(self, pixels):
        mask = real_ask(self, pixels)
        answers.append(self.answer.label)
        return mask

    monkeypatch.setattr(demo.Session, "ask", noted_ask)

    start(demo, source, model, tmp_path, script=SCRIPT)

    assert answers == [None] * 2 + ["red"] * 15 + ["blue"] * 7 + ["red"] * 6


def test_every_frame_is_written_with_the_answer_over_it(demo, source, model, tmp_path):
    start(demo, source, model, tmp_path, script=SCRIPT, out=str(tmp_path / "out"))

    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == FRAMES
    with Image.open(written[5]) as picture:
        top = np.asarray(picture.convert("RGB"))[:10]
    assert np.abs(top.astype(int) - frame(5)[:10]).max() > 60  # the dark band of the title


def test_a_video_is_written_where_there_is_a_codec(demo, source, model, tmp_path):
    start(demo, source, model, tmp_path, out=str(tmp_path / "out.mp4"))

    pictures = tmp_path / "out"
    if pictures.is_dir():
        assert len(list(pictures.iterdir())) == FRAMES
        return
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES
    capture.release()


def test_marking_stops_when_its_example_is_forgotten(demo, model, tmp_path):
    embedder = demo.TimedEmbedder(model)
    with embedder, VisualMemory(tmp_path / "vault", embedder=embedder) as memory:
        session = demo.Session(memory, embedder, ["red"])
        session.do("teach red", frame(0), 0)
        session.do("segment", frame(0), 0)
        # Left half red, right half blue: only the left is like the taught middle.
        both = np.concatenate([frame(1)[:, :80], frame(20)[:, 80:]], axis=1)
        before = session.ask(both)
        session.do("forget label", both, 1)
        after = session.ask(both)

    assert before is not None
    assert after is None


def test_the_last_frame_is_forgotten_first(demo, model, tmp_path):
    embedder = demo.TimedEmbedder(model)
    with embedder, VisualMemory(tmp_path / "vault", embedder=embedder) as memory:
        session = demo.Session(memory, embedder, ["red", "blue"])
        for number, label in ((0, "red"), (20, "blue")):
            session.do(f"teach {label}", frame(number), number)
        session.do("forget last", frame(0), 1)
        first = [item.label for item in memory.items()]
        session.do("forget last", frame(0), 2)
        session.do("forget last", frame(0), 3)

        assert (first, len(memory)) == (["red"], 0)
        assert "nothing" in session.status


@pytest.mark.parametrize(
    "script", ["10", "x:teach a", "3:tech a", "3:teach", "3:forget", "-1:segment"]
)
def test_a_script_that_is_not_understood_is_an_error(demo, script):
    with pytest.raises(InputError, match="FRAME:teach NAME"):
        demo.parse_script(script)


def test_a_source_that_is_not_there_is_an_error(demo, model, tmp_path):
    with pytest.raises(InputError, match="no camera number"):
        start(demo, tmp_path / "nothing.mp4", model, tmp_path)


def test_a_file_that_is_no_video_is_an_error(demo, model, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")

    with pytest.raises(InputError, match="cannot open"):
        start(demo, tmp_path / "clip.mp4", model, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only there a display can be missing")
def test_no_display_is_an_error_that_says_headless(demo, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    with pytest.raises(InputError, match="--headless"):
        demo.open_window()


def test_a_camera_shows_newer_frames_and_obeys_keys(demo, model, tmp_path):
    """A camera that is faster than the answers: some frames are dropped, keys are obeyed."""
    import time

    def camera():
        for number in range(200):
            time.sleep(0.002)
            yield frame(number % FRAMES)

    embedder = demo.TimedEmbedder(model)
    with embedder, VisualMemory(tmp_path / "vault", embedder=embedder) as memory:
        session = demo.Session(memory, embedder)
        session.pending.append("teach red")
        shown = list(demo.answered(camera(), session, live=True))

        assert len(memory) == 1
    assert 1 <= len(shown) <= 200
    assert shown[0].status.startswith("taught red")
    assert shown[-1].answer.label == "red"
    assert all({"read", "embed", "search+vote", "wait"} <= set(one.milliseconds) for one in shown)


def test_closing_the_window_ends_the_camera(demo, model, tmp_path):
    ended = []

    def camera():
        try:
            while True:
                yield frame(0)
        finally:
            ended.append(True)

    embedder = demo.TimedEmbedder(model)
    with embedder, VisualMemory(tmp_path / "vault", embedder=embedder) as memory:
        frames = camera()
        shown = demo.answered(frames, demo.Session(memory, embedder), live=True)
        next(shown)
        shown.close()  # what leaving the loop does
        frames.close()
    assert ended == [True]
