"""How Sphinx renders the site; `make docs` runs it on what tools/docs.py prepares."""

from functools import partial

from docutils.nodes import SkipNode
from fastcore.docments import docments
from latex2mathml.converter import convert

project, author, copyright = "splicevi", "splicevi developers", "2026 onwards, splicevi developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_design", "sphinx_copybutton"]
nb_execution_mode = "off"  # outputs are those that the notebooks hold; `make test` runs them
nb_merge_streams = True
nb_ipywidgets_js = {}  # the pictures of widgets are shown
myst_enable_extensions = ["colon_fence", "dollarmath", "amsmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"  # browsers draw it themselves, without a script from elsewhere
html_theme = "furo"
html_title = "splicevi"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("figures.js", {"defer": "defer"})]
html_show_sourcelink = False
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "__init__"}
napoleon_google_docstring = False
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]
exclude_patterns = ["conf.py"]


def add_docments(app, what, name, obj, options, lines):
    "Parameters that are explained by comments beside them, as a section of the docstring."
    if what not in ("function", "class", "method") or any("Parameters" in line or ":param" in line for line in lines):
        return
    try:
        found = docments(obj, full=True)
    except (TypeError, ValueError, OSError, SyntaxError, AttributeError):
        return
    said = {k: v for k, v in found.items() if v.get("docment") and k not in ("self", "return")}
    for k, v in said.items():
        lines += (
            ["", f":param {k}: {v['docment']}"]
            if not lines or not lines[-1].startswith(":param")
            else [f":param {k}: {v['docment']}"]
        )
    if (back := found.get("return")) and back.get("docment"):
        lines += [*([] if said else [""]), f":returns: {back['docment']}"]


def plain_citations(app, what, name, obj, options, lines):
    "Citations of scvi-tools' own docstrings as text."
    lines[:] = [line.replace(":cite:p:", "").replace(":cite:t:", "") for line in lines]


def math(writer, node, display: str) -> None:
    "A formula as MathML."
    writer.body.append(convert(node.astext(), display=display))
    raise SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml", (partial(math, display="inline"), None), (partial(math, display="block"), None)
    )
    app.connect("autodoc-process-docstring", plain_citations)
    app.connect("autodoc-process-docstring", add_docments)
