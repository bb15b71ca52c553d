"""Whether a manifest's programs are what its seed gives, and whether two renderers agree on them.

Takes the manifest of a checkpoint or model, gives steps of a provenance report to `cli.py`, which
`procmem verify --model` reads (`procmem/rerender.py`). Nothing here trusts the manifest: what it
names is grown again and compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from procmem.errors import BankError, InputError, RenderError
from procmem.manifest import Manifest
from procmem.rerender import PROGRAMS, SAMPLE
from procmem.types import Outcome, ProvenanceStep
from procmem_pretrain.bank import ProgramBank, load_bank
from procmem_pretrain.config import TrainConfig, config_from_dict
from procmem_pretrain.grammar import GRAMMAR, sample_program
from procmem_pretrain.jobs import BUNDLED, ENDLESS, JobConfig, program_set, times_and_views
from procmem_pretrain.program import Program, parse_program
from procmem_pretrain.render import GlRenderer, Renderer, TorchRenderer
from procmem_pretrain.seeds import check_seed, stream

Progress = Callable[[int, int | None], None]

MAX_DIFFERENCE = 1.0
"""Between a picture of OpenGL and of torch, on average over its pixels, of 255: the promise of
`render.py`. Measured on 400 programs of the bundled bank: 0.013 at most."""

_SIDE = 64  # pixels of a picture that is compared
_PICTURES = 2  # of each program, each at its own time and view
_ENDLESS_NUMBERS = 2**40  # `jobs.py` draws numbers below this


@dataclass(frozen=True, slots=True)
class Redrawn:
    """One program of the sample.

    Attributes:
        number: of the program, among all of its seed.
        id: SHA-256 of its text.
        difference: between the renderers, mean absolute levels of 255, of its worst picture.
    """

    number: int
    id: str
    difference: float


def verify_programs(
    manifest: Manifest, *, sample: int, seed: int, progress: Progress | None = None
) -> tuple[tuple[ProvenanceStep, ProvenanceStep], tuple[Redrawn, ...]]:
    """Grows the programs that a manifest's run drew from, and draws a sample of them twice.

    Args:
        manifest: of a checkpoint or of a model made of one.
        sample: how many programs are drawn, 0 or more; all where there are fewer.
        seed: of their choice, and of the times and views that are drawn.
        progress: called with (programs grown, programs in all); about a millisecond each.

    Returns:
        the steps "programs" and "sample", and what was drawn.

    Raises:
        InputError: `sample` below 0, or `seed` out of range.
    """
    check_seed(seed)
    if sample < 0:
        raise InputError(f"sample is {sample}, wanted 0 or more")
    try:
        config = config_from_dict(manifest.config)
    except InputError:
        reason = "the manifest has no training configuration"
        if manifest.config:
            reason = (
                "the training configuration is of another procmem "
                f"(version {manifest.origin.code_version}); verify with that one"
            )
        return _both("not checked", reason), ()
    jobs = config.images.jobs
    programs, numbers = _check_set(manifest, config, progress)
    if sample == 0:
        return (programs, _sample_step("not checked", "no sample was asked for")), ()
    if programs.outcome != "checked":
        reason = "the programs are not those of the manifest"
        if programs.outcome == "not checked":
            reason = "the programs could not be grown, see above"
        return (programs, _sample_step("not checked", reason)), ()
    if jobs.generator == "stylegan" or jobs.shaders is not None:
        what = "untrained networks" if jobs.generator == "stylegan" else "shaders of the user's own"
        reason = f"{what} have one renderer only, and nothing to compare it with"
        return (programs, _sample_step("not checked", reason)), ()
    chosen = _choose(numbers, sample, seed)
    root_seed = jobs.root_seed if jobs.programs == ENDLESS else _bank(jobs).root_seed
    step, redrawn = redraw(root_seed, chosen, seed=seed)
    return (programs, step), redrawn


def redraw(
    root_seed: int, numbers: Sequence[int], *, seed: int
) -> tuple[ProvenanceStep, tuple[Redrawn, ...]]:
    """Grows programs from their seed and draws each with OpenGL and with torch.

    Args:
        root_seed: of the programs.
        numbers: which ones, one or more.
        seed: of the times and views.
    """
    try:
        renderer: Renderer = GlRenderer()
    except RenderError as error:
        return _sample_step("not checked", f"torch has nothing to be compared with: {error}"), ()
    redrawn: list[Redrawn] = []
    with renderer:
        for number in numbers:
            program = sample_program(root_seed, number)
            if parse_program(program.text) != program:
                detail = f"program {number} is not the one that its own text describes"
                return _sample_step("failed", detail), tuple(redrawn)
            try:
                difference = _difference(renderer, program, number, seed)
            except RenderError as error:
                return _sample_step("failed", str(error)), tuple(redrawn)
            redrawn.append(Redrawn(number, program.id, difference))
    worst = max(redrawn, key=lambda each: each.difference)
    detail = (
        f"{len(redrawn)} random programs (sample seed {seed}), grown again from seed {root_seed} "
        f"and drawn by {renderer.name} and by torch: at most {worst.difference:.4f} of 255 levels "
        f"apart, allowed {MAX_DIFFERENCE}"
    )
    if worst.difference <= MAX_DIFFERENCE:
        return _sample_step("checked", detail), tuple(redrawn)
    return _sample_step("failed", f"{detail}; program {worst.number} is"), tuple(redrawn)


def _check_set(
    manifest: Manifest, config: TrainConfig, progress: Progress | None
) -> tuple[ProvenanceStep, Sequence[int]]:
    """The step "programs", and the numbers of the programs if they are in a bank."""
    origin, jobs = manifest.origin, config.images.jobs
    said = (origin.root_seed, origin.process)
    if said != (config.root_seed, config.images.process):
        return _programs_step(
            "failed",
            f"the manifest's origin says seed {said[0]} and {said[1]}, its configuration seed "
            f"{config.root_seed} and {config.images.process}",
        ), ()
    missing = _missing_file(jobs)
    if missing is not None:
        return _programs_step("not checked", missing), ()
    numbers: Sequence[int] = ()
    try:
        if _has_bank(jobs):
            bank = _bank(jobs)
            numbers = bank.numbers.tolist()
            found = _grown(bank, progress)
            what = f"{len(bank):,} programs grown again from seed {bank.root_seed}"
            if found != bank.program_set_sha256:
                return _programs_step(
                    "failed", f"{what} hash to {found[:16]}..., their bank says otherwise"
                ), ()
        else:
            found = program_set(jobs)
            what = f"the programs of seed {jobs.root_seed}, grammar {GRAMMAR}"
            if jobs.generator == "stylegan":
                what = f"the untrained networks of seed {jobs.root_seed}"
            elif jobs.shaders is not None:
                what = f"the shaders in {jobs.shaders}"
    except (BankError, InputError) as error:
        return _programs_step("failed", str(error)), ()
    if found != origin.program_set_sha256:
        return _programs_step(
            "failed",
            f"{what} hash to {found[:16]}..., the manifest says "
            f"{origin.program_set_sha256[:16]}...; it is not true, or its run had another procmem "
            f"(version {origin.code_version}): verify with that one",
        ), ()
    return _programs_step(
        "checked", f"{what} hash to {found[:16]}..., as the manifest says; run of seed {said[0]}"
    ), numbers


def _has_bank(jobs: JobConfig) -> bool:
    return jobs.generator == "programs" and jobs.shaders is None and jobs.programs != ENDLESS


def _bank(jobs: JobConfig) -> ProgramBank:
    return load_bank(None if jobs.programs == BUNDLED else jobs.programs)


def _missing_file(jobs: JobConfig) -> str | None:
    """Why the programs cannot be grown here, if they are in a file that is not."""
    if jobs.generator == "programs" and jobs.shaders is not None:
        if not Path(jobs.shaders).is_dir():
            return f"the run drew the shaders of a folder that is not here: {jobs.shaders}"
    elif _has_bank(jobs) and jobs.programs != BUNDLED and not Path(jobs.programs).is_file():
        return f"the run drew from a bank that is not here: {jobs.programs}"
    return None


def _grown(bank: ProgramBank, progress: Progress | None) -> str:
    """SHA-256 over the ids of a bank's programs, each grown from its seed."""
    digest = hashlib.sha256()
    for index in range(len(bank)):
        digest.update(bytes.fromhex(bank.program(index).id))
        if progress is not None:
            progress(index + 1, len(bank))
    return digest.hexdigest()


