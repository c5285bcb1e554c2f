"""The documentation site. `make docs` builds it, without network, into docs/_build/html."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("MPLBACKEND", "agg")

import fastgen  # noqa: E402

project = "fastgen"
author = "The fastgen authors"
copyright = "the fastgen authors"
release = version = fastgen.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sitegen.mathml",
    "sitegen.reference",
    "sitegen.solver_pages",
    "sitegen.front",
    "sitegen.devices",
    "sitegen.offline",
]
exclude_patterns = [
    "solvers.md",
    "_build",
    "sitegen",
    "_templates",
    "**/sg_execution_times.rst",
    "sg_execution_times.rst",
]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]
default_role = "py:obj"
nitpicky = False

# Markdown.
myst_enable_extensions = [
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
    "fieldlist",
    "substitution",
]
myst_heading_anchors = 4

# Docstrings.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

# The gallery: examples/plot_*.py are run and drawn. FASTGEN_DOCS_GALLERY=0 leaves them unrun, a
# part of a name runs those alone: FASTGEN_DOCS_GALLERY=moons.
_wanted = os.environ.get("FASTGEN_DOCS_GALLERY", "1")
# Programs of libraries that are not installed are left out.
_absent = [name for name in ("accelerate", "lightning") if find_spec(name) is None]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_" if _wanted in ("0", "1") else f"/plot_.*{re.escape(_wanted)}",
    "plot_gallery": _wanted != "0",
    "within_subsection_order": "FileNameSortKey",  # their names begin with their subject
    "ignore_pattern": "|".join(
        [r"(^|/)(?!plot_)[^/]*\.py$", *(f"plot_{n}\\.py$" for n in _absent)]
    ),
    "only_warn_on_example_error": False,
    "abort_on_example_error": False,
    "remove_config_comments": True,
    "show_memory": False,
    "download_all_examples": False,
    "min_reported_time": 5,
    "image_scrapers": ("matplotlib",),
    "reset_modules": ("matplotlib",),
    "matplotlib_animations": False,
    "doc_module": ("fastgen",),
    "backreferences_dir": "gallery/backreferences",
    "parallel": int(os.environ.get("FASTGEN_DOCS_JOBS", "1")) > 1
    and int(os.environ["FASTGEN_DOCS_JOBS"]),
}

# The look.
html_theme = "pydata_sphinx_theme"
html_title = "fastgen"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("tables.js", {"defer": "defer"})]
html_search_scorer = str(HERE / "_static" / "scorer.js")
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
html_theme_options = {
    "logo": {"text": "fastgen"},
    "show_nav_level": 1,
    "collapse_navigation": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_start": ["copyright"],
    "footer_end": [],
    "back_to_top_button": False,
}
html_sidebars = {"index": [], "changelog": []}
html_context = {"default_mode": "auto"}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# docs/versions.py builds several versions beside each other, and what switches between them.
_version = os.environ.get("FASTGEN_DOCS_VERSION")
if _version:
    html_theme_options |= {
        "switcher": {"json_url": "../switcher.json", "version_match": _version},
        "check_switcher": False,
        "navbar_end": ["version-switcher", "theme-switcher", "navbar-icon-links"],
    }
