"""`procmem demo --page`: the same memory in a browser, taught by a camera or by photos."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from procmem.cli.options import Settings, open_embedder, shown, write_json
from procmem.cli.text import count, say
from procmem.errors import MissingExtraError

if TYPE_CHECKING:
    from procmem.memory import VisualMemory


def show_page(settings: Settings, photos: Path | None, port: int) -> None:
    """Serves the page until Ctrl-C, over the vault of `settings` or one that is thrown away.

    Args:
        settings: of the command.
        photos: taught beforehand, each as its folder's name; photos that the vault has are not
            taught again.
        port: 0 for a free one.

    Raises:
        MissingExtraError: the packages of the extra `page` are not installed.
        ProcmemError: the vault, the model, the photos or the port cannot be used.
    """
    try:
        from procmem.page.server import PageServer
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the page needs the package {error.name!r}; install it with "
            "pip install 'procmem[page]'"
        ) from error
    from procmem.memory import VisualMemory

    with ExitStack() as stack:
        vault = settings.vault
        if vault is None:
            scratch = tempfile.TemporaryDirectory(prefix="procmem-page-")
            vault = Path(stack.enter_context(scratch)) / "vault"
        embedder = stack.enter_context(open_embedder(replace(settings, vault=vault)))
        memory = stack.enter_context(VisualMemory(vault, embedder=embedder, key=settings.vault_key))
        if photos is not None:
            _teach(memory, photos)
        server = PageServer(memory, embedder, port=port)

        def announce() -> None:
            if settings.as_json:
                write_json(
                    {
                        "url": server.url,
                        "vault": shown(replace(settings, vault=vault), memory),
                        "items": len(memory),
                    }
                )
                return
            say(f"open {server.url}")
            kept = (
                f"what is taught stays in {memory.place}"
                if settings.vault
                else "the memory is thrown away at the end; keep one with --vault FOLDER"
            )
            say(
                f"The link is the key to this memory: do not share it. {count(len(memory), 'item')}"
                f" remembered; {kept}. Ctrl-C ends.",
                err=True,
            )

        # Ctrl-C is how it ends, not a failure.
        with suppress(KeyboardInterrupt):
            server.serve(ready=announce)


def _teach(memory: VisualMemory, photos: Path) -> None:
    from procmem.cli.group import progress_bar
    from procmem.teaching import teach

    with progress_bar("teaching") as show:
        for number, taught in enumerate(teach(memory, [photos]), 1):
            show(number, None)
            if taught.reason is not None:
                say(f"left out: {taught.photo.path}: {taught.reason}", err=True)
