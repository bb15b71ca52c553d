"""A model's origin, link by link: what holds, what does not, and what nobody could look at."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

onnx = pytest.importorskip("onnx", reason="the tests build their model with onnx")

from onnx import helper, numpy_helper  # noqa: E402  after the skip
from tests.sdk.test_weights import safetensors  # noqa: E402
from tests.tiny_model import write_tiny_model  # noqa: E402

from procmem import embedder, rerender  # noqa: E402
from procmem.cli import main  # noqa: E402
from procmem.errors import InputError, ModelNotFoundError  # noqa: E402
from procmem.manifest import (  # noqa: E402
    Manifest,
    manifest_path,
    read_manifest,
    sha256_of_bytes,
    write_manifest,
)
from procmem.provenance import LIMITS, check_model  # noqa: E402
from procmem.types import ProvenanceReport  # noqa: E402

CONFIG = {"steps": 3, "images": {"side": 64}}
STEPS = [
    {"name": "programs", "outcome": "checked", "detail": "all of them"},
    {"name": "sample", "outcome": "checked", "detail": "some of them"},
]


def answering(document: object, *, before: str = "") -> list[str]:
    """The command of a process that answers as procmem_pretrain would."""
    return [sys.executable, "-c", f"{before}\nprint({json.dumps(document)!r})"]


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for procmem_pretrain: all programs are what they must be."""
    monkeypatch.setattr(rerender, "_PACKAGES", ())
    monkeypatch.setattr(rerender, "_command", lambda *_: answering({"steps": STEPS}))


@dataclass
class Family:
    """A model, the checkpoint that it was made of, and what that was made of, in three folders."""

    model: Path
    checkpoint: Path
    start: Path

    def check(self, **options: Any) -> ProvenanceReport:
        return check_model(self.model, folder=self.checkpoint.parent, sample=2, **options)

    def outcomes(self, **options: Any) -> dict[str, str]:
        return {step.name: step.outcome for step in self.check(**options).steps}


