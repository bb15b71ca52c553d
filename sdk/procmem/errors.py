"""Every error that a user can cause, in one tree.

Used by all rooms; imports nothing of procmem. The tree::

    ProcmemError
    ├── InputError (ValueError)              an argument has a wrong value, shape or count
    │   ├── ItemNotFoundError (LookupError)  an id, label or source that the memory does not hold
    │   └── ExchangeFormatError              a file to import that is foreign, newer or corrupt
    ├── ImageError (ValueError)
    │   ├── ImageNotFoundError (FileNotFoundError)
    │   ├── ImageDecodeError                 not an image, truncated, empty, or an unsupported kind
    │   └── ImageTooLargeError               more pixels or bytes than the limit
    ├── ModelError
    │   ├── ModelNotFoundError (FileNotFoundError)
    │   ├── ModelIntegrityError (ValueError) hash, manifest or graph is not what it must be
    │   └── EmbedderMismatchError (ValueError)  a vault made by another model
    ├── VaultError (OSError)
    │   ├── VaultLockedError                 another process or object holds the vault for writing
    │   ├── VaultReadOnlyError (PermissionError)
    │   ├── VaultFullError                   the disk is full
    │   ├── VaultFormatError                 foreign, newer or corrupt file
    │   ├── VaultClosedError                 used after close()
    │   └── VaultServerError (ConnectionError)  a server that cannot be reached, or refuses
    ├── ReceiptError (ValueError)            an erasure receipt that is damaged or cannot be made
    ├── MissingExtraError (ImportError)      an optional dependency is not installed
    ├── RenderError (RuntimeError)           no graphics context, or a shader that does not compile
    ├── TrainingError (RuntimeError)         a run that cannot start, resume or go on
    │   ├── BankError (ValueError)           a program bank that is damaged or of another grammar
    │   └── CheckpointError (ValueError)     a checkpoint that is missing, damaged or unlike
    └── ExportError (RuntimeError)
        └── ParityError                      the exported model does not answer as the original does

A message names the thing, the value it got, the value it wanted and the way out.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ProcmemError(Exception):
    """Base of every error that procmem raises on purpose."""


class InputError(ProcmemError, ValueError):
    """An argument has a wrong value, shape, type or count."""


class ItemNotFoundError(InputError, LookupError):
    """The memory holds no item with this id, label or source."""


class ExchangeFormatError(InputError):
    """The file is not an export of a memory, is damaged, or was made by a newer procmem."""


class ImageError(ProcmemError, ValueError):
    """An image could not be used."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """No file at the image's path."""


class ImageDecodeError(ImageError):
    """The bytes are not an image that procmem can read completely."""


class ImageTooLargeError(ImageError):
    """The image has more pixels or bytes than the limit."""


class ModelError(ProcmemError):
    """A model file could not be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model of this name or at this path."""


class ModelIntegrityError(ModelError, ValueError):
    """A model's hash, manifest or graph is not what it must be."""


class EmbedderMismatchError(ModelError, ValueError):
    """The vault holds embeddings of another model."""


class VaultError(ProcmemError, OSError):
    """The vault on disk could not be used."""


class VaultLockedError(VaultError):
    """Another process or object holds the vault open for writing."""


class VaultReadOnlyError(VaultError, PermissionError):
    """The vault, or the folder it lives in, may not be written."""


class VaultFullError(VaultError):
    """The disk has no room for the write; nothing was changed."""


class VaultFormatError(VaultError):
    """The file is not a vault, is damaged, or was made by a newer procmem."""


class VaultKeyError(VaultError):
    """A sealed vault's key is missing, is another one's, or cannot be kept."""


class VaultClosedError(VaultError):
    """The memory was used after `close()`."""


class VaultServerError(VaultError, ConnectionError):
    """The server that keeps the memory cannot be reached, or refuses."""


class ReceiptError(ProcmemError, ValueError):
    """An erasure receipt is damaged, is none, or cannot be made."""


class MissingExtraError(ProcmemError, ImportError):
    """An optional dependency is not installed; the message has the exact command."""


class WorkerDiedError(ProcmemError, RuntimeError):
    """Worker processes ended without having said why."""


class RenderError(ProcmemError, RuntimeError):
    """No graphics context could be made, or a program could not be drawn."""


class TrainingError(ProcmemError, RuntimeError):
    """A training run cannot start, resume or go on."""


class BankError(TrainingError, ValueError):
    """A program bank is missing, damaged or of another grammar."""


class CheckpointError(TrainingError, ValueError):
    """A checkpoint is missing, damaged or of another architecture."""


class ExportError(ProcmemError, RuntimeError):
    """A checkpoint could not be turned into a model file."""


class ParityError(ExportError):
    """The exported model does not answer as the original does; no file was kept."""


def unknown_choice(what: str, value: object, choices: Iterable[str]) -> InputError:
    """The error for a value that is none of the choices; its message offers the nearest.

    Args:
        what: the argument, e.g. "device".
        value: what was given.
        choices: what is possible, at least one.
    """
    names = list(choices)
    nearest = get_close_matches(str(value), names, n=1, cutoff=0.0)[0]
    return InputError(
        f"{what} is {value!r}, wanted one of {', '.join(names)}; did you mean {nearest!r}?"
    )
