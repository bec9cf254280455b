"""Render the notebooks as a site of static pages: python tools/docs.py [folder], without Quarto or a network.

Sphinx with myst-nb writes the pages: lessons, the gallery of figures, the API from the code's own signatures and
docstrings, and every source notebook with its outputs as they were saved. This file prepares what it reads: copies of
the notebooks without nbdev's directives and with figures that stay interactive, and one page for each room's names.
"""

import html
import json
import re
import shutil
import sys
from base64 import b64decode
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path

import plotly
import plotly.graph_objects as go
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[1]
NBS, DOCS = ROOT / "nbs", ROOT / "docs"
PLOTLY = "application/vnd.plotly.v1+json"
ROOMS = ("data", "datasets", "io", "tl", "nn", "model", "pl", "views", "bench")
LEADS = "Each figure leads to the notebook that draws and explains it."
FIGURE = '<div class="figure" data-height="{height}"><script type="application/json">{spec}</script>{picture}</div>'


def escaped(spec: dict) -> str:
    "JSON that may stand within a page."
    return json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")


def figure(data: dict) -> dict:
    "A Plotly output as an element that `figures.js` draws; its picture stands there until then, and without scripts."
    spec = {k: data[PLOTLY][k] for k in ("data", "layout") if k in data[PLOTLY]}
    picture = (
        f'<img alt="figure" src="data:image/png;base64,{data["image/png"].strip()}">' if "image/png" in data else ""
    )
    return {"text/html": FIGURE.format(height=spec["layout"].get("height", 450), spec=escaped(spec), picture=picture)}


def code_cell(cell: dict) -> dict | None:
    "A code cell as a reader sees it; None where it is the project's bookkeeping."
    source = "".join(cell["source"])
    flags = set(re.findall(r"^#\s*\|\s*(\w+)", source, re.M))
    if flags & {"hide", "default_exp"} or not source.strip():
        return None
    tags = ["export"] if flags & {"export", "exports", "exporti"} else []
    outputs = [o | {"data": figure(o["data"])} if PLOTLY in o.get("data", {}) else o for o in cell["outputs"]]
    source = re.sub(r"^#\s*\|.*\n?", "", source, flags=re.M).strip("\n")
    return cell | {"source": source, "outputs": outputs, "metadata": {"tags": tags}}


def text_cell(cell: dict) -> dict:
    "A cell of prose; MyST wants formulas in paragraphs of their own."
    source = re.sub(r"\n+(\$\$[^\n]+\$\$) *\n+", r"\n\n\1\n\n", "".join(cell["source"]) + "\n")
    return cell | {"source": source.strip("\n")}


def prepared(path: Path) -> dict:
    "A notebook for the site."
    nb = json.loads(path.read_text(encoding="utf-8"))
    cells = [text_cell(c) if c["cell_type"] == "markdown" else code_cell(c) for c in nb["cells"]]
    return nb | {"cells": [c for c in cells if c]}


def title(path: Path) -> str:
    "The heading of a notebook."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return re.match(r"#\s+(.+)", "".join(cells[0]["source"])).group(1)


def toctree(pages: list, caption: str = "", depth: int = 1, hidden: bool = True) -> str:
    "A list of pages for the sidebar."
    options = [f":caption: {caption}"] * bool(caption) + [f":maxdepth: {depth}"] + [":hidden:"] * hidden
    return "\n".join(["```{toctree}", *options, "", *map(str, pages), "```"])


def without_ending(path: Path) -> str:
    return path.relative_to(NBS).with_suffix("").as_posix()


def room_pages(folder: Path) -> list[str]:
    "The notebooks of a room and, behind their index, of the rooms within it."
    return [without_ending(p) for p in sorted(folder.rglob("*.ipynb")) if p.name != "00_index.ipynb"]


def sidebar() -> dict[str, list[str]]:
    "Caption -> pages."
    tutorials = [without_ending(p) for p in sorted((NBS / "tutorials").glob("*.ipynb"))]
    explained = [without_ending(p) for p in sorted((NBS / "explanations").glob("*.ipynb"))]
    measured = [without_ending(p) for p in sorted((NBS / "benchmarks").glob("*.ipynb"))]
    single = [without_ending(p) for p in sorted(NBS.glob("[0-9]*.ipynb"))]
    rooms = [f"{p.name}/00_index" for p in sorted(NBS.glob("[0-9]*/"))]
    out = {
        "Lessons": tutorials,
        "Explanations": explained,
        "Benchmarks": measured,
        "Reference": ["gallery", "api/index", "changelog", "contributing"],
        "Source notebooks": sorted([*single, *rooms]),
    }
    return {k: v for k, v in out.items() if v}


