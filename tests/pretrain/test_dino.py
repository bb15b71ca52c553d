import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from procmem.errors import InputError
from procmem_pretrain import dino
from procmem_pretrain.crops import make_view
from procmem_pretrain.dino import DinoConfig, DinoObjective, Head, cross_entropy
from procmem_pretrain.seeds import stream

TINY = DinoConfig(
    prototypes=64,
    hidden=32,
    bottleneck=16,
    local_views=2,
    global_side=32,
    local_side=16,
    frozen_last_layer=0.2,
)
IMAGES = torch.from_numpy(stream(0, "images").integers(0, 256, (4, 3, 40, 40))).to(torch.uint8)


def objective(config: DinoConfig = TINY, **changes: object) -> DinoObjective:
    options = {"model": "vit-tiny", "root_seed": 0, "steps": 10, "batch": 4, "precision": "fp32"}
    return DinoObjective(config, **{**options, **changes}).train()


def outputs(network: nn.Module, views: list[Tensor]) -> list[Tensor]:
    """Logits of each view by itself, by the plainest way."""
    return [network.head(network.vit.forward_features(2 * v - 1)[:, 0]) for v in views]


@pytest.fixture(scope="module")
def stepped() -> tuple[DinoObjective, Tensor]:
    model = objective()
    loss = model(0, IMAGES)["dino"]
    loss.backward()
    return model, loss.detach()


def test_the_defaults_are_the_papers() -> None:
    config = DinoConfig()
    first, second, *local = config.views()
    assert [view.blur for view in (first, second, local[0])] == [1.0, 0.1, 0.5]
    assert [view.solarize for view in (first, second, local[0])] == [0.0, 0.2, 0.0]
    assert [view.side for view in (first, second)] == [224, 224]
    assert len(local) == 8
    for view in local:
        assert (view.side, view.scale) == (96, (0.05, 0.4))
    for view in config.views():
        assert (view.interpolation, view.color, view.scale_blur) == (
            "bicubic",
            "torchvision",
            False,
        )
        assert view.jitter == (0.4, 0.4, 0.2, 0.1)
        assert (view.jitter_chance, view.grey, view.flip) == (0.8, 0.2, 0.5)


def test_the_loss_is_the_mean_cross_entropy_over_pairs_of_different_views() -> None:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(5, 3, 11, generator=random)
    teacher = (5 * torch.randn(2, 3, 11, generator=random)).softmax(2)
    pairs = [
        functional.cross_entropy(student[v] / 0.1, teacher[t])
        for t in range(2)
        for v in range(5)
        if v != t
    ]
    assert len(pairs) == 8
    ours = cross_entropy(student, teacher, temperature=0.1)
    assert torch.allclose(ours, torch.stack(pairs).mean(), rtol=1e-5)


def test_a_step_is_the_loss_of_its_views_one_by_one() -> None:
    model = objective(dataclasses.replace(TINY, drop_path=0.0))
    model.center.copy_(torch.linspace(-0.1, 0.1, 64))
    random = stream(0, "step", 3)
    views = [make_view(IMAGES / 255, view, random=random) for view in TINY.views()]
    with torch.no_grad():
        student = torch.stack(outputs(model.student, views))
        teacher = torch.stack(outputs(model.teacher, views[:2]))
        target = ((teacher - model.center) / 0.04).softmax(2)
        loss = model(3, IMAGES)["dino"]
    expected = cross_entropy(student, target, temperature=0.1)
    assert torch.allclose(loss, expected, rtol=1e-4)
    entropy = -(target * target.log()).sum(2).mean().item()
    assert model.diagnostics() == pytest.approx(
        {
            "teacher_entropy": entropy,
            "teacher_entropy_share": entropy / torch.tensor(64.0).log().item(),
            "divergence": expected.item() - entropy,
        },
        rel=1e-3,
    )


def test_the_center_is_the_moving_average_of_the_teachers_outputs() -> None:
    model = objective()
    expected = torch.zeros(64)
    for step in range(2):
        random = stream(0, "step", step)
        views = [make_view(IMAGES / 255, view, random=random) for view in TINY.views()]
        with torch.no_grad():
            mean = torch.cat(outputs(model.teacher, views[:2])).mean(0)
        expected = 0.9 * expected + 0.1 * mean
        model(step, IMAGES)
        assert torch.allclose(model.center, expected, atol=1e-6)
    model.eval()(2, IMAGES)
    assert torch.allclose(model.center, expected, atol=1e-6)


def test_every_weight_of_the_student_and_none_of_the_teacher_gets_a_gradient(
    stepped: tuple[DinoObjective, Tensor],
) -> None:
    model, _ = stepped
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == [name for name, _ in model.named_parameters() if name.startswith("teacher.")]
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert all(p.grad.isfinite().all() for p in model.student.parameters())
    assert model.student.head.prototypes.grad.abs().max() > 0


