"""Options that the commands share, and the memory that they open with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from procmem.backends.devices import DEVICES
from procmem.errors import InputError
from procmem.stores.address import is_address

if TYPE_CHECKING:
    from procmem.embedder import Embedder
    from procmem.memory import VisualMemory

DEFAULT_VAULT = "procmem-vault"
_SHARED = ("vault", "vault_key", "model", "image_size", "device")

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the shared options say.

    Attributes:
        vault: folder of the memory, its address on a server, or None if the option was not given
            and has no default.
        vault_key: of a sealed memory, "keystore" or a key file; None for one that is not.
        model: name of a bundled model or path of an .onnx file; None for the default.
        image_size: side of what the model sees, pixels; None for the memory's, or the model's own.
        device: where the model runs, one of `procmem.backends.DEVICES`.
        as_json: True if stdout is to be one JSON document.
    """

    vault: Path | str | None
    vault_key: str | None
    model: str | None
    image_size: int | None
    device: str
    as_json: bool


def global_options(function: Command) -> Command:
    """Adds to the group the shared options, for people who write them before the command."""
    options = (
        _device_option(),
        _image_size_option(),
        _model_option(),
        _vault_key_option(),
        _vault_option(DEFAULT_VAULT),
    )
    for option in options:
        function = option(function)
    return function


def shared_options(
    *,
    vault: bool = True,
    model: bool = True,
    default_vault: str | None = DEFAULT_VAULT,
    model_option: Command | None = None,
) -> Callable[[Command], Command]:
    """Adds the shared options to a command, which gets them as its first argument, `Settings`.

    Args:
        vault: False for a command that opens no memory.
        model: False for a command that opens no model.
        default_vault: what the help says and an absent option means; None for no vault.
        model_option: in place of the usual one, of the same name.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(*args: Any, as_json: bool, **kwargs: Any) -> None:
            given = {name: _given(name, kwargs.pop(name, None)) for name in _SHARED}
            folder = given["vault"] or default_vault
            settings = Settings(
                vault=folder if folder is None or is_address(folder) else Path(folder),
                vault_key=given["vault_key"],
                model=given["model"],
                image_size=given["image_size"] if model else None,
                device=given["device"] or "auto",
                as_json=as_json,
            )
            function(settings, *args, **kwargs)

        # Applied from the last to the first: the help lists them in reading order.
        with_options: Command = click.option(
            "--json", "as_json", is_flag=True, help="One JSON document on stdout."
        )(command)
        if model:
            with_options = _device_option()(with_options)
            with_options = (model_option or _model_option())(_image_size_option()(with_options))
        if vault:
            with_options = _vault_option(default_vault)(_vault_key_option()(with_options))
        return with_options

    return decorate


def is_given(name: str, *, before: bool = True) -> bool:
    """Whether a person wrote a shared option after the command or, if `before`, in front of it."""
    context = click.get_current_context()
    written = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return written or (before and context.find_root().params.get(name) is not None)


def open_memory(settings: Settings, *, read_only: bool, new: bool = False) -> VisualMemory:
    """Opens the memory that the options name.

    Args:
        settings: the options.
        read_only: as `VisualMemory`.
        new: make one if there is none. Only for what brings items: who forgets in a memory that is
            not there has named another one than was meant.

    Raises:
        VaultFormatError: there is none, and none is to be made.
        ProcmemError: whatever `VisualMemory` raises.
    """
    from procmem.memory import VisualMemory

    if settings.vault is None:
        raise InputError("no vault was named; add --vault FOLDER")
    return VisualMemory(
        settings.vault,
        embedder=settings.model,
        image_size=settings.image_size,
        device=settings.device,
        read_only=read_only,
        key=settings.vault_key,
        create=new,
    )


def folder_of(settings: Settings, what: str) -> Path | None:
    """The vault's folder, for a command that needs one.

    Raises:
        InputError: it is on a server; `what` says what cannot be done there.
    """
    if isinstance(settings.vault, str):
        raise InputError(f"{what} needs the folder of a vault; give one with --vault")
    return settings.vault


def shown(settings: Settings, memory: VisualMemory) -> str:
    """The vault as it was named, or its address without the password."""
    return str(settings.vault) if isinstance(settings.vault, Path) else memory.place


def open_embedder(settings: Settings) -> Embedder:
    """Opens the model that the options name, without a memory."""
    from procmem.embedder import DEFAULT_MODEL, Embedder

    model = DEFAULT_MODEL if settings.model is None else settings.model
    return Embedder(model, image_size=settings.image_size, device=settings.device)


def write_json(document: dict[str, Any]) -> None:
    """Writes the one JSON document of a command to stdout."""
    click.echo(json.dumps(document, indent=2))  # ASCII, which every encoding of stdout has


def _given(name: str, here: Any) -> Any:
    """A shared option's value: from after the command, else from before it."""
    context = click.get_current_context()
    root = context.find_root()
    # A variable of the environment counts in both places, and must not hide what a person wrote.
    written = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return here if written or root.params.get(name) is None else root.params[name]


def _vault_option(default: str | None) -> Command:
    note = f"  [default: {default}]" if default else "  [default: a temporary one]"
    return click.option(
        "--vault",
        type=click.Path(file_okay=False),
        metavar="FOLDER|ADDRESS",
        help="Folder of the memory, or its address on a server." + note,
    )


def _vault_key_option() -> Command:
    return click.option(
        "--vault-key",
        metavar="FILE|keystore",
        envvar="PROCMEM_VAULT_KEY",
        help="Key of a sealed memory: a key file, made if the memory is new, or the system's "
        "keystore. Without it a new memory is not sealed.",
    )


def _model_option() -> Command:
    return click.option(
        "--model",
        metavar="NAME|FILE",
        help="A bundled model, or an .onnx file with its manifest.  [default: vit-tiny]",
    )


def _image_size_option() -> Command:
    return click.option(
        "--image-size",
        type=int,
        metavar="PIXELS",
        envvar="PROCMEM_IMAGE_SIZE",
        show_envvar=True,
        help="Side of the square that the model sees of an image, a multiple of its patch size: "
        "larger for finer regions, smaller for speed. A memory keeps the one it was made with.  "
        "[default: the memory's, or 224]",
    )


def _device_option() -> Command:
    return click.option(
        "--device",
        type=click.Choice(DEVICES),
        metavar="DEVICE",
        help=f"Where the model runs: {', '.join(DEVICES[:-1])} or {DEVICES[-1]}; `procmem doctor` "
        "says what works here.  [default: auto]",
    )
