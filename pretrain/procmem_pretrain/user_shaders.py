"""A folder of the user's own shaders: found, tried out, and drawn.

Gives `UserShader` and its pictures to `jobs.py`, as `grammar.py` and `render.py` do for programs;
`user_glsl.py` makes their text complete. Every file is first drawn small in a child process, so
that one with an endless loop costs some seconds and a line of report, never the run.

As in the paper there is no mouse and no input texture: `iMouse` is 0 and `iChannel0` to
`iChannel3` are black. Pictures depend on the text and the time alone; nothing is kept from one
picture to the next.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import moderngl
import numpy as np
import numpy.typing as npt

from procmem.errors import InputError, RenderError
from procmem.manifest import sha256_of_bytes
from procmem_pretrain.gl import headless_context
from procmem_pretrain.isolation import Failure, Workers
from procmem_pretrain.rejects import MIN_STANDARD_DEVIATION, varies
from procmem_pretrain.user_glsl import (
    CHANNELS,
    ShaderTextError,
    complete,
    first_error,
    has_own_value,
    meaning_of,
    uniform_value,
)

SUFFIXES = (".frag", ".fragment", ".fs", ".glsl", ".shadertoy")

# Shaders are some kilobytes; Shadertoy's largest are about 100.
MAX_BYTES = 1_000_000

# How a file is tried out: small, at times over the range that is drawn later (0.1 to 10 s).
_TRIAL_SIDE = 64
_TRIAL_TIMES = np.array([0.5, 3.3, 8.1])

_log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

Reason = Literal[
    "unreadable",
    "empty",
    "duplicate",
    "refused",
    "time-out",
    "crash",
    "not-finite",
    "near-constant",
]


@dataclass(frozen=True, slots=True)
class UserShader:
    """One file's text.

    Attributes:
        path: of the file.
        source: its text, with line feeds alone at the ends of lines.
        sha256: of the text in UTF-8, 64 hexadecimal digits; the shader's id.
    """

    path: Path
    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ShaderProblem:
    """Why a file is not used.

    Attributes:
        path: of the file.
        reason: "refused" is by the driver or for a uniform that nothing gives.
        message: what is wrong and what to do.
        line: of the file, from 1, where one is to blame.
    """

    path: Path
    reason: Reason
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.message}"


def load_shaders(
    folder: Path,
    *,
    timeout_seconds: float = 10.0,
    workers: int | None = None,
    report: Callable[[ShaderProblem], None] | None = None,
    progress: Progress | None = None,
) -> tuple[UserShader, ...]:
    """The shaders of a folder and its subfolders that draw something, sorted by path.

    Files whose names end in .frag, .fragment, .fs, .glsl or .shadertoy; hidden ones are left
    out. Each is compiled and drawn three times at 64 x 64 in a child process: about 0.1 s a file,
    and `timeout_seconds` for one that hangs.

    Args:
        folder: to look in.
        timeout_seconds: for one file.
        workers: child processes; None is one for each processor, at most 8.
        report: called in order with every file that is not used; None logs a warning for each.
        progress: called with (files tried, files in all).

    Raises:
        InputError: no such folder, no shader file in it, or none that can be used.
        RenderError: there is no OpenGL here.
    """
    report = report or _warn
    paths = _find(folder)
    problems: list[ShaderProblem] = []

    def tell(problem: ShaderProblem) -> None:
        problems.append(problem)
        report(problem)

    if workers is None:
        workers = min(os.cpu_count() or 1, 8, len(paths))
    found = [_read(path) for path in paths]
    good: dict[str, UserShader] = {}
    with Workers(workers, initializer=_start_trials, timeout_seconds=timeout_seconds) as pool:
        trials = pool.results(_try_out, (item for item in found if isinstance(item, UserShader)))
        for done, item in enumerate(found, start=1):
            verdict = item if isinstance(item, ShaderProblem) else _verdict(item, next(trials))
            if isinstance(item, UserShader) and verdict is None and item.sha256 in good:
                first = good[item.sha256].path
                verdict = ShaderProblem(item.path, "duplicate", f"has the same text as {first}")
            if verdict is not None:
                tell(verdict)
            elif isinstance(item, UserShader):
                good[item.sha256] = item
            if progress is not None:
                progress(done, len(found))
    if not good:
        raise InputError(
            f"none of the {len(found)} shader files in {folder} can be used; the first: "
            f"{problems[0]}. Correct them, or give another folder"
        )
    return tuple(good.values())


def draw_user_shader(
    shader: UserShader,
    times: npt.NDArray[np.float64],
    *,
    side: int,
    context: moderngl.Context,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draws a shader once per time.

    Args:
        shader: what to draw.
        times: (N,) seconds, at least one.
        side: S, pixels.
        context: of `gl.headless_context`. It is entered and left here; afterwards no context is
            current in this thread.

    Returns:
        images (N, S, S, 3) uint8, upright, and (N,) bool: False where an image has pixels that
        are not finite numbers (they are black).

    Raises:
        InputError: times or side are out of range.
        RenderError: the shader cannot be drawn; the message has the file and the line.
    """
    limit = int(context.info["GL_MAX_TEXTURE_SIZE"])
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all():
        raise InputError(f"times have shape {times.shape}, wanted (N,) finite seconds, N >= 1")
    if not 1 <= side <= limit:
        raise InputError(f"side is {side}, wanted 1 to {limit} pixels")
    with context, contextlib.ExitStack() as stack:
        try:
            program = _compile(shader, context)
            stack.callback(program.release)
            channels = _bind_channels(program, context, stack)
            uniforms = _uniforms(shader, program, channels)
        except ShaderTextError as error:
            problem = ShaderProblem(shader.path, "refused", str(error), error.line)
            raise RenderError(str(problem)) from error
        pictures = _draw(program, uniforms, times, side, context, stack)
    finite = np.isfinite(pictures)
    levels = np.where(finite, pictures, np.float32(0)).clip(0, 1) * np.float32(255)
    # To the nearest level, as OpenGL writes an 8-bit target (specification 4.5, section 2.3.5).
    return np.rint(levels).astype(np.uint8), np.asarray(finite.all(axis=(1, 2, 3)))


