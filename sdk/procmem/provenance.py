"""Whether a model descends from its seed as its manifest says: file by file, to the programs.

Reads manifests by `manifest.py`, weights by `weights.py`, and asks `rerender.py` about programs.
Promises to say of every link whether it holds, does not hold, or was not looked at, and why not.
It finds files that do not belong together; it cannot know who wrote a manifest, and it does not
train again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from procmem import embedder
from procmem.backends.onnx_file import check_file
from procmem.errors import InputError, ModelError, ModelIntegrityError
from procmem.manifest import Manifest, read_manifest, sha256_of_bytes
from procmem.rerender import check_programs
from procmem.types import Outcome, ProvenanceReport, ProvenanceStep
from procmem.weights import compare_weights

Progress = Callable[[int, "int | None"], None]

LIMITS = (
    "No check of files shows that training read nothing but these programs: only training again "
    "does (procmem-pretrain train, with the manifest's configuration). Nor is the model run: that "
    "it answers as its checkpoint does is what procmem-export measured (`parity` in the manifest)."
)
"""What stays open even where every step is checked."""

_MAX_SEED = 2**63 - 1
_SUFFIXES = (".onnx", ".engine", ".safetensors")  # of files that a chain can name

# Role in a chain -> kind of the file; what training writes is a checkpoint under several names.
_KINDS = {"onnx": "onnx"}


def check_model(
    model: str | Path,
    *,
    folder: Path | str | None = None,
    sample: int = 8,
    seed: int | None = None,
    progress: Progress | None = None,
) -> ProvenanceReport:
    """Follows a model's chain of origins back to its seed, as far as the files are here.

    Ancestors are found by their hash, in the model's folder, in `folder`, among the bundled models
    and in the `checkpoints` of a source tree. Programs are checked by procmem_pretrain in a process
    of its own (extra `pretrain`): all are grown again, a random sample is drawn by two renderers.

    Args:
        model: a bundled model's name, or the path of a model file with its manifest beside it.
        folder: another folder with ancestors.
        sample: how many programs are drawn, 0 or more.
        seed: of the sample, in [0, 2**63); None draws one, which the report shows.
        progress: called with (programs grown, programs in all).

    Returns:
        the steps, from the file back to the programs. Cost: a pass over each file, and about a
        millisecond for each program of the training run.

    Raises:
        InputError: a bad argument.
        ModelNotFoundError: no such bundled model, or no file or manifest at the path.
        ModelError: the file cannot be read.
    """
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise InputError(f"sample is {sample!r}, wanted a whole number of 0 or more")
    seed = secrets.randbits(32) if seed is None else seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MAX_SEED:
        raise InputError(f"seed is {seed!r}, wanted an integer in [0, 2**63)")
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"folder is {str(folder)!r}, wanted one that exists")
    file = embedder._model_file(model)
    try:
        manifest = read_manifest(file)
    except ModelIntegrityError as error:
        rest = _not_checked("all else", "what the manifest says cannot be relied on")
        broken = _failed("manifest", str(error))
        return ProvenanceReport(file.name, str(file), (broken, rest), seed)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error}); check its permissions") from error
    search = _Search(_folders(file, None if folder is None else Path(folder)))
    links = [search.find(role, digest) for role, digest in reversed(manifest.origin.chain)]
    steps = (
        _manifest_step(manifest),
        *_file_steps(file, manifest, data),
        *_chain_steps(file, manifest, links),
        *_weights_steps(file, manifest, data, links),
        _images_step(file, manifest),
        *check_programs(file, sample=sample, seed=seed, progress=progress),
    )
    return ProvenanceReport(manifest.name, str(file), steps, seed)


@dataclass(frozen=True, slots=True)
class _Link:
    """An ancestor that a chain names.

    Attributes:
        role: what the chain calls it.
        sha256: of its bytes, as the chain says.
        file: the file with this hash, or None.
        manifest: the one beside it, or None.
        problem: what is wrong with what was found, or None.
    """

    role: str
    sha256: str
    file: Path | None = None
    manifest: Manifest | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """Of its step."""
        return f"{self.role} {self.sha256[:8]}"


def short_path(path: Path) -> str:
    """A path as people read it: from the folder where they stand, if it is in there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _folders(file: Path, folder: Path | None) -> tuple[Path, ...]:
    """Where ancestors may be, each once."""
    source_tree = Path(__file__).parents[2]
    places = [file.parent]
    if folder is not None:
        places.append(folder)
    places.append(embedder._bundled_folder())
    if (source_tree / "pyproject.toml").is_file():
        places.append(source_tree / "checkpoints")
    found: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            found.setdefault(place.resolve(), place)
    return tuple(found.values())


