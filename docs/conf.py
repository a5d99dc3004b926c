"""Sphinx configuration. Builds offline: `python -m sphinx -W -n docs build/docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import bench  # noqa: E402

project = "tcd-bench"
author = "the tcd-bench authors"
release = bench.__version__
copyright = "the tcd-bench authors, Apache-2.0"  # noqa: A001

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated_reference"]
exclude_patterns = ["_ext"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say shapes and types
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"
python_maximum_signature_line_length = 100
toc_object_entries = False

html_theme = "furo"
html_title = f"tcd-bench {release}"
html_static_path: list[str] = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "tango"
pygments_dark_style = "monokai"
