"""The stress runs, short. `benchmarks/stress.py` runs them long."""

from __future__ import annotations

from tests.stress import histories


def test_different_histories_of_one_surviving_set_end_in_one_ledger_and_one_answer(tmp_path):
    figures = histories.run_histories(tmp_path, count=60)
    assert figures["deletes"] > 200
    assert figures["windows"] > 10_000


def test_churn_of_labels_of_every_length_leaves_no_window(tmp_path):
    figures = histories.run_churn(tmp_path, count=1000)
    assert figures["windows"] > 100_000
