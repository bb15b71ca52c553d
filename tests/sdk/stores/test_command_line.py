"""An address stands wherever a folder does, and no command shows its password."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image
from tests.sdk.stores.conftest import memory_address
from tests.tiny_model import write_tiny_model
from tests.toy_embedder import CAT, DOG

from procmem.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def address(postgres):
    """With a password, which the server does not ask for."""
    return memory_address(postgres).replace("postgres:@", "postgres:hush-hush@")


@pytest.fixture
def run(address, model):
    def run(*args, code=0, **options):
        done = CliRunner().invoke(main, [*map(str, args), "--vault", address], **options)
        assert done.exit_code == code, done.output
        assert "hush" not in done.output
        return done

    return lambda *args, **options: run(*args, **options)


@pytest.fixture
def photos(tmp_path):
    for name, pixels in (("cat", CAT), ("dog", DOG)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "1.png")
    return tmp_path / "photos"


def test_a_memory_on_a_server_from_the_first_photo_to_the_last(run, photos, model, tmp_path):
    run("stats", code=1)
    added = json.loads(run("add", photos, "--model", model, "--json").stdout)
    assert added["items"] == 2
    assert added["vault"].startswith("postgresql://postgres@")
    again = json.loads(run("add", photos, "--model", model, "--json").stdout)
    assert again["already_known"] == 2
    cat = photos / "cat" / "1.png"
    assert "cat" in run("classify", cat, "--model", model).stdout
    assert json.loads(run("stats", "--json").stdout)["labels"] == {"cat": 1, "dog": 1}
    assert "vouch for what a server does" in run("stats").stdout
    assert "is sound: 2 items" in run("verify").stdout
    run("export", tmp_path / "all.safetensors")
    told = run("delete", "--label", "cat", "--yes").stdout
    assert "deleted on the server" in told
    assert "vacuum" in told
    report = json.loads(run("delete", "--label", "dog", "--yes", "--json").stdout)["report"]
    assert report["on_server"] is True
    assert report["receipt"] is None
    taken = json.loads(run("import", tmp_path / "all.safetensors", "--json").stdout)
    assert (taken["imported"], taken["items"]) == (2, 2)


def test_a_receipt_cannot_be_had_and_the_command_says_why(run, photos, model, tmp_path):
    run("add", photos, "--model", model)
    done = run("delete", "--label", "cat", "--yes", "--receipt", tmp_path / "r.json", code=1)
    assert "no receipt: the memory is on a server" in done.output
    assert not (tmp_path / "r.json").exists()


def test_the_demo_needs_a_folder(run, photos):
    done = run("demo", photos, code=2)
    assert "the demo needs the folder of a vault" in done.output
