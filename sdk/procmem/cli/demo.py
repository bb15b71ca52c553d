"""`procmem demo`: the whole product on real photos, told step by step.

Everything it prints was computed in this run: it teaches, asks photos that were not taught, forgets
one, and compares with a second memory that never held it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from procmem.cli.group import progress_bar
from procmem.cli.options import Settings, folder_of, open_embedder, shared_options, write_json
from procmem.cli.text import (
    answer_as_json,
    count,
    cut,
    percent,
    report_as_json,
    say,
    shorten,
    table,
)

if TYPE_CHECKING:
    from procmem.cli.lessons import Lesson, Lessons
    from procmem.embedder import Embedder
    from procmem.memory import VisualMemory
    from procmem.types import Answer, Neighbor

_K = 5
_NEIGHBORS_SHOWN = 5
_ROWS_SHOWN = 24
_INDENT = "   "


@click.command(short_help="See the whole thing work on real photos.")
@click.argument("photos", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="procmem-demo",
    show_default=True,
    metavar="FOLDER",
    help="Where the pictures go.",
)
@click.option("--page", is_flag=True, help="Show it in a browser instead, with a camera or photos.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Of the page, on this machine only; a free one unless given.",
)
@shared_options(default_vault=None)
def demo(settings: Settings, photos: Path | None, out: Path, *, page: bool, port: int) -> None:
    """Teach photos, recognize new ones, mark regions, forget one, and prove that it is gone.

    PHOTOS is a folder with a subfolder for each label, of which some photos are kept back and
    asked; or a folder of single photos, of which parts are taught and other parts asked. Without
    PHOTOS the public-domain photos of scikit-image are used.

    With --page a page is served to browsers on this machine (extra `page`): teach with a camera or
    dropped photos, see why it answers, mark things, and make it forget. PHOTOS are taught first.
    """
    if page:
        from procmem.cli.page import show_page

        show_page(settings, photos, port)
        return
    if port:
        raise click.UsageError("--port is of the page; add --page")
    kept = folder_of(settings, "the demo")
    from procmem.cli.lessons import folder_lessons, public_domain_lessons

    with tempfile.TemporaryDirectory(prefix="procmem-demo-") as name:
        scratch = Path(name)
        crops = scratch / "crops"
        crops.mkdir()
        lessons = public_domain_lessons(crops) if photos is None else folder_lessons(photos, crops)
        vault = kept or scratch / "vault"
        with open_embedder(replace(settings, vault=vault)) as embedder:
            told = _Telling(lessons, embedder, vault, out, own_photos=photos is not None)
            told.quiet = settings.as_json
            with _new_memory(vault, embedder) as memory:
                told.teach(memory)
                told.recognize(memory)
                told.segment(memory)
                told.forget(memory, scratch / "twin")
        told.end(kept=kept)
    if settings.as_json:
        write_json(told.document)
    if told.failed:
        raise SystemExit(1)


class _Telling:
    """The demo's steps in order; each prints what it did and notes it in `document`."""

    def __init__(
        self, lessons: Lessons, embedder: Embedder, vault: Path, out: Path, *, own_photos: bool
    ) -> None:
        self.document: dict[str, Any] = {"photos": lessons.title, "skipped": list(lessons.skipped)}
        self.failed = False
        self.quiet = False
        self._lessons, self._embedder, self._out = lessons, embedder, out
        self._vault, self._own_photos = vault, own_photos
        self._ids: list[int] = []
        self._answers: list[Answer] = []
        self._pictures: list[Path] = []

    def teach(self, memory: VisualMemory) -> None:
        """Step 1: every taught lesson goes into the memory."""
        manifest = self._embedder.manifest
        self.document["model"] = manifest.name
        self._say(
            table(
                [
                    ("photos", self._lessons.title),
                    ("model", f"{manifest.name}: trained on {manifest.origin.training}, no photo"),
                    ("vault", str(self._vault)),
                ]
            )
        )
        for reason in self._lessons.skipped:
            say(f"left out: {reason}", err=True)
        start = time.perf_counter()
        self._ids = _teach(memory, self._lessons.taught, "teaching")
        seconds = time.perf_counter() - start
        labels = {lesson.label for lesson in self._lessons.taught}
        what = "part" if self._lessons.whole_labels else "photo"
        self._head(1, "Teach")
        self._say(
            f"{_INDENT}{count(len(self._ids), what)} with {count(len(labels), 'label')} "
            f"in {seconds:.1f} s, no training"
        )
        self.document["taught"] = len(self._ids)

    def recognize(self, memory: VisualMemory) -> None:
        """Step 2: every asked lesson is classified, and one is drawn with its neighbors."""
        lessons = self._lessons.asked
        self._answers = _ask(memory, lessons, "asking")
        right = [
            answer.label == lesson.label
            for answer, lesson in zip(self._answers, lessons, strict=True)
        ]
        accuracy = sum(right) / len(right)
        self._head(2, "Recognize what was not taught")
        self._say(_indent(self._result_table(right)))
        chance = 1 / len({lesson.label for lesson in self._lessons.taught})
        self._say(
            f"{_INDENT}right: {sum(right)} of {len(right)} = {percent(accuracy)} "
            f"(guessing: {percent(chance)})"
        )
        self.document["accuracy"] = accuracy
        self.document["answers"] = [
            {
                "name": lesson.name,
                "label": lesson.label,
                "answer": answer.label,
                "confidence": answer.confidence,
                "right": good,
            }
            for lesson, answer, good in zip(lessons, self._answers, right, strict=True)
        ]

    def segment(self, memory: VisualMemory) -> None:
        """Step 3: one painted example, and its like in another picture."""
        import numpy as np

        from procmem.cli.show import Panel, draw_regions, save_picture

        example = self._lessons.example
        regions = memory.segment(example.asked, prompt=(example.image, example.mask))
        picture = self._out / "segmentation.png"
        panels = [
            Panel(example.image, example.mask, f"example: {example.title}"),
            Panel(example.asked, regions.mask, f"asked: {example.asked_title}"),
        ]
        save_picture(draw_regions(panels, {0: "background", 1: example.thing}), picture)
        self._pictures.append(picture)
        self._head(3, "Mark a region by one example")
        line = (
            f"{_INDENT}example: {shorten(example.title, 60)}\n"
            f"{_INDENT}asked:   {shorten(example.asked_title, 60)}"
        )
        self.document["segmentation_iou"] = None
        if example.truth is not None:
            both = np.logical_and(regions.mask == 1, example.truth == 1).sum()
            either = np.logical_or(regions.mask == 1, example.truth == 1).sum()
            overlap = float(both / either)
            line += f"\n{_INDENT}overlap with the truth (IoU): {percent(overlap)}"
            self.document["segmentation_iou"] = overlap
        self._say(line)

    def forget(self, memory: VisualMemory, twin_folder: Path) -> None:
        """Step 4: one photo is forgotten; its trace is looked for in answers and in bytes."""
        from procmem.types import ErasureReport

        at = self._choose()
        lesson, before = self._lessons.asked[at], self._answers[at]
        self._draw(lesson, before, "neighbors.png")
        if self._lessons.whole_labels:
            forgotten = f"the photo {before.label}, all of its parts"
            report: ErasureReport = memory.delete(label=before.label)
        else:
            nearest = before.neighbors[0]
            name = Path(nearest.source).name if nearest.source else str(nearest.id)
            forgotten = f"the photo {shorten(name, 40)}"
            report = memory.delete([nearest.id])
        answers = _ask(memory, self._lessons.asked, "asking again")
        after = answers[at]
        self._draw(lesson, after, "neighbors-after-forgetting.png")
        equal = self._equal_to_a_fresh_memory(answers, set(report.erased_ids), twin_folder)

        self._head(4, "Forget")
        self._say(f"{_INDENT}{forgotten}: {count(len(report.erased_ids), 'item')}")
        self._say(f"{_INDENT}asked: {shorten(lesson.name, 60)}\n")
        self._say(_indent(_before_and_after(before, after)))
        clean = report.purged and report.windows_found == 0
        self._say("")
        self._say(
            _indent(
                table(
                    [
                        (
                            "in the files",
                            f"{report.windows_found} of {report.windows_checked:,} 16-byte windows "
                            "of its data found",
                        ),
                        (
                            "in the answers",
                            f"{equal} of {len(answers)} equal those of a fresh memory that",
                        ),
                        ("", "never held it, to the last bit"),
                    ]
                )
            )
        )
        self.failed = not clean or equal != len(answers) or before == after
        self.document["forgotten"] = {
            "what": forgotten,
            "asked": lesson.name,
            "before": answer_as_json(before),
            "after": answer_as_json(after),
            "report": report_as_json(report),
            "answers_compared": len(answers),
            "answers_equal_to_a_fresh_memory": equal,
        }

    def end(self, *, kept: Path | None) -> None:
        """Says where things are, and what went wrong if anything did."""
        self.document["pictures"] = [str(path) for path in self._pictures]
        self._say("\nPictures")
        for path in self._pictures:
            self._say(f"{_INDENT}{path}")
        if self._own_photos:
            self._say(f"{_INDENT}They show your photos, also the forgotten one: delete them after.")
        self._say(
            f"The vault is kept in {kept}." if kept else "The vault was temporary and is gone."
        )
        if self.failed:
            say(
                "error: the memory did not forget exactly; this is a defect of procmem, "
                "please report it with the output of `procmem doctor`",
                err=True,
            )

    def _result_table(self, right: Sequence[bool]) -> str:
        lessons = self._lessons.asked
        if all(lesson.kind for lesson in lessons):
            kinds = list(dict.fromkeys(lesson.kind for lesson in lessons))
            cells: dict[str, list[str]] = {}
            for lesson, answer, good in zip(lessons, self._answers, right, strict=True):
                called = "right" if good else f"no, {cut(answer.label or 'nothing', 9)}"
                cells.setdefault(lesson.label, []).append(
                    f"{called:5} {percent(answer.confidence):>4}"
                )
            rows = [(cut(label, 14), *row) for label, row in cells.items()]
            return table(rows, head=("photo", *kinds))
        rows = [
            (
                shorten(lesson.name, 32),
                cut(answer.label or "", 20),
                percent(answer.confidence),
                "right" if good else "wrong",
            )
            for lesson, answer, good in zip(lessons, self._answers, right, strict=True)
        ]
        text = table(rows[:_ROWS_SHOWN], head=("photo", "answer", "confidence", ""), right="llr")
        more = len(rows) - _ROWS_SHOWN
        return text if more <= 0 else f"{text}\n... and {more} more"

    def _choose(self) -> int:
        """The asked lesson with the surest right answer; the surest of all if none is right."""
        places = range(len(self._answers))
        return max(
            places,
            key=lambda at: (
                self._answers[at].label == self._lessons.asked[at].label,
                self._answers[at].confidence,
            ),
        )

    def _draw(self, lesson: Lesson, answer: Answer, name: str) -> None:
        from procmem.cli.neighbors import neighbor_tile
        from procmem.cli.show import RIGHT, WRONG, Tile, draw_neighbors, save_picture
        from procmem.image import load_image

        query = Tile(
            image=load_image(lesson.path),
            lines=(lesson.name, f"answer: {answer.label} {percent(answer.confidence)}"),
            color=RIGHT if answer.label == lesson.label else WRONG,
        )
        tiles = [neighbor_tile(neighbor) for neighbor in answer.neighbors[:_NEIGHBORS_SHOWN]]
        picture = self._out / name
        save_picture(draw_neighbors(query, tiles), picture)
        self._pictures.append(picture)

    def _equal_to_a_fresh_memory(
        self, answers: Sequence[Answer], erased: set[int], folder: Path
    ) -> int:
        kept = [
            (number, lesson)
            for number, lesson in zip(self._ids, self._lessons.taught, strict=True)
            if number not in erased
        ]
        with _new_memory(folder, self._embedder) as twin:
            _teach(
                twin,
                [lesson for _, lesson in kept],
                "teaching a fresh memory",
                ids=[number for number, _ in kept],
            )
            fresh = _ask(twin, self._lessons.asked, "asking it")
        return sum(one == other for one, other in zip(answers, fresh, strict=True))

    def _head(self, number: int, title: str) -> None:
        self._say(f"\n{number}  {title}")

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(text)


