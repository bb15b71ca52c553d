"""A folder on this machine or in an object store, as pyarrow's file systems give it.

Used by everything in this package. Promises that a file that is written is there whole or not at
all, and that a folder is listed in the same order everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from pyarrow import ArrowInvalid
from pyarrow import fs as arrow_fs

from procmem.errors import InputError
from procmem.manifest import write_bytes_atomically
from procmem.photos import PHOTO_SUFFIXES, files_below


class Storage:
    """One folder.

    Args:
        place: a path, or an address such as "s3://bucket/folder" or "gs://bucket/folder".

    Raises:
        InputError: no such kind of address, or it cannot be reached with what is set up here.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place = os.fspath(place)
        if "://" in self.place:
            try:
                self._files, root = arrow_fs.FileSystem.from_uri(self.place)
            except (ArrowInvalid, OSError, NotImplementedError) as error:
                raise InputError(
                    f"{self.place} cannot be opened: {error}; wanted a folder, or an address that "
                    "pyarrow knows (s3://, gs://, abfs://, hdfs://, file://)"
                ) from error
            self._root = root.rstrip("/")
            scheme = self.place.split("://", 1)[0]
            self._prefix = "" if scheme == "file" else f"{scheme}://"
        else:
            self._files = arrow_fs.LocalFileSystem()
            self._root = str(Path(self.place).absolute())
            self._prefix = ""

    @property
    def is_local(self) -> bool:
        """True for a folder of this machine."""
        return isinstance(self._files, arrow_fs.LocalFileSystem)

    @property
    def folder(self) -> Path:
        """The folder, of a local one."""
        return Path(self._root)

    def images(self) -> list[str]:
        """Sources of all images below, sorted: absolute paths, or addresses.

        Those that end as photos do (`photos.PHOTO_SUFFIXES`); names that begin with a dot are
        passed over.

        Raises:
            InputError: there is no such folder.
        """
        if self.is_local:
            if not self.folder.is_dir():
                raise InputError(f"{self.place} is no folder; give the one that the photos are in")
            # Not by pyarrow, which stops at the first name that is not UTF-8.
            return sorted(map(_readable, files_below(self.folder)))
        selector = arrow_fs.FileSelector(self._root, recursive=True)
        try:
            entries = self._files.get_file_info(selector)
        except OSError as error:
            raise InputError(f"{self.place} cannot be listed: {error}; check the path") from error
        below = len(self._root) + 1
        return sorted(
            self._prefix + entry.path
            for entry in entries
            if entry.type == arrow_fs.FileType.File
            and PurePosixPath(entry.path).suffix.lower() in PHOTO_SUFFIXES
            and not any(part.startswith(".") for part in entry.path[below:].split("/"))
        )

    def read_source(self, source: str) -> bytes:
        """The bytes of one of `images`. Raises OSError."""
        if self.is_local and "\\x" in source and not Path(source).exists():
            raise OSError(f"the name {source} is not UTF-8; rename the file")
        with self._files.open_input_stream(source.removeprefix(self._prefix)) as stream:
            data: bytes = stream.read()
        return data

    def names(self, folder: str) -> list[str]:
        """Names of the files in a subfolder, sorted; none if there is no such folder.

        Those that begin with a dot are passed over: a kill in the middle of `write` leaves them.
        """
        selector = arrow_fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        entries = self._files.get_file_info(selector)
        return sorted(
            entry.base_name
            for entry in entries
            if entry.type == arrow_fs.FileType.File and not entry.base_name.startswith(".")
        )

    def read(self, name: str) -> bytes | None:
        """The bytes of a file below, or None if there is none. Raises OSError."""
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                data: bytes = stream.read()
        except FileNotFoundError:
            return None
        return data

    def write(self, name: str, data: bytes) -> None:
        """Makes or replaces a file below, whole. Raises OSError."""
        target = f"{self._root}/{name}"
        if not self.is_local:  # an object appears when it is complete
            with self._files.open_output_stream(target) as stream:
                stream.write(data)
            return
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two runs may write the same part, which is the same either way.
        write_bytes_atomically(path, data)


def _readable(path: Path) -> str:
    """A path as Parquet can hold it: bytes that are not UTF-8 as backslash, x and two digits."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
