"""Dashboard, explorer and map in marimo, which takes no ipywidgets: each view is one anywidget."""

import re
import time

import pytest
from browser import FLAGS, browser_path, marimo_app, wait_until

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("marimo", reason="marimo is not installed")
BROWSER = browser_path()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None, reason="no browser: install chromium, or name one with CHROMIUM=/path/to/chromium"
    ),
]

APP = """
import marimo

app = marimo.App(width="full")


@app.cell
def _():
    import logging
    import warnings

    warnings.simplefilter("ignore")
    import marimo as mo
    import numpy as np
    import scvi
    import splicevi as sv
    from splicevi.datasets import simulate

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.seed = 0
    mdata = simulate(n_cells=300, n_genes=100, n_junctions=200, n_cell_types=3, observed=0.3, seed=1)
    sv.SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = sv.SPLICEVI(mdata, n_latent=10)
    return mdata, mo, model, np, sv


@app.cell
def _(model):
    model.train(max_epochs=60, lr=1e-3, early_stopping=False, dashboard=True)
    trained = True
    return (trained,)


@app.cell
def _(mo, model, sv, trained):
    ex = sv.PSIExplorer(model, event="ATSE_00009")
    view = mo.ui.anywidget(ex.widget)
    view
    return ex, view


@app.cell
def _(ex, mo, view):
    view.value
    mo.md(f"explorer: {int(ex.selected.sum())} cells, {ex.event}, {ex.show}")
    return


@app.cell
def _(mdata, np, sv, trained):
    sv.views.LatentMap(mdata, latent=np.random.default_rng(0).normal(size=(300, 2)))
    return


if __name__ == "__main__":
    app.run()
"""


@pytest.fixture(scope="module")
def shots(root):
    (root / "test-artifacts").mkdir(exist_ok=True)
    return root / "test-artifacts"


def test_all_views_in_marimo(tmp_path, root, shots):
    "Curves grow while the cell runs; what is clicked in the explorer is known to other cells; a map is a cell's value."
    from playwright.sync_api import sync_playwright

    (tmp_path / "app.py").write_text(APP)
    with marimo_app(tmp_path / "app.py", tmp_path, root) as address, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page, errors = browser.new_page(viewport={"width": 1200, "height": 1500}), []
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(address)
        shown = lambda css: " ".join(page.locator(css).all_inner_texts())
        epoch = lambda: int((re.search(r"epoch (\d+) / 60", shown(".svi-head")) or [0, 0])[1])
        wait_until(lambda: 2 <= epoch() < 60, 120)
        page.screenshot(path=shots / "marimo-dashboard.png")
        wait_until(lambda: "finished" in shown(".svi-head"), 120)
        wait_until(lambda: page.locator(".splicevi-explorer .js-plotly-plot .main-svg").count() > 3, 60)
        told = page.locator("text=/explorer: .*/").first.inner_text
        wait_until(lambda: "0 cells, ATSE_00009, observed" in told(), 60)
        explorer = page.locator(".splicevi-explorer")
        explorer.locator("button:text-is('groups')").click()
        explorer.locator(".splicevi-map .key button").first.click()
        wait_until(lambda: "100 cells" in told(), 30)
        explorer.locator("tbody tr:not(.on)").nth(2).click()
        wait_until(lambda: "ATSE_00009" not in told(), 30)
        explorer.locator("button:text-is('decoded')").click()
        wait_until(lambda: "decoded" in told(), 30)
        wait_until(lambda: page.locator(".splicevi-map").count() == 2, 30)
        page.locator(".splicevi-map[data-drawn='300']").last.wait_for()
        time.sleep(1)
        explorer.screenshot(path=shots / "marimo-explorer.png")
        page.locator(".splicevi-map").last.screenshot(path=shots / "marimo-map.png")
        assert not errors, errors
        browser.close()
