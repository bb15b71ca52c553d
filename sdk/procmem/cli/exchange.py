"""`procmem export` and `procmem import`: a memory's items as one file, and back."""

from __future__ import annotations

from pathlib import Path

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import count, say
from procmem.errors import EmbedderMismatchError
from procmem.folder import holds_vault


@click.command("export", short_help="Write the items to a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--id", "ids", type=click.IntRange(min=1), multiple=True, help="Only this item.")
@shared_options(model=False)
def export_command(settings: Settings, file: Path, ids: tuple[int, ...]) -> None:
    """Write all items, or those of --id, to a new FILE: .parquet or .safetensors.

    It holds labels, sources, vectors and masks, not the photos. It is a copy: `procmem delete`
    does not reach it.
    """
    from procmem.exchange import export_items

    with open_memory(settings, read_only=True) as memory, progress_bar("exporting") as show:
        written = export_items(memory, file, ids=ids or None, progress=show)
        path = memory.place
    size = file.stat().st_size
    if settings.as_json:
        write_json({"vault": path, "file": str(file), "items": written, "bytes": size})
        return
    say(f"exported {count(written, 'item')} to {file} ({size / 1e6:.2f} MB)")
    say("it is a copy that `procmem delete` does not reach", err=True)


@click.command("import", short_help="Take in items from a file.")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@shared_options()
def import_command(settings: Settings, file: Path) -> None:
    """Take in the items of a FILE that `procmem export` wrote: all of them, or none.

    Or those of a folder that `procmem embed` wrote; the name of the folder that an image lies in
    becomes its label, and what the memory holds already is passed over. The memory must be of the
    same model; a new one is made with --model.
    """
    if isinstance(settings.vault, Path) and not holds_vault(settings.vault.absolute()):
        _check_model(settings, file)
    with (
        open_memory(settings, read_only=False, new=True) as memory,
        progress_bar("importing") as show,
    ):
        if file.is_dir():
            from procmem.bulk import import_embeddings

            new = import_embeddings(memory, file)
        else:
            from procmem.exchange import import_items

            new = len(import_items(memory, file, progress=show))
        held, path = len(memory), memory.place
    if settings.as_json:
        write_json({"vault": path, "file": str(file), "imported": new, "items": held})
        return
    say(f"imported {count(new, 'item')}; {path} now holds {count(held, 'item')}")


def _check_model(settings: Settings, file: Path) -> None:
    """Refuses a file of another model than a new memory would be bound to, before one is made."""
    from procmem.embedder import DEFAULT_MODEL, model_manifest

    if file.is_dir():
        from procmem.bulk.dataset import model_of_embeddings

        name, sha256, side = model_of_embeddings(file)
    else:
        from procmem.exchange import model_of

        binding = model_of(file)
        name, sha256, side = binding.name, binding.sha256, binding.side
    own = model_manifest(settings.model or DEFAULT_MODEL)
    if sha256 != own.sha256:
        raise EmbedderMismatchError(
            f"{file} holds items of {name} (SHA-256 {sha256}), and a new memory would be of "
            f"{own.name} (SHA-256 {own.sha256}); nothing was made: name the file's model with "
            "--model"
        )
    if side != (settings.image_size or own.preprocessing.crop):
        raise EmbedderMismatchError(
            f"{file} holds items that were seen at image size {side}; nothing was made: import it "
            f"with --image-size {side}"
        )
