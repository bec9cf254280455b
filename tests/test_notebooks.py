"""Every notebook runs from top to bottom in a fresh kernel: one test each, and a failure names the cell."""

import os
import re
import time
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

NBS = Path(__file__).resolve().parents[1] / "nbs"
NOTEBOOKS = [
    p for p in sorted(NBS.rglob("*.ipynb")) if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts)
]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def flags_to_skip() -> set[str]:
    "Cell flags that are not run: `tst_flags` of settings.ini, without `slow` when the slow cells are wanted."
    cfg = ConfigParser(interpolation=None)
    cfg.read(NBS.parent / "settings.ini")
    flags = set(cfg["DEFAULT"]["tst_flags"].split())
    return flags - {"slow"} if os.environ.get("SPLICEVI_SLOW") else flags


def is_skipped(source: str, flags: set[str]) -> bool:
    "Does the cell carry one of `flags`, or `eval: false`?"
    found = re.findall(r"^\s*#\s*\|\s*(.+?)\s*$", source, re.M)
    return any(re.fullmatch(r"eval\s*:\s*false", f) or f.split()[0] in flags for f in found)


def run_notebook(path: Path, cwd: Path, env: dict, timeout: int = 600) -> None:
    "Execute the code cells of `path` in order; `pytest.fail` at the first that raises."
    nb, flags = nbformat.read(path, as_version=4), flags_to_skip()
    client = NotebookClient(nb, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(cwd)}})
    with client.setup_kernel(env=env, cwd=str(cwd)):
        for i, cell in enumerate(nb.cells):
            if cell.cell_type != "code" or not cell.source.strip() or is_skipped(cell.source, flags):
                continue
            try:
                client.execute_cell(cell, i)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
                trace = getattr(e, "traceback", None) or str(e)
                pytest.fail(
                    f"{path.name}, cell {i + 1} of {len(nb.cells)}:\n\n{cell.source}\n\n{ANSI.sub('', trace)}",
                    pytrace=False,
                )


def beside_notebooks() -> set[Path]:
    "Files beside the notebooks."
    skipped = ("_checkpoints", "__pycache__")
    return {p for p in NBS.rglob("*") if p.suffix != ".ipynb" and not any(s in str(p) for s in skipped)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(NBS)))
def test_notebook(path, tmp_path):
    "All cells run, and nothing is left behind beside the notebooks."
    before = beside_notebooks()
    run_notebook(path, path.parent, {**os.environ, "IN_TEST": "1", "IPYTHONDIR": str(tmp_path), "MPLBACKEND": "agg"})
    for _ in range(60):  # what another notebook writes at the same time is gone when that one has ended
        if not (left := beside_notebooks() - before):
            return
        time.sleep(2)
    pytest.fail(f"files are left behind: {sorted(map(str, left))}")


def test_failure_names_the_cell(tmp_path):
    "The message of a failing notebook holds its name, the cell's number, its source and the error."
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# prose"),
            nbformat.v4.new_code_cell("#| slow\n1 / 0"),
            nbformat.v4.new_code_cell("#| eval: false\n1 / 0"),
            nbformat.v4.new_code_cell("x = 3\nassert x == 4, 'x is three'"),
        ]
    )
    nbformat.write(nb, tmp_path / "broken.ipynb")
    env = {k: v for k, v in os.environ.items() if k != "SPLICEVI_SLOW"}
    with pytest.MonkeyPatch.context() as m, pytest.raises(pytest.fail.Exception) as info:
        m.delenv("SPLICEVI_SLOW", raising=False)
        run_notebook(tmp_path / "broken.ipynb", tmp_path, env)
    message = str(info.value)
    assert "broken.ipynb, cell 4 of 4" in message and "assert x == 4" in message and "x is three" in message


def test_there_are_notebooks():
    "The list above is not empty for a wrong reason."
    assert NOTEBOOKS and (NBS / "index.ipynb").exists()
