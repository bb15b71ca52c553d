"""A bank: the accepted programs of a seed, kept as the list of those that were rejected.

Takes verdicts of `rejects.py`, gives programs to `jobs.py`. A program is its seed and its number,
so a bank of any size is a small file; `program_set_sha256` in it says what every machine must get.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from procmem.errors import BankError, InputError
from procmem.manifest import write_bytes_atomically
from procmem_pretrain.grammar import GRAMMAR, program_set_sha256, sample_program
from procmem_pretrain.perceptual_hash import NEAR_DUPLICATE, HashIndex
from procmem_pretrain.program import Program
from procmem_pretrain.rejects import REASONS, Probe, Reason, probe_program
from procmem_pretrain.seeds import check_seed

Progress = Callable[[int, int | None], None]

_FORMAT = "procmem program bank 1"
_BUNDLED = "bank.json"

# Programs that one worker probes between two reports, and a saved state.
_PROGRAMS_PER_PART = 16
_PARTS_PER_SAVE = 64


@dataclass(frozen=True)
class ProgramBank:
    """Accepted programs of one seed.

    Attributes:
        root_seed: of the programs.
        considered: programs 0 to considered - 1 were probed.
        rejected: (numbers, ascending) of the rejected ones by reason.
        program_set_sha256: over the ids of the accepted programs, in order.
    """

    root_seed: int
    considered: int
    rejected: dict[Reason, tuple[int, ...]]
    program_set_sha256: str

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """(P,) the numbers of the accepted programs, ascending."""
        accepted = np.ones(self.considered, bool)
        for numbers in self.rejected.values():
            accepted[list(numbers)] = False
        return np.flatnonzero(accepted)

    def __len__(self) -> int:
        return len(self.numbers)

    def program(self, index: int) -> Program:
        """The accepted program of an index in [0, len)."""
        return sample_program(self.root_seed, int(self.numbers[index]))

    def verify(self, *, progress: Progress | None = None) -> None:
        """Grows every program again and compares the hash: about a millisecond a program.

        Raises:
            BankError: this procmem grows other programs than the bank was made of.
        """

        def programs() -> Iterator[Program]:
            for index in range(len(self)):
                if progress is not None:
                    progress(index + 1, len(self))
                yield self.program(index)

        found = program_set_sha256(programs())
        if found != self.program_set_sha256:
            raise BankError(
                f"the bank's programs hash to {found}, its manifest says "
                f"{self.program_set_sha256}; build the bank again"
            )


def load_bank(path: Path | str | None = None) -> ProgramBank:
    """Reads a bank; None is the one that comes with procmem.

    Raises:
        BankError: no bank there, damaged, or made by another grammar.
    """
    name = "the bundled bank" if path is None else str(path)
    try:
        if path is None:
            data = files("procmem_pretrain").joinpath(_BUNDLED).read_bytes()
        else:
            data = Path(path).read_bytes()
    except OSError as error:
        raise BankError(
            f"{name} cannot be read ({error}); build one with `procmem-pretrain bank --out FILE`"
        ) from error
    try:
        return _from_fields(name, json.loads(data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BankError):
            raise
        raise BankError(f"{name} is damaged ({error!r}); build it again") from error


def build_bank(
    path: Path,
    *,
    root_seed: int = 0,
    accepted: int = 20_000,
    workers: int = 1,
    progress: Progress | None = None,
) -> ProgramBank:
    """Probes programs until enough are accepted, and writes the bank.

    An interrupted run goes on from `<path>.part`; the result is the same, whatever was
    interrupted and whatever the number of workers.

    Args:
        path: file to write.
        root_seed: of the programs.
        accepted: how many programs, 1 or more.
        workers: processes that probe.
        progress: called with (accepted so far, accepted).

    Raises:
        InputError: accepted or workers below 1.
        BankError: the file to go on from is damaged.
        OSError: the folder cannot be written.
    """
    check_seed(root_seed)
    if accepted < 1 or workers < 1:
        raise InputError(f"accepted is {accepted} and workers {workers}, wanted 1 or more of each")
    state = _State.load(path.with_name(path.name + ".part"), root_seed)
    firsts = iter(range(state.considered, 2**40, _PROGRAMS_PER_PART))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = [
            pool.submit(_probe_part, root_seed, first) for first in islice(firsts, 2 * workers)
        ]
        parts = 0
        try:
            while state.accepted < accepted:
                for probe, program_id in pending.pop(0).result():
                    if state.accepted < accepted:
                        state.judge(probe, program_id)
                pending.append(pool.submit(_probe_part, root_seed, next(firsts)))
                parts += 1
                if parts % _PARTS_PER_SAVE == 0:
                    state.save()
                if progress is not None:
                    progress(state.accepted, accepted)
        finally:
            pool.shutdown(cancel_futures=True)
    bank = state.bank()
    write_bytes_atomically(path, _to_json(bank))
    state.path.unlink(missing_ok=True)
    return bank


def _probe_part(root_seed: int, first: int) -> list[tuple[Probe, str]]:
    import torch

    torch.set_num_threads(1)  # the workers are the parallelism
    programs = [sample_program(root_seed, first + n) for n in range(_PROGRAMS_PER_PART)]
    return [(probe_program(program), program.id) for program in programs]


class _State:
    """A bank in the making."""

    def __init__(self, path: Path, root_seed: int) -> None:
        self.path = path
        self.root_seed = root_seed
        self.considered = 0
        self.rejected: dict[Reason, list[int]] = {reason: [] for reason in REASONS}
        self.ids: list[str] = []
        self.hashes: list[npt.NDArray[np.uint64]] = []
        self._index = HashIndex()

    @property
    def accepted(self) -> int:
        return len(self.ids)

    def judge(self, probe: Probe, program_id: str) -> None:
        """Takes the verdict on the next program, and looks for its near-duplicates."""
        reason = probe.reason
        if probe.hash is not None:
            if self._index.nearest(probe.hash) <= NEAR_DUPLICATE:
                reason = "near-duplicate"
            else:
                self._index.add(probe.hash)
                self.hashes.append(probe.hash)
                self.ids.append(program_id)
        if reason is not None:
            self.rejected[reason].append(self.considered)
        self.considered += 1

    def bank(self) -> ProgramBank:
        digest = hashlib.sha256()
        for program_id in self.ids:
            digest.update(bytes.fromhex(program_id))
        rejected = {reason: tuple(numbers) for reason, numbers in self.rejected.items()}
        return ProgramBank(self.root_seed, self.considered, rejected, digest.hexdigest())

    def save(self) -> None:
        buffer = io.BytesIO()
        fields = {
            "grammar": GRAMMAR,
            "root_seed": self.root_seed,
            "considered": self.considered,
            "rejected": self.rejected,
            "ids": self.ids,
        }
        np.savez_compressed(
            buffer, fields=np.array(json.dumps(fields)), hashes=np.array(self.hashes)
        )
        write_bytes_atomically(self.path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, root_seed: int) -> _State:
        state = cls(path, root_seed)
        if not path.is_file():
            return state
        try:
            with np.load(path) as saved:
                fields = json.loads(str(saved["fields"]))
                state.hashes = list(saved["hashes"]) if fields["ids"] else []
            state.considered = int(fields["considered"])
            state.rejected = {reason: list(fields["rejected"][reason]) for reason in REASONS}
            state.ids = list(fields["ids"])
            same = fields["root_seed"] == root_seed and fields["grammar"] == GRAMMAR
        except (KeyError, ValueError, TypeError, OSError, EOFError) as error:
            raise BankError(f"{path} is damaged ({error!r}); delete it to start again") from error
        if not same:
            raise BankError(f"{path} belongs to another seed or grammar; delete it to start again")
        for each in state.hashes:
            state._index.add(each)
        return state


def _to_json(bank: ProgramBank) -> bytes:
    fields: dict[str, Any] = {
        "format": _FORMAT,
        "grammar": GRAMMAR,
        "root_seed": bank.root_seed,
        "considered": bank.considered,
        "accepted": len(bank),
        # Steps from number to number: half the bytes.
        "rejected": {
            reason: np.diff(np.array(numbers, np.int64), prepend=0).tolist()
            for reason, numbers in bank.rejected.items()
        },
        "program_set_sha256": bank.program_set_sha256,
    }
    return (json.dumps(fields, separators=(",", ":")) + "\n").encode()


def _from_fields(name: str, fields: dict[str, Any]) -> ProgramBank:
    if fields["format"] != _FORMAT:
        raise BankError(f"{name} has the format {fields['format']!r}, wanted {_FORMAT!r}")
    if fields["grammar"] != GRAMMAR:
        raise BankError(
            f"{name} was made by grammar {fields['grammar']}, this procmem has {GRAMMAR}; "
            "build it again, or use the procmem that made it"
        )
    rejected = {
        cast("Reason", reason): tuple(np.cumsum(steps, dtype=np.int64).tolist())
        for reason, steps in fields["rejected"].items()
    }
    bank = ProgramBank(
        int(fields["root_seed"]), int(fields["considered"]), rejected, fields["program_set_sha256"]
    )
    outside = [n for numbers in rejected.values() for n in numbers if not 0 <= n < bank.considered]
    if outside or set(rejected) - set(REASONS) or len(bank) != fields["accepted"] or not len(bank):
        raise BankError(f"{name} is damaged: its numbers disagree; build it again")
    return bank
