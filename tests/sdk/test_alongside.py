"""Work alongside ends with the block, gives what it gives, and raises where it is waited for."""

from __future__ import annotations

import threading

import pytest

from procmem.alongside import alongside


def test_work_is_done_in_another_thread_while_the_block_runs():
    go_on = threading.Event()

    def work():
        assert go_on.wait(60)
        return threading.get_ident()

    with alongside(work) as result:
        go_on.set()
        assert result() != threading.get_ident()
        assert result() == result()


def test_a_block_is_not_left_before_the_work_has_ended():
    left, done = threading.Event(), []

    def work():
        left.wait(0.2)  # which the block never sets
        done.append(left.is_set())

    with pytest.raises(ZeroDivisionError), alongside(work):
        raise ZeroDivisionError
    left.set()
    assert done == [False]


def fail():
    raise ZeroDivisionError("of the work")


def test_what_the_work_raises_comes_where_it_is_waited_for():
    with alongside(fail) as result, pytest.raises(ZeroDivisionError, match="of the work"):
        result()
    with alongside(fail):
        pass


def test_without_a_thread_the_work_is_done_before_the_block(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    done = []
    with alongside(lambda: done.append(True) or 5) as result:
        assert done == [True]
        assert result() == 5
    with alongside(fail) as result, pytest.raises(ZeroDivisionError, match="of the work"):
        result()
