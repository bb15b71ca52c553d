"""A memory goes over to another model: every item embedded anew, from the image it came from.

    report = migrate("vault", "new-model.onnx")
    confirm_migration("vault")          # erase what could not be shown to the new model

Stands before `memory.py`. `seeing_anew.py` goes through the items, `switch.py` has the steps on
disk; `migration.py`, by a like name, is about formats. It needs the sources and the new model only.
Where the old model is at hand too, it looks at every image first, so that a file that has changed
since is not taken for the one that was taught.

Promises: until the switch the memory answers under the old model, with all of its items, and
`abort_migration` leaves no trace of the attempt; the switch is one rename; whoever stops, or is
stopped, goes on with the same call, and nothing is embedded twice. What cannot be embedded anew is
kept, under the old model, in the folder `previous` until somebody confirms that it may go. A memory
that has gone over is byte for byte one that was taught with the new model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from procmem.batch import Perception, binding_of, check_embedder
from procmem.beside import NEXT, PREVIOUS
from procmem.embedder import DEFAULT_MODEL, Embedder, Progress, bundled_models, model_manifest
from procmem.errors import InputError, ModelError, VaultFormatError
from procmem.folder import check_binding, holds_vault, path_of
from procmem.memory import VisualMemory
from procmem.record import Binding
from procmem.seeing_anew import Run
from procmem.stores.address import is_address
from procmem.switch import undo
from procmem.types import ErasureReport, MigrationReport
from procmem.vault import Vault

Place = VisualMemory | str | os.PathLike[str]
Eyes = Perception | str | Path


def migrate(
    memory: Place,
    model: Eyes = DEFAULT_MODEL,
    *,
    image_size: int | None = None,
    device: str = "auto",
    old_model: Eyes | None = None,
    key: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> MigrationReport:
    """Brings a memory to another model, or goes on with a migration that was interrupted.

    Every item whose source is the path of a readable image is embedded anew; ids, labels, sources
    and times stay, and masks are fitted to the new side. Items that cannot be are left in
    `<memory>/previous`, a memory of the old model that may be opened for reading. With a memory
    that is of `model` already, those that were left are tried again.

    Args:
        memory: folder of one, or one that is open for writing: it may be asked and may forget in
            the meantime, and is closed by the switch.
        model: the new one; see `VisualMemory`.
        image_size: S, at which it sees images, pixels; None for the memory's present one if the
            model runs at that, and else the model's own.
        device: where models run that are opened here.
        old_model: the one that the memory is of, to compare images with what was taught. None
            takes the memory's, or the bundled one; without either, nothing is compared.
        key: of a sealed memory that is given by its folder.
        progress: called after every item with (done, total).

    Returns:
        What became of the items. If none of them could be embedded, nothing is switched: also not
        after an earlier run, if the images that it has embedded cannot be read any more either.
        Cost: one run of the new model per item, a second one per mask; one of the old model to
        compare.

    Raises:
        InputError: the memory is of this model already, or an argument has a wrong value.
        EmbedderMismatchError: `old_model` is not the memory's, or another migration is half-way.
        VaultFormatError: there is no memory.
        ModelError: a model cannot be opened.
        VaultLockedError, VaultReadOnlyError, VaultFullError, VaultKeyError: as `VisualMemory`; what
            was embedded stays.
    """
    with _opened(memory, key, device) as held, contextlib.ExitStack() as ends:
        vault = held._vault
        eyes = _new_eyes(vault, model, image_size, device)
        if eyes is not model:
            ends.callback(eyes.close)
        left_under = _left_under(vault, binding_of(eyes))
        old = _old_eyes(held, old_model, left_under)
        if old is not None and old is not old_model and old is not held._embedder:
            ends.callback(old.close)
        run = Run(vault, eyes, old, progress)
        if left_under is not None:
            return run.take_back()
        report = run.go_over()
        if report.switched:
            held.close()  # its model is not the memory's any more
        return report


def confirm_migration(memory: Place, *, key: str | os.PathLike[str] | None = None) -> ErasureReport:
    """Erases what a migration has left under the previous model, as `VisualMemory.delete` does.

    Args:
        memory: folder of one, or one that is open for writing.
        key: of a sealed memory that is given by its folder.

    Raises:
        InputError: nothing waits to be confirmed.
        VaultError: as `VisualMemory.delete`; nothing was deleted.
    """
    with _opened(memory, key, "auto") as held:
        with held._vault.mutex:  # another thread may erase them
            previous = held._vault.open_beside.get(PREVIOUS)
            if previous is None:
                raise InputError(
                    f"{held.path} has no items under a previous model; there is nothing to confirm"
                )
            left = previous.ids()
        return held.delete(left)


def abort_migration(memory: Place, *, key: str | os.PathLike[str] | None = None) -> ErasureReport:
    """Undoes a migration that has not switched: erases what it has embedded.

    Args:
        memory: folder of one, or one that is open for writing.
        key: of a sealed memory that is given by its folder.

    Returns:
        What was searched for; no item is erased.

    Raises:
        InputError: no migration is half-way.
        VaultError: it cannot be written or searched.
    """
    with _opened(memory, key, "auto") as held:
        if NEXT not in held._vault.open_beside:
            more = (
                "; what it left under the previous model is erased by `procmem migrate --confirm`"
                if PREVIOUS in held._vault.open_beside
                else ""
            )
            raise InputError(
                f"no migration of {held.path} is half-way; there is nothing to undo{more}"
            )
        return undo(held._vault)


# ---- what is opened


@contextlib.contextmanager
def _opened(
    memory: Place, key: str | os.PathLike[str] | None, device: str
) -> Iterator[VisualMemory]:
    """The memory, open for writing; closed again if it was not open before."""
    if isinstance(memory, VisualMemory):
        if key is not None:
            raise InputError("key is given with an open memory, which has its own; leave it out")
        memory._check_writable()
        yield memory
        return
    if isinstance(memory, str) and is_address(memory):
        raise InputError(
            "a memory on a server cannot be migrated; export its items and import them into a "
            "vault, migrate that, and teach a new memory on the server from it"
        )
    if not holds_vault(path_of("memory", memory).absolute()):
        raise VaultFormatError(f"{memory} holds no memory to migrate; check the path")
    with VisualMemory(memory, key=key, device=device) as opened:
        yield opened


def _new_eyes(vault: Vault, model: Eyes, image_size: int | None, device: str) -> Perception:
    if not isinstance(model, (str, Path)):
        check_embedder(model, image_size)
        return model
    if image_size is None:
        manifest = model_manifest(model)
        half_way = vault.open_beside.get(NEXT)
        side = vault.binding.side
        if half_way is not None and half_way.binding.sha256 == manifest.sha256:
            side = half_way.binding.side
        fits = manifest.any_side and side % manifest.patch_size == 0
        image_size = side if fits else manifest.preprocessing.crop
    return cast(Perception, Embedder(model, image_size=image_size, device=device))


def _left_under(vault: Vault, wanted: Binding) -> Binding | None:
    """The model of what an earlier migration left, and is to be tried again; None for a first run.

    Raises:
        InputError: there is nothing to do, or something else to do first.
    """
    bound = vault.binding
    with vault.mutex:  # another thread may erase what was left
        previous = vault.open_beside.get(PREVIOUS)
        if previous is not None and bound != wanted:
            raise InputError(
                f"{vault.path} still has {previous.count()} items under {previous.binding.name}; "
                f"bring their images back and migrate to {bound.name} (SHA-256 {bound.sha256}) "
                "again, or erase them with `procmem migrate --confirm`, before it goes on to a "
                "third model"
            )
    if previous is not None:
        return previous.binding
    if bound == wanted:
        raise InputError(
            f"{vault.path} is of {bound.name} at {bound.side} pixels (SHA-256 {bound.sha256}) "
            "already; name another model, or another image size"
        )
    return None


def _old_eyes(
    memory: VisualMemory, old_model: Eyes | None, left_under: Binding | None
) -> Perception | None:
    """The model that items were taught with, None if it is not at hand.

    Args:
        memory: the memory.
        old_model: as `migrate`.
        left_under: the model of what an earlier migration left; None for the memory's own.

    Raises:
        EmbedderMismatchError: `old_model` is another one.
    """
    bound = left_under or memory._vault.binding
    if old_model is not None and not isinstance(old_model, (str, Path)):
        check_binding(memory.path, bound, binding_of(old_model))
        return old_model
    if left_under is None and memory._embedder is not None and old_model is None:
        return memory._embedder
    model = bound.name if old_model is None else old_model
    if old_model is None:
        with contextlib.suppress(ModelError):
            if bound.name in bundled_models() and model_manifest(model).sha256 == bound.sha256:
                return cast(
                    Perception,
                    Embedder(model, image_size=bound.side, device=memory._device),
                )
        return None
    opened = Embedder(model, image_size=bound.side, device=memory._device)
    try:
        check_binding(memory.path, bound, binding_of(opened))
    except BaseException:
        opened.close()
        raise
    return opened
