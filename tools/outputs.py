"""Run notebooks and keep what they show: python tools/outputs.py [--browser] nbs/60_pl/40_psi.ipynb ...

Every Plotly figure gets a PNG beside it, so that pages without a kernel or a network show it too (needs the extra
`image` and Chrome or Chromium). What a cell writes to its error stream is left out: warnings of one machine are no part
of a lesson. With `--browser` the notebook runs in JupyterLab, and a dashboard, a map or an explorer is kept as the
picture that the browser shows, for pages that show no widgets.
"""

import base64
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
PLOTLY = "application/vnd.plotly.v1+json"
if os.environ.get("SPLICEVI_BENCH") != "full":  # which measures what users have
    # on busy cores, threads that spin while they wait cost a factor of ten
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
VIEWS = {  # what to picture -> its text
    ".splicevi-explorer": "PSIExplorer",
    ".jp-OutputArea:has(.svi)": None,
    ".splicevi-map": "LatentMap",
    ".splicevi-view": "a view of several parts",
}
for name in ("chromium", "chromium-browser", "google-chrome"):
    if shutil.which(name):
        os.environ.setdefault("BROWSER_PATH", shutil.which(name))


def encoded(png: bytes, colors: int = 128) -> str:
    "A PNG for an output: on white, without a white border, and with a palette, which makes it a third of the size."
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    left, top, right, bottom = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    right, bottom = min(right + 12, picture.width), min(bottom + 12, picture.height)  # beyond it is black
    picture = picture.crop((max(left - 12, 0), max(top - 12, 0), right, bottom))
    small = io.BytesIO()
    picture.quantize(colors).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def with_picture(data: dict) -> dict:
    "The forms of an output, a figure also as PNG."
    if PLOTLY not in data:
        return data
    spec = data[PLOTLY]
    fig = go.Figure({k: spec[k] for k in ("data", "layout") if k in spec})
    size = {k: int(v) for k, v in (("width", fig.layout.width), ("height", fig.layout.height)) if v}
    png = fig.to_image(format="png", **{"width": 700, "height": 400, **size})
    return {PLOTLY: spec, "image/png": encoded(png)}


def execute(nb, path: Path) -> None:
    "Run a notebook in its folder."
    options = dict(timeout=900, kernel_name="python3", store_widget_state=False)  # the state holds whole scripts
    client = NotebookClient(nb, resources={"metadata": {"path": str(path.parent)}}, **options)
    client.execute()


def execute_in_browser(nb, path: Path) -> None:
    "Run a notebook in JupyterLab, and put pictures in the place of its views."
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import FLAGS, Notebook, browser_path, jupyter_lab
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home, sync_playwright() as p:
        file = Path(folder) / path.name
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(nb, file)
        with jupyter_lab(Path(folder), Path(home), ROOT) as address:
            browser = p.chromium.launch(executable_path=browser_path(), args=FLAGS)
            page = Notebook(browser.new_page(), address, path.name, width=1300, height=2400)
            page.run_all()
            page.wait_done(1800)
            if errors := page.failed(stderr=False):
                raise RuntimeError(f"{path.name} fails in the browser:\n{errors[0]}")
            page.page.wait_for_timeout(5000)  # the figures of the last view
            page.save()
            seen = nbformat.read(file, as_version=4)
            for i, (cell, ran) in enumerate(zip(nb.cells, seen.cells, strict=True)):
                if cell.cell_type == "code":
                    cell.outputs = pictured(page.page.locator(".jp-Notebook .jp-Cell").nth(i), ran.outputs)
            page.shut_down()
            browser.close()


def pictured(cell, outputs: list) -> list:
    "Outputs of a cell on the page; a view as PNG."
    for selector, text in VIEWS.items():
        if cell.locator(selector).count():
            png = encoded(cell.locator(selector).first.screenshot(), 256)
            data = {"image/png": png, "text/plain": text or outputs[-1]["data"]["text/plain"]}
            return [nbformat.v4.new_output("display_data", data)]
    return outputs


def run(path: Path, execute=execute) -> None:
    "Execute a notebook and save it with its outputs."
    nb = nbformat.read(path, as_version=4)
    os.environ["IN_TEST"] = "1"  # the closing nbdev_export() of a source notebook does nothing
    execute(nb, path)
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        for output in cell.outputs:
            if "data" in output:
                output["data"] = nbformat.from_dict(with_picture(dict(output["data"])))
    nbformat.write(nb, path)


if __name__ == "__main__":
    for name in [a for a in sys.argv[1:] if a != "--browser"]:
        run(Path(name), execute_in_browser if "--browser" in sys.argv else execute)
        print(name, file=sys.stderr)
