"""Run notebooks and keep what they show: python tools/outputs.py nbs/60_pl/40_psi.ipynb ...

Every Plotly figure gets a PNG beside it, so that pages without a kernel or a network show it too (needs the extra
`image` and Chrome or Chromium). What a cell writes to its error stream is left out: warnings of one machine are no part
of a lesson.
"""

import base64
import os
import shutil
import sys
from pathlib import Path

import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient

PLOTLY = "application/vnd.plotly.v1+json"
for name in ("chromium", "chromium-browser", "google-chrome"):
    if shutil.which(name):
        os.environ.setdefault("BROWSER_PATH", shutil.which(name))


def with_picture(data: dict) -> dict:
    "The forms of an output, a figure also as PNG."
    if PLOTLY not in data:
        return data
    spec = data[PLOTLY]
    fig = go.Figure({k: spec[k] for k in ("data", "layout") if k in spec})
    size = {k: int(v) for k, v in (("width", fig.layout.width), ("height", fig.layout.height)) if v}
    png = fig.to_image(format="png", **{"width": 700, "height": 400, **size})
    return {PLOTLY: spec, "image/png": base64.b64encode(png).decode()}


def run(path: Path) -> None:
    "Execute a notebook in its folder and save it with its outputs."
    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(nb, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    os.environ["IN_TEST"] = "1"  # the closing nbdev_export() of a source notebook does nothing
    client.execute()
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        for output in cell.outputs:
            if "data" in output:
                output["data"] = nbformat.from_dict(with_picture(dict(output["data"])))
    nbformat.write(nb, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
        print(name, file=sys.stderr)
