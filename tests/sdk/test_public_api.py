"""The public surface is a list, and importing it is cheap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import pytest

import procmem


def test_all_is_what_is_visible():
    visible = {
        name
        for name, value in vars(procmem).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name != "annotations"
    }
    assert visible == set(procmem.__all__) - {"__version__"}


def test_all_is_sorted_and_without_repeats():
    names = [name for name in procmem.__all__ if not name.startswith("_")]
    assert names == sorted(set(names))


def test_every_error_of_the_tree_is_public():
    from procmem import errors

    declared = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert declared <= set(procmem.__all__)


def test_the_version_is_a_text_and_other_names_are_attribute_errors():
    assert isinstance(procmem.__version__, str)
    assert not hasattr(procmem, "nonexistent")


def test_import_loads_nothing_heavy():
    code = "import json, sys, procmem; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    heavy = {
        "torch",
        "asyncio",
        "cv2",
        "moderngl",
        "onnxruntime",
        "click",
        "timm",
        "scipy",
        "skimage",
    }
    assert not heavy & set(json.loads(output))


def test_type_checkers_are_told_of_names_that_are_not_there(tmp_path):
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text(
        "import procmem\nprint(procmem.clasify)\nprint(procmem.__version__.upper())\n"
    )
    cache = f"--cache-dir={tmp_path / 'cache'}"
    report, _, _ = api.run(["--strict", "--follow-imports=silent", cache, str(script)])
    assert 'script.py:2: error: Module has no attribute "clasify"' in report
    assert "Found 1 error" in report