def write_notebooks(to: Path) -> None:
    "Copies of all notebooks; index pages also list their room for the sidebar."
    for path in sorted(NBS.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        nb, out = prepared(path), to / path.relative_to(NBS)
        lists = []
        if path == NBS / "index.ipynb":
            lists = [toctree(pages, caption) for caption, pages in sidebar().items()]
        elif path.name == "00_index.ipynb":
            lists = [toctree([Path(p).relative_to(path.parent.name) for p in room_pages(path.parent)])]
        nb["cells"] += [
            {"cell_type": "markdown", "id": f"list{n}", "metadata": {}, "source": text} for n, text in enumerate(lists)
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(nb), encoding="utf-8")
    shutil.copytree(NBS / "images", to / "images", dirs_exist_ok=True)


CARD = "````{{grid-item-card}} {name}\n:link: {page}\n:link-type: doc\n:img-top: gallery/{name}.png\n````"


def write_gallery(to: Path) -> None:
    "The richest kept picture of each figure of `splicevi.pl`, with the notebook that draws it."
    best = {}
    for path in sorted((NBS / "60_pl").glob("*.ipynb")):
        for name, png in pictures(path):
            if len(png) > len(best.get(name, (b"",))[0]):
                best[name] = png, without_ending(path)
    (to / "gallery").mkdir()
    for name, (png, _) in best.items():
        (to / "gallery" / f"{name}.png").write_bytes(png)
    cards = "\n".join(CARD.format(name=name, page=page) for name, (_, page) in best.items())
    text = f"# Gallery\n\n{LEADS}\n\n`````{{grid}} 1 2 2 3\n:gutter: 3\n\n{cards}\n`````\n"
    (to / "gallery.md").write_text(text, encoding="utf-8")


def pictures(path: Path) -> Iterator[tuple[str, bytes]]:
    "The function of `splicevi.pl` that a cell calls last, and the PNG of the figure that it shows."
    room = import_module("splicevi.pl")
    drawn = [n for n in room.__all__ if callable(f := getattr(room, n)) and signature(f).return_annotation is go.Figure]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        called = [n for n in re.findall(r"\b(\w+)\(", "".join(cell["source"])) if n in drawn and n != "empty_figure"]
        for out in cell.get("outputs", []):
            if called and PLOTLY in out.get("data", {}) and "image/png" in out["data"]:
                yield called[-1], b64decode("".join(out["data"]["image/png"]))


def write_api(to: Path) -> None:
    "A page for each room: its public names, with signature and docstring."
    (to / "api").mkdir(exist_ok=True)
    top = "# API\n\nWhat users type, by room. *Source notebooks* define and explain each name.\n\n"
    (to / "api" / "index.md").write_text(top + toctree(["splicevi", *ROOMS], hidden=False), encoding="utf-8")
    for name in ("splicevi", *ROOMS):
        (to / "api" / f"{name}.md").write_text(api_page(name), encoding="utf-8")


def api_page(name: str) -> str:
    "Names of a room, functions and classes one after the other."
    full = "splicevi" if name == "splicevi" else f"splicevi.{name}"
    room = import_module(full)
    first = set() if name == "splicevi" else set(import_module("splicevi").__all__)
    parts = [f"# {full}\n\n{html.escape((room.__doc__ or '').strip())}\n"]
    for public in getattr(room, "__all__", []):
        value = getattr(room, public)
        if not callable(value):
            continue
        kind, options = (
            ("autoclass", ":members:\n:inherited-members: Module\n")
            if isinstance(value, type)
            else ("autofunction", "")
        )
        parts.append(
            f"```{{eval-rst}}\n.. {kind}:: {full}.{public}\n"
            + "".join(f"   {o}\n" for o in (options + ":no-index:\n" * (public in first)).splitlines())
            + "```\n"
        )
    return "\n".join(parts)


def write_pages(to: Path) -> None:
    "All that Sphinx reads."
    shutil.rmtree(to.parent, ignore_errors=True)
    write_notebooks(to)
    write_gallery(to)
    write_api(to)
    shutil.copytree(DOCS, to, dirs_exist_ok=True)
    (to / "changelog.md").write_text((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), encoding="utf-8")
    (to / "_static").mkdir(exist_ok=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", to / "_static" / "plotly.min.js")


def build(out: Path) -> int:
    "Write the site into `out/site`; 0 if that went well. A warning of Sphinx is an error."
    write_pages(out / "source")
    return build_main(["-b", "html", "-j", "auto", "-q", "-W", "--keep-going", str(out / "source"), str(out / "site")])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs")))
