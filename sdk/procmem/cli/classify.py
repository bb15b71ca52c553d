"""`procmem classify`: what photos are called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, open_memory, shared_options, write_json
from procmem.cli.text import (
    answer_as_json,
    count,
    end_without,
    neighbor_as_json,
    percent,
    say,
    shorten,
    table,
)

if TYPE_CHECKING:
    from procmem.types import Answer, Counterfactual, Neighbor

# Votes below this share are not listed.
_LEAST_SHARE = 0.01


@click.command(short_help="Say what photos show.")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-k",
    "k",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Neighbors that vote.",
)
@click.option(
    "--weighting",
    type=click.Choice(["similarity", "rank"]),
    default="similarity",
    show_default=True,
    help="What a neighbor's vote weighs by.",
)
@click.option("--why", is_flag=True, help="Name the votes, and what the answer hangs on.")
@shared_options()
def classify(
    settings: Settings,
    photos: tuple[Path, ...],
    k: int,
    weighting: Literal["similarity", "rank"],
    why: bool,
) -> None:
    """Say what PHOTOS show, by a vote of the nearest remembered photos.

    PHOTOS are files, or folders with everything below them. "novel" marks a photo that is unlike
    all that is remembered. A file that cannot be read is named at the end, and the exit code is
    then 1.
    """
    from procmem.errors import ImageError
    from procmem.photos import find_photos

    failed: list[tuple[str, str]] = []
    answers: list[tuple[Path, Answer]] = []
    reasons: list[Counterfactual] = []
    found = find_photos(photos)
    with open_memory(settings, read_only=True) as memory, progress_bar("asking") as show:
        for done, photo in enumerate(found, start=1):
            try:
                answer = memory.classify(photo.path, k, weighting=weighting)
                if why:
                    reasons.append(memory.counterfactual(photo.path, k, weighting=weighting))
                answers.append((photo.path, answer))
            except ImageError as error:
                failed.append((str(photo.path), str(error)))
            show(done, len(found))
    if settings.as_json:
        write_json(
            {
                "k": k,
                "answers": [
                    {
                        "source": str(path),
                        **answer_as_json(answer),
                        **(_reason_as_json(reasons[at]) if why else {}),
                    }
                    for at, (path, answer) in enumerate(answers)
                ],
                "failed": [{"source": path, "reason": reason} for path, reason in failed],
            }
        )
    elif answers:
        rows = [
            (
                shorten(_short_path(path), 44),
                answer.label or "(nothing to compare with)",
                percent(answer.confidence) if answer.label is not None else "",
                "novel" if answer.is_novel else "",
            )
            for path, answer in answers
        ]
        say(table(rows, head=("photo", "answer", "confidence", ""), right="llr"))
        for at, reason in enumerate(reasons):
            say(f"\n{shorten(_short_path(answers[at][0]), 60)}")
            say(_explained(answers[at][1], reason))
    end_without(failed)


def _explained(answer: Answer, reason: Counterfactual) -> str:
    rows = [
        (percent(share), neighbor.label or "", f"{neighbor.similarity:.3f}", _named(neighbor))
        for neighbor, share in zip(answer.neighbors, answer.shares, strict=True)
        if share >= _LEAST_SHARE
    ]
    lines = [table(rows, head=("vote", "label", "similarity", "source"), right="rlr")]
    if answer.probability is not None:
        lines.append(
            f"answers of this confidence are right {percent(answer.probability)} of the time"
        )
    lines.append(f"as unlike as this: {percent(answer.p_value)} of what is remembered")
    if reason.items:
        after = reason.label_after or "nothing"
        lines.append(f"without {count(len(reason.items), 'item')} the answer would be {after}:")
        lines += [f"  {_named(item)}" for item in reason.items]
    return "\n".join(lines)


def _named(neighbor: Neighbor) -> str:
    return shorten(neighbor.source or f"item {neighbor.id}", 44)


def _reason_as_json(reason: Counterfactual) -> dict[str, object]:
    return {
        "counterfactual": {
            "items": [neighbor_as_json(item) for item in reason.items],
            "label_after": reason.label_after,
        }
    }


def _short_path(path: Path) -> str:
    """The path as seen from the current folder, if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
