"""Write what follows from the notebooks (`--check` only compares): README.md and CONTRIBUTING.md from a notebook each
(prose, code, text outputs, links by relative path), the sidebar of the Quarto site, and llms.txt for assistants."""

import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import yaml

root = Path(__file__).resolve().parents[1]
nbs = root / "nbs"
SITE = "https://splicevi.github.io/splicevi/"
ROOMS = ("data", "datasets", "io", "tl", "nn", "model", "pl", "views", "bench")


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def outputs(cell: dict) -> str:
    "Text of a cell's outputs as an indented block."
    texts = []
    for out in cell["outputs"]:
        text = (
            out.get("text") or out.get("data", {}).get("text/markdown") or out.get("data", {}).get("text/plain") or []
        )
        texts.append("".join(text).rstrip())
    text = "\n".join(t for t in texts if t)
    return "\n\n" + "\n".join("    " + line for line in text.splitlines()) if text else ""


def block(cell: dict) -> str:
    "One cell as Markdown; empty for hidden cells."
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return re.sub(r"\]\((?!https?:|#)", "](nbs/", source)
    if re.search(r"^#\s*\|\s*(hide|default_exp)", source, re.M) or source.startswith("assert "):
        return ""
    code = re.sub(r"^#\s*\|.*\n", "", source, flags=re.M)
    return f"```python\n{code}\n```{outputs(cell)}"


def page(name: str) -> str:
    "A notebook as Markdown."
    note = f"<!-- Written by `make readme` from nbs/{name}.ipynb: edit that. -->"
    return "\n\n".join(p for p in [*map(block, cells_of(nbs / f"{name}.ipynb")), note] if p) + "\n"


def heading(path: Path) -> tuple[str, str]:
    "Title and subtitle of a notebook."
    first = "".join(cells_of(path)[0]["source"])
    return tuple(re.match(r"#\s+(.+?)\s*\n+>\s*(.+)", first).groups())


def rooms() -> dict[Path, list[Path]]:
    "Folder of each room -> its notebooks in order."
    return {f: sorted(f.rglob("*.ipynb")) for f in sorted(nbs.glob("[0-9]*/"))}


def sidebar() -> str:
    "The pages of the Quarto site, in the order of the house."
    relative = lambda p: p.relative_to(nbs).as_posix()
    section = lambda name, pages: {"section": name, "contents": [relative(p) for p in pages]}
    lessons = [
        section(f.title(), sorted((nbs / f).glob("*.ipynb"))) for f in ("tutorials", "explanations", "benchmarks")
    ]
    single = {p: relative(p) for p in sorted(nbs.glob("[0-9]*.ipynb"))}
    house = single | {f: section(f.name[3:], pages) for f, pages in rooms().items()}
    contents = [
        "index.ipynb",
        *(s for s in lessons if s["contents"]),
        *(house[k] for k in sorted(house)),
        "contributing.ipynb",
    ]
    note = "# Written by `make readme` from the notebooks\n"
    return note + yaml.dump({"website": {"sidebar": {"contents": contents}}}, sort_keys=False)


def listed(path: Path) -> str:
    "A line of llms.txt that leads to a page."
    title, subtitle = heading(path)
    return f"- [{title}]({SITE}{path.relative_to(nbs).with_suffix('.html').as_posix()}): {subtitle}"


def names(room: str) -> list[str]:
    "Public names of a room with their signature and first sentence."
    module, out = import_module(f"splicevi.{room}" if room else "splicevi"), []
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            warns = isinstance(value, type) and issubclass(value, Warning)  # built-in classes have no signature
            arguments = "" if warns else ", ".join(inspect.signature(value).parameters)
            said = (inspect.getdoc(value) or "").split("\n")[0].rstrip(".")
            out.append(f"- `{'.'.join(filter(None, ('sv', room, name)))}({arguments})`: {said}")
    return out


def methods() -> list[str]:
    "The methods of the model that this library defines."
    from splicevi import SPLICEVI

    out = []
    for name in sorted(dir(SPLICEVI)):
        value = getattr(SPLICEVI, name)
        if not name.startswith("_") and callable(value) and "splicevi" in getattr(value, "__module__", ""):
            arguments = ", ".join(p for p in inspect.signature(value).parameters if p != "self")
            out.append(f"- `model.{name}({arguments})`: {(inspect.getdoc(value) or '').split(chr(10))[0].rstrip('.')}")
    return out


def llms() -> str:
    "What an assistant needs to use the library rightly."
    index = [b for b in map(block, cells_of(nbs / "index.ipynb")) if b]
    start = index.index(next(b for b in index if b.startswith("## Five lines")))
    example = index[start + 1 : start + 2] + [b for b in index[start + 1 : start + 4] if b.startswith("```")]
    parts = [
        index[0],
        index[1],
        "Rules that are easy to get wrong:",
        (root / "tools" / "llms_rules.md").read_text(encoding="utf-8").strip(),
        "## The shortest use",
        *dict.fromkeys(example),
        "## Lessons",
        "\n".join(
            listed(p) for f in ("tutorials", "explanations", "benchmarks") for p in sorted((nbs / f).glob("*.ipynb"))
        ),
        "## The model, `sv.SPLICEVI`",
        "\n".join(methods()),
        "## Names by room",
        "\n".join(n for room in ("", *ROOMS) for n in names(room)),
        "## Source notebooks",
        "\n".join(listed(p) for pages in rooms().values() for p in pages),
    ]
    return "\n\n".join(parts) + "\n"


PAGES = {
    "README.md": lambda: page("index"),
    "CONTRIBUTING.md": lambda: page("contributing"),
    "nbs/sidebar.yml": sidebar,
    "llms.txt": llms,
}


if __name__ == "__main__":
    stale = []
    for name, write in PAGES.items():
        target, text = root / name, write()
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                target.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"{', '.join(stale)}: not what the notebooks say. Run `make readme`")
