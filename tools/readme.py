"""Write README.md from nbs/index.ipynb (`--check` only compares): prose, code, text outputs, links by relative path."""

import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]


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


def readme() -> str:
    "The whole page."
    cells = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    note = "<!-- Written by `make readme` from nbs/index.ipynb: edit that. -->"
    return "\n\n".join(p for p in [*map(block, cells)] if p) + f"\n\n{note}\n"


if __name__ == "__main__":
    target = root / "README.md"
    if "--check" in sys.argv:
        if not target.exists() or target.read_text(encoding="utf-8") != readme():
            sys.exit("README.md is not what nbs/index.ipynb says: run `make readme`")
    else:
        target.write_text(readme(), encoding="utf-8")
