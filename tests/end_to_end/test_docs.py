"""The documentation is true: it builds, its links lead somewhere, and its code blocks run.

Python blocks of a page run in order and share their names, in a folder with photos; a page may find
names prepared by `PREPARED`. What cannot run here stands in `NOT_RUN` with its reason. Shell blocks
are checked line by line: the file, the command and every option must exist; those of `RUN_IN_SHELL`
run.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.postgres_server import postgres_server

import procmem
import procmem.cli
import procmem_export.cli
import procmem_pretrain.cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples/README.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NOT_RUN = {
    ("docs/data-engine.md", "ImageStream"): "needs a GPU",
    ("docs/data-engine.md", "swirl"): "is a part of a module of operations",
    ("docs/gpu.md", "build_engine"): "needs a GPU and TensorRT",
}
RUN_IN_SHELL = ("docs/tutorial.md", "docs/how-to.md", "docs/migrate.md")
# Take minutes, or set up another environment.
LONG = (
    "pip ",
    ". .venv",
    "python3 -m venv",
    "procmem-export ",
    "procmem-pretrain ",
    "procmem doctor",
)
GROUPS: dict[str, click.Group] = {
    "procmem": procmem.cli.main,
    "procmem-export": procmem_export.cli.main,
    "procmem-pretrain": procmem_pretrain.cli.main,
}


def blocks(page: str, *languages: str) -> list[str]:
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def draw(path: Path, color: tuple[int, int, int], seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-25, 25, (72, 96, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader would stand: folders of photos with labels, and a few single photos."""
    for label, color in (("red", (200, 40, 40)), ("blue", (40, 60, 200))):
        for number in range(4):
            draw(tmp_path / "photos" / label / f"{label}{number}.png", color, number)
        draw(tmp_path / "questions" / label / "asked.png", color, 20)
    for number, name in enumerate(["new", "other", "photo", "cat1", "cat2"]):
        draw(tmp_path / f"{name}.jpg", (190, 50, 45), 10 + number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what pages find prepared


def with_memory(folder: Path) -> Iterator[dict[str, Any]]:
    # A page that forgets what is like a photo shall leave one of its label: this is like none.
    stripes = np.zeros((72, 96, 3), dtype=np.uint8)
    stripes[::12] = stripes[:, :30] = (200, 40, 40)
    Image.fromarray(stripes).save(folder / "photos" / "red" / "stripes.png")
    with procmem.VisualMemory("prepared") as memory:
        list(procmem.teach(memory, ["photos"]))
        yield {"memory": memory}


def with_camera(_: Path) -> Iterator[dict[str, Any]]:
    class Camera:
        """Gives one frame and ends."""

        def on_frame(self, offer: Callable[[Any], int]) -> None:
            offer(np.zeros((48, 64, 3), dtype=np.uint8))
            import threading

            # The block has no end of its own: a camera has none.
            threading.Timer(2.0, offer.__self__.close).start()  # type: ignore[attr-defined]

    async def receive(socket: Any, offer: Callable[[Any], int]) -> None:
        offer(np.zeros((48, 64, 3), dtype=np.uint8))
        await asyncio.sleep(2.0)
        offer.__self__.close()  # type: ignore[attr-defined]

    yield {"camera": Camera(), "receive": receive}


def with_vectors(_: Path) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    memory = random.standard_normal((500, 16)).astype(np.float32)
    yield {
        "queries": memory[:8].copy(),
        "memory": memory,
        "masks": random.random((500, 4), dtype=np.float32),
        "not_mine": np.arange(500) % 2 == 0,
    }


def with_address(_: Path) -> Iterator[dict[str, Any]]:
    with postgres_server() as server:
        yield {"address": f"{server.get_uri()}&memory=family"}


PREPARED: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "docs/how-to.md": with_memory,
    "docs/camera.md": with_camera,
    "docs/kernel.md": with_vectors,
    "docs/shared-memories.md": with_address,
}


