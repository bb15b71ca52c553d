"""A headless OpenGL context. The only place that makes one.

Gives contexts to `render.py` and `user_shaders.py`. Uses EGL; on a machine without a GPU, Mesa's
software rasterizer. Never touches a display.
"""

from __future__ import annotations

import contextlib
import importlib
import os

import moderngl

from procmem.errors import RenderError

# With compute shaders first; every OpenGL driver since 2010 has the second.
_VERSIONS = (450, 330)

_INSTALL = (
    "install the system's EGL and OpenGL libraries "
    "(Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri libgles2), "
    "or draw with torch: --renderer torch"
)

_NO_DEVICE = (
    "EGL is installed but found 0 devices. In a container with an NVIDIA GPU, start it with "
    "NVIDIA_DRIVER_CAPABILITIES=all (graphics must be among them). Without a GPU, install Mesa's "
    "software rasterizer (Debian and Ubuntu: apt-get install libgl1-mesa-dri). "
    "Or draw with torch: --renderer torch"
)

# Mesa reads these when it starts; other drivers ignore them.
_MESA_SETTINGS = {
    # Its software rasterizer spends longer on optimizing a program than on drawing a few images
    # with it (measured: 145 ms a program, 93 ms so).
    "GALLIVM_PERF": "nopt",
    # Every program is drawn once: a cache of compiled ones would only fill the disk (3 MB each).
    "MESA_SHADER_CACHE_DISABLE": "true",
}


def headless_context() -> moderngl.Context:
    """A new context without a window, of OpenGL 4.5 where there is one, else 3.3.

    It is the current one of its thread afterwards. Who uses several at a time enters each
    (`with context:`) before using it. The caller releases it, and first what it made with it:
    nothing is released on its own.

    Raises:
        RenderError: no context could be made; the message says what to install.
    """
    for name, value in _MESA_SETTINGS.items():
        os.environ.setdefault(name, value)
    # Mesa and Triton (which torch and timm load) each bring an LLVM of their own. Triton's
    # crashes the process if Mesa's was loaded first; the other way round both work.
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    failures = []
    for version in _VERSIONS:
        try:
            return moderngl.create_context(
                require=version,
                standalone=True,
                backend="egl",  # type: ignore[arg-type]  # the stub types **settings as dicts
            )
        # The driver's loader raises bare Exceptions.
        except Exception as error:
            failures.append(error)
    if "found 0 devices" in str(failures[-1]):
        raise RenderError(f"no EGL graphics context: {_NO_DEVICE}") from failures[-1]
    raise RenderError(f"no EGL graphics context ({failures[-1]}); {_INSTALL}") from failures[-1]


def has_compute(context: moderngl.Context) -> bool:
    """Whether a context runs compute shaders (OpenGL 4.3)."""
    return int(context.version_code) >= 430
