"""The programs that a manifest names: grown again, drawn twice, and every lie about them found."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import procmem_pretrain.bank as bank_module
import procmem_pretrain.provenance as provenance
from procmem.errors import InputError, RenderError
from procmem.manifest import Manifest, Origin, Preprocessing, sha256_of_bytes, write_manifest
from procmem.types import ProvenanceStep
from procmem_pretrain.bank import ProgramBank
from procmem_pretrain.cli import main
from procmem_pretrain.config import TrainConfig
from procmem_pretrain.grammar import program_set_sha256, sample_program
from procmem_pretrain.jobs import program_set
from procmem_pretrain.program import Program
from procmem_pretrain.provenance import verify_programs
from procmem_pretrain.render import TorchRenderer
from procmem_pretrain.stream import StreamConfig

ACCEPTED = [0, 1, 2, 3, 5, 6, 7, 8, 9, 11]


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    """Ten programs of twelve, without the time that probing takes."""
    programs = (sample_program(9, number) for number in ACCEPTED)
    bank = ProgramBank(9, 12, {"too-slow": (4, 10)}, program_set_sha256(programs))
    path = tmp_path / "bank.json"
    path.write_bytes(bank_module._to_json(bank))
    return path


def manifest_for(images: StreamConfig) -> Manifest:
    """Of a run that drew these images."""
    config = TrainConfig(images=images, root_seed=4)
    return Manifest(
        kind="checkpoint",
        name="vit-tiny",
        file="weights.safetensors",
        sha256=sha256_of_bytes(b"weights"),
        architecture="vit_tiny_patch16_224",
        patch_size=16,
        cls_dim=8,
        patch_dim=192,
        preprocessing=Preprocessing(),
        origin=Origin(
            process=images.process,
            root_seed=4,
            program_set_sha256=program_set(images.jobs),
            code_version="0.1.0",
            steps=1,
            images_seen=128,
        ),
        # As it comes out of a file: lists for tuples.
        config=json.loads(json.dumps(dataclasses.asdict(config))),
    )


@pytest.fixture
def manifest(bank_file: Path) -> Manifest:
    return manifest_for(StreamConfig(root_seed=4, side=64, programs=str(bank_file)))


def with_origin(manifest: Manifest, **changes: object) -> Manifest:
    return dataclasses.replace(manifest, origin=dataclasses.replace(manifest.origin, **changes))


def outcomes(steps: tuple[ProvenanceStep, ProvenanceStep]) -> tuple[str, str]:
    assert [step.name for step in steps] == ["programs", "sample"]
    return steps[0].outcome, steps[1].outcome


def test_programs_are_grown_again_and_a_sample_is_drawn_twice(manifest: Manifest) -> None:
    grown: list[tuple[int, int | None]] = []
    steps, redrawn = verify_programs(
        manifest, sample=3, seed=1, progress=lambda done, total: grown.append((done, total))
    )
    assert outcomes(steps) == ("checked", "checked")
    assert grown == [(n, 10) for n in range(1, 11)]
    assert len({each.number for each in redrawn}) == 3
    assert {each.number for each in redrawn} <= set(ACCEPTED)
    assert [each.id for each in redrawn] == [sample_program(9, each.number).id for each in redrawn]
    assert all(each.difference <= 1.0 for each in redrawn)
    assert "3 random programs (sample seed 1)" in steps[1].detail


def test_the_seed_of_the_sample_chooses_it(manifest: Manifest) -> None:
    def numbers(seed: int) -> list[int]:
        redrawn = verify_programs(manifest, sample=4, seed=seed)[1]
        return [each.number for each in redrawn]

    assert numbers(1) == numbers(1)
    assert len({tuple(numbers(seed)) for seed in range(4)}) > 1


def test_a_sample_larger_than_the_bank_is_all_of_it(manifest: Manifest) -> None:
    redrawn = verify_programs(manifest, sample=500, seed=1)[1]
    assert [each.number for each in redrawn] == ACCEPTED


def test_one_number_in_the_text_of_one_program_is_noticed(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(root_seed: int, number: int) -> Program:
        program = sample_program(root_seed, number)
        if number != 7:
            return program
        at = next(n for n, node in enumerate(program.nodes) if node.parameters)
        first, *rest = program.nodes[at].parameters
        node = dataclasses.replace(program.nodes[at], parameters=(first + 1e-4, *rest))
        return Program((*program.nodes[:at], node, *program.nodes[at + 1 :]))

    monkeypatch.setattr(bank_module, "sample_program", altered)
    steps, redrawn = verify_programs(manifest, sample=2, seed=1)
    assert outcomes(steps) == ("failed", "not checked")
    assert "10 programs grown again from seed 9 hash to" in steps[0].detail
    assert steps[0].detail.endswith("their bank says otherwise")
    assert redrawn == ()


def test_a_bank_that_accepts_another_program_is_noticed(
    manifest: Manifest, bank_file: Path
) -> None:
    fields = json.loads(bank_file.read_text())
    fields["rejected"]["too-slow"] = [3, 7]
    bank_file.write_text(json.dumps(fields))
    assert outcomes(verify_programs(manifest, sample=2, seed=1)[0]) == ("failed", "not checked")


def test_a_manifest_with_another_program_set_is_noticed(manifest: Manifest) -> None:
    steps, _ = verify_programs(
        with_origin(manifest, program_set_sha256="ab" * 32), sample=2, seed=1
    )
    assert outcomes(steps) == ("failed", "not checked")
    assert "the manifest says abababababababab..." in steps[0].detail
    assert "another procmem (version 0.1.0)" in steps[0].detail


@pytest.mark.parametrize("change", [{"root_seed": 5}, {"process": "shaders"}])
def test_an_origin_that_contradicts_the_configuration_is_noticed(
    manifest: Manifest, change: dict[str, object]
) -> None:
    steps, _ = verify_programs(with_origin(manifest, **change), sample=2, seed=1)
    assert outcomes(steps) == ("failed", "not checked")
    assert "its configuration seed 4 and shaders-kml-mixup" in steps[0].detail


def test_renderers_that_draw_different_pictures_are_noticed(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = TorchRenderer.draw

    def shifted(self: TorchRenderer, program: Program, *rest: object, **named: int) -> object:
        images, finite = draw(self, program, *rest, **named)
        wrong = program == sample_program(9, 5)
        return np.where(wrong, np.roll(images, 5, axis=2), images), finite

    monkeypatch.setattr(TorchRenderer, "draw", shifted)
    steps, redrawn = verify_programs(manifest, sample=10, seed=1)
    assert outcomes(steps) == ("checked", "failed")
    assert steps[1].detail.endswith("program 5 is")
    assert max(redrawn, key=lambda each: each.difference).number == 5


def test_numbers_that_are_finite_to_one_renderer_only_are_noticed(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = TorchRenderer.draw

    def unlike(self: TorchRenderer, *rest: object, **named: int) -> object:
        images, finite = draw(self, *rest, **named)
        return images, ~finite

    monkeypatch.setattr(TorchRenderer, "draw", unlike)
    steps, _ = verify_programs(manifest, sample=1, seed=1)
    assert outcomes(steps) == ("checked", "failed")
    assert "finite to one of" in steps[1].detail


def test_a_program_that_its_text_does_not_describe_is_noticed(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "parse_program", lambda _: sample_program(9, 4))
    steps, _ = verify_programs(manifest, sample=1, seed=1)
    assert outcomes(steps) == ("checked", "failed")
    assert "is not the one that its own text describes" in steps[1].detail


def test_without_opengl_the_sample_is_not_checked_and_the_way_out_is_told(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise RenderError("no EGL graphics context; install the system's EGL")

    monkeypatch.setattr(provenance, "GlRenderer", missing)
    steps, _ = verify_programs(manifest, sample=2, seed=1)
    assert outcomes(steps) == ("checked", "not checked")
    assert "install the system's EGL" in steps[1].detail


def test_programs_of_an_endless_run_are_drawn_from_its_own_seed() -> None:
    manifest = manifest_for(StreamConfig(root_seed=6, side=64, programs="endless"))
    steps, redrawn = verify_programs(manifest, sample=2, seed=1)
    assert outcomes(steps) == ("checked", "checked")
    assert [each.id for each in redrawn] == [sample_program(6, each.number).id for each in redrawn]
    assert max(each.number for each in redrawn) > 10**6


def test_images_of_one_renderer_only_are_told() -> None:
    manifest = manifest_for(StreamConfig(process="stylegan", root_seed=6, side=64))
    steps, _ = verify_programs(manifest, sample=2, seed=1)
    assert outcomes(steps) == ("checked", "not checked")
    assert "one renderer only" in steps[1].detail


def test_a_bank_or_a_folder_that_is_not_here_is_told(
    manifest: Manifest, bank_file: Path, tmp_path: Path
) -> None:
    bank_file.unlink()
    steps, _ = verify_programs(manifest, sample=2, seed=1)
    assert outcomes(steps) == ("not checked", "not checked")
    assert f"a bank that is not here: {bank_file}" in steps[0].detail
    images = manifest.config["images"] | {"shaders": str(tmp_path / "mine")}
    own = dataclasses.replace(manifest, config={**manifest.config, "images": images})
    steps, _ = verify_programs(own, sample=2, seed=1)
    assert outcomes(steps) == ("not checked", "not checked")
    assert f"a folder that is not here: {tmp_path / 'mine'}" in steps[0].detail


def test_a_damaged_bank_is_a_failure(manifest: Manifest, bank_file: Path) -> None:
    bank_file.write_bytes(b"{")
    steps, _ = verify_programs(manifest, sample=2, seed=1)
    assert outcomes(steps) == ("failed", "not checked")
    assert "damaged" in steps[0].detail


@pytest.mark.parametrize(
    ("config", "said"), [({}, "no training configuration"), ({"pool": 3}, "of another procmem")]
)
def test_a_configuration_that_cannot_be_read_is_told(
    manifest: Manifest, config: dict[str, object], said: str
) -> None:
    steps, _ = verify_programs(dataclasses.replace(manifest, config=config), sample=2, seed=1)
    assert outcomes(steps) == ("not checked", "not checked")
    assert said in steps[0].detail


def test_no_sample_is_no_sample(manifest: Manifest) -> None:
    steps, redrawn = verify_programs(manifest, sample=0, seed=1)
    assert outcomes(steps) == ("checked", "not checked")
    assert redrawn == ()


@pytest.mark.parametrize(("sample", "seed"), [(-1, 0), (1, -1), (1, 2**63)])
def test_a_sample_or_seed_out_of_range_is_refused(
    manifest: Manifest, sample: int, seed: int
) -> None:
    with pytest.raises(InputError, match="wanted"):
        verify_programs(manifest, sample=sample, seed=seed)


def test_the_command_writes_one_document_and_its_progress_beside_it(
    manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / manifest.file).write_bytes(b"weights")
    write_manifest(manifest, tmp_path)
    arguments = ["verify-programs", str(tmp_path / manifest.file), "--sample", "1", "--seed", "3"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["seed"] == 3
    assert [step["outcome"] for step in document["steps"]] == ["checked", "checked"]
    assert len(document["sample"]) == 1
    assert result.stderr.splitlines()[-1] == "10/10"
    write_manifest(with_origin(manifest, program_set_sha256="ab" * 32), tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["steps"][0]["outcome"] == "failed"
