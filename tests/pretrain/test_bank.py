import json
from pathlib import Path

import numpy as np
import pytest

import procmem_pretrain.bank as bank_module
from procmem.errors import BankError, InputError
from procmem_pretrain.bank import ProgramBank, build_bank, load_bank
from procmem_pretrain.grammar import program_set_sha256, sample_program
from procmem_pretrain.program import Node, Program, parse_program
from procmem_pretrain.rejects import MAX_OPERATIONS, probe_program, varies


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ProgramBank:
    return build_bank(tmp_path_factory.mktemp("bank") / "bank.json", root_seed=9, accepted=30)


def test_the_bundled_bank_holds_twenty_thousand_programs() -> None:
    bundled = load_bank()
    assert len(bundled) >= 20_000
    assert len(set(bundled.numbers.tolist())) == len(bundled)
    assert {"near-constant", "no-change", "near-duplicate", "too-slow"} <= set(bundled.rejected)
    # The same programs on every machine: the first ones, by their texts' hash.
    first = program_set_sha256(bundled.program(index) for index in range(50))
    again = program_set_sha256(
        parse_program(sample_program(bundled.root_seed, int(n)).text) for n in bundled.numbers[:50]
    )
    assert first == again


def test_a_bank_is_read_back_and_verified(bank: ProgramBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    again = build_bank(path, root_seed=9, accepted=30)
    assert again == bank == load_bank(path)
    again.verify()
    assert not (tmp_path / "bank.json.part").exists()


def test_an_interrupted_build_goes_on_to_the_same_bank(
    bank: ProgramBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_module, "_PARTS_PER_SAVE", 1)
    path = tmp_path / "bank.json"
    saves = []

    def stop(done: int, _: int | None) -> None:
        saves.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bank(path, root_seed=9, accepted=40, progress=stop)
    assert (tmp_path / "bank.json.part").exists()
    assert saves == [saves[0]]
    finished = build_bank(path, root_seed=9, accepted=40)
    whole = build_bank(tmp_path / "whole.json", root_seed=9, accepted=40, workers=2)
    assert finished == whole
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_accepted_programs_are_those_that_no_reason_speaks_against(bank: ProgramBank) -> None:
    for index in range(10):
        assert probe_program(bank.program(index)).reason is None
    rejected = {n for numbers in bank.rejected.values() for n in numbers}
    assert rejected.isdisjoint(bank.numbers.tolist())
    assert len(rejected) + len(bank) == bank.considered


GRADIENT = Node("linear_gradient", (0,), (0.0,))
REASONS = {
    "compile-failure": Program((Node("plane"), Node("grey", (0,)))),  # a color from a point
    "near-constant": Program(
        (
            Node("plane"),
            GRADIENT,
            Node("product", (1, 1)),
            Node("paper", (2,), (0.9, 0.9, 0.5, 0.0)),
        )
    ),
    "no-change": Program((Node("plane"), GRADIENT, Node("grey", (1,)))),
    "not-finite": Program(
        (
            Node("plane"),
            Node("turn", (0,), (0.0, 1e38, 0.1)),
            Node("turn", (1,), (0.0, 1e38, 0.1)),
            Node("linear_gradient", (2,), (0.3,)),
            Node("difference", (3, 3)),
            Node("grey", (4,)),
        )
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_useless_program_is_rejected_with_its_reason(reason: str) -> None:
    assert probe_program(REASONS[reason]).reason == reason


def test_a_program_of_too_many_operations_is_rejected() -> None:
    nodes = [Node("plane")]
    for number in range(MAX_OPERATIONS // 500):
        nodes.append(Node("noise_warp", (number,), (0.3, 2.0, 4.0, 7.0)))
    nodes += [Node("stripes", (len(nodes) - 1,), (9.0, 0.0, 1.0)), Node("grey", (len(nodes),))]
    probe = probe_program(Program(tuple(nodes)))
    assert (probe.reason, probe.operations) == ("too-slow", MAX_OPERATIONS)


def test_the_same_picture_is_accepted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = bank_module._State(tmp_path / "x.part", 9)
    probe = probe_program(sample_program(9, 2))
    assert probe.reason is None
    state.judge(probe, "00" * 32)
    state.judge(probe, "00" * 32)
    assert state.accepted == 1
    assert state.rejected["near-duplicate"] == [1]


def test_images_of_one_grey_do_not_vary() -> None:
    images = np.full((2, 16, 16, 3), 100, np.uint8)
    images[1, :8] = 160
    assert varies(images).tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has the format 'other'"),
        ({"grammar": "0"}, "made by grammar 0"),
        ({"accepted": 31}, "numbers disagree"),
        ({"rejected": {"ugly": [1]}}, "numbers disagree"),
        ({"rejected": {"too-slow": [10**6]}}, "damaged"),
        ({"rejected": 3}, "damaged"),
    ],
)
def test_a_damaged_bank_is_refused(
    change: dict[str, object], message: str, bank: ProgramBank, tmp_path: Path
) -> None:
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(json.loads(bank_module._to_json(bank)) | change))
    with pytest.raises(BankError, match=message):
        load_bank(path)


def test_a_bank_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="procmem-pretrain bank --out"):
        load_bank(tmp_path / "missing.json")
    (tmp_path / "b.json").write_bytes(b"{")
    with pytest.raises(BankError, match="damaged"):
        load_bank(tmp_path / "b.json")


def test_a_bank_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="accepted is 0"):
        build_bank(tmp_path / "b.json", accepted=0)
