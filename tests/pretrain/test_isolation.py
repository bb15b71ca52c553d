import collections
import contextlib
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from procmem.errors import InputError, RenderError
from procmem_pretrain.isolation import Failure, Workers

# Long enough that only a kill ends it within a test run.
_FOR_EVER = 1000


def double(number: int) -> int:
    return 2 * number


def process_id(_: int = 0) -> int:
    return os.getpid()


def end_by_signal(number: int) -> None:
    os.kill(os.getpid(), number)


def hang_in_the_driver() -> None:
    """As an endless shader does: in C, with Python's lock held and deaf to polite signals."""
    collections.deque(itertools.repeat(0), maxlen=0)


def write_id_and_hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    hang_in_the_driver()


def die_soon_after() -> str:
    threading.Timer(0.05, end_by_signal, [signal.SIGKILL]).start()
    return "done"


def raise_render_error() -> None:
    raise RenderError("no device")


class OddError(Exception):
    """Cannot be unpickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} {second}")


def raise_odd_error() -> None:
    raise OddError(1, 2)


def leave() -> None:
    sys.exit(3)


def give_lambda() -> object:
    return lambda: None


def even_or_die(number: int) -> int:
    if number % 2:
        end_by_signal(signal.SIGSEGV)
    return number


def sleep_then_return(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0.0)
    return number


def end_before_start() -> None:
    os._exit(7)


_remembered = 0


def remember(number: int) -> None:
    global _remembered
    _remembered = number


def remembered() -> int:
    return _remembered


def interrupt_disposition() -> bool:
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return ignored or signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def is_alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(number: int) -> bool:
    for _ in range(100):
        if not is_alive(number):
            return True
        time.sleep(0.05)
    return False


def read_when_there(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(1, timeout_seconds=20.0) as workers:
        yield workers


def test_results_come_in_the_order_of_the_jobs_whichever_ends_first() -> None:
    with Workers(2) as workers:
        assert list(workers.results(sleep_then_return, range(6))) == list(range(6))


def test_an_endless_sequence_of_jobs_is_read_only_as_far_ahead_as_asked(workers: Workers) -> None:
    numbers = itertools.count()
    results = workers.results(double, numbers, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    assert next(numbers) == 3 + 4


def test_a_job_that_hangs_in_c_is_ended_and_the_next_goes_on() -> None:
    with Workers(1, timeout_seconds=5) as workers:
        failed = workers.submit(hang_in_the_driver).wait()
        assert isinstance(failed, Failure)
        assert failed.reason == "time-out"
        assert "5 s" in failed.message
        assert workers.submit(double, 4).wait() == 8


def test_crashes_cost_only_their_own_jobs() -> None:
    with Workers(2) as workers:
        results = list(workers.results(even_or_die, range(8)))
    assert results[::2] == [0, 2, 4, 6]
    for failed in results[1::2]:
        assert isinstance(failed, Failure)
        assert failed.reason == "crash"
        assert "SIGSEGV" in failed.message


def test_a_child_that_dies_between_two_jobs_is_replaced(workers: Workers) -> None:
    for _ in range(3):
        assert workers.submit(die_soon_after).wait() == "done"
        time.sleep(0.3)
        assert workers.submit(double, 1).wait() == 2


def test_an_initializer_that_crashes_is_told_and_does_not_hang() -> None:
    with Workers(2, initializer=end_before_start) as workers:
        for result in workers.results(double, range(3)):
            assert isinstance(result, Failure)
            assert result.reason == "crash"
            assert "before it could begin" in result.message


def test_an_initializer_that_raises_fails_all_jobs_with_its_own_error() -> None:
    with Workers(1, initializer=raise_render_error) as workers:
        for result in workers.results(double, range(2)):
            assert isinstance(result, Failure)
            assert isinstance(result.error, RenderError)
            assert str(result.error) == "no device"


def test_a_replaced_child_is_initialized_again() -> None:
    with Workers(1, initializer=remember, initargs=(5,)) as workers:
        assert workers.submit(remembered).wait() == 5
        assert isinstance(workers.submit(end_by_signal, signal.SIGKILL).wait(), Failure)
        assert workers.submit(remembered).wait() == 5


def test_an_error_of_procmem_keeps_its_type_and_message(workers: Workers) -> None:
    failed = workers.submit(raise_render_error).wait()
    assert isinstance(failed, Failure)
    assert failed.reason == "error"
    assert type(failed.error) is RenderError
    assert str(failed.error) == failed.message == "no device"


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (raise_odd_error, r"OddError: 1 2 \(test_isolation.py, line \d+\)"),
        (leave, "SystemExit: 3"),
        (give_lambda, "give_lambda"),
    ],
)
def test_any_other_exception_is_told_and_the_child_stays(
    workers: Workers, job: Callable[[], object], told: str
) -> None:
    before = workers.submit(process_id).wait()
    failed = workers.submit(job).wait()
    assert isinstance(failed, Failure)
    assert failed.reason == "error"
    assert failed.error is None
    assert re.search(told, failed.message), failed.message
    assert workers.submit(process_id).wait() == before


def test_what_cannot_be_sent_is_refused_at_once(workers: Workers) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        workers.submit(lambda: None)


def test_close_ends_hanging_jobs_and_waiting_ones() -> None:
    workers = Workers(1, timeout_seconds=_FOR_EVER)
    child = workers.submit(process_id).wait()
    assert isinstance(child, int)
    tickets = [workers.submit(hang_in_the_driver), workers.submit(double, 1)]
    time.sleep(0.3)
    workers.close()
    assert wait_until_gone(child)
    for ticket in tickets:
        failed = ticket.wait()
        assert isinstance(failed, Failure)
        assert "closed" in failed.message
    workers.close()
    with pytest.raises(InputError, match="closed"):
        workers.submit(double, 1)


def test_an_interrupt_leaves_no_child() -> None:
    children: list[int | Failure] = []

    def work() -> None:
        with Workers(2, timeout_seconds=_FOR_EVER) as workers:
            children.extend(workers.results(process_id, range(4)))
            workers.submit(hang_in_the_driver)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert all(isinstance(child, int) and wait_until_gone(child) for child in children)


def test_children_do_not_hear_the_interrupt_of_the_terminal(workers: Workers) -> None:
    assert workers.submit(interrupt_disposition).wait() is True


@pytest.mark.parametrize("seconds", [0.2, 1.0])  # while the child starts, and in its job
def test_control_c_shows_one_traceback_and_leaves_no_child(tmp_path: Path, seconds: float) -> None:
    script = _script(
        tmp_path,
        # Whoever starts the tests in the background may have made them deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        f"ticket = workers.submit(job.write_id_and_hang, {str(tmp_path / 'id')!r})",
        f"pathlib.Path({str(tmp_path / 'started')!r}).write_text('1')",
        "with workers: ticket.wait()",
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    read_when_there(tmp_path / "started")
    time.sleep(seconds)
    os.killpg(parent.pid, signal.SIGINT)
    try:
        _, said = parent.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    assert parent.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1, said
    if (tmp_path / "id").exists():
        assert wait_until_gone(read_when_there(tmp_path / "id"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_hanging_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = _script(tmp_path, f"workers.submit(job.write_id_and_hang, {str(tmp_path / 'id')!r})")
    parent = subprocess.Popen([sys.executable, str(script)])
    child = read_when_there(tmp_path / "id")
    assert is_alive(child)
    parent.kill()
    parent.wait()
    assert wait_until_gone(child)


def test_a_program_that_forgets_to_close_ends(tmp_path: Path) -> None:
    script = _script(
        tmp_path,
        f"workers.submit(job.write_id_and_hang, {str(tmp_path / 'id')!r})",
        f"job.read_when_there(pathlib.Path({str(tmp_path / 'id')!r}))",
        "raise SystemExit",
    )
    subprocess.run([sys.executable, str(script)], timeout=60, check=True)
    assert wait_until_gone(read_when_there(tmp_path / "id"))


def test_a_script_without_the_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from procmem_pretrain.isolation import Workers\nprint(Workers(1).submit(abs, -1).wait())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], timeout=100, capture_output=True, text=True
    )
    assert "__main__" in done.stdout


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=str(count)):
        Workers(count)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="timeout_seconds"):
        Workers(1, timeout_seconds=seconds)


def _script(folder: Path, *lines: str) -> Path:
    """A script that starts workers; `job` is this module."""
    body = "\n    ".join(lines)
    path = folder / "script.py"
    path.write_text(
        f"import pathlib, signal, sys, time\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_isolation as job\nfrom procmem_pretrain.isolation import Workers\n"
        "if __name__ == '__main__':\n"
        f"    workers = Workers(1, timeout_seconds={_FOR_EVER})\n    {body}\n"
        f"    time.sleep({_FOR_EVER})\n"
    )
    return path
