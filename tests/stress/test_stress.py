"""The stress runs, short. `benchmarks/stress.py` runs them long."""

from __future__ import annotations

import sys

import pytest
from tests.stress import faults, histories, images, moves, mutations, power, readers

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="children are bounded by means that only Linux has"
)


@pytest.fixture
def compiler(tmp_path):
    if faults.build_shim(tmp_path) is None:
        pytest.skip("faults are injected on Linux only, and need a C compiler (cc)")


def test_different_histories_of_one_surviving_set_end_in_one_ledger_and_one_answer(tmp_path):
    figures = histories.run_histories(tmp_path, count=40)
    assert figures["deletes"] > 200
    assert figures["windows"] > 10_000


def test_churn_of_labels_of_every_length_leaves_no_window(tmp_path):
    figures = histories.run_churn(tmp_path, count=1000)
    assert figures["windows"] > 100_000


def test_a_call_that_the_disk_refuses_or_tears_leaves_the_memory_before_or_after(
    tmp_path, compiler
):
    figures = faults.run_faults(tmp_path, count=50)
    assert figures["calls that raised"] > 10


def test_so_does_a_sealed_one(tmp_path, compiler):
    figures = faults.run_faults(tmp_path, count=50, sealed=True)
    assert figures["calls that raised"] > 10


def test_a_power_cut_leaves_the_memory_before_or_after(tmp_path, compiler):
    figures = power.run_power_cuts(tmp_path, count=80)
    assert figures["left before"] > 10
    assert figures["left after"] > 10


def test_the_power_cuts_would_find_a_memory_that_does_not_wait_for_the_disk(tmp_path, compiler):
    with pytest.raises(AssertionError, match="cut after event"):
        power.run_power_cuts(tmp_path, count=300, careless=True)


@linux_only
def test_a_damaged_file_is_harmless_or_noticed(tmp_path):
    pytest.importorskip("onnx", reason="the run builds its model with onnx")
    pytest.importorskip("onnxruntime", reason="the embedder runs on onnxruntime")
    figures = mutations.run_mutations(tmp_path, count=60)
    assert figures["ledger detected"] > 1
    assert figures["left-overs harmless"] > 1


@linux_only
def test_a_damaged_picture_is_whole_or_refused_and_costs_no_more_than_its_bounds(tmp_path):
    figures = images.run_images(tmp_path, count=120)
    assert figures["picture"] > 10
    assert figures["refused"] > 40


@linux_only
def test_readers_beside_a_writer_get_no_error_and_nothing_that_is_deleted(tmp_path):
    figures = readers.run_readers(tmp_path, count=4)
    assert figures["answers"] >= readers.READERS
    assert figures["deletes"] >= readers.FEWEST_DELETES


def test_a_migration_that_is_killed_leaves_the_memory_before_or_after_each_step(tmp_path):
    figures = moves.run_kills(tmp_path, count=10)
    assert figures["left before"] + figures["left after"] == 10


def test_a_call_that_fails_in_a_migration_leaves_the_memory_before_or_after(tmp_path, compiler):
    figures = moves.run_faults(tmp_path, count=25)
    assert figures["left before"] > 5


def test_so_does_one_in_the_migration_of_a_sealed_memory(tmp_path, compiler):
    figures = moves.run_faults(tmp_path, count=25, sealed=True)
    assert figures["left before"] > 5
