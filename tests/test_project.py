"""The project itself: quick imports, notebooks and modules that agree, an install that needs no development tool."""

import ast
import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def python(code: str, **kwargs):
    "Run `code` in a fresh interpreter; its stripped standard output."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def project_files(root: Path) -> list[Path]:
    "What belongs to the project: tracked and new files, without ignored ones."
    if (root / ".git").exists():
        out = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        return [Path(p) for p in out.split("\0") if p and (root / p).is_file()]
    skip = (".venv", ".pytest_cache", "__pycache__", "demo", "build", "dist", "_proc", "_docs")
    files = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    return [p for p in files if not any(part in skip or part.endswith(".egg-info") for part in p.parts)]


@pytest.fixture
def copy(root, tmp_path):
    "A copy of the project's files in an empty folder."
    for p in project_files(root):
        (tmp_path / p).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / p, tmp_path / p)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    "Every file of `folder` with its bytes."
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }


def test_notebooks_and_modules_agree(copy):
    "`nbdev_export` and `nbdev_clean` change nothing."
    before = contents(copy)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    for command in ("nbdev_export", "nbdev_clean"):
        done = subprocess.run([BIN / command], cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    after = contents(copy)
    drifted = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    assert not drifted, f"run nbdev_export && nbdev_clean and commit: {drifted}"


def test_one_format(root):
    "Notebooks and tests are formatted by `make format`, and ruff's rules of pyproject.toml hold."
    for command in (["format", "--check", "--quiet"], ["check", "--quiet"]):
        done = subprocess.run([BIN / "ruff", *command, "--no-cache", "."], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, f"run make format\n{done.stdout}{done.stderr}"


def test_readme_is_the_index_notebook(root):
    "README.md is what tools/readme.py makes of nbs/index.ipynb."
    done = subprocess.run([sys.executable, root / "tools" / "readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_is_quick_and_silent():
    "`import splicevi` takes under a second, prints nothing and loads none of the heavy libraries."
    code = """
import sys, time
start = time.perf_counter()
import splicevi
seconds = time.perf_counter() - start
heavy = {"torch", "scvi", "numpy", "pandas", "anndata", "plotly"} & set(sys.modules)
assert not heavy, heavy
assert seconds < 1, seconds
"""
    assert python(code) == ""


def test_model_import_adds_little():
    "`from splicevi import SPLICEVI` takes at most a second more than scvi-tools alone."
    code = "import time, scvi; t = time.perf_counter(); from splicevi import SPLICEVI; print(time.perf_counter() - t)"
    assert float(python(code).splitlines()[-1]) < 1


def test_names_load_on_first_use():
    "Submodules and the two classes are attributes, listed by `dir`, and an unknown name says so."
    code = """
import splicevi, sys
assert {"SPLICEVI", "SPLICEVAE", "data", "simulate", "model", "cli"} <= set(dir(splicevi))
assert "splicevi.tl.heldout" not in sys.modules
assert splicevi.tl.heldout.__name__ == "splicevi.tl.heldout"
try: splicevi.SPLICEV
except AttributeError as e: assert "'splicevi' has no attribute 'SPLICEV'" in str(e)
else: raise AssertionError
assert not hasattr(splicevi, "__wrapped__")
"""
    assert python(code) == ""


def test_help_is_quick():
    "`splicevi --help` lists the commands and answers within a second (the best of three, the machine may be busy)."
    import time

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([BIN / "splicevi", "--help"], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0 and "train" in done.stdout and "check" in done.stdout, done.stderr
    assert min(seconds) < 1, seconds


def test_library_needs_no_development_tool(root):
    "No module imports what only `dev_requirements` installs."
    cfg = ConfigParser(interpolation=None)
    cfg.read(root / "settings.ini")
    needs = cfg["DEFAULT"]["requirements"]
    tools = {"nbdev", "execnb", "ghapi", "pytest", "hypothesis", "ipykernel", "nbclient", "psutil", "scanpy"}
    assert not any(tool in needs for tool in tools)
    for path in (root / "splicevi").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {n.split(".")[0] for n in names} & tools, f"{path.name} imports {names}"


def test_installed_copy_holds_every_module(copy, tmp_path_factory):
    "`pip install .` brings every module and the `splicevi` command."
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", target, copy],
        check=True,
        capture_output=True,
        text=True,
    )
    modules = {p.relative_to(copy) for p in (copy / "splicevi").rglob("*.py")}
    assert {p.relative_to(target) for p in (target / "splicevi").rglob("*.py")} == modules
    assert (target / "bin" / "splicevi").exists()


def test_makefile_and_constraints_name_one_torch(root):
    "The torch that the Makefile installs first is the one in constraints.txt."
    pins = (root / "constraints.txt").read_text().split()
    assert "torch==2.13.0" in pins and "torch==2.13.0" in (root / "Makefile").read_text()


def test_no_print_in_the_library(root):
    "Modules log or warn; only the command line prints."
    for path in (root / "splicevi").rglob("*.py"):
        if path.stem.startswith("cli"):
            continue
        calls = [
            n
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
        ]
        assert not calls, f"{path.name} line {calls[0].lineno} prints"