def _new_memory(folder: Path, embedder: Embedder) -> VisualMemory:
    """A memory that holds nothing.

    Raises:
        InputError: the folder holds a memory with items; the demo forgets, and must not touch them.
    """
    from procmem.errors import InputError
    from procmem.memory import VisualMemory

    memory = VisualMemory(folder, embedder=embedder)
    if len(memory):
        held = len(memory)
        memory.close()
        raise InputError(
            f"the memory at {folder} holds {count(held, 'item')}; the demo forgets things, "
            "so name a new folder with --vault, or leave it out"
        )
    return memory


def _teach(
    memory: VisualMemory, lessons: Sequence[Lesson], title: str, *, ids: list[int] | None = None
) -> list[int]:
    with progress_bar(title) as show:
        return memory.add(
            [lesson.path for lesson in lessons],
            labels=[lesson.label for lesson in lessons],
            sources=[str(lesson.path) for lesson in lessons],
            ids=ids,
            progress=show,
        )


def _ask(memory: VisualMemory, lessons: Sequence[Lesson], title: str) -> list[Answer]:
    answers = []
    with progress_bar(title) as show:
        for lesson in lessons:
            answers.append(memory.classify(lesson.path, k=_K))
            show(len(answers), len(lessons))
    return answers


def _before_and_after(before: Answer, after: Answer) -> str:
    rows = [("answer", _answer(before), _answer(after))]
    for at in range(min(3, len(before.neighbors), len(after.neighbors))):
        title = "nearest" if at == 0 else ""
        rows.append((title, _neighbor(before.neighbors[at]), _neighbor(after.neighbors[at])))
    return table(rows, head=("", "before", "after"))


def _answer(answer: Answer) -> str:
    called = cut(answer.label or "nothing", 14)
    return f"{called} {percent(answer.confidence)}" + (" (novel)" if answer.is_novel else "")


def _neighbor(neighbor: Neighbor) -> str:
    name = Path(neighbor.source or "").name
    return f"{neighbor.similarity:.3f} {shorten(f'{neighbor.label}/{name}', 20)}"


def _indent(text: str) -> str:
    return "\n".join(_INDENT + line for line in text.splitlines())