def _find(folder: Path) -> list[Path]:
    """The shader files under a folder, sorted by their path in it."""
    if not folder.is_dir():
        is_what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {is_what}, wanted a folder of shader files; check the path")
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not paths:
        raise InputError(
            f"{folder} holds no shader file; put GLSL files into it, whose names end in "
            f"{', '.join(SUFFIXES)}"
        )
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _read(path: Path) -> UserShader | ShaderProblem:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return ShaderProblem(path, "unreadable", f"cannot be read ({error.strerror or error})")
    if len(data) > MAX_BYTES:
        return ShaderProblem(
            path, "unreadable", f"is larger than {MAX_BYTES} bytes; a shader is some kilobytes"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return ShaderProblem(
            path,
            "unreadable",
            f"is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}); save it so",
            data[: error.start].count(b"\n") + 1,
        )
    if "\0" in text:
        return ShaderProblem(path, "unreadable", "is not text (it holds zero bytes)")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        return ShaderProblem(path, "empty", "is empty")
    return UserShader(path, text, sha256_of_bytes(text.encode()))


def _warn(problem: ShaderProblem) -> None:
    _log.warning("%s", problem)


# Of a child process that tries shaders out.
_trial_context: moderngl.Context | None = None


def _start_trials() -> None:
    global _trial_context  # one per process, by the workers' design
    _trial_context = headless_context()


def _try_out(shader: UserShader) -> ShaderProblem | None:
    """Draws a shader small and judges it."""
    assert _trial_context is not None
    try:
        images, finite = draw_user_shader(
            shader, _TRIAL_TIMES, side=_TRIAL_SIDE, context=_trial_context
        )
    except RenderError as error:
        cause = error.__cause__
        if not isinstance(cause, ShaderTextError):
            raise
        return ShaderProblem(shader.path, "refused", str(cause), cause.line)
    if (finite & varies(images)).any():
        return None
    if not finite.any():
        return ShaderProblem(
            shader.path,
            "not-finite",
            "draws colors that are not finite numbers, at every time that was tried; look for "
            "divisions by 0, and for roots, powers and logarithms of negative numbers",
        )
    return ShaderProblem(
        shader.path,
        "near-constant",
        "draws nearly one color at every time that was tried (grey values vary by less than "
        f"{MIN_STANDARD_DEVIATION:g} of 255)",
    )


def _verdict(shader: UserShader, result: ShaderProblem | Failure | None) -> ShaderProblem | None:
    if not isinstance(result, Failure):
        return result
    if result.error is not None:  # not of this file: the trial tells what it finds in a file
        raise result.error
    if result.reason == "error":
        return ShaderProblem(shader.path, "refused", f"cannot be drawn ({result.message})")
    message = result.message
    if result.reason == "time-out":
        message += "; it may have an endless loop, or be very slow"
    return ShaderProblem(shader.path, result.reason, message)


def _compile(shader: UserShader, context: moderngl.Context) -> moderngl.Program:
    sources = complete(shader.source, newest_version=context.version_code)
    try:
        return context.program(vertex_shader=sources.vertex, fragment_shader=sources.fragment)
    except moderngl.Error as error:
        raise first_error(str(error), shader.source) from error


def _bind_channels(
    program: moderngl.Program, context: moderngl.Context, stack: contextlib.ExitStack
) -> set[str]:
    """Binds black to Shadertoy's input textures; returns the names of those that are used."""
    used = set()
    for unit, name in enumerate(CHANNELS):
        uniform = program.get(name, None)
        if isinstance(uniform, moderngl.Uniform):
            black = context.texture((1, 1), 4, bytes((0, 0, 0, 255)))
            stack.callback(black.release)
            black.use(location=unit)
            uniform.value = unit
            used.add(name)
    return used


def _uniforms(
    shader: UserShader, program: moderngl.Program, channels: set[str]
) -> list[tuple[moderngl.Uniform, str]]:
    """The uniforms that a shader uses, each with its meaning."""
    found = []
    for name in program:
        member = program[name]
        if isinstance(member, moderngl.Attribute) or name in channels:
            continue
        if isinstance(member, moderngl.Uniform):
            size = member.dimension, member.array_length
            meaning = meaning_of(name, kind=_kind(member), size=size)
            if meaning is not None:
                found.append((member, meaning))
                continue
        if not has_own_value(shader.source, name):
            raise ShaderTextError(
                f"nothing gives its uniform {name!r} a value; give it one in the file "
                f"(`uniform float {name} = 1.0;`), or use a known name: time, u_time, resolution, "
                "u_resolution, mouse, u_mouse or one of Shadertoy's"
            )
    return found


def _kind(uniform: moderngl.Uniform) -> str:
    """The letter of its type: f of float, i of int and of textures, others of others."""
    return str(uniform.fmt[-1])  # type: ignore[attr-defined]  # the stub leaves it out


def _draw(
    program: moderngl.Program,
    uniforms: list[tuple[moderngl.Uniform, str]],
    times: npt.NDArray[np.float64],
    side: int,
    context: moderngl.Context,
    stack: contextlib.ExitStack,
) -> npt.NDArray[np.float32]:
    """(N, S, S, 3) float32, upright: floating point, so that what is not finite can be seen."""
    texture = context.texture((side, side), 4, dtype="f4")
    stack.callback(texture.release)
    target = context.framebuffer([texture])
    stack.callback(target.release)
    vertices = context.vertex_array(program, [])
    stack.callback(vertices.release)
    target.use()
    pictures = np.empty((len(times), side, side, 3), np.float32)
    for picture, time in zip(pictures, times.astype(np.float32), strict=True):
        for uniform, meaning in uniforms:
            _set(uniform, uniform_value(meaning, time=float(time), side=side))
        target.clear()
        vertices.render(moderngl.TRIANGLES, vertices=3)
        raw = target.read(components=3, alignment=1, dtype="f4")
        picture[:] = np.frombuffer(raw, np.float32).reshape(side, side, 3)[::-1]  # GL's y goes up
    return pictures


def _set(uniform: moderngl.Uniform, value: tuple[float, ...]) -> None:
    count = uniform.dimension * uniform.array_length  # drivers shorten arrays to what is used
    kind = np.int32 if _kind(uniform) == "i" else np.float32
    uniform.write(np.array(value[:count], kind).tobytes())
