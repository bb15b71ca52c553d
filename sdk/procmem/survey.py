"""One pass over all rows of a ledger: each is checked, committed to, and searched for windows.

Used by `writer.py` for the purge, for receipts, and before another model's items are taken over.
`checking.py` does the same over rows as SQLite gives them; a plain ledger is read from its file
here, in C++, which takes a fifth of the time and lets other threads run. What is not found sound
that way is left to `checking.py`, which has the last word and says what is wrong.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from procmem import _erasure
from procmem.checking import Flag, check_rows
from procmem.committer import Committer
from procmem.ledger import read_checksums
from procmem.residue import Search
from procmem.rows import PlainRows, Rows


def survey(
    connection: sqlite3.Connection,
    ledger: Path,
    form: Rows,
    *,
    committer: Committer | None = None,
    search: Search | None = None,
    stopped: Flag | None = None,
) -> None:
    """Reads every row and compares it with its checksum.

    Only for the one process that may write to the ledger: it opens and closes the file, and with
    that POSIX drops all locks that the process has on it, which then keep nobody off who could
    write.

    Args:
        connection: to the ledger, in a transaction that writes nothing.
        ledger: path of the same file, which nobody changes meanwhile.
        form: of its rows.
        committer: is given all items, and not all if the pass fails.
        search: learns what labels and sources are stored in clear, likewise.
        stopped: once it is set the pass ends with sqlite3.OperationalError.

    Raises:
        DamagedRowError: a row is damaged, missing, too many or out of order.
        sqlite3.Error: the file is.
    """
    if isinstance(form, PlainRows) and _survey_file(
        connection, ledger, committer, search, stopped or Flag()
    ):
        return
    check_rows(
        connection,
        form,
        None if committer is None else committer.take,
        see=None if search is None else search.explain,
    )


def _survey_file(
    connection: sqlite3.Connection,
    ledger: Path,
    committer: Committer | None,
    search: Search | None,
    stopped: Flag,
) -> bool:
    """The same of a plain ledger; False if its file is not, in all that was looked at, sound."""
    # Reading from the connection first brings a file that a crash left back to a sound state.
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
    wanted = read_checksums(connection)
    descriptor = os.open(ledger, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        found = _erasure.LedgerPass(
            descriptor,
            os.fstat(descriptor).st_size,
            roots["items"],
            roots["dense"],
            secret=None if committer is None else committer.secret,
            finder=None if search is None else search.finder,
        )
        while found.step():
            if stopped.is_set():
                raise sqlite3.OperationalError("interrupted")
    except ValueError:
        return False
    finally:
        os.close(descriptor)
    if found.checksums() != wanted:
        return False
    if committer is not None:
        committer.add(*found.codes())
    if search is not None:
        search.explain_windows(found.found())
    return True
