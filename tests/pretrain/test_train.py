import csv
import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from procmem.errors import CheckpointError, InputError, TrainingError
from procmem.manifest import manifest_path
from procmem_pretrain import checkpoint
from procmem_pretrain.config import Phase, TrainConfig, config_from_dict
from procmem_pretrain.objective import Student, losses
from procmem_pretrain.stream import ImageStream
from procmem_pretrain.train import train
from procmem_pretrain.vit import make_vit


def test_training_lowers_the_loss_on_images_it_has_not_seen(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        tiny_config, steps=24, batch=12, phases=(Phase(1.0, 64, 1.0),), drop_path=0.0
    )
    trained = Student(config)
    path = train(config, tmp_path, stop_after=23)
    state = checkpoint.load(path)[1]
    trained.load_state_dict(
        {k.removeprefix("student/"): v for k, v in state.items() if k.startswith("student/")}
    )
    with ImageStream(config.images, batch=config.batch, start=23) as stream:
        images = next(stream)  # step 23's: the run stopped before it

    def total(student: Student) -> float:
        with torch.no_grad():
            return sum(
                term.item() for term in losses(config, 23, images, student, student).values()
            )

    assert total(trained) < 0.9 * total(Student(config))


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
    start = make_vit("vit-tiny", root_seed=tiny_config.root_seed).state_dict()
    still = [k for k, v in start.items() if torch.equal(v, tensors[f"student/vit.{k}"])]
    assert still == []


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny_config, whole)
    for stop in (2, 4, None):
        train(tiny_config, parts, stop_after=stop)
    a, b = (checkpoint.load(checkpoint.latest(folder))[1] for folder in (whole, parts))
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


def test_a_folder_of_another_configuration_is_refused(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    train(tiny_config, tmp_path, stop_after=1)
    other = dataclasses.replace(tiny_config, learning_rate=0.5)
    with pytest.raises(TrainingError, match=r"learning_rate: 0\.001 -> 0\.5"):
        train(other, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config: TrainConfig, tmp_path: Path) -> None:
    broken = dataclasses.replace(tiny_config, patch_weight=float("inf"))
    with pytest.raises(TrainingError, match="loss is inf at step 0"):
        train(broken, tmp_path)


def test_a_checkpoint_with_a_flipped_byte_is_refused(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = train(tiny_config, tmp_path, stop_after=1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        train(tiny_config, tmp_path)


def test_weights_without_a_manifest_are_the_rest_of_an_interrupted_write(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = train(tiny_config, tmp_path, stop_after=1)
    (tmp_path / "step-00000009.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == path


def test_a_newer_checkpoint_replaces_the_older(tiny_config: TrainConfig, tmp_path: Path) -> None:
    for stop in (1, 2):
        path = train(tiny_config, tmp_path, stop_after=stop)
    assert list(tmp_path.glob("*.safetensors")) == [path]
    assert manifest_path(path).is_file()


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


def test_all_wrong_constants_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"(?s)steps is 0.*batch is 1.*side is 100"):
        TrainConfig(batch=1, steps=0, phases=(Phase(1.0, 100, 0.5),))
