"""The model in the wheel and the checkpoint it was made of."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import procmem
from procmem.cli import main
from procmem.preprocess import center_view
from procmem_pretrain.checkpoint import load_perception
from procmem_pretrain.probes import probe_images

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "vit-tiny.safetensors"


@pytest.fixture(scope="module")
def embedder():
    with procmem.Embedder(device="cpu") as embedder:
        yield embedder


def test_the_shipped_model_descends_from_the_kept_checkpoint(embedder):
    manifest, _ = load_perception(CHECKPOINT)
    assert embedder.manifest.origin.chain[-1] == ("checkpoint", manifest.sha256)


def test_the_shipped_model_was_trained_on_procedural_images_only(embedder):
    assert not embedder.manifest.origin.trained_on_real_data
    assert embedder.manifest.origin.process.startswith("shaders")


def test_the_shipped_model_is_followed_back_to_its_programs():
    """The command itself, in the source tree: only files that are not kept stay unchecked."""
    # Named, because an installed package does not know the source tree.
    folder = ["--folder", str(CHECKPOINT.parent)]
    result = CliRunner().invoke(main, ["verify", "--model", "--sample", "2", "--json", *folder])
    assert result.exit_code == 0, result.output
    steps = json.loads(result.stdout)["steps"]
    checked = {step["name"].split()[0] for step in steps if step["outcome"] == "checked"}
    wanted = {"manifest", "file", "contents", "checkpoint", "weights", "real", "programs", "sample"}
    assert checked == wanted, steps


@pytest.mark.parametrize("side", [128, 160, 224, 448])
def test_the_shipped_model_answers_as_its_checkpoint_does_at_every_side(side):
    _, model = load_perception(CHECKPOINT)
    images = list(probe_images(4))
    with procmem.Embedder(image_size=side, device="cpu") as embedder:
        found = embedder.embed(images).cls
        views = np.stack([center_view(image, embedder.preprocessing) for image in images])
    with torch.no_grad():
        cls, _ = model(torch.from_numpy(views))
    cosines = (cls.numpy() * found).sum(axis=1)
    assert cosines.min() >= 0.9999  # the gate of the onnx format


def test_the_shipped_model_tells_apart_what_it_was_never_taught(embedder, tmp_path):
    """Two crops of one procedural image are nearer to each other than to crops of others."""
    images = probe_images(12, side=256)
    with procmem.VisualMemory(tmp_path / "vault", embedder=embedder) as memory:
        memory.add([i[:224, :224] for i in images], labels=[str(n) for n in range(12)])
        right = [memory.classify(i[32:, 32:], k=1).label == str(n) for n, i in enumerate(images)]
    assert sum(right) >= 9  # chance is 1 of 12
