import pytest
import torch
from torch.nn import functional

from procmem.errors import InputError
from procmem_pretrain.vit import layout_weights, make_vit, statistics, statistics_blocks


@pytest.mark.parametrize("grid", [(4, 4), (8, 12)])
def test_layout_cells_are_average_pooling_where_tokens_fit(grid: tuple[int, int]) -> None:
    patches = torch.randn(2, grid[0] * grid[1], 5)
    cells = layout_weights(grid) @ patches
    maps = patches.transpose(1, 2).reshape(2, 5, *grid)
    pooled = functional.adaptive_avg_pool2d(maps, 4).flatten(2).transpose(1, 2)
    assert torch.allclose(cells, pooled, atol=1e-6)


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (6, 9), (2, 2)])
def test_layout_cells_of_any_grid_average_to_the_mean(grid: tuple[int, int]) -> None:
    weights = layout_weights(grid)
    assert torch.allclose(weights.sum(1), torch.ones(16), atol=1e-6)
    assert torch.allclose(weights.mean(0), torch.full((grid[0] * grid[1],), 1 / grid[0] / grid[1]))


def test_a_token_on_a_border_counts_by_its_share_of_area() -> None:
    # Six tokens on a line: a quarter is one and a half of them.
    row = layout_weights((4, 6))[0]
    assert torch.allclose(row[:3], torch.tensor([2 / 3, 1 / 3, 0.0]))


def test_statistics_are_class_token_mean_deviation_and_layout() -> None:
    tokens = torch.randn(3, 1 + 16, 8)
    features = statistics(tokens, (4, 4))
    assert features.shape == (3, 19 * 8) == (3, sum(statistics_blocks(8)))
    cls, mean, deviation, cells = features.split(list(statistics_blocks(8)), dim=1)
    assert torch.equal(cls, tokens[:, 0])
    assert torch.allclose(mean, tokens[:, 1:].mean(1), atol=1e-6)
    assert torch.allclose(deviation, tokens[:, 1:].std(1, unbiased=False), atol=1e-5)
    assert torch.allclose(cells, tokens[:, 1:].flatten(1), atol=1e-6)  # one token a cell


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="vit-tiny"):
        make_vit("vit-huge", root_seed=0)