class _Search:
    """Files that a chain may name, each read once at most."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._hashes: dict[Path, str | None] = {}
        self._files: list[tuple[Path, Manifest | None]] = []
        for folder in folders:
            for path in sorted(folder.iterdir()):
                if path.suffix in _SUFFIXES and path.is_file():
                    self._files.append((path, _manifest_of(path)))

    def find(self, role: str, sha256: str) -> _Link:
        """Looks for a file by its hash; a manifest that claims the hash of other bytes is told."""
        problem = None
        # Those whose manifests claim it first: a folder of training states can hold many gigabytes.
        for path, manifest in self._files:
            if manifest is not None and manifest.sha256 == sha256:
                if self._hash(path) == sha256:
                    return _Link(role, sha256, path, manifest)
                problem = (
                    f"{short_path(path)} is damaged: its manifest says this hash, its bytes have "
                    "another"
                )
        for path, manifest in self._files:
            if manifest is None and self._hash(path) == sha256:
                return _Link(role, sha256, path)
        return _Link(role, sha256, problem=problem)

    def _hash(self, path: Path) -> str | None:
        if path not in self._hashes:
            self._hashes[path] = _hash(path)
        return self._hashes[path]


def _manifest_of(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except (ModelError, OSError):
        return None


def _hash(path: Path) -> str | None:
    """SHA-256 of a file that may be large; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    except OSError:
        return None
    return digest.hexdigest()


def _manifest_step(manifest: Manifest) -> ProvenanceStep:
    version = manifest.manifest_version
    if version == 1:
        return _not_checked(
            "manifest", "layout 1 does not pin itself; export the checkpoint again for a newer one"
        )
    return _checked("manifest", f"its text is what its own hash says (layout {version})")


def _file_steps(file: Path, manifest: Manifest, data: bytes) -> Iterator[ProvenanceStep]:
    """Whether the bytes are those that the manifest pins, and may be what they are."""
    digest = sha256_of_bytes(data)
    intact = digest == manifest.sha256
    if intact:
        yield _checked("file", f"SHA-256 {digest[:16]}... is the manifest's")
    else:
        yield _failed(
            "file",
            f"{file.name} has SHA-256 {digest[:16]}..., the manifest says "
            f"{manifest.sha256[:16]}...: damaged or replaced; restore it",
        )
    if manifest.kind == "tensorrt":
        named = ", ".join(f"{key} {value}" for key, value in manifest.hardware.items())
        if named:
            yield _checked("contents", f"an engine; the manifest names what it is for: {named}")
        else:
            yield _failed("contents", "an engine whose manifest names no hardware; build it again")
    elif manifest.kind == "onnx":
        try:
            operators = check_file(data, file.name).operators
        except ModelIntegrityError as error:
            yield _failed("contents", str(error))
        else:
            yield _checked(
                "contents",
                f"one self-contained file with {len(operators)} kinds of operators, all ONNX's own",
            )
    else:
        yield _checked("contents", "a checkpoint: tensors only, nothing in it runs")


def _chain_steps(file: Path, manifest: Manifest, links: list[_Link]) -> Iterator[ProvenanceStep]:
    """One step for each ancestor, newest first."""
    chain = manifest.origin.chain
    if not chain and manifest.kind != "checkpoint":
        yield _not_checked(
            "chain", "the manifest names no file that this one was made of; procmem-export does"
        )
    for at, link in enumerate(links):
        before = chain[: len(chain) - 1 - at]
        yield _link_step(file, manifest, link, before, parent=at == 0)
        if link.role == "start":
            place = "that file" if link.file is None else short_path(link.file)
            yield _not_checked(
                "earlier programs",
                f"{link.name} is of a run of its own: procmem verify --model {place}",
            )


def _link_step(
    file: Path,
    manifest: Manifest,
    link: _Link,
    before: tuple[tuple[str, str], ...],
    *,
    parent: bool,
) -> ProvenanceStep:
    """Whether an ancestor is here, and says of itself what its descendant says of it."""
    if link.problem is not None:
        return _failed(link.name, link.problem)
    if link.file is None:
        return _not_checked(
            link.name,
            f"not here: put the file of this hash and its manifest into {short_path(file.parent)}, "
            "or name its folder with --folder",
        )
    if link.manifest is None:
        return _not_checked(
            link.name,
            f"{short_path(link.file)} is here, but no sound manifest beside it; restore that",
        )
    own = link.manifest
    problems = []
    kind = _KINDS.get(link.role, "checkpoint")
    if own.kind != kind:
        problems.append(f"is of the kind {own.kind}, not {kind}")
    if own.origin.chain != before:
        problems.append("names other ancestors than the model's manifest does")
    if own.origin.trained_on_real_data and not manifest.origin.trained_on_real_data:
        problems.append("was trained on real images, the model's manifest says it was not")
    if parent:
        problems += _contradictions(manifest, own, whole=link.role != "training state")
    if problems:
        return _failed(link.name, f"{short_path(link.file)} {'; '.join(problems)}")
    what = "seed, programs, steps and configuration" if parent else "ancestors"
    return _checked(
        link.name, f"{short_path(link.file)} has this hash, and its manifest the same {what}"
    )