@pytest.fixture
def family(tmp_path: Path) -> Family:
    (tmp_path / "made").mkdir()
    model = write_tiny_model(tmp_path / "made")
    graph = onnx.load_model(model).graph
    held = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    manifest = read_manifest(model)
    ancestors: list[tuple[str, str]] = []
    paths = []
    for role, name in (("start", "first"), ("checkpoint", "second")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"{name}.safetensors"
        gain = 1 if role == "checkpoint" else 2
        data = safetensors({f"teacher/{n}": gain * held[n] for n in ("filters", "bias")})
        path.write_bytes(data)
        own = dataclasses.replace(
            manifest,
            kind="checkpoint",
            file=path.name,
            sha256=sha256_of_bytes(data),
            config=CONFIG,
            origin=dataclasses.replace(manifest.origin, chain=tuple(ancestors)),
        )
        write_manifest(own, path.parent)
        ancestors.append((role, own.sha256))
        paths.append(path)
    found = Family(model, paths[1], paths[0])
    rewrite(model, config=CONFIG, chain=tuple(ancestors))
    # The folder that the search is told of holds the newest two.
    paths[0].rename(paths[1].parent / paths[0].name)
    manifest_path(paths[0]).rename(paths[1].parent / "first.json")
    found.start = paths[1].parent / paths[0].name
    return found


def rewrite(file: Path, **changes: Any) -> None:
    """Changes a manifest and pins it again, as an attacker would."""
    manifest = read_manifest(file)
    names = {field.name for field in dataclasses.fields(manifest.origin)}
    origin = {name: changes.pop(name) for name in list(changes) if name in names}
    changed = dataclasses.replace(
        manifest, origin=dataclasses.replace(manifest.origin, **origin), **changes
    )
    write_manifest(changed, file.parent)


def replace_bytes(file: Path, data: bytes) -> None:
    """Puts other bytes in the place of a file, and pins them."""
    file.write_bytes(data)
    rewrite(file, sha256=sha256_of_bytes(data))


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def detail(report: ProvenanceReport, name: str) -> str:
    return next(step.detail for step in report.steps if step.name == name)


def digest(file: Path) -> str:
    return sha256_of_bytes(file.read_bytes())[:8]


# What holds


def test_every_link_of_a_sound_family_is_checked(family: Family) -> None:
    report = family.check()
    assert [step.name for step in report.steps] == [
        *("manifest", "file", "contents", f"checkpoint {digest(family.checkpoint)}"),
        *(f"start {digest(family.start)}", "earlier programs", "weights"),
        *("real images", "programs", "sample"),
    ]
    unchecked = [step.name for step in report.steps if step.outcome != "checked"]
    assert unchecked == ["earlier programs"]  # of the run before; that file has its own report
    assert (report.model, report.ok, report.complete) == ("tiny", True, False)
    assert f"--model {family.start}" in detail(report, "earlier programs")


def test_a_checkpoint_can_be_checked_itself(family: Family) -> None:
    report = check_model(family.start)
    assert report.complete
    names = [step.name for step in report.steps]
    assert names == ["manifest", "file", "contents", "real images", "programs", "sample"]


def test_the_sample_is_random_and_can_be_repeated(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def command(*arguments: object) -> list[str]:
        asked.append(arguments)
        return answering({"steps": STEPS})

    monkeypatch.setattr(rerender, "_command", command)
    first, second = family.check(), family.check()
    again = family.check(seed=first.seed)
    assert first.seed != second.seed  # once in 4 billion they are equal
    assert asked[0] == asked[2] == (family.model.resolve(), 2, again.seed)


# What does not


def test_a_flipped_byte_of_the_model_is_found(family: Family) -> None:
    flip_a_byte(family.model)
    outcomes = family.outcomes()
    assert outcomes["file"] == "failed"
    assert outcomes["weights"] == "not checked"
    assert "damaged or replaced" in detail(family.check(), "file")


def test_an_edited_manifest_is_found_and_nothing_else_is_believed(family: Family) -> None:
    path = manifest_path(family.model)
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 4'))
    report = family.check()
    assert [(step.name, step.outcome) for step in report.steps] == [
        ("manifest", "failed"),
        ("all else", "not checked"),
    ]
    assert "damaged or edited" in report.steps[0].detail


def test_a_graph_with_foreign_operators_is_found(family: Family) -> None:
    model = onnx.load_model(family.model)
    model.graph.node.append(helper.make_node("Gelu", ["raw"], ["x"], domain="com.microsoft"))
    replace_bytes(family.model, model.SerializeToString())
    assert family.outcomes()["contents"] == "failed"
    assert "'com.microsoft'" in detail(family.check(), "contents")


def test_a_flipped_byte_of_an_ancestor_is_found(family: Family) -> None:
    flip_a_byte(family.start)
    name = f"start {read_manifest(family.start).sha256[:8]}"
    assert family.outcomes()[name] == "failed"
    assert "its bytes have another" in detail(family.check(), name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"root_seed": 8}, "root_seed"),
        ({"program_set_sha256": "0" * 64}, "program_set_sha256"),
        ({"steps": 9, "images_seen": 9}, "steps, images_seen"),
        ({"config": {}}, "config"),
        ({"cls_dim": 7}, "cls_dim"),
    ],
)
def test_a_model_that_says_other_than_its_checkpoint_is_found(
    family: Family, change: dict[str, Any], said: str
) -> None:
    rewrite(family.model, **change)
    name = f"checkpoint {digest(family.checkpoint)}"
    assert family.outcomes()[name] == "failed"
    assert detail(family.check(), name).endswith(f"manifest in {said}")


def test_a_chain_with_another_checkpoint_is_not_vouched_for(family: Family) -> None:
    chain = read_manifest(family.model).origin.chain
    rewrite(family.model, chain=(chain[0], ("checkpoint", "ab" * 32)))
    outcomes = family.outcomes()
    assert outcomes["checkpoint abababab"] == outcomes["weights"] == "not checked"
    # And one that exists, but is not the parent, does not fit.
    rewrite(family.model, chain=(("checkpoint", read_manifest(family.start).sha256),))
    outcomes = family.outcomes()
    assert outcomes["weights"] == "failed"


