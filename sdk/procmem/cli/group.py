"""What the command lines of all rooms share: errors in one line, exit codes, progress on stderr.

Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted. Results go to stdout; everything else to
stderr.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from procmem.cli.text import say
from procmem.errors import (
    ExchangeFormatError,
    InputError,
    ItemNotFoundError,
    MissingExtraError,
    ProcmemError,
    VaultError,
)

# Top-level modules of the optional dependencies, whose absence means that an extra is missing.
_EXTRA_MODULES = frozenset(
    {
        "torch",
        "timm",
        "torchvision",
        "moderngl",
        "safetensors",
        "tyro",
        "onnx",
        "onnxscript",
        "onnxslim",
        "matplotlib",
        "onnxruntime",
        "cv2",
        "skimage",
        "tensorrt",
    }
)


class _Reported:
    """Mixin of a click command: a ProcmemError becomes one line on stderr and an exit code."""

    def __init__(self, *args: Any, extra: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._extra = extra

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)  # type: ignore[misc]  # click.Command's, by the MRO
        except InputError as error:
            # What is not there, or not sound, was asked for properly: a failure, not misuse.
            failed = isinstance(error, (ItemNotFoundError, ExchangeFormatError))
            _fail(error, code=1 if failed else 2)
        except ProcmemError as error:
            _fail(error, code=1)
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            if self._extra is None or name not in _EXTRA_MODULES:
                raise
            missing = MissingExtraError(
                f"this command needs the package {name!r}; install it with "
                f"pip install 'procmem[{self._extra}]'"
            )
            _fail(missing, code=1)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read has heard enough; click knows what to do
                raise
            place = f"{error.filename}: " if error.filename else ""
            reason = error.strerror or str(error)
            _fail(VaultError(f"{place}{reason}; check the path, its permissions and disk"), code=1)
        except KeyboardInterrupt:
            say("stopped", err=True)
            raise SystemExit(130) from None


class ErrorCommand(_Reported, click.Command):
    """A click command whose errors are one helpful line; `extra` names what it needs."""


class ErrorGroup(_Reported, click.Group):
    """A click group whose errors are one helpful line; `extra` names what it needs."""


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Gives a `progress(done, total)` callback that draws a bar on a terminal's stderr.

    Draws nothing if stderr is not a terminal, so that logs stay readable, or is closed.
    """
    bar: Any = None

    def show(done: int, total: int | None) -> None:
        nonlocal bar
        if sys.stderr is None or not sys.stderr.isatty():
            return
        if bar is None:
            bar = click.progressbar(length=total, label=label, file=sys.stderr)
            bar.__enter__()
        bar.update(done - bar.pos)

    try:
        yield show
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


def _fail(error: ProcmemError, *, code: int) -> None:
    say(f"error: {error}", err=True)
    raise SystemExit(code)
