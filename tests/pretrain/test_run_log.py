import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from procmem_pretrain.run_log import RunLog, StepReport


def write_steps(folder: Path, steps: tuple[int, ...], *, start: int = 0) -> list[str]:
    """Opens the log as a run does that goes on from `start`; gives the steps that it then holds."""
    with RunLog(folder, start) as log:
        for step in steps:
            log.write(StepReport(step, 0.5, 10.0, 0.1, 1e-3, {"alignment": 0.25}))
    with (folder / "log.csv").open(newline="") as file:
        return [row["step"] for row in csv.DictReader(file)]


def test_lines_after_the_checkpoint_are_written_anew(tmp_path: Path) -> None:
    assert write_steps(tmp_path, (3, 6, 9)) == ["3", "6", "9"]
    assert write_steps(tmp_path, (8,), start=6) == ["3", "6", "8"]
    assert not list(tmp_path.glob("log-damaged-*"))


def test_an_empty_log_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "log.csv").touch()
    assert write_steps(tmp_path, (6,), start=3) == ["6"]
    assert not list(tmp_path.glob("log-damaged-*"))


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda data: data + b"9,0.1", ["3", "6"]),  # torn in the middle of a line
        (lambda data: data.replace(b"\r\n3,", b"\r\n-3,"), ["6"]),
        (lambda data: data.replace(b"\r\n3,", b"\r\n" + b"3" * 5000 + b","), ["6"]),
        (lambda data: data.replace(b"0.5", b"0.5,0.5", 1), ["6"]),
        (lambda data: b"name,price\nbread,3\n", ["6"]),
        (lambda data: b"step\n\xff\n", ["6"]),
        (lambda data: b'step\n"3', ["6"]),
        (lambda data: bytes(len(data)), ["6"]),
    ],
    ids=[
        "torn",
        "negative",
        "huge",
        "too many",
        "of another program",
        "no text",
        "quoted",
        "zeros",
    ],
)
def test_a_damaged_log_is_put_aside_and_goes_on(
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    left: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_steps(tmp_path, (3,))
    log = tmp_path / "log.csv"
    damaged = damage(log.read_bytes())
    assert damaged != log.read_bytes()
    log.write_bytes(damaged)

    assert write_steps(tmp_path, (6,), start=3) == left

    (aside,) = tmp_path.glob("log-damaged-*.csv")
    assert aside.read_bytes() == damaged
    assert f"it is kept as {aside.name}" in caplog.text
    assert write_steps(tmp_path, (9,), start=6) == [*left, "9"]  # sound from there on


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, active=False) as log:
        log.write(StepReport(1, 0.5, 10.0, 0.1, 1e-3))
    assert not list(tmp_path.iterdir())