def test_a_chain_that_leaves_out_an_ancestor_is_found(family: Family) -> None:
    rewrite(family.model, chain=read_manifest(family.model).origin.chain[1:])
    name = f"checkpoint {digest(family.checkpoint)}"
    assert family.outcomes()[name] == "failed"
    assert "names other ancestors" in detail(family.check(), name)


def test_a_chain_that_takes_a_model_for_a_checkpoint_is_found(family: Family) -> None:
    other = write_tiny_model(family.checkpoint.parent, name="other", seed=5)
    rewrite(other, config=CONFIG, root_seed=0)
    rewrite(family.model, chain=(("checkpoint", read_manifest(other).sha256),))
    assert family.outcomes()[f"checkpoint {digest(other)}"] == "failed"
    assert "is of the kind onnx, not checkpoint" in detail(
        family.check(), f"checkpoint {digest(other)}"
    )


def test_weights_that_are_not_the_checkpoints_are_found_though_all_hashes_fit(
    family: Family,
) -> None:
    model = onnx.load_model(family.model)
    (filters,) = (t for t in model.graph.initializer if t.name == "filters")
    values = numpy_helper.to_array(filters).copy()
    values[2] += np.float32(0.01)
    filters.CopyFrom(numpy_helper.from_array(values, "filters"))
    replace_bytes(family.model, model.SerializeToString())
    report = family.check()
    assert [step.name for step in report.steps if step.outcome == "failed"] == ["weights"]
    assert "filters of the model are not in the checkpoint" in detail(report, "weights")


# Real images


def test_real_images_of_an_ancestor_that_the_model_denies_are_found(family: Family) -> None:
    rewrite(family.start, trained_on_real_data=True)
    outcomes = family.outcomes()
    assert outcomes[f"start {digest(family.start)}"] == "failed"
    assert outcomes[f"checkpoint {digest(family.checkpoint)}"] == "checked"


def test_a_model_of_ones_own_may_have_seen_real_images_and_says_so(family: Family) -> None:
    rewrite(family.model, trained_on_real_data=True)
    report = family.check()
    assert report.ok
    assert "REAL IMAGES" in detail(report, "real images")


