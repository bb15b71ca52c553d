"""The connection to a Milvus server or a milvus-lite file, and what its errors mean.

Takes an `Address`, serves `journal.py` and `table.py`: a few calls, all of them with a time
limit and with strong consistency, so that each sees what every other process was told is done.

A file is served inside this process through a socket in a folder that only its user may enter:
there is no port that others of the machine could reach. Under strace, pymilvus 3.0 and milvus-lite
3.2 connect to nothing but the server and write nothing but the file. pymilvus tells the server the
name and the clock of this machine when it connects.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from procmem.errors import (
    MissingExtraError,
    VaultClosedError,
    VaultFormatError,
    VaultLockedError,
    VaultReadOnlyError,
    VaultServerError,
)
from procmem.stores.milvus.address import Address

KEYS_AT_ONCE = 5_000
_FIRST_VERSION = (2, 5)


@contextmanager
def understood(place: str, what: str) -> Iterator[None]:
    """Around the reading of what a server holds.

    Raises:
        VaultFormatError: it is of another form than what procmem writes.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise VaultFormatError(
            f"{place}: {what} is not as procmem writes it; something else changed it: restore it "
            "from a backup, or use another memory="
        ) from error


class MilvusConnection:
    """Calls to one server; a lost connection is made anew by the next one.

    Args:
        address: of the server or file.
        read_only: make no file.
        timeout_seconds: of each call.

    Raises:
        MissingExtraError: pymilvus, or for a file milvus-lite, is not installed.
        VaultServerError: the server cannot be reached or refuses.
        VaultLockedError: another process or object has the file open.
        VaultFormatError: the file is another program's, or is not there and shall not be made.
    """

    def __init__(self, address: Address, *, read_only: bool, timeout_seconds: float) -> None:
        self.place = address.place
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._pymilvus = _import_pymilvus()
        self._client: Any = None
        self._loaded: list[str] = []
        self._closed = False
        self._file = None
        if address.path is not None:
            self._file = _ServedFile(address.path, self.place, read_only=read_only)
        try:
            self._connected()
        except BaseException:
            self.close()
            raise

    # ---- collections

    def fields(self, collection: str) -> dict[str, str] | None:
        """Names and types of its fields; None if there is no such collection."""
        with self._errors() as client:
            if not client.has_collection(collection, timeout=self._timeout_seconds):
                return None
            described = client.describe_collection(collection, timeout=self._timeout_seconds)
        return {
            field["name"]: _type_text(field["type"].name, field["params"])
            for field in described["fields"]
        }

    def holds(self, collection: str, layout: Mapping[str, str]) -> bool:
        """Whether there is such a collection.

        Raises:
            VaultFormatError: it has other fields.
        """
        found = self.fields(collection)
        if found is not None and found != layout:
            raise VaultFormatError(
                f"{self.place}: collection {collection} has the fields {found}, wanted "
                f"{dict(layout)}; it is another program's or of another procmem: use another "
                "memory="
            )
        return found is not None

    def make(self, collection: str, fields: Mapping[str, str]) -> None:
        """Makes a collection and its index, unless they are there; its first field is the key.

        FLAT is the one index whose answers are those of a collection that never held what was
        deleted: it has no graph, and Milvus puts no passing index in front of it.
        """
        types = self._pymilvus.DataType
        schema = self._pymilvus.MilvusClient.create_schema(
            auto_id=False, enable_dynamic_field=False
        )
        for position, (name, text) in enumerate(fields.items()):
            kind, _, size = text.partition(" ")
            more: dict[str, Any] = {"is_primary": True} if position == 0 else {}
            if size:
                more["max_length" if kind == "VARCHAR" else "dim"] = int(size)
            schema.add_field(name, types[kind], **more)
        index = self._pymilvus.MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        limit = self._timeout_seconds
        # One shard: what one request writes stands in one log, in one place.
        options = {"num_shards": 1, "consistency_level": "Strong", "timeout": limit}
        try:
            with self._errors() as client:
                if not client.has_collection(collection, timeout=limit):
                    client.create_collection(collection, schema=schema, **options)
        except VaultServerError:
            if self.fields(collection) is None:  # else another process was as quick
                raise
        try:
            with self._errors() as client:
                if not client.list_indexes(collection):
                    client.create_index(collection, index, sync=False, timeout=limit)
        except VaultServerError:
            with self._errors() as client:
                if not client.list_indexes(collection):
                    raise

    def load(self, collection: str) -> None:
        """Lets the server answer from it, from now on and over every new connection."""
        with self._errors() as client:
            self._load(client, collection)
        if collection not in self._loaded:
            self._loaded.append(collection)

    # ---- rows

    def insert(self, collection: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores rows; the server does not look whether their keys are in use."""
        if rows:
            with self._errors() as client:
                client.insert(collection, list(rows), timeout=self._timeout_seconds)

    def query(
        self, collection: str, where: str, fields: Sequence[str], *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows that a filter lets through; with a limit those of the smallest keys."""
        more: dict[str, Any] = {}
        if limit is not None:
            # As pymilvus's own iterator asks: in order of keys, shorter rather than with gaps.
            more = {"limit": limit, "iterator": "True", "reduce_stop_for_best": "True"}
        with self._errors() as client:
            return list(
                client.query(
                    collection,
                    filter=where,
                    output_fields=list(fields),
                    consistency_level="Strong",
                    timeout=self._timeout_seconds,
                    **more,
                )
            )

    def count(self, collection: str, where: str) -> int:
        """How many rows a filter lets through."""
        return int(self.query(collection, where, ["count(*)"])[0]["count(*)"])

    def search(
        self, collection: str, query: Any, where: str, fields: Sequence[str], *, limit: int
    ) -> list[tuple[float, dict[str, Any]]]:
        """Cosine similarities and rows of the nearest, nearest first."""
        with self._errors() as client:
            hits = client.search(
                collection,
                data=[query],
                anns_field="vector",
                filter=where,
                limit=limit,
                output_fields=list(fields),
                search_params={"metric_type": "COSINE"},
                consistency_level="Strong",
                timeout=self._timeout_seconds,
            )
        return [(float(hit["distance"]), dict(hit["entity"])) for hit in hits[0]]

    def delete(self, collection: str, keys: Sequence[str]) -> None:
        """Deletes the rows of these keys in one request."""
        if keys:
            with self._errors() as client:
                client.delete(collection, ids=list(keys), timeout=self._timeout_seconds)

    def delete_where(self, collection: str, where: str) -> None:
        """Deletes all rows that a filter lets through, and looks that none is left."""
        while rows := self.query(collection, where, ["key"], limit=KEYS_AT_ONCE):
            self.delete(collection, [row["key"] for row in rows])

    def bytes_on_disk(self) -> int | None:
        """Of a file, all that it takes up; None for a server."""
        if self._address.path is None:
            return None
        return sum(
            entry.stat().st_size for entry in self._address.path.rglob("*") if entry.is_file()
        )

    def close(self) -> None:
        """Ends the connection, and the service of a file. Again is fine."""
        self._closed = True
        self._drop_client()
        if self._file is not None:
            self._file.close()

    # ---- how

    def _connected(self) -> Any:
        if self._closed:
            raise VaultClosedError(f"the memory at {self.place} is closed; open it again")
        if self._client is None:
            address = self._address
            scheme = "https" if address.secure else "http"
            host = f"[{address.host}]" if ":" in address.host else address.host
            uri = f"{scheme}://{host}:{address.port}" if self._file is None else self._file.uri()
            with self._translated():
                self._client = self._pymilvus.MilvusClient(
                    uri,
                    token=f"{address.user}:{address.password}" if address.user else "",
                    db_name=address.database,
                    timeout=self._timeout_seconds,
                    # Nothing shared with other connections of this process: where a server has
                    # sent one of them away, gRPC would let this one wait or fail with it.
                    dedicated=True,
                    grpc_options={"grpc.use_local_subchannel_pool": 1},
                )
                self._check_version(self._client.get_server_version())
                for collection in self._loaded:  # a server may forget that when it starts anew
                    self._load(self._client, collection)
        return self._client

    def _load(self, client: Any, collection: str) -> None:
        limit = self._timeout_seconds
        # One who may only read is not let to load what is loaded.
        if client.get_load_state(collection, timeout=limit)["state"].name != "Loaded":
            client.load_collection(collection, timeout=limit)

    def _check_version(self, version: str) -> None:
        numbers = version.rpartition("milvus-lite-")[2].lstrip("v").split(".")[:2]
        if all(number.isdecimal() for number in numbers):
            found = tuple(map(int, numbers))
            if found < _FIRST_VERSION:
                raise VaultServerError(
                    f"{self.place} is Milvus {version}, wanted 2.5 or later; upgrade the server"
                )

    @contextmanager
    def _errors(self) -> Iterator[Any]:
        try:
            client = self._connected()
            with self._translated():
                yield client
        except VaultServerError:
            self._drop_client()
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import grpc

        try:
            yield
        except (self._pymilvus.MilvusException, grpc.RpcError) as error:
            raise VaultServerError(f"{self.place} {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        """What is wrong and what to do; the server's own words without user and password."""
        words = [_words(error)]
        if error.__cause__ is not None:  # pymilvus does not say why it could not connect
            words.append(_words(error.__cause__))
        text = "; ".join(dict.fromkeys(words))
        for secret in (self._address.password, self._address.user):
            text = text.replace(secret, "***") if secret else text
        low = text.lower()
        if "auth check failure" in low or "unauthenticated" in low:
            return "refuses user or password; check both in the address"
        if "database not found" in low:
            return (
                f"has no database {self._address.database!r}; make it, or leave it out of the "
                "address"
            )
        if "no space left" in low or "disk quota" in low:
            return f"has no room on its disk; make some there ({text[:200]})"
        if "permission" in low:
            return f"does not let this user do that; ask its administrator ({text[:200]})"
        if any(sign in low for sign in ("unavailable", "deadline", "connect", "timeout")):
            return (
                f"does not answer within {self._timeout_seconds:g} seconds; check host, port and "
                f"secure= in the address, and that the server runs ({text[:200]})"
            )
        return f"refuses: {text[:500]}"

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # what is broken already may not close
                client.close()


class _ServedFile:
    """A milvus-lite file, served to this process alone, one call after the other.

    milvus-lite has no locks around writing: calls at a time could lose rows of each other.
    """

    def __init__(self, path: Path, place: str, *, read_only: bool) -> None:
        try:
            from milvus_lite import DataDirLockedError, MilvusLite
            from milvus_lite.adapter.grpc.servicer import MilvusServicer
        except ImportError as error:
            raise MissingExtraError(
                f"{place} is a file of milvus-lite, which is not installed; "
                "run: pip install 'procmem[milvus]' milvus-lite"
            ) from error
        import grpc
        from pymilvus.grpc_gen import milvus_pb2_grpc

        if path.exists() and not path.is_dir():
            raise VaultFormatError(
                f"{place} is a file of an older milvus-lite or of another program; use another name"
            )
        if read_only and not path.exists():
            raise VaultFormatError(
                f"there is no file {place}; check the address, or open it for writing to make one"
            )
        if not path.parent.is_dir():
            raise VaultReadOnlyError(f"{place}: there is no folder {path.parent}; make it first")
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            self._lite = MilvusLite(str(path))
        except DataDirLockedError:
            raise VaultLockedError(
                f"{place} is open in another process or object; close it there, or start a server "
                "for several"
            ) from None
        except OSError as error:
            raise VaultReadOnlyError(f"{place} cannot be written: {error.strerror}") from error
        self._folder = Path(tempfile.mkdtemp(prefix="procmem-"))
        # Also if nobody closes it.
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, True)
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=1),
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # pymilvus pings every ten seconds, which gRPC would take for abuse, and hang up.
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(
            MilvusServicer(self._lite), self._server
        )
        self._server.add_insecure_port(self.uri())
        self._server.start()
        self._open = True

    def uri(self) -> str:
        return f"unix:{self._folder / 'milvus.sock'}"

    def close(self) -> None:
        if self._open:
            self._open = False
            self._server.stop(grace=None).wait()
            self._lite.close()
            self._remove_folder()


def _import_pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise MissingExtraError(
            "memories on Milvus need pymilvus; run: pip install 'procmem[milvus]'"
        ) from error
    # It prints every error it raises, with a traceback; they are raised here, and once is enough.
    logger = logging.getLogger("pymilvus")
    if logger.level == logging.WARNING:  # as it sets it itself
        logger.setLevel(logging.CRITICAL)
    return pymilvus


def _words(error: BaseException) -> str:
    """What pymilvus and gRPC say: their errors are no texts of their own."""
    code: Any = getattr(error, "code", None)
    code = code() if callable(code) else code
    details: Any = getattr(error, "details", None)
    text = getattr(error, "message", "") or (details() if callable(details) else str(error))
    return f"{getattr(code, 'name', '')} {text}".strip()


def _type_text(name: str, params: Mapping[str, Any]) -> str:
    size = params.get("max_length") or params.get("dim")
    return f"{name} {size}" if size else name
