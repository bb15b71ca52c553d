"""The map of a memory: principal components, computed anew, and nothing left of what is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.tiny_model import write_tiny_model

import procmem
from procmem.projection import project


def test_project_is_the_singular_value_decomposition():
    rows = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)

    points, explained = project(rows)

    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    wanted = u[:, :2] * s[:2]
    signs = np.sign((wanted * points).sum(axis=0))
    np.testing.assert_allclose(points, wanted * signs, atol=1e-5)
    np.testing.assert_allclose(explained, (s**2 / (s**2).sum())[:2], rtol=1e-6)


@pytest.mark.parametrize("rows", [np.zeros((0, 4)), np.ones((1, 4)), np.full((9, 4), 0.3)])
def test_rows_without_variance_lie_in_one_place(rows):
    points, explained = project(rows.astype(np.float32))

    assert points.shape == (len(rows), 2)
    assert not points.any()
    assert explained == (0.0, 0.0)


def test_rows_that_are_not_finite_are_refused():
    with pytest.raises(procmem.InputError, match="finite"):
        project(np.full((3, 4), np.nan, dtype=np.float32))


def test_the_map_after_a_deletion_is_that_of_a_memory_that_never_held_the_item(tmp_path: Path):
    model = write_tiny_model(tmp_path)
    images = np.random.default_rng(2).integers(0, 255, (6, 40, 40, 3), dtype=np.uint8)
    with (
        procmem.VisualMemory(tmp_path / "a", embedder=str(model)) as memory,
        procmem.VisualMemory(tmp_path / "b", embedder=str(model)) as twin,
    ):
        memory.add(images, ids=range(1, 7))
        before = memory.map()
        memory.delete(4)
        after = memory.map()
        twin.add(images[[0, 1, 2, 4, 5]], ids=[1, 2, 3, 5, 6])

        assert before.ids == (1, 2, 3, 4, 5, 6)
        assert after.ids == (1, 2, 3, 5, 6)
        assert after.points.tobytes() == twin.map().points.tobytes()
        assert after.explained == twin.map().explained