def _choose(numbers: Sequence[int], sample: int, seed: int) -> list[int]:
    """Which programs are drawn: of a bank's numbers, or of the endless sequence if it has none."""
    random = stream(seed, "provenance sample")
    if not numbers:
        return [int(number) for number in random.integers(_ENDLESS_NUMBERS, size=sample)]
    chosen = random.choice(len(numbers), size=min(sample, len(numbers)), replace=False)
    return [numbers[index] for index in sorted(chosen.tolist())]


def _difference(renderer: Renderer, program: Program, number: int, seed: int) -> float:
    """Mean absolute difference of the worst picture, in levels of 255.

    Raises:
        RenderError: the driver refuses the program, or one renderer finds numbers that are not
            finite where the other finds none.
    """
    times, views = times_and_views(stream(seed, "provenance view", number), _PICTURES)
    drawn, finite = renderer.draw(program, times, views, side=_SIDE)
    again, also_finite = TorchRenderer().draw(program, times, views, side=_SIDE)
    if not np.array_equal(finite, also_finite):
        raise RenderError(f"program {number} is finite to one of {renderer.name} and torch only")
    apart = np.abs(drawn.astype(np.int16) - again).mean(axis=(1, 2, 3))
    return float(apart.max())


def _programs_step(outcome: Outcome, detail: str) -> ProvenanceStep:
    return ProvenanceStep(PROGRAMS, outcome, detail)


def _sample_step(outcome: Outcome, detail: str) -> ProvenanceStep:
    return ProvenanceStep(SAMPLE, outcome, detail)


def _both(outcome: Outcome, detail: str) -> tuple[ProvenanceStep, ProvenanceStep]:
    return _programs_step(outcome, detail), _sample_step(outcome, detail)
