"""Sharing and revoking as a person does it: two memories, two terminals, files in between."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tests.sdk.sharing import contents, filled, opened
from tests.stress import toy

from procmem.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command on the memory "mine" or "yours"; words are joined from any values."""
    monkeypatch.chdir(tmp_path)
    for name, ids in (("mine", range(1, 9)), ("yours", ())):
        filled(tmp_path / name, ids).close()

    def run_command(name, *words, code=0):
        result = CliRunner().invoke(main, ["--vault", name, *map(str, words)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.exit_code == code, result.output
        return result

    return run_command


def address(run, name):
    return run(name, "address").stdout.strip()


def as_json(result):
    return json.loads(result.stdout)


def items(name):
    with opened(name, read_only=True) as memory:
        return sorted(contents(memory))


def test_what_one_shares_the_other_receives(run):
    mine, yours = address(run, "mine"), address(run, "yours")
    assert as_json(run("mine", "address", "--json"))["address"] == mine

    written = as_json(run("mine", "share", "f", "--to", yours, "--id", 3, "--id", 7, "--json"))
    taken = as_json(run("yours", "receive", "f", "--from", mine, "--json"))

    assert (written["items"], written["bytes"]) == (2, 65_740)
    assert (taken["added"], taken["items"], taken["signer"]) == (["3", "7"], 2, mine)
    assert items("yours") == [3, 7]
    assert "2 held already" in run("yours", "receive", "f", "--from", mine).stdout


def test_a_label_is_shared_and_told_in_words(run):
    mine, yours = address(run, "mine"), address(run, "yours")
    shared = run("mine", "share", "f", "--to", yours, "--label", toy.label(6))
    assert shared.stdout == "shared 1 item in f (0.07 MB)\n"
    assert "received 1 new item" in run("yours", "receive", "f", "--from", mine).stdout
    told = run("mine", "share", "g", "--to", yours, "--label", "x", "--id", 1, code=2)
    assert "in one way" in told.stderr


def test_what_one_revokes_the_other_forgets(run):
    mine, yours = address(run, "mine"), address(run, "yours")
    run("mine", "share", "f", "--to", yours)
    run("yours", "receive", "f", "--from", mine)

    plan = as_json(run("mine", "revoke", "list", 3, 4, "--dry-run", "--json"))
    assert [item["id"] for item in plan["plan"]] == ["3", "4"]
    assert items("mine") == list(range(1, 9))
    revoked = as_json(run("mine", "revoke", "list", 3, 4, "--yes", "--json"))
    heeded = as_json(run("yours", "apply-revocations", "list", "--from", mine, "--json"))

    assert revoked["revoked_ids"] == heeded["revoked_ids"] == ["3", "4"]
    assert heeded["report"]["erased_ids"] == ["3", "4"]
    assert heeded["report"]["windows_found"] == 0
    assert items("mine") == items("yours") == [1, 2, 5, 6, 7, 8]
    assert "2 passed over, revoked here" in run("yours", "receive", "f", "--from", mine).stdout
    assert (
        "none of them was held" in run("yours", "apply-revocations", "list", "--from", mine).stdout
    )


def test_what_was_deleted_is_revoked_by_its_receipt_and_all_of_it_again(run):
    run("mine", "delete", 5, "--receipt", "receipt.json", "--yes")
    told = run("mine", "revoke", "list", "--receipt", "receipt.json", "--dry-run")
    assert "1 receipt" in told.stdout
    assert (
        "1 id, 1 of them new"
        in run("mine", "revoke", "list", "--receipt", "receipt.json", "--yes").stdout
    )
    assert "wrote 1 revoked id to again" in run("mine", "revoke", "again", "--reissue").stdout
    assert as_json(run("mine", "revoke", "more", "--reissue", "--json"))["revoked"] == 1


def test_it_asks_before_it_revokes(run, monkeypatch):
    result = CliRunner().invoke(main, ["--vault", "mine", "revoke", "list", "3"], input="n\n")
    assert result.exit_code == 1
    assert items("mine") == list(range(1, 9))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("share", "f"), 2, "--to"),
        (("receive", "."), 2, "--from"),
        (("share", "f", "--to", "procmem1x"), 2, "copied with a mistake"),
        (("revoke", "f"), 2, "in one way"),
        (("revoke", "f", 3, "--label", "x"), 2, "in one way"),
        (("revoke", "f", 3, "--reissue"), 2, "give it alone"),
        (("revoke", "f", 3, "--json"), 2, "cannot ask"),
        (("revoke", "f", 99, "--yes"), 1, "no item with id 99"),
        (("revoke", "f", "--receipt", "none", "--yes"), 1, "none cannot be read"),
    ],
)
def test_misuse_and_failure_are_told_in_one_line(run, words, code, told):
    assert told in run("mine", *words, code=code).stderr


def test_what_is_not_trusted_or_not_sound_fails(run, tmp_path):
    mine, yours = address(run, "mine"), address(run, "yours")
    run("mine", "share", "f", "--to", yours)
    run("mine", "revoke", "list", 3, "--yes")
    for words in (("receive", "f"), ("apply-revocations", "list")):
        refused = run("yours", *words, "--from", yours, code=1)
        assert refused.stderr.startswith("error: ")
        assert "none of those that were named" in refused.stderr
    (tmp_path / "f").write_bytes(b"words")
    assert "cannot be taken in" in run("yours", "receive", "f", "--from", mine, code=1).stderr
    assert items("yours") == []


def test_an_address_makes_a_memory_that_can_receive_at_once(run, tmp_path):
    text = address(run, "new")
    assert text.startswith("procmem1")
    assert (tmp_path / "new" / "KEY").exists()
    assert address(run, "new") == text
