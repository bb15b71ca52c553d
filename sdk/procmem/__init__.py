"""procmem: a visual memory on the device that learns by adding and forgets by deleting.

Perception is a model trained on procedural images only; knowledge is a folder of embeddings that
the user owns. `VisualMemory` is the way in, `Embedder` the model by itself; `find_regions`,
`map_components` and `match_patches` see with it without being taught. Importing loads no engine and
no model.
"""

from __future__ import annotations

import typing as _typing

from procmem.address import vault_address as vault_address
from procmem.bundle import receive_items as receive_items
from procmem.bundle import share_items as share_items
from procmem.embedder import Embedder as Embedder
from procmem.embedder import bundled_models as bundled_models
from procmem.errors import BankError as BankError
from procmem.errors import CheckpointError as CheckpointError
from procmem.errors import EmbedderMismatchError as EmbedderMismatchError
from procmem.errors import ExchangeFormatError as ExchangeFormatError
from procmem.errors import ExportError as ExportError
from procmem.errors import ImageDecodeError as ImageDecodeError
from procmem.errors import ImageError as ImageError
from procmem.errors import ImageNotFoundError as ImageNotFoundError
from procmem.errors import ImageTooLargeError as ImageTooLargeError
from procmem.errors import InputError as InputError
from procmem.errors import ItemNotFoundError as ItemNotFoundError
from procmem.errors import MissingExtraError as MissingExtraError
from procmem.errors import ModelError as ModelError
from procmem.errors import ModelIntegrityError as ModelIntegrityError
from procmem.errors import ModelNotFoundError as ModelNotFoundError
from procmem.errors import NotRecipientError as NotRecipientError
from procmem.errors import ParityError as ParityError
from procmem.errors import ProcmemError as ProcmemError
from procmem.errors import ReceiptError as ReceiptError
from procmem.errors import RenderError as RenderError
from procmem.errors import SharingError as SharingError
from procmem.errors import TrainingError as TrainingError
from procmem.errors import UntrustedSignerError as UntrustedSignerError
from procmem.errors import VaultClosedError as VaultClosedError
from procmem.errors import VaultError as VaultError
from procmem.errors import VaultFormatError as VaultFormatError
from procmem.errors import VaultFullError as VaultFullError
from procmem.errors import VaultKeyError as VaultKeyError
from procmem.errors import VaultLockedError as VaultLockedError
from procmem.errors import VaultReadOnlyError as VaultReadOnlyError
from procmem.errors import VaultServerError as VaultServerError
from procmem.errors import WorkerDiedError as WorkerDiedError
from procmem.exchange import export_items as export_items
from procmem.exchange import import_items as import_items
from procmem.image import ImageLike as ImageLike
from procmem.image import load_image as load_image
from procmem.memory import VisualMemory as VisualMemory
from procmem.receipt import Receipt as Receipt
from procmem.receipt import check_receipt as check_receipt
from procmem.receipt import read_receipt as read_receipt
from procmem.receipt import write_receipt as write_receipt
from procmem.record import Item as Item
from procmem.reembedding import abort_migration as abort_migration
from procmem.reembedding import confirm_migration as confirm_migration
from procmem.reembedding import migrate as migrate
from procmem.revocation import apply_revocations as apply_revocations
from procmem.revocation import reissue_revocations as reissue_revocations
from procmem.revocation import revoke as revoke
from procmem.stream import FrameStream as FrameStream
from procmem.stream import StreamResult as StreamResult
from procmem.stream import StreamStatistics as StreamStatistics
from procmem.teaching import Taught as Taught
from procmem.teaching import teach as teach
from procmem.types import Answer as Answer
from procmem.types import Change as Change
from procmem.types import Correspondences as Correspondences
from procmem.types import Counterfactual as Counterfactual
from procmem.types import Embedding as Embedding
from procmem.types import ErasureReport as ErasureReport
from procmem.types import InfluenceReport as InfluenceReport
from procmem.types import LeftBehind as LeftBehind
from procmem.types import MemoryMap as MemoryMap
from procmem.types import MemoryStats as MemoryStats
from procmem.types import MigrationReport as MigrationReport
from procmem.types import MigrationStatus as MigrationStatus
from procmem.types import Neighbor as Neighbor
from procmem.types import ReceiveReport as ReceiveReport
from procmem.types import Regions as Regions
from procmem.types import RevocationReport as RevocationReport
from procmem.types import VerifyReport as VerifyReport
from procmem.untaught import find_regions as find_regions
from procmem.untaught import map_components as map_components
from procmem.untaught import match_patches as match_patches

__all__ = [
    "Answer",
    "BankError",
    "Change",
    "CheckpointError",
    "Correspondences",
    "Counterfactual",
    "Embedder",
    "EmbedderMismatchError",
    "Embedding",
    "ErasureReport",
    "ExchangeFormatError",
    "ExportError",
    "FrameStream",
    "ImageDecodeError",
    "ImageError",
    "ImageLike",
    "ImageNotFoundError",
    "ImageTooLargeError",
    "InfluenceReport",
    "InputError",
    "Item",
    "ItemNotFoundError",
    "LeftBehind",
    "MemoryMap",
    "MemoryStats",
    "MigrationReport",
    "MigrationStatus",
    "MissingExtraError",
    "ModelError",
    "ModelIntegrityError",
    "ModelNotFoundError",
    "Neighbor",
    "NotRecipientError",
    "ParityError",
    "ProcmemError",
    "Receipt",
    "ReceiptError",
    "ReceiveReport",
    "Regions",
    "RenderError",
    "RevocationReport",
    "SharingError",
    "StreamResult",
    "StreamStatistics",
    "Taught",
    "TrainingError",
    "UntrustedSignerError",
    "VaultClosedError",
    "VaultError",
    "VaultFormatError",
    "VaultFullError",
    "VaultKeyError",
    "VaultLockedError",
    "VaultReadOnlyError",
    "VaultServerError",
    "VerifyReport",
    "VisualMemory",
    "WorkerDiedError",
    "__version__",
    "abort_migration",
    "apply_revocations",
    "bundled_models",
    "check_receipt",
    "confirm_migration",
    "export_items",
    "find_regions",
    "import_items",
    "load_image",
    "map_components",
    "match_patches",
    "migrate",
    "read_receipt",
    "receive_items",
    "reissue_revocations",
    "revoke",
    "share_items",
    "teach",
    "vault_address",
    "write_receipt",
]


__version__: str

if not _typing.TYPE_CHECKING:  # or every name that is not there would pass for a str

    def __getattr__(name: str) -> str:
        # importlib.metadata takes several milliseconds, which few programs want to spend.
        if name == "__version__":
            from importlib.metadata import PackageNotFoundError, version

            try:
                return version("procmem")
            except PackageNotFoundError:
                return "0+unknown"
        raise AttributeError(f"module 'procmem' has no attribute {name!r}")