def test_the_last_layer_moves_only_after_its_frozen_steps(
    stepped: tuple[DinoObjective, Tensor],
) -> None:
    model, _ = stepped
    prototypes = model.student.head.prototypes
    gradient = prototypes.grad
    for step, frozen in ((0, True), (1, True), (2, False), (9, False)):  # 0.2 of 10 steps
        prototypes.grad = gradient
        model.before_update(step)
        assert (prototypes.grad is None) == frozen
    assert all(p.grad is not None for p in model.student.head.mlp.parameters())


def test_logits_are_cosines_whatever_the_lengths() -> None:
    head = Head(24, TINY)
    cls = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    logits = head(cls)
    assert logits.shape == (5, 64)
    assert logits.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.prototypes *= 3
        head.mlp[-1].weight *= 2
        head.mlp[-1].bias *= 2
    assert torch.allclose(head(cls), logits, atol=1e-6)


def test_the_head_has_the_papers_layers_and_start() -> None:
    head = Head(384, DinoConfig(prototypes=128))
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes == {
        "prototypes": (128, 256),
        "mlp.0.weight": (2048, 384),
        "mlp.0.bias": (2048,),
        "mlp.2.weight": (2048, 2048),
        "mlp.2.bias": (2048,),
        "mlp.4.weight": (256, 2048),
        "mlp.4.bias": (256,),
    }
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert not head.mlp[2].bias.any()
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in head.modules())


def test_logits_stay_float32_in_bfloat16_training() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Head(24, TINY)(torch.ones(2, 24)).dtype == torch.float32
    loss = objective(precision="bf16")(0, IMAGES)["dino"]
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_the_teacher_starts_as_the_student_without_drop_path() -> None:
    model = objective(dataclasses.replace(TINY, drop_path=0.5))
    for (name, a), b in zip(
        model.student.named_parameters(), model.teacher.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    views = [make_view(IMAGES / 255, TINY.views()[0], random=stream(0, "v"))]
    assert model.student.training
    assert not any(module.training for module in model.teacher.modules())
    assert not torch.equal(model.student(views), model.student(views))
    assert torch.equal(model.teacher(views), model.teacher(views))


def test_the_same_seed_and_step_give_the_same_loss(stepped: tuple[DinoObjective, Tensor]) -> None:
    _, loss = stepped
    torch.rand(7)  # the caller's random numbers have no say
    assert torch.equal(objective()(0, IMAGES)["dino"], loss)
    assert not torch.equal(objective()(1, IMAGES)["dino"], loss)
    assert not torch.equal(objective(root_seed=1)(0, IMAGES)["dino"], loss)


def test_the_loss_does_not_depend_on_the_number_of_steps() -> None:
    assert torch.equal(objective(steps=7)(0, IMAGES)["dino"], objective()(0, IMAGES)["dino"])


def test_state_dict_restores_student_teacher_and_center(
    stepped: tuple[DinoObjective, Tensor],
) -> None:
    model, _ = stepped
    other = objective(root_seed=5)
    other.load_state_dict(model.state_dict())
    assert model.center.abs().max() > 0
    assert torch.equal(other.center, model.center)
    views = [make_view(IMAGES / 255, TINY.views()[0], random=stream(0, "v"))]
    assert torch.equal(other.teacher(views), model.teacher(views))


def test_a_few_steps_lower_the_loss_of_a_fixed_batch() -> None:
    model = objective(dataclasses.replace(TINY, drop_path=0.0, center_momentum=1.0))
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=3e-4)
    losses = []
    for _ in range(8):
        loss = model(0, IMAGES)["dino"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_all_bad_constants_are_reported_at_once() -> None:
    with pytest.raises(InputError, match=r"prototypes is 1.*local_side is 50.*multiple of 16"):
        DinoConfig(prototypes=1, local_side=50)


def test_two_processes_have_the_center_and_the_gradient_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(TINY, drop_path=0.0)
    single = objective(config)
    single(0, IMAGES)["dino"].backward()
    means, gradients = [], []
    for rank in range(2):
        own = slice(2 * rank, 2 * rank + 2)
        monkeypatch.setattr(dino, "share", lambda total, own=own: own)
        monkeypatch.setattr(dino, "mean_across", lambda mean: means.append(mean) or mean)
        model = objective(config)
        model(0, IMAGES[own])["dino"].backward()
        gradients.append([p.grad for p in model.student.parameters()])
    assert torch.allclose(0.1 * torch.stack(means).mean(0), single.center, atol=1e-6)
    for parameter, *parts in zip(single.student.parameters(), *gradients, strict=True):
        # Sums of float32 in another order.
        assert torch.allclose(torch.stack(parts).mean(0), parameter.grad, rtol=1e-3, atol=1e-5)