def _contradictions(manifest: Manifest, parent: Manifest, *, whole: bool) -> list[str]:
    """In which words of its manifest a file and its parent differ, where they may not.

    Args:
        manifest: of the file.
        parent: of its parent.
        whole: False for a parent that has no readout yet, which decides on the width of a class
            token.
    """
    same = dataclasses.replace(manifest.origin, chain=())
    wanted = dataclasses.replace(parent.origin, chain=())
    pairs = {
        field.name: (getattr(same, field.name), getattr(wanted, field.name))
        for field in dataclasses.fields(same)
        if field.name != "trained_on_real_data"
    }
    names = ("architecture", "patch_size", "patch_dim", "config", *(("cls_dim",) if whole else ()))
    for name in names:
        pairs[name] = (getattr(manifest, name), getattr(parent, name))
    differing = [name for name, (one, other) in pairs.items() if one != other]
    return [f"differs from the model's manifest in {', '.join(differing)}"] if differing else []


def _weights_steps(
    file: Path, manifest: Manifest, data: bytes, links: list[_Link]
) -> Iterator[ProvenanceStep]:
    """Whether the numbers in the file are the checkpoint's; hashes alone can be claimed."""
    parent = links[0] if links else None
    if manifest.kind == "checkpoint":
        return
    if sha256_of_bytes(data) != manifest.sha256:
        yield _not_checked("weights", f"{file.name} is not the manifest's")
    elif not _keeps_numbers(manifest):
        what = "an engine" if manifest.kind == "tensorrt" else f"a {manifest.precision} model"
        yield _not_checked(
            "weights",
            f"{what} does not keep the checkpoint's numbers as they are, only a float32 export of "
            "any side does; export the checkpoint again and compare",
        )
    elif parent is None or parent.file is None or parent.role != "checkpoint":
        yield _not_checked("weights", "the checkpoint that they would be compared with is not here")
    else:
        yield _compared("weights", data, parent.file)
    # What a rounded model or an engine was made of can still be held against its checkpoint.
    if len(links) > 1 and links[0].role == "onnx" and links[1].role == "checkpoint":
        graph, checkpoint = links[0], links[1]
        if graph.file and checkpoint.file and graph.manifest and _keeps_numbers(graph.manifest):
            name = f"weights of {graph.name}"
            yield _compared(name, graph.file.read_bytes(), checkpoint.file)


def _keeps_numbers(manifest: Manifest) -> bool:
    """Whether an exported file holds each weight as its checkpoint does."""
    form = (manifest.kind, manifest.precision, manifest.input, manifest.any_side)
    return form == ("onnx", "float32", "views", True)


def _compared(name: str, data: bytes, checkpoint: Path) -> ProvenanceStep:
    try:
        found = compare_weights(data, checkpoint.read_bytes())
    except (ModelIntegrityError, OSError) as error:
        return _failed(name, str(error))
    if found.problem is not None:
        return _failed(name, f"{found.problem}: not made of {checkpoint.name} alone")
    return _checked(
        name,
        f"{found.equal} tensors with {found.numbers:,} numbers are those of {checkpoint.name}, all "
        f"of them and no others but {found.small_bytes:,} bytes of the graph's own constants",
    )


def _images_step(file: Path, manifest: Manifest) -> ProvenanceStep:
    """What the manifest states of real images; a statement, which the other steps support."""
    if not manifest.origin.trained_on_real_data:
        return _checked(
            "real images", "the manifest states that none trained this model; no file can prove it"
        )
    bundled = file.parent.resolve() == embedder._bundled_folder().resolve()
    if bundled:
        return _failed(
            "real images",
            "the manifest states that some trained it; none may train a bundled model",
        )
    return _checked("real images", "the manifest states that REAL IMAGES TRAINED THIS MODEL")


def _checked(name: str, detail: str) -> ProvenanceStep:
    return _step(name, "checked", detail)


def _failed(name: str, detail: str) -> ProvenanceStep:
    return _step(name, "failed", detail)


def _not_checked(name: str, detail: str) -> ProvenanceStep:
    return _step(name, "not checked", detail)


def _step(name: str, outcome: Outcome, detail: str) -> ProvenanceStep:
    return ProvenanceStep(name, outcome, detail)
