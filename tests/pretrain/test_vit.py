import pytest
import torch
from torch.nn import functional

from procmem.errors import InputError
from procmem_pretrain.vit import (
    Perception,
    count_registers,
    layout_weights,
    make_vit,
    statistics,
    statistics_blocks,
    with_registers,
    without_registers,
)


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


def test_registers_change_nothing_before_the_first_block_but_themselves() -> None:
    plain = make_vit("vit-tiny", root_seed=1)
    registered = make_vit("vit-tiny", root_seed=1, registers=3)
    image = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = plain._pos_embed(plain.patch_embed(image))
        after = registered._pos_embed(registered.patch_embed(image))
    assert after.shape[1] == before.shape[1] + 3
    assert torch.allclose(without_registers(registered, after), before, atol=1e-6)
    registers = after[0, 1:4]
    assert torch.equal(registers, registered.reg_token[0])
    assert torch.pdist(registers).min() > 0.1  # they differ: 0.02 * sqrt(2 * 192) = 0.39 expected
    same = [k for k, v in plain.state_dict().items() if k.startswith(("blocks", "patch", "norm"))]
    assert all(torch.equal(plain.state_dict()[k], registered.state_dict()[k]) for k in same)


def test_registers_are_a_function_of_the_seed_and_are_counted() -> None:
    plain = make_vit("vit-tiny", root_seed=1).state_dict()
    assert count_registers(plain) == 0
    first, same, other = (with_registers(plain, 2, root_seed=seed) for seed in (5, 5, 6))
    assert count_registers(first) == 2
    assert torch.equal(first["reg_token"], same["reg_token"])
    assert not torch.equal(first["reg_token"], other["reg_token"])


def test_registers_act_on_the_answer_and_are_not_in_it() -> None:
    vit = make_vit("vit-tiny", root_seed=1, registers=4).eval()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(2)
    model = Perception(vit, torch.randn(8, 19 * 192, generator=generator), torch.zeros(8)).eval()
    with torch.no_grad():
        tokens = vit.forward_features(image)
        cls, patches = model(image)
        assert tokens.shape == (1, 1 + 4 + 4 * 6, 192)
        assert torch.equal(patches, tokens[:, 5:].reshape(1, 4, 6, 192))
        kept = torch.cat([tokens[:, :1], tokens[:, 5:]], dim=1)
        read = functional.linear(statistics(kept, (4, 6)), model.readout_weight)
        assert torch.allclose(cls, functional.normalize(read, dim=1), atol=1e-6)
        vit.reg_token.copy_(torch.randn(vit.reg_token.shape, generator=generator))
        assert not torch.allclose(model(image)[0], cls, atol=1e-3)
