"""One model file at several input sizes, and what a memory makes of it."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.tiny_model import PATCH, SIDE, WIDTH, write_tiny_model

from procmem import Embedder, VisualMemory, export_items, import_items
from procmem.cli import main
from procmem.errors import EmbedderMismatchError, InputError, ModelIntegrityError
from procmem.manifest import Preprocessing, _digest, read_manifest, write_manifest
from procmem.opening import Embedder as MemoryEmbedder
from procmem.preprocess import MAX_SIDE, at_side, center_view, check_image_size


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """A model as procmem 0.1 exported it: for one side, with a manifest of version 2."""
    path = write_tiny_model(tmp_path_factory.mktemp("static"), name="static", any_side=False)
    manifest = path.with_suffix(".json")
    fields = json.loads(manifest.read_bytes())
    del fields["any_side"], fields["manifest_sha256"]
    fields["manifest_version"] = 2
    manifest.write_text(json.dumps({**fields, "manifest_sha256": _digest(fields)}))
    return path


def picture(seed=0, size=(300, 420)):
    """Smooth noise, so that every side sees the same things."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- the model


@pytest.mark.parametrize("side", [64, 128, 160, 224, 448, MAX_SIDE])
def test_one_file_runs_at_every_side(model, side):
    with Embedder(model, image_size=side, device="cpu") as embedder:
        embedding = embedder.embed(picture())
        assert (embedder.side, embedder.grid) == (side, (side // PATCH, side // PATCH))
        assert embedder.preprocessing.crop == side
    assert embedding.patches.shape == (1, side // PATCH, side // PATCH, WIDTH)
    assert np.linalg.norm(embedding.cls) == pytest.approx(1, abs=1e-5)


def test_the_models_own_side_is_the_one_that_is_taken_unasked(model):
    with (
        Embedder(model, device="cpu") as unasked,
        Embedder(model, image_size=SIDE, device="cpu") as asked,
        Embedder(model, image_size=np.int64(SIDE), device="cpu") as by_numpy,
    ):
        embeddings = [each.embed(picture()).cls for each in (unasked, asked, by_numpy)]
        assert unasked.preprocessing == unasked.manifest.preprocessing
    assert np.array_equal(embeddings[0], embeddings[1])
    assert np.array_equal(embeddings[0], embeddings[2])


@pytest.mark.parametrize(
    "image_size",
    [0, -224, 16, 48, 100, 225, MAX_SIDE + PATCH, 10**400, 10**5000, True, "448", 448.0, [448]],
    ids=lambda value: repr(value) if not isinstance(value, int) or value < 10**9 else "huge",
)
def test_a_size_that_cannot_be_run_is_refused_with_the_sizes_that_can(model, image_size):
    with pytest.raises(InputError, match="wanted a multiple of 16 from 64 to 1024, in pixels"):
        Embedder(model, image_size=image_size)


@pytest.mark.parametrize(("got", "nearest"), [(0, 64), (440, 448), (230, 224), (5000, 1024)])
def test_the_nearest_usable_size_is_offered(got, nearest):
    with pytest.raises(InputError, match=f"image_size is {got}, .*the nearest is {nearest}$"):
        check_image_size(got, PATCH)


def test_a_file_of_one_side_still_runs_and_refuses_others_with_the_way_out(static):
    assert not read_manifest(static).any_side
    for image_size in (None, SIDE):
        with Embedder(static, image_size=image_size, device="cpu") as embedder:
            assert embedder.embed(picture()).patches.shape[1:3] == (SIDE // PATCH, SIDE // PATCH)
    with pytest.raises(InputError, match=r"exported for 224 pixels only.*procmem-export CHECKPOI"):
        Embedder(static, image_size=448)


def test_a_manifest_that_promises_sides_which_its_graph_lacks_is_refused(static, tmp_path):
    for name in (static.name, static.with_suffix(".json").name):
        (tmp_path / name).write_bytes((static.parent / name).read_bytes())
    manifest = dataclasses.replace(read_manifest(static), any_side=True)
    write_manifest(manifest, tmp_path)
    with pytest.raises(ModelIntegrityError, match=r"input images of .*224, 224.*448, 448"):
        Embedder(tmp_path / static.name, image_size=448, device="cpu")


# ---- the view


@pytest.mark.parametrize(("side", "resize"), [(224, 256), (448, 512), (160, 183), (128, 146)])
def test_the_center_shows_the_same_part_of_an_image_at_every_side(side, resize):
    own = Preprocessing()
    scaled = at_side(own, side)
    assert (scaled.crop, scaled.resize, scaled.mean, scaled.std) == (
        side,
        resize,
        own.mean,
        own.std,
    )
    # The view ends 1/16 of the image from its border, 100 pixels: between these two frames.
    for frame, seen in ((70, False), (130, True)):
        image = np.zeros((1600, 1600, 3), dtype=np.uint8)
        image[frame:-frame, frame:-frame] = 255
        view = center_view(image, scaled)[0]
        corners = view[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert ((corners < -0.5) == seen).all()


# ---- the memory


@pytest.fixture
def vault(model, tmp_path):
    """Made at 160, with two items of which one has a mask."""
    mask = np.zeros((300, 420), dtype=np.uint8)
    mask[:, 210:] = 1
    with VisualMemory(tmp_path / "vault", embedder=model, image_size=160) as memory:
        memory.add([picture(1), picture(2)], ["one", "two"], ids=[1, 2], masks=[mask, None])
    return tmp_path / "vault"


def test_a_memory_is_asked_at_the_side_it_was_made_with_without_being_told(vault, model):
    with VisualMemory(vault, embedder=model, read_only=True) as memory:
        assert memory.stats().image_size == 160
        assert memory.classify(picture(2), k=1).label == "two"
        assert memory.neighbors(picture(2), k=1)[0].similarity == pytest.approx(1, abs=1e-3)
        assert memory.segment(picture(1)).mask.shape == (300, 420)
    with VisualMemory(vault, embedder=model, image_size=160) as memory:
        assert memory.classify(picture(1), k=1).label == "one"


@pytest.mark.parametrize("given", ["model", "embedder", "nothing"])
def test_a_memory_refuses_another_side_than_its_own_and_says_which(vault, model, given):
    before = everything(vault)
    embedder = {
        "model": lambda: model,
        "embedder": lambda: Embedder(model, image_size=SIDE, device="cpu"),
        "nothing": lambda: None,
    }[given]()
    wanted = r"at image size 160, not 224; use it with image_size=160 \(--image-size 160\)"
    with pytest.raises(EmbedderMismatchError, match=wanted):
        VisualMemory(vault, embedder=embedder, image_size=SIDE)
    assert everything(vault) == before
    VisualMemory(vault, embedder=model).close()  # nobody holds its lock


def test_a_side_is_refused_before_a_model_is_opened(vault, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model was opened")

    monkeypatch.setattr("procmem.opening.Embedder", refuse)
    assert MemoryEmbedder is not refuse
    with pytest.raises(EmbedderMismatchError, match="image size 160, not 448"):
        VisualMemory(vault, image_size=448)
    VisualMemory(vault, image_size=160).close()


@pytest.mark.parametrize("image_size", [0, True, "160", 100])
def test_a_memory_refuses_a_size_that_is_none(vault, model, tmp_path, image_size):
    for path in (vault, tmp_path / "new"):
        with pytest.raises(InputError, match="wanted a multiple of 16"):
            VisualMemory(path, embedder=model, image_size=image_size)
    assert not (tmp_path / "new").exists()


def test_an_open_embedder_and_another_size_contradict_each_other(model, tmp_path):
    with Embedder(model, image_size=128, device="cpu") as embedder:
        with pytest.raises(InputError, match=r"runs at 128; make it with Embedder\(\.\.\., image"):
            VisualMemory(tmp_path / "v", embedder=embedder, image_size=160)
        with VisualMemory(tmp_path / "v", embedder=embedder, image_size=128) as memory:
            assert memory.stats().image_size == 128


def test_another_model_is_named_before_another_side(vault, tmp_path):
    other = write_tiny_model(tmp_path, name="other", seed=1)
    with pytest.raises(EmbedderMismatchError, match=r"holds embeddings of tiny .*not of other"):
        VisualMemory(vault, embedder=other, image_size=SIDE)


def test_items_of_another_side_are_not_imported(vault, model, tmp_path):
    with VisualMemory(vault, embedder=model) as memory:
        export_items(memory, tmp_path / "items.safetensors")
    with VisualMemory(tmp_path / "large", embedder=model, image_size=448) as memory:
        with pytest.raises(EmbedderMismatchError, match="at image size 160, not 448"):
            import_items(memory, tmp_path / "items.safetensors")
        assert len(memory) == 0
    with VisualMemory(tmp_path / "same", embedder=model, image_size=160) as memory:
        assert import_items(memory, tmp_path / "items.safetensors") == [1, 2]


# ---- the command line


@pytest.fixture
def run(model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture(1)).save(folder / "1.png")

    def invoke(*args, env=None):
        shared = ["--vault", str(tmp_path / "cli"), "--json"]
        places = {"PHOTOS": str(folder), "MODEL": str(model)}
        return CliRunner().invoke(main, [places.get(a, a) for a in args] + shared, env=env)

    return invoke


def stored_side(run):
    return json.loads(run("stats").stdout)["image_size"]


def test_the_option_makes_a_memory_that_later_commands_follow(run):
    taught = run("add", "PHOTOS", "--label", "a", "--model", "MODEL", "--image-size", "160")
    assert taught.exit_code == 0, taught.output
    assert stored_side(run) == 160
    assert run("classify", "PHOTOS", "--model", "MODEL").exit_code == 0
    refused = run("classify", "PHOTOS", "--model", "MODEL", "--image-size", "224")
    assert refused.exit_code == 1
    assert "--image-size 160" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_variable_is_a_default_and_what_is_written_wins(run):
    variable = {"PROCMEM_IMAGE_SIZE": "448"}
    add = ("add", "PHOTOS", "--label", "a", "--model", "MODEL")
    assert run("--image-size", "160", *add, env=variable).exit_code == 0
    assert stored_side(run) == 160
    refused = run(*add, env=variable)
    assert refused.exit_code == 1
    assert "at image size 160, not 448" in refused.stderr
    assert run("stats", env=variable).exit_code == 0  # asks the model nothing


@pytest.mark.parametrize("size", ["0", "-16", "100"])
def test_a_size_that_is_none_is_an_error_and_no_default(run, size):
    refused = run("add", "PHOTOS", "--label", "a", "--model", "MODEL", "--image-size", size)
    assert refused.exit_code == 2
    assert f"image_size is {size}, wanted a multiple of 16" in refused.stderr