def test_a_bundled_model_may_not(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(family.model, trained_on_real_data=True)
    monkeypatch.setattr(embedder, "_bundled_folder", lambda: family.model.parent)
    assert family.outcomes()["real images"] == "failed"


# What nobody could look at


def test_ancestors_that_are_not_here_are_told_with_the_way_out(family: Family) -> None:
    report = check_model(family.model)  # without the folder that has them
    assert report.ok
    name = f"checkpoint {digest(family.checkpoint)}"
    assert "or name its folder with --folder" in detail(report, name)
    assert report.count("not checked") == 4


def test_an_ancestor_without_its_manifest_is_told(family: Family) -> None:
    manifest_path(family.checkpoint).unlink()
    report = family.check()
    name = f"checkpoint {digest(family.checkpoint)}"
    assert "no sound manifest beside it" in detail(report, name)
    assert family.outcomes()["weights"] == "checked"  # their bytes are those of the chain


def test_a_model_that_names_no_ancestor_is_told(tmp_path: Path) -> None:
    report = check_model(write_tiny_model(tmp_path))
    assert detail(report, "chain").startswith("the manifest names no file")
    assert report.ok
    assert not report.complete


def test_a_manifest_of_the_first_layout_pins_nothing(family: Family) -> None:
    path = manifest_path(family.model)
    fields = json.loads(path.read_text())
    del fields["manifest_sha256"]
    path.write_text(json.dumps({**fields, "manifest_version": 1}))
    assert family.outcomes()["manifest"] == "not checked"


@pytest.mark.parametrize(
    "change", [{"precision": "int8"}, {"any_side": False}, {"input": "pixels"}]
)
def test_a_form_that_changes_the_numbers_is_not_compared(
    family: Family, change: dict[str, Any]
) -> None:
    rewrite(family.model, **change)
    assert family.outcomes()["weights"] == "not checked"


def engine_of(family: Family, **changes: Any) -> Family:
    """An engine that was built from the family's model."""
    path = family.checkpoint.parent / "tiny.engine"
    path.write_bytes(b"compiled")
    manifest = read_manifest(family.model)
    chain = (*manifest.origin.chain, ("onnx", manifest.sha256))
    own = {"kind": "tensorrt", "file": path.name, "sha256": sha256_of_bytes(b"compiled")}
    fields: dict[str, Any] = {**own, "hardware": {"gpu": "H200"}, **changes}
    origin = dataclasses.replace(manifest.origin, chain=chain)
    built: Manifest = dataclasses.replace(manifest, origin=origin, **fields)
    write_manifest(built, path.parent)
    # The model beside its descendants: what the search is told of.
    family.model.rename(path.parent / "graph.onnx")
    write_manifest(dataclasses.replace(manifest, file="graph.onnx"), path.parent)
    return Family(path, family.checkpoint, family.start)


def test_an_engine_is_followed_through_its_graph_to_the_checkpoint(family: Family) -> None:
    engine = engine_of(family)
    graph = f"onnx {digest(engine.model.parent / 'graph.onnx')}"
    outcomes = engine.outcomes()
    assert "gpu H200" in detail(engine.check(), "contents")
    assert outcomes["contents"] == outcomes[graph] == outcomes[f"weights of {graph}"] == "checked"
    assert outcomes["weights"] == "not checked"


def test_an_engine_for_no_named_hardware_is_found(family: Family) -> None:
    assert engine_of(family, hardware={}).outcomes()["contents"] == "failed"


# The process that grows the programs


def test_without_the_packages_the_exact_command_is_told(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerender, "_PACKAGES", ("json", "a_package_that_nobody_has"))
    report = family.check()
    for name in ("programs", "sample"):
        assert detail(report, name) == (
            "needs a_package_that_nobody_has, not installed here: pip install 'procmem[pretrain]'"
        )
    assert report.ok


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import os; os.abort()", "by signal 6 and no answer (it said nothing)"),
        ("raise SystemExit('error: no such bank')", "with exit code 1 and no answer (error: no su"),
        ("print('{}')", "with exit code 0 and no answer"),
        ("print('[' * 10**6)", "with exit code 0 and no answer"),
        (f"print({json.dumps({'steps': STEPS[::-1]})!r})", "with exit code 0 and no answer"),
        (f"print({json.dumps({'steps': STEPS})!r}); raise SystemExit(2)", "with exit code 2 and"),
        (
            f"print({json.dumps({'steps': [{**s, 'outcome': 'fine'} for s in STEPS]})!r})",
            "with exit code 0 and no answer",
        ),
    ],
)
def test_a_check_that_dies_or_answers_nonsense_has_failed(
    family: Family, script: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerender, "_command", lambda *_: [sys.executable, "-c", script])
    outcomes = family.outcomes()
    assert outcomes["programs"] == outcomes["sample"] == "failed"
    assert said in detail(family.check(), "programs")