def run_as_script(text: str, folder: Path) -> None:
    """In a file and a process of its own, as its guard says."""
    (folder / "page.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [name for name in NAMES if blocks(name, "python")])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, folder, capsys):
    prepare = PREPARED.get(page)
    steps = iter([{}]) if prepare is None else prepare(folder)
    names: dict[str, Any] = {"__name__": "page", **next(steps)}
    ran = 0
    for number, text in enumerate(blocks(page, "python")):
        code = compile(text, f"{page}, python block {number + 1}", "exec")
        if any(page == where and word in text for where, word in NOT_RUN):
            continue
        if 'if __name__ == "__main__":' in text:
            run_as_script(text, folder)
        else:
            exec(code, names)
        ran += 1
    assert list(steps) == []
    if page == "docs/camera.md":  # its second block only defines
        sent: list[Any] = []

        class Socket:
            async def send_json(self, document: Any) -> None:
                sent.append(document)

        asyncio.run(names["serve"](Socket()))
        assert sent == [{"label": None}]
    memory = names.get("memory")
    if isinstance(memory, procmem.VisualMemory):
        memory.close()
    assert ran or any(page == where for where, _ in NOT_RUN)


def test_what_is_not_run_is_there():
    for page, word in NOT_RUN:
        assert any(word in text for text in blocks(page, "python")), (page, word)


# ---- shell


def lines_of(text: str) -> list[list[str]]:
    """The commands of a shell block as words, without comments."""
    joined = text.replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        for part in re.split(r"\s(?:&&|;)\s", line):
            words = shlex.split(part, comments=True)
            if words:
                found.append(words)
    return found


def names_of(option: click.Parameter) -> list[str]:
    return [*option.opts, *option.secondary_opts]  # the latter turn a flag off


def check_click(group: click.Group, words: list[str]) -> None:
    """Every option of a command line exists; the words after the options are not looked at."""
    known = {name: option for option in group.params for name in names_of(option)}
    command: click.Command = group
    for at, word in enumerate(words):
        if word in group.commands:
            command = group.commands[word]
            known |= {name: option for option in command.params for name in names_of(option)}
            words = words[:at] + words[at + 1 :]
            break
    else:
        # procmem-export CHECKPOINT is short for `export CHECKPOINT`.
        assert "export" in group.commands, words
        command = group.commands["export"]
        known = {name: option for option in command.params for name in names_of(option)}
    takes_more = command.context_settings.get("ignore_unknown_options", False)
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and not takes_more:
            assert option in known or option in ("--help", "--version"), f"{option} of {words}"


@pytest.mark.parametrize("page", [name for name in NAMES if blocks(name, "sh")])
def test_every_shell_line_names_what_exists(page):
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for text in blocks(page, "sh"):
        for words in lines_of(text):
            if words[:3] in (["python3", "-m", "procmem_pretrain"], ["python", "-m", "sphinx"]):
                words = ["procmem-pretrain", *words[3:]]
            if words[0] in GROUPS:
                check_click(GROUPS[words[0]], words[1:])
            elif words[0] in ("python", "python3") and words[1].endswith(".py"):
                source = (ROOT / words[1]).read_text(encoding="utf-8")
                for option in (word for word in words if word.startswith("--")):
                    name = option.partition("=")[0].removeprefix("--")
                    assert name in source or name.replace("-", "_") in source, (words, option)
            elif words[:2] == ["pip", "install"]:
                for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
                    assert set(extra.split(",")) <= set(extras), words
            elif words[0].startswith("scripts/"):
                assert (ROOT / words[0]).stat().st_mode & 0o100


@pytest.mark.parametrize("page", RUN_IN_SHELL)
def test_the_commands_of_a_page_run(page, folder):
    if page == "docs/tutorial.md":
        with procmem.VisualMemory("vault") as memory:
            list(procmem.teach(memory, ["photos"]))
            report = memory.delete(next(memory.items()).id)
            procmem.write_receipt(report.receipt, "receipt.json")
    ran = 0
    for text in blocks(page, "sh"):
        for words in lines_of(text):
            if f"{' '.join(words)} ".startswith(LONG):
                continue
            assert words[0] == "procmem", words
            result = CliRunner().invoke(procmem.cli.main, words[1:])
            assert result.exit_code == 0, (words, result.output)
            ran += 1
    assert ran >= 4


# ---- links, pages, the built site

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads)
    return set(plain)


@pytest.mark.parametrize("page", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page} links to {link}"


def test_the_pages_of_the_commands_are_their_help():
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for file, text in module.pages().items():
        written = (ROOT / "docs" / file).read_text(encoding="utf-8")
        assert written == text, "run: python docs/make_cli.py"


def test_every_page_is_in_the_contents():
    listed: set[str] = set()
    for index in (ROOT / "docs" / "index.md", ROOT / "docs" / "results" / "index.md"):
        for text in re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(), re.DOTALL):
            names = [line for line in text.splitlines() if line and not line.startswith(":")]
            listed |= {str((index.parent / f"{name}.md").relative_to(ROOT)) for name in names}
    pages = {name for name in NAMES if name.startswith("docs/")} - {"docs/index.md"}
    assert listed == pages


def test_the_public_names_stand_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    errors = {name for name in procmem.__all__ if name.endswith("Error")}
    plain = set(procmem.__all__) - errors - {"__version__", "ImageLike"}
    assert {name for name in plain if f"procmem.{name}\n" not in text} == set()
    assert "automodule:: procmem.errors" in text


def test_the_site_builds_without_a_warning_and_asks_no_other_place(tmp_path):
    pytest.importorskip("sphinx", reason="needs pip install '.[docs]'")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("README.md", "examples", "checkpoints", "benchmarks", "sdk", "export", "pretrain"):
        (tmp_path / name).symlink_to(ROOT / name)  # pages link to them
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, str(tmp_path / "docs"), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    for file in (tmp_path / "site").rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", file.read_text())
        for tag in tags:
            assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag), (file.name, tag)


def test_python_blocks_are_written_for_the_oldest_python():
    for page in NAMES:
        for text in blocks(page, "python"):
            ast.parse(text, feature_version=(3, 10))
