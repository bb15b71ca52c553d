"""How the documentation is built: `sphinx-build -W docs site`.

Pages are Markdown, which reads as well in a repository; the interface's page comes from docstrings.
The theme brings its own files, so that the built pages ask no other place for anything.
"""

from __future__ import annotations

import procmem

project = "procmem"
author = "The procmem authors"
copyright = "The procmem authors, Apache-2.0"
release = procmem.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = "procmem"
html_show_sourcelink = False
myst_heading_anchors = 3

default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
