import csv
import dataclasses
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from procmem.errors import CheckpointError, InputError, TrainingError
from procmem.manifest import manifest_path, read_manifest, write_manifest
from procmem.preprocess import center_view
from procmem.provenance import check_model
from procmem_pretrain import checkpoint, health
from procmem_pretrain.config import RECIPES, TrainConfig, config_from_dict
from procmem_pretrain.dino import DinoConfig
from procmem_pretrain.evaluation.methods import checkpoint_methods
from procmem_pretrain.health import HealthCheck, Unhealthy
from procmem_pretrain.losses import coding_rate
from procmem_pretrain.objective import make_objective
from procmem_pretrain.optimization import learning_rate, teacher_momentum, weight_decay
from procmem_pretrain.prefetch import Prefetch
from procmem_pretrain.run_log import StepReport
from procmem_pretrain.simdino import Phase, SimDinoConfig, SimDinoObjective
from procmem_pretrain.stream import ImageStream, StreamConfig
from procmem_pretrain.train import _Run, train
from procmem_pretrain.training_state import TrainingState
from procmem_pretrain.vit import make_vit, normalized, with_registers


def with_simdino(config: TrainConfig, **changes: object) -> TrainConfig:
    simdino = dataclasses.replace(config.simdino, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(config, simdino=simdino)


def test_training_lowers_the_loss_on_images_it_has_not_seen(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = with_simdino(
        dataclasses.replace(tiny_config, steps=24, batch=12),
        phases=(Phase(1.0, 64, 1.0),),
        drop_path=0.0,
    )
    train(config, tmp_path, stop_after=23)
    trained = TrainingState(config, make_objective(config))
    assert trained.resume(tmp_path)
    with ImageStream(config.images, batch=config.batch, start=23) as stream:
        images = next(stream)  # step 23's: the run stopped before it

    def total(objective: torch.nn.Module) -> float:
        with torch.no_grad():
            return sum(term.item() for term in objective(23, images).values())

    assert total(trained.objective) < 0.9 * total(make_objective(config))


def test_a_finished_run_leaves_a_loadable_perception(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = train(tiny_config, tmp_path)
    manifest, model = checkpoint.load_perception(path)
    assert (manifest.cls_dim, manifest.patch_dim) == (8, 192)
    assert manifest.origin.steps == 6
    assert not manifest.origin.trained_on_real_data
    with torch.no_grad():
        cls, patches = model(torch.zeros(1, 3, 224, 224))
    assert cls.shape == (1, 8)
    assert patches.shape == (1, 14, 14, 192)
    assert cls.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_three_steps_move_every_weight_of_the_student(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = train(tiny_config, tmp_path, stop_after=3)
    _, tensors = checkpoint.load(path)
    start = make_vit(tiny_config.model, root_seed=tiny_config.root_seed).state_dict()
    still = [k for k, v in start.items() if torch.equal(v, tensors[f"objective/student.vit.{k}"])]
    assert still == []


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny_config, whole)
    for stop in (2, 4, None):
        train(tiny_config, parts, stop_after=stop)
    a, b = (checkpoint.load(checkpoint.complete(folder)[0])[1] for folder in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_sigterm_leaves_a_checkpoint_to_go_on_from(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, steps=40)
    path = train(
        config,
        tmp_path,
        report=lambda line: os.kill(os.getpid(), signal.SIGTERM),
    )
    assert path.name == "step-00000010.safetensors"
    assert checkpoint.load(path)[0].origin.steps == 10


def test_a_resumed_log_has_every_line_once(tiny_config: TrainConfig, tmp_path: Path) -> None:
    for stop in (3, None):
        train(tiny_config, tmp_path, stop_after=stop)
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]


def test_a_pool_that_has_to_be_drawn_first_is_not_counted_as_a_slow_step(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    take_step = _Run._take_step

    class SlowToBegin(Prefetch[torch.Tensor]):
        """Takes its time when it is asked; in its own thread it might before the steps begin."""

        def __next__(self) -> torch.Tensor:
            clock.now += 1000 if clock.now == 0 else 0
            return super().__next__()

    def two_seconds(run: _Run, images: torch.Tensor) -> dict[str, torch.Tensor]:
        clock.now += 2
        return take_step(run, images)

    monkeypatch.setattr(
        "procmem_pretrain.train.time", SimpleNamespace(perf_counter=lambda: clock.now)
    )
    monkeypatch.setattr("procmem_pretrain.train.Prefetch", SlowToBegin)
    monkeypatch.setattr(_Run, "_take_step", two_seconds)
    reports: list[StepReport] = []
    config = dataclasses.replace(tiny_config, steps=40)
    train(config, tmp_path, stop_after=10, report=reports.append)
    assert reports[0].images_per_second == config.batch / 2


def test_a_folder_of_another_configuration_is_refused(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    train(tiny_config, tmp_path, stop_after=1)
    other = dataclasses.replace(tiny_config, learning_rate=0.5)
    with pytest.raises(TrainingError, match=r"learning_rate: 0\.001 -> 0\.5"):
        train(other, tmp_path)


def test_a_run_may_go_on_compiled_or_on_another_device(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    train(dataclasses.replace(tiny_config, compile=True), tmp_path, stop_after=1)
    train(dataclasses.replace(tiny_config, device="cpu:0"), tmp_path, stop_after=2)
    assert checkpoint.load(checkpoint.complete(tmp_path)[0])[0].origin.steps == 2


def test_a_loss_that_is_never_finite_ends_the_run_and_keeps_a_good_checkpoint(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    broken = with_simdino(tiny_config, patch_weight=1e300)
    with pytest.raises(TrainingError, match="collapsed for the third time"):
        train(broken, tmp_path)
    assert checkpoint.load(tmp_path / "step-00000000.safetensors")[0].origin.steps == 0


@pytest.mark.parametrize("objective", ["simdino", "dino"])
def test_weights_that_are_no_longer_finite_end_the_run_too(
    tiny_config: TrainConfig, tmp_path: Path, objective: Literal["simdino", "dino"]
) -> None:
    broken = dataclasses.replace(tiny_config, objective=objective, learning_rate=1e30, warmup=0.0)
    with pytest.raises(TrainingError, match="collapsed for the third time"):
        train(broken, tmp_path)
    assert checkpoint.load(tmp_path / "step-00000000.safetensors")[0].origin.steps == 0


def test_the_coding_rate_of_what_is_not_finite_is_not_either() -> None:
    embeddings = functional.normalize(torch.randn(8, 4), dim=1)
    assert 0 < coding_rate(embeddings) < 1
    embeddings[3, 2] = math.nan
    assert math.isnan(coding_rate(embeddings))


def test_a_run_that_diverges_goes_back_and_on_with_half_the_rate(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, rates = SimDinoObjective.forward, []

    def diverging(self: SimDinoObjective, step: int, images: torch.Tensor) -> object:
        terms = forward(self, step, images)
        if step == 4 and not rates:
            rates.append("diverged")
            return {name: term * float("nan") for name, term in terms.items()}
        return terms

    monkeypatch.setattr(SimDinoObjective, "forward", diverging)
    train(tiny_config, tmp_path, stop_after=3)
    lines: list[StepReport] = []
    train(tiny_config, tmp_path, report=lines.append)
    usual = learning_rate(tiny_config, 5)
    assert lines[-1].step == 6
    assert lines[-1].learning_rate == pytest.approx(usual / 2)
    weights = checkpoint.load(checkpoint.complete(tmp_path)[0])[1]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_collapsed_model_is_found_before_a_checkpoint_is_written(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, health_programs=3)
    train(config, tmp_path, stop_after=1)

    state = TrainingState(config, make_objective(config))
    with torch.no_grad():
        state.vit.norm.weight.zero_()
    check = HealthCheck(config.images, programs=3, renderer="auto", device=torch.device("cpu"))
    with pytest.raises(Unhealthy, match="collapse"):
        check.look(state.vit)


def test_the_best_of_a_run_is_known_after_a_resumption(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config, health_programs=3)
    with monkeypatch.context() as patch:
        patch.setattr(health, "program_knn", lambda *_: 0.75)
        train(config, tmp_path, stop_after=1)
    assert float(checkpoint.load(checkpoint.complete(tmp_path)[0])[1]["best_knn"]) == 0.75
    monkeypatch.setattr(health, "program_knn", lambda *_: 0.3)
    with pytest.raises(TrainingError, match="collapsed for the third time"):
        train(config, tmp_path)
    assert checkpoint.complete(tmp_path)[0].name == "step-00000001.safetensors"


def test_steps_can_be_changed_before_the_last_decay_and_not_after(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, steps=8, decay=0.5)
    train(config, tmp_path, stop_after=3)
    longer = dataclasses.replace(config, steps=10)
    train(longer, tmp_path, stop_after=6)
    assert config_from_dict(checkpoint.load(checkpoint.complete(tmp_path)[0])[0].config) == longer
    with pytest.raises(TrainingError, match="steps: 10 -> 12"):
        train(dataclasses.replace(config, steps=12), tmp_path)


def test_a_run_starts_from_the_weights_of_another(tiny_config: TrainConfig, tmp_path: Path) -> None:
    first = train(tiny_config, tmp_path / "first")
    second = train(tiny_config, tmp_path / "second", init_from=first, stop_after=0)
    manifest, tensors = checkpoint.load(second)
    weights = checkpoint.load(first)[1]
    for name, tensor in weights.items():
        if name.startswith("teacher/"):
            assert torch.equal(tensors[name], tensor.float())
    assert ("start", checkpoint.load(first)[0].sha256) in manifest.origin.chain


def test_a_start_that_does_not_exist_or_does_not_fit_is_refused(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors does not exist"):
        train(tiny_config, tmp_path / "run", init_from=tmp_path / "none.safetensors")
    start = train(tiny_config, tmp_path / "start", stop_after=1)
    small = dataclasses.replace(tiny_config, model="vit-small")
    with pytest.raises(CheckpointError, match="is a vit-shallow, wanted vit-small"):
        train(small, tmp_path / "other", init_from=start)


@pytest.mark.parametrize("objective", ["simdino", "dino"])
def test_a_run_with_registers_trains_resumes_and_is_evaluated(
    tiny_config: TrainConfig, tmp_path: Path, objective: Literal["simdino", "dino"]
) -> None:
    small = DinoConfig(prototypes=32, hidden=16, bottleneck=8, local_views=1)
    small = dataclasses.replace(small, global_side=64, local_side=32)
    config = dataclasses.replace(tiny_config, registers=2, steps=2, objective=objective, dino=small)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    path = train(config, whole)
    train(config, parts, stop_after=1)
    train(config, parts)
    a, b = (checkpoint.load(checkpoint.complete(folder)[0])[1] for folder in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
    start = make_vit(config.model, root_seed=config.root_seed, registers=2).state_dict()
    assert start["reg_token"].shape == (1, 2, 192)
    assert not torch.equal(start["reg_token"], a["objective/student.vit.reg_token"])

    manifest, model = checkpoint.load_perception(path)
    assert model.vit.num_prefix_tokens == 3
    plain, read_out = checkpoint_methods(path)
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    view = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255)
    with torch.no_grad():
        tokens = model.vit.forward_features(normalized(view))
        answer, _ = model(torch.from_numpy(center_view(image, manifest.preprocessing))[None])
    assert plain.patches is not None
    found = plain.patches(image, (224, 224)).reshape(196, 192)
    assert np.allclose(found, tokens[0, 3:].numpy(), atol=1e-4)
    assert np.allclose(read_out.embed([image]), answer.numpy(), atol=1e-4)


def gradients(objective: nn.Module, batch: int) -> dict[str, torch.Tensor]:
    """Of all trained weights after the first step."""
    images = torch.randint(
        0, 256, (batch, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0)
    )
    torch.stack(list(objective(0, images).values())).sum().backward()
    weights = objective.named_parameters()
    return {name: weight.grad for name, weight in weights if weight.grad is not None}


def is_fused(network: nn.Module) -> set[bool]:
    return {block.attn.fused_attn for block in network.vit.blocks}


def test_attention_by_two_products_learns_what_the_fused_one_does(tiny_config: TrainConfig) -> None:
    config = dataclasses.replace(tiny_config, precision="bf16", device="cpu")
    plain = make_objective(config)
    fused = make_objective(dataclasses.replace(config, device="cuda"))  # runs on the CPU here
    exact = make_objective(dataclasses.replace(config, precision="fp32"))
    assert is_fused(plain.student) == {False}
    assert is_fused(plain.teacher) == {True}  # its forward pass is the faster one
    assert is_fused(fused.student) == is_fused(exact.student) == {True}

    found, wanted = gradients(plain, config.batch), gradients(fused, config.batch)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        off = torch.linalg.vector_norm(gradient - wanted[name])
        assert off <= 0.05 * torch.linalg.vector_norm(wanted[name]) + 1e-6, name


def test_dropped_patches_leave_the_class_token_and_all_registers(
    tiny_config: TrainConfig,
) -> None:
    config = dataclasses.replace(tiny_config, registers=3)
    student = make_objective(config).student.eval()
    views = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    all_patches = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        whole = student.tokens(views)
        kept = student.tokens(views, all_patches)
        fewer = student.tokens(views, all_patches[:, 4:8])
    assert whole.shape == (2, 17, 192)
    assert torch.equal(kept, whole)
    assert fewer.shape == (2, 5, 192)
    seen: list[int] = []
    student.vit.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    with torch.no_grad():
        student.tokens(views, all_patches[:, 4:8])
    assert seen == [1 + 3 + 4]


def test_registers_start_anew_from_a_run_without_and_the_rest_goes_on(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    first = train(tiny_config, tmp_path / "first", stop_after=1)
    config = dataclasses.replace(tiny_config, registers=2)
    second = train(config, tmp_path / "second", init_from=first, stop_after=0)
    old, new = checkpoint.load(first)[1], checkpoint.load(second)[1]
    fresh = with_registers(
        make_vit(config.model, root_seed=0).state_dict(), 2, root_seed=config.root_seed
    )
    for kind in ("teacher/", "objective/student.vit."):
        assert torch.equal(new[kind + "reg_token"], fresh["reg_token"])
        assert torch.equal(new[kind + "pos_embed"], old["teacher/pos_embed"][:, 1:])
        assert torch.equal(new[kind + "norm.weight"], old["teacher/norm.weight"])


@pytest.mark.parametrize("wanted", [0, 3])
def test_a_start_with_registers_of_another_number_is_refused(
    tiny_config: TrainConfig, tmp_path: Path, wanted: int
) -> None:
    with_two = dataclasses.replace(tiny_config, registers=2)
    start = train(with_two, tmp_path / "start", stop_after=0)
    config = dataclasses.replace(tiny_config, registers=wanted)
    with pytest.raises(CheckpointError, match=f"has 2 registers, wanted {wanted}.*--registers 2"):
        train(config, tmp_path / "run", init_from=start)
    with pytest.raises(TrainingError, match=f"registers: 2 -> {wanted}"):
        train(config, tmp_path / "start")


def test_a_run_from_before_registers_goes_on_without_them(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = train(tiny_config, tmp_path, stop_after=1)
    manifest = read_manifest(path)
    older = {name: value for name, value in manifest.config.items() if name != "registers"}
    write_manifest(dataclasses.replace(manifest, config=older), tmp_path)
    assert config_from_dict(older) == tiny_config
    later = train(tiny_config, tmp_path, stop_after=2)
    assert checkpoint.load(later)[0].origin.steps == 2
    write_manifest(dataclasses.replace(read_manifest(later), config=older), tmp_path)
    with pytest.raises(TrainingError, match="registers: 0 -> 1"):
        train(dataclasses.replace(tiny_config, registers=1), tmp_path)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    tiny_config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny_config, whole)
    for steps in (1, 2, 4):
        newest = train(tiny_config, parts, stop_after=steps)
    assert [path.name for path in checkpoint.complete(parts)] == [
        "step-00000004.safetensors", "step-00000002.safetensors",
    ]  # fmt: skip
    flip_a_byte(newest)
    caplog.clear()
    train(tiny_config, parts, stop_after=3)
    assert "SHA-256" in caplog.text
    assert "the run goes on from step 2" in caplog.text
    train(tiny_config, parts, stop_after=5)  # the damaged one is still the newest
    assert "the run goes on from step 3" in caplog.text
    train(tiny_config, parts)
    a, b = (checkpoint.load(checkpoint.complete(folder)[0])[1] for folder in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
    left = {path.name for path in parts.glob("step-*")}
    assert left == {
        f"step-0000000{step}.{kind}" for step in (5, 6) for kind in ("safetensors", "json")
    }


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = train(tiny_config, tmp_path, stop_after=1)
    flip_a_byte(path)
    flip_a_byte(tmp_path / "step-00000000.safetensors")
    with pytest.raises(
        CheckpointError, match=r"(?s)cannot go on.*SHA-256.*bring step-00000001\.safetensors and "
    ):
        train(tiny_config, tmp_path)


def test_what_a_killed_write_left_is_removed_with_the_next_checkpoint(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    train(tiny_config, tmp_path, stop_after=1)
    half = tmp_path / ".step-00000002.safetensors.4711.tmp"
    half.write_bytes(b"half")
    foreign = tmp_path / ".notes.tmp"
    foreign.write_text("of somebody")
    train(tiny_config, tmp_path, stop_after=2)
    assert not half.exists()
    assert foreign.read_text() == "of somebody"


def test_a_run_goes_on_only_with_the_start_that_it_had(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    start = train(tiny_config, tmp_path / "start", stop_after=1)
    other = train(dataclasses.replace(tiny_config, root_seed=9), tmp_path / "other", stop_after=1)
    run = tmp_path / "run"
    train(tiny_config, run, init_from=start, stop_after=1)
    train(tiny_config, run, init_from=start, stop_after=2)
    train(tiny_config, run, stop_after=3)
    with pytest.raises(TrainingError, match=r"did not begin with .*; leave --init-from away"):
        train(tiny_config, run, init_from=other)
    with pytest.raises(TrainingError, match="did not begin with"):
        train(tiny_config, tmp_path / "start", init_from=other)


def test_weights_without_a_manifest_are_the_rest_of_an_interrupted_write(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = train(tiny_config, tmp_path, stop_after=1)
    (tmp_path / "step-00000009.safetensors").write_bytes(b"half")
    assert checkpoint.complete(tmp_path)[0] == path


def test_weights_that_lost_their_manifest_are_told(
    tiny_config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = train(tiny_config, tmp_path, stop_after=2)
    manifest_path(path).rename(tmp_path / "elsewhere")
    train(tiny_config, tmp_path, stop_after=1)
    assert "step-00000002.safetensors has no manifest beside it" in caplog.text
    assert "the run goes on from step 0" in caplog.text
    (tmp_path / "elsewhere").rename(manifest_path(path))
    assert train(tiny_config, tmp_path, stop_after=3).name == "step-00000003.safetensors"
    for file in tmp_path.glob("step-*.json"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"has no manifest beside it, step-00000003\.json"):
        train(tiny_config, tmp_path)


def test_two_runs_in_one_folder_do_not_delete_each_others_checkpoints(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    first = train(tiny_config, tmp_path, stop_after=1)
    tried = []

    def another(_: StepReport) -> None:
        with pytest.raises(TrainingError, match="another run is training in"):
            train(tiny_config, tmp_path)
        tried.append(True)

    train(tiny_config, tmp_path, stop_after=2, report=another)
    assert tried
    assert first.exists()
    train(tiny_config, tmp_path, stop_after=3)
    assert not first.exists()


def test_a_run_does_not_go_on_with_other_programs(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config, tmp_path, stop_after=1)
    with monkeypatch.context() as changed:
        changed.setattr("procmem_pretrain.training_state.program_set", lambda _: "ab" * 32)
        with pytest.raises(TrainingError, match="holds a run on other programs"):
            train(tiny_config, tmp_path, stop_after=2)
    train(tiny_config, tmp_path, stop_after=2)


def test_a_finished_run_is_followed_back_to_its_training_state(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    """The training state has no readout yet, which decides how wide a class token is."""
    images = dataclasses.replace(tiny_config.images, programs="endless")  # no bank to grow again
    path = train(dataclasses.replace(tiny_config, images=images), tmp_path)
    report = check_model(path, sample=0)
    states = [step for step in report.steps if step.name.startswith("training state")]
    assert [step.outcome for step in states] == ["checked"]
    assert [step for step in report.steps if step.outcome == "failed"] == []


def test_a_newer_checkpoint_replaces_all_but_the_one_before(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    for stop in (1, 2, 3, 3):  # the last has nothing to do
        path = train(tiny_config, tmp_path, stop_after=stop)
    before = tmp_path / "step-00000002.safetensors"
    assert sorted(tmp_path.glob("step-*.safetensors")) == [before, path]
    assert sorted(tmp_path.glob("step-*.json")) == [manifest_path(before), manifest_path(path)]


def test_the_configuration_survives_the_manifest(tiny_config: TrainConfig, tmp_path: Path) -> None:
    path = train(tiny_config, tmp_path, stop_after=1)
    assert config_from_dict(checkpoint.load(path)[0].config) == tiny_config


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
        checkpoint.load_perception(tmp_path / "none.safetensors")


def test_cuda_without_a_gpu_is_refused(tiny_config: TrainConfig, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="sees no GPU"):
        train(dataclasses.replace(tiny_config, device="cuda"), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_after": -1}, "stop_after is -1, wanted 0 or more steps"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds is -1.0, wanted 0 or more"),
        ({"checkpoint_seconds": math.nan}, "checkpoint_seconds is nan"),
    ],
)
def test_a_run_that_cannot_be_leaves_no_folder(
    tiny_config: TrainConfig, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(tiny_config, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_all_wrong_constants_are_told_at_once() -> None:
    with pytest.raises(
        InputError, match=r"(?s)registers is -1.*steps is 0.*batch is 1.*warmup is 2"
    ):
        TrainConfig(batch=1, steps=0, registers=-1, warmup=2)
    with pytest.raises(InputError, match=r"(?s)side is 100.*shares \[0.5\]"):
        SimDinoConfig(phases=(Phase(0.5, 100, 0.5),))


NAN, INFINITY = math.nan, math.inf


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (
            TrainConfig,
            {"betas": (2.0, 3.0)},
            r"betas is \(2.0, 3.0\), wanted 0 or more and below 1",
        ),
        (TrainConfig, {"betas": (0.9, NAN)}, "betas is"),
        (TrainConfig, {"weight_decay": -1.0}, "weight_decay is -1.0, wanted 0 or more"),
        (TrainConfig, {"health_programs": -2}, "health_programs is -2, wanted 0 to 1_000_000"),
        (TrainConfig, {"learning_rate": INFINITY}, "learning_rate is inf, wanted above 0"),
        (TrainConfig, {"learning_rate": NAN}, "learning_rate is nan, wanted above 0"),
        (TrainConfig, {"final_learning_rate": -1.0}, "final_learning_rate is -1.0, wanted 0 or"),
        (TrainConfig, {"final_learning_rate": 1.0}, "wanted at most learning_rate, which is 0.001"),
        (TrainConfig, {"registers": 10**8}, "registers is 100000000, wanted 0 to 1_?024"),
        (TrainConfig, {"readout_dimension": 4000}, "less than readout_images, which is 4000"),
        (SimDinoConfig, {"drop_path": 1.0}, "drop_path is 1.0, wanted 0 or more and below 1"),
        (SimDinoConfig, {"local_scale": (0.4, 0.05)}, "local_scale is 0.4 to 0.05, wanted the sm"),
        (SimDinoConfig, {"local_scale": (0.0, 0.4)}, "wanted above 0 and at most 1"),
        (SimDinoConfig, {"global_scale": (NAN, 1.0)}, "global_scale is"),
        (SimDinoConfig, {"phases": (Phase(NAN, 64, 0.5),)}, "(?s)share is nan.*wanted sum 1"),
        (SimDinoConfig, {"phases": ()}, "wanted sum 1"),
        (SimDinoConfig, {"phases": (Phase(1.0, 64, 0.0),)}, "keep is 0.0, wanted above 0 and"),
        (SimDinoConfig, {"local_side": 16}, "local_side is 16, wanted a multiple of 16, 32 to"),
        (SimDinoConfig, {"layout_weight": NAN}, "layout_weight is nan"),
        (DinoConfig, {"blur": (0.5, 2.0, 0.5)}, r"blur is \(0.5, 2.0, 0.5\), wanted 0 to 1"),
        (DinoConfig, {"teacher_temperature": 0.0}, "teacher_temperature is 0.0, wanted above 0"),
        (StreamConfig, {"mask_side": 0}, "mask_side is 0, wanted 8 to"),
        (StreamConfig, {"pool_images": 0}, "pool_images is 0, wanted 1 to 10_000_000"),
        (StreamConfig, {"images_per_program": 0}, "images_per_program is 0, wanted 1 to"),
    ],
)
def test_a_constant_out_of_its_range_is_named(
    kind: Callable[..., object], fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        kind(**fields)


def test_the_papers_recipe_is_dino_with_every_constant_of_the_paper() -> None:
    paper = RECIPES["paper"]()
    assert (paper.objective, paper.batch, paper.images.protocol) == ("dino", 512, "paper")
    warmup = round(0.1 * paper.steps)  # as numpy.linspace(0, peak, warmup), then cosine
    assert learning_rate(paper, 0) == 0
    assert learning_rate(paper, 1) == pytest.approx(1e-3 / (warmup - 1))
    assert learning_rate(paper, warmup - 1) == learning_rate(paper, warmup) == pytest.approx(1e-3)
    assert learning_rate(paper, paper.steps) == pytest.approx(1e-6)
    assert weight_decay(paper, 0) == pytest.approx(0.04)
    assert weight_decay(paper, paper.steps) == pytest.approx(0.4)
    assert teacher_momentum(paper, 0) == pytest.approx(0.996)
    assert teacher_momentum(paper, paper.steps) == pytest.approx(1.0)


def test_the_constant_schedule_warms_up_keeps_and_decays() -> None:
    config = TrainConfig(steps=100, warmup=0.1, decay=0.2)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert set(rates[10:80]) == {1e-3}
    assert rates[90] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[100] == pytest.approx(1e-5)
