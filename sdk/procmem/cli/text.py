"""What the commands print: tables, numbers and answers as text and as JSON values."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from procmem.types import Answer, ErasureReport, MigrationStatus, Neighbor

NO_LABEL = "(no label)"

# What a terminal would obey, a reader would not see, or no encoding has: control characters, line
# breaks, changes of direction, and halves of pairs, by which a name that is no UTF-8 is kept.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Letters that are not another one with a mark.
_LETTERS = str.maketrans("øØłŁđĐ", "oOlLdD") | str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE"}
)


def say(text: str = "", *, err: bool = False) -> None:
    """Prints lines for people, to stdout or stderr, whatever the names in them are made of."""
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed before Python began
        return
    encoding = stream.encoding or "utf-8"
    shown = "\n".join(map(printable, text.split("\n")))
    click.echo(shown.encode(encoding, "backslashreplace").decode(encoding), err=err)


def end_without(failed: Sequence[tuple[str, str]]) -> None:
    """Names what could not be read, (source, reason) each, and ends with exit code 1 if anything.

    On stderr, beside a JSON document too.
    """
    for _, reason in failed:
        say(f"left out: {reason}", err=True)
    if failed:
        raise SystemExit(1)


def printable(text: str) -> str:
    """`text` on one line, with escapes for characters that are not to be shown as they are."""
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_ascii(text: str) -> str:
    """What can be drawn of a text with the font that Pillow brings, which has no other letters.

    Marks above and below letters go ("grün" is "grun"); what has no letter like it is a "?".
    """
    apart = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    shown = [one if one.isascii() else "?" for one in apart if not unicodedata.combining(one)]
    return printable("".join(shown))


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), right: str = "") -> str:
    """Lays rows out in columns, two spaces apart.

    Args:
        rows: of equal length.
        head: titles of the columns; none for a table without titles.
        right: one letter for each column, "r" for right-aligned; missing letters mean left.
    """
    lines = [tuple(map(printable, line)) for line in ([head, *rows] if head else rows)]
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = right.ljust(len(widths), "l")
    out = []
    for line in lines:
        cells = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(line, widths, aligned, strict=True)
        ]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def shorten(text: str, width: int) -> str:
    """`text`, or as much of its end as fits into `width` characters."""
    return text if len(text) <= width else "..." + text[-(width - 3) :]


def cut(text: str, width: int) -> str:
    """`text`, or as much of its beginning as fits into `width` characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


def percent(share: float) -> str:
    """0.934 -> "93%"."""
    return f"{100 * share:.0f}%"


def count(number: int, noun: str) -> str:
    """1 -> "1 photo", 2 -> "2 photos"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON values."""
    return {
        "label": answer.label,
        "confidence": answer.confidence,
        "probability": answer.probability,
        "p_value": answer.p_value,
        "is_novel": answer.is_novel,
        "votes": dict(answer.votes),
        "neighbors": [
            {**neighbor_as_json(neighbor), "share": share}
            for neighbor, share in zip(answer.neighbors, answer.shares, strict=True)
        ],
    }


def neighbor_as_json(neighbor: Neighbor) -> dict[str, Any]:
    """A neighbor as JSON values. Ids are text: many JSON readers keep only 53 bits of a number."""
    return {
        "id": str(neighbor.id),
        "label": neighbor.label,
        "similarity": neighbor.similarity,
        "source": neighbor.source,
    }


def report_as_json(report: ErasureReport) -> dict[str, Any]:
    """An erasure report as JSON values."""
    from procmem.receipt import receipt_text

    return {
        "erased_ids": [str(number) for number in report.erased_ids],
        "remaining": report.remaining,
        "purged": report.purged,
        "on_server": report.on_server,
        "files_scanned": list(report.files_scanned),
        "windows_checked": report.windows_checked,
        "windows_found": report.windows_found,
        "out_of_reach": list(report.out_of_reach),
        "receipt": None if report.receipt is None else json.loads(receipt_text(report.receipt)),
    }


def describe_migration(status: MigrationStatus) -> str:
    """What is left of a move to another model, and what to do about it."""
    model = f"{status.embedder_name} ({status.embedder_sha256[:12]}), {status.image_size} pixels"
    if status.phase == "half-way":
        return (
            f"half-way to {model}: {count(status.items, 'item')} embedded anew; go on with "
            "`procmem migrate`, or undo it with --abort"
        )
    return (
        f"{count(status.items, 'item')} left under {model}, in the folder `previous`; bring "
        "their images back and run `procmem migrate` again, or erase them with --confirm"
    )


def describe_report(report: ErasureReport) -> str:
    """An erasure report in words."""
    lines = [
        f"forgot {count(len(report.erased_ids), 'item')}; "
        f"{count(report.remaining, 'item')} remain" + ("s" if report.remaining == 1 else ""),
    ]
    if report.on_server:
        lines.append(
            "deleted on the server: gone from every answer; it removes the bytes by its own rules"
        )
    else:
        files = ", ".join(report.files_scanned) or "no file"
        lines += [
            (
                "purged: the vault's file was rewritten without them"
                if report.purged
                else "purge pending: the items are deleted and zeroed; the vault's file is "
                "rewritten when it is next opened for writing"
            ),
            f"residue: {report.windows_found:,} of {report.windows_checked:,} 16-byte windows of "
            f"the erased data found in {files}",
        ]
    if report.out_of_reach:
        lines.append("not in the reach of any program:")
        lines += [f"  - {text}" for text in report.out_of_reach]
    return "\n".join(lines)