def test_what_the_check_finds_wrong_is_passed_on(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [{**STEPS[0], "outcome": "failed", "detail": "others"}, STEPS[1]]
    script = f"print({json.dumps({'steps': failed})!r}); raise SystemExit(1)"
    monkeypatch.setattr(rerender, "_command", lambda *_: [sys.executable, "-c", script])
    report = family.check()
    assert detail(report, "programs") == "others"
    assert not report.ok


def test_a_check_that_does_not_end_is_ended(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerender, "_SECONDS", 0.1)
    monkeypatch.setattr(rerender, "_SECONDS_PER_PROGRAM", 0.0)
    script = "import time; time.sleep(600)"
    monkeypatch.setattr(rerender, "_command", lambda *_: [sys.executable, "-c", script])
    report = family.check()
    assert detail(report, "sample").startswith("the check was ended after 0 seconds")
    assert not report.ok


def test_progress_is_passed_on_and_ctrl_c_ends_both_processes(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, sys, time\n"
        "print('a driver says something', file=sys.stderr)\n"
        "print(f'{os.getpid()}/7', file=sys.stderr, flush=True)\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr(rerender, "_command", lambda *_: [sys.executable, "-c", script])
    seen: list[tuple[int, int | None]] = []

    def stop(done: int, total: int | None) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        family.check(progress=stop)
    ((process, total),) = seen
    assert total == 7
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_real_command_takes_no_package_of_the_folder_that_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('taken from where one stands')")
    monkeypatch.undo()  # the real command
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p))
    monkeypatch.chdir(tmp_path)
    command = rerender._command(Path("/missing.onnx"), 0, 0)
    code, _, last_line = rerender._run(command, 60.0, None)
    assert code == 1
    assert last_line.startswith("error: /missing.onnx does not exist")


# Arguments and the command line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": -1}, "sample is -1, wanted"),
        ({"sample": 2.0}, "sample is 2.0, wanted"),
        ({"sample": True}, "sample is True, wanted"),
        ({"seed": -1}, "seed is -1, wanted"),
        ({"seed": 2**63}, "wanted an integer in"),
        ({"folder": "/nowhere"}, "folder is '/nowhere', wanted one that exists"),
    ],
)
def test_a_bad_argument_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_model("vit-tiny", **options)


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        check_model(tmp_path / "none.onnx")


def test_the_command_prints_every_step_and_counts_them(family: Family) -> None:
    folder = str(family.checkpoint.parent)
    arguments = ["verify", "--model", str(family.model), "--folder", folder]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"tiny: {family.model}"
    assert "9 checked, 0 failed, 1 not checked" in lines
    assert " ".join(lines).endswith(LIMITS)
    assert max(map(len, lines[-4:])) <= 100
    result = CliRunner().invoke(main, [*arguments, "--json", "--seed", "4"])
    document = json.loads(result.stdout)
    assert (document["ok"], document["complete"], document["seed"]) == (True, False, 4)
    assert {"name": "file", "outcome": "checked"}.items() <= document["steps"][1].items()


def test_the_command_fails_only_if_a_step_does(family: Family) -> None:
    missing = CliRunner().invoke(main, ["verify", "--model", str(family.model)])
    assert missing.exit_code == 0
    flip_a_byte(family.model)
    failed = CliRunner().invoke(main, ["verify", "--model", str(family.model)])
    assert failed.exit_code == 1
    assert "1 failed" in failed.stdout


def test_without_a_name_the_command_checks_the_bundled_model() -> None:
    result = CliRunner().invoke(main, ["verify", "--model", "--json"])
    document = json.loads(result.stdout)
    assert document["model"] == embedder.DEFAULT_MODEL
    assert document["ok"], result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample", "3"], "belong to --model NAME, without --vault"),
        (["--seed", "3"], "belong to --model NAME, without --vault"),
        (["--vault", "v", "--model", "m.onnx", "--sample", "3"], "without --vault"),
        (["--receipt", "r", "--model", "m.onnx"], "two checks; give one"),
        (["--model", "m.onnx", "--key", "00"], "--key belongs to --receipt"),
    ],
)
def test_options_that_do_not_belong_together_are_misuse(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["verify", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_with_a_vault_the_model_is_that_of_the_memory(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from procmem.memory import VisualMemory

    monkeypatch.chdir(tmp_path)
    VisualMemory("procmem-vault", embedder=str(family.model), device="cpu").close()
    model = ["--model", str(family.model)]
    for arguments in (
        ["verify", "--vault", "procmem-vault", *model],
        ["--vault", "procmem-vault", "verify", *model],
        [*model, "verify"],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.output.endswith("procmem-vault is sound: 0 items, 0 masks\n"), arguments
    result = CliRunner().invoke(main, ["verify", *model])
    assert "0 failed" in result.stdout
    assert "not the memory here; for that, add --vault procmem-vault" in result.stderr
