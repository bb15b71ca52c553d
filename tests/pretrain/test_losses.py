import math

import pytest
import torch
from torch.nn import functional
from torch.nn.functional import normalize

from procmem.errors import InputError
from procmem_pretrain.descriptors import cell_descriptors, layout_targets, patch_targets
from procmem_pretrain.losses import alignment, coding_rate, regression
from procmem_pretrain.readout import fit_readout


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_coding_rate_of_a_collapsed_batch_is_small() -> None:
    same = normalize(random(1, 16), dim=1).repeat(64, 1)
    # One direction of 16 has variance: log(1 + 16 / 0.5) / (16 log 3), by the definition.
    assert coding_rate(same).item() == pytest.approx(math.log(33) / (16 * math.log(3)), rel=1e-4)


def test_the_coding_rate_of_an_orthonormal_batch_is_one() -> None:
    assert coding_rate(torch.eye(16)).item() == pytest.approx(1.0, rel=1e-5)


def test_alignment_is_zero_for_equal_and_two_for_opposite_vectors() -> None:
    vectors = normalize(random(8, 16), dim=1)
    assert alignment(vectors, vectors).item() == pytest.approx(0.0, abs=1e-6)
    assert alignment(vectors, -vectors).item() == pytest.approx(2.0, rel=1e-6)


def test_the_regression_of_standardized_targets_is_zero() -> None:
    target = 3 + 5 * random(64, 4)
    exact = (target - target.mean(0)) / (target.std(0, unbiased=False) + 1e-3)
    assert regression(exact, target).item() < 1e-12
    assert regression(torch.zeros(64, 4), target).item() > 0.2


def test_descriptors_tell_the_orientation_of_stripes() -> None:
    x = torch.linspace(0, 40, 64)
    vertical = (0.5 + 0.5 * torch.sin(x)).expand(1, 3, 64, 64)
    cells = cell_descriptors(vertical)
    turned = cell_descriptors(vertical.transpose(2, 3))
    # The gradient of vertical stripes points along x, bin 0; turned by 90 degrees, 4.5 bins on.
    assert cells[0, :9, 4, 4].argmax().item() == 0
    assert turned[0, :9, 4, 4].argmax().item() in (4, 5)


def test_patch_targets_are_row_major_over_the_patch_grid() -> None:
    views = torch.zeros(1, 3, 64, 64)
    views[:, :, 16:32, 48:] = 1.0  # patch row 1, column 3 of a 4 x 4 grid
    targets = patch_targets(cell_descriptors(views))
    mean_color = targets[0].reshape(16, 13, 4)[:, 10:].mean(dim=(1, 2))
    assert mean_color.argmax().item() == 1 * 4 + 3


def test_a_histogram_is_the_sum_of_cut_cosine_lobes_over_its_cell() -> None:
    views = random(2, 3, 24, 16)
    grey = functional.pad(views.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")[:, 0]
    dx, dy = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    angle, length = 2 * torch.atan2(dy, dx), torch.hypot(dx, dy)
    histogram = torch.stack(
        [
            (length * (angle - 2 * math.pi * bin / 9).cos()).clamp(min=0).unfold(1, 8, 8)
            .unfold(2, 8, 8).mean(dim=(3, 4))
            for bin in range(9)
        ],
        dim=1,
    )  # fmt: skip
    shares = histogram / (histogram.sum(dim=1, keepdim=True) + 0.01)
    assert torch.allclose(cell_descriptors(views)[:, :9], shares, atol=1e-4)


def test_layout_targets_have_one_descriptor_for_each_place() -> None:
    assert layout_targets(cell_descriptors(random(2, 3, 96, 96)), grid=4).shape == (2, 13 * 16)


def test_the_readout_whitens_what_it_was_fitted_on() -> None:
    features = random(500, 12) @ random(12, 12) + 3
    weight, bias = fit_readout(features, dimension=5, blocks=[12], ridge=0.0)
    z = features @ weight.T + bias
    z = z / z.std(unbiased=False)  # the readout leaves a common factor open
    assert torch.allclose(z.mean(0), torch.zeros(5), atol=1e-2)
    assert torch.allclose(z.T @ z / 500, torch.eye(5), atol=1e-2)


def test_no_block_of_features_outvotes_the_others() -> None:
    features = random(500, 12)
    loud = features.clone()
    loud[:, 4:] *= 1000
    quiet_fit, loud_fit = (
        functional.normalize(f @ weight.T + bias)
        for f in (features, loud)
        for weight, bias in [fit_readout(f, dimension=12, blocks=[4, 8])]
    )
    cosines = (quiet_fit * loud_fit).sum(1)
    assert cosines.min() > 0.99


def test_the_readouts_weight_is_exact_in_float16() -> None:
    weight, _ = fit_readout(random(50, 12) * 1e4, dimension=4, blocks=[12])
    assert torch.equal(weight, weight.half().float())


def test_a_readout_of_fewer_images_than_features_is_that_of_the_covariance() -> None:
    few = random(12, 40)
    weight, bias = fit_readout(few, dimension=7, blocks=[40], ridge=0.0)
    read = few @ weight.T + bias
    assert torch.allclose(read.mean(0), torch.zeros(7), atol=1e-3 * float(read.std()))
    # The 40 x 40 covariance of the same rows, the long way.
    centered = (few - few.mean(0)).double()
    values, vectors = torch.linalg.eigh(centered.T @ centered / 12)
    wanted = (centered @ vectors.flip(1)[:, :7] / values.flip(0)[:7].sqrt()).float()
    scale = read.norm() / wanted.norm()
    signs = (read * wanted).sum(0).sign()
    assert torch.allclose(read, wanted * signs * scale, atol=2e-3 * float(scale))


@pytest.mark.parametrize("dimension", [0, 13])
def test_a_readout_of_impossible_width_is_refused(dimension: int) -> None:
    with pytest.raises(InputError, match=f"dimension is {dimension}"):
        fit_readout(random(50, 12), dimension=dimension, blocks=[12])


def test_a_readout_of_too_few_images_is_refused() -> None:
    with pytest.raises(InputError, match="more than 8 images, got 5"):
        fit_readout(random(5, 12), dimension=8, blocks=[12])


def test_blocks_that_leave_features_out_are_refused() -> None:
    with pytest.raises(InputError, match="wanted a sum of 12"):
        fit_readout(random(50, 12), dimension=8, blocks=[4, 4])
