"""What people see: a real JupyterLab, and a Notebook 7, in a real browser.

`make test` runs the smoke test, `make test-browser` all; pictures are left in test-artifacts/.
"""

import json
import re
import time

import pytest
from browser import FLAGS, Notebook, as_json, browser_path, jupyter_lab, static_page, wait_until, write_notebook
from hostile import COLUMN, NAMES, hostile_mdata

from splicevi import PSIExplorer, coverage_report
from splicevi.views.report import report

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
BROWSER = browser_path()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no browser: install chromium, or name one with CHROMIUM=/path/to/chromium"
)

SETUP = """
import logging, warnings
warnings.simplefilter("ignore")
import scvi
for name in ("lightning.pytorch", "lightning.fabric"): logging.getLogger(name).setLevel(logging.ERROR)
from splicevi import SPLICEVI
from splicevi.views.dashboard.dashboard import TrainingDashboard
from splicevi.views.explorer.explorer import PSIExplorer
from splicevi.datasets import simulate
scvi.settings.seed = 0
mdata = simulate(n_cells=300, n_genes=100, n_junctions=200, n_cell_types=3, observed=0.3, seed=1)
SPLICEVI.setup_mudata(mdata, batch_key="batch")
model = SPLICEVI(mdata, n_latent=10)
"""
TRAIN = "model.train(max_epochs={n}, lr=1e-3, early_stopping=False, n_epochs_kl_warmup=10, dashboard=True)"
EXPLORE = """
ds = model.differential_splicing(groupby="cell_type", group1="type_1", group2="type_2", silent=True)
ex = PSIExplorer(model, ds=ds)
ex
"""


@pytest.fixture(scope="module")
def shots(root):
    "Folder of the pictures."
    (root / "test-artifacts").mkdir(exist_ok=True)
    return root / "test-artifacts"


BOTH = pytest.mark.parametrize("lab", ("lab", "notebook"), indirect=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, root, request):
    "Address of a JupyterLab, or of a Notebook 7, the folder that it serves, and which it is."
    front_end = getattr(request, "param", "lab")
    if front_end == "notebook":
        pytest.importorskip("notebook", "7", reason="notebook 7 is not installed")
    folder = tmp_path_factory.mktemp("notebooks")
    with jupyter_lab(folder, tmp_path_factory.mktemp("home"), root, front_end) as address:
        yield address, folder, front_end


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_notebook(lab, browser, shots, request):
    "Open a notebook of cells; a picture of a test that fails is kept."
    address, folder, front_end = lab
    opened = []

    def open_it(name, *cells, **look):
        if cells:
            write_notebook(folder / name, *cells)
        opened.append(Notebook(browser.new_page(), address, name, front_end=front_end, **look))
        return opened[-1]

    yield open_it
    for nb in opened:
        if nb.page.is_closed():
            continue
        nb.page.screenshot(path=shots / f"{request.node.name}-end.png")
        nb.page.close()


EPOCH = re.compile(r"epoch (\d+) / (\d+)")


def epoch(nb) -> int:
    "The epoch that the dashboard shows; -1 before there is one."
    found = EPOCH.search(" ".join(e.inner_text() for e in nb.page.query_selector_all(".svi")))
    return int(found[1]) if found else -1


def curve_points(nb) -> int:
    "How many points the dashboard's curves have."
    return nb.page.evaluate(
        """() => [...document.querySelectorAll('.svi svg path')].reduce(
          (n, path) => n + (path.getAttribute('d') || '').split(/[ML]/).length, 0)"""
    )


def plotted(nb) -> None:
    "Until the explorer's figures are drawn."
    nb.page.wait_for_function(
        "() => document.querySelectorAll('.splicevi-plot .js-plotly-plot .main-svg').length >= 5", timeout=60_000
    )


def heading(nb) -> str:
    return nb.page.locator(".splicevi-explorer .sv-head").first.inner_text()


def arcs(nb) -> str:
    "Names of the junctions whose arcs are drawn."
    return nb.page.evaluate(
        """() => {
          const plots = [...document.querySelectorAll('.splicevi-plot .js-plotly-plot')];
          const names = plots.map(p => (p.data || []).filter(t => t.meta !== undefined).map(t => t.name));
          return JSON.stringify(names.find(n => n.length) || []);
        }"""
    )


def click_arc(nb, junction: str) -> None:
    "Click the first arc of a junction."
    at = nb.page.evaluate(
        """junction => {
      for (const plot of document.querySelectorAll('.splicevi-plot .js-plotly-plot')) {
        if (!plot.data.some(t => t.meta !== undefined && t.name === junction)) continue;
        for (const t of plot._fullData || []) {
          if (t.mode !== 'markers') continue;
          const i = (t.customdata || []).findIndex(d => Array.isArray(d) && d[0] === junction);
          if (i < 0) continue;
          plot.scrollIntoView({ block: 'center' });
          const box = plot.getBoundingClientRect(), { xaxis, yaxis } = plot._fullLayout;
          return [box.left + xaxis._offset + xaxis.l2p(t.x[i]), box.top + yaxis._offset + yaxis.l2p(t.y[i])];
        }
      }
      return null;
    }""",
        junction,
    )
    assert at, f"no arc of {junction}"
    nb.page.mouse.move(*at)
    time.sleep(0.5)
    nb.page.mouse.click(*at)


def click_point(nb, customdata: str) -> None:
    "Click the point of the volcano with this label."
    at = nb.page.evaluate(
        """label => {
      for (const plot of document.querySelectorAll('.splicevi-plot .js-plotly-plot')) {
        for (const trace of plot._fullData || []) {
          const data = trace.customdata || [];
          for (let i = 0; i < data.length; i++) {
            if ((Array.isArray(data[i]) ? data[i][0] : data[i]) !== label || trace.x === undefined) continue;
            const l = plot._fullLayout, x = l.xaxis, y = l.yaxis;
            if (!/PSI \\(Δψ\\)|difference of PSI/.test(x.title?.text || '')) continue;
            plot.scrollIntoView({ block: 'center' });
            const box = plot.getBoundingClientRect();
            return [box.left + x._offset + x.l2p(x.d2l(trace.x[i])), box.top + y._offset + y.l2p(y.d2l(trace.y[i]))];
          }
        }
      }
      return null;
    }""",
        customdata,
    )
    assert at, f"no point {customdata} in a volcano"
    nb.page.mouse.move(*at)
    time.sleep(0.5)
    nb.page.mouse.click(*at)


def check_no_complaints(nb) -> None:
    "Nothing on the page failed, and the browser has no complaint."
    assert not nb.failed(), nb.failed()
    assert not nb.errors, nb.errors


def take(nb, name: str) -> None:
    "Type a name into the explorer's search box and take that answer."
    box = nb.page.locator(".splicevi-search input").first
    box.click()
    box.fill(name)
    nb.page.locator(f".splicevi-search li:has(.name:text-is('{name}'))").first.click()


def other_row(nb) -> tuple[str, str]:
    "Label and event of a called junction of another event than the one shown."
    code = """
r = ex.state.events()
r = r[r.called & (r.event_id != ex.event)].sort_values("effect_size")
print(r.index[0], r.event_id.iloc[0])
"""
    return tuple(nb.execute(code).split())


@pytest.mark.smoke
def test_watch_training_then_explore(open_notebook, shots):
    "Curves grow while the cell runs; then a search and a click on the volcano change the event that is shown."
    nb = open_notebook("smoke.ipynb", SETUP, TRAIN.format(n=120), EXPLORE, width=1300, height=1500)
    nb.run_all()
    first = wait_until(lambda: (e := epoch(nb)) >= 2 and (e, curve_points(nb)))
    later = wait_until(lambda: (e := epoch(nb)) > first[0] + 3 and (e, curve_points(nb)))
    assert later[0] < 120 and later[1] > first[1], (first, later)
    nb.shot(shots / "dashboard-live.png")
    nb.wait_done()
    assert "finished" in nb.page.locator(".svi:visible").last.inner_text()
    plotted(nb)
    before, gene = heading(nb), nb.execute("print(next(g for g in ex.state.data.index.genes if g != ex.gene))").strip()
    take(nb, gene)
    wait_until(lambda: heading(nb) == gene != before, 30)
    row, event = other_row(nb)
    before = arcs(nb)
    click_point(nb, row)
    wait_until(lambda: nb.execute("print(ex.event)").strip() == event, 30)
    wait_until(lambda: arcs(nb) != before, 30)
    nb.shot(shots / "explorer.png", ".splicevi-explorer")
    check_no_complaints(nb)


def explored(open_notebook, name):
    "A notebook that trains and shows the explorer, drawn."
    nb = open_notebook(
        name,
        SETUP,
        "model.train(max_epochs=15, lr=1e-3, enable_progress_bar=False)",
        EXPLORE,
        width=1300,
        height=2000,
    )
    nb.run_all()
    nb.wait_done()
    plotted(nb)
    return nb


@BOTH
@pytest.mark.browser
def test_explorer_panels_follow_each_other(open_notebook, shots):
    "A row of the table, an arc and the buttons change what the other panels show."
    nb = explored(open_notebook, "panels.ipynb")
    for label in ("test", "CSV", "HTML", "BED", "PNG"):
        assert nb.page.locator(f".splicevi-explorer button:text-is('{label}')").is_visible(), label
    head = nb.page.locator(".splicevi-explorer th:has-text('Δ exon')").get_attribute("title")
    assert head.startswith("inclusion2 minus inclusion1") and "Click to sort" in head
    before = nb.execute("print(ex.event)")
    nb.page.locator(".splicevi-explorer tbody tr:not(.on)").nth(5).click()
    wait_until(lambda: nb.execute("print(ex.event)") != before, 30)
    junction = nb.execute("print(next(j for j in ex.state.junctions.index if j != ex.junction))").strip()
    click_arc(nb, junction)
    wait_until(lambda: nb.execute("print(ex.junction)").strip() == junction, 30)
    title = lambda: nb.page.evaluate(
        """() => [...document.querySelectorAll('.splicevi-plot .js-plotly-plot')]
          .map(p => p._fullLayout.title?.text || '').join('|')"""
    )
    before = title()
    nb.page.locator(".splicevi-explorer button:has-text('observed')").first.click()
    wait_until(lambda: title() != before, 30)
    assert nb.execute("print(ex.show)").strip() == "observed"
    check_no_complaints(nb)


@BOTH
@pytest.mark.browser
def test_cells_of_the_map_are_selected_and_ranked(open_notebook, shots):
    "A name of the legend and a lasso on the explorer's map select cells, whose events are ranked beside it."
    nb = explored(open_notebook, "lasso.ipynb")
    chosen = lambda: int(nb.execute("print(int(ex.selected.sum()))"))
    nb.page.locator(".splicevi-explorer .splicevi-choice button:text-is('groups')").click()
    nb.page.locator(".splicevi-explorer .splicevi-map .key button:has-text('type_2')").click()
    wait_until(lambda: chosen() == 100, 30)
    assert nb.execute("print(set(ex.state.cell_groups[ex.selected.to_numpy()]))").strip() == "{'type_2'}"
    wait_until(lambda: "100 selected cells" in nb.page.locator(".splicevi-explorer").inner_text(), 30)
    nb.page.locator(".splicevi-map button[data-name=lasso]").click()
    box = nb.page.locator(".splicevi-map canvas").first.bounding_box()
    corners = [(0.01, 0.01), (0.5, 0.01), (0.5, 0.99), (0.01, 0.99), (0.01, 0.02)]
    at = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in corners]
    nb.page.mouse.move(*at[0])
    nb.page.mouse.down()
    for corner in at[1:]:
        nb.page.mouse.move(*corner, steps=4)
    nb.page.mouse.up()
    wait_until(lambda: chosen() != 100, 30)
    code = "x = ex.state.coords()[0][:, 0]; m = (x.min() + x.max()) / 2; print(((x < m) == ex.selected).mean())"
    assert float(nb.execute(code)) > 0.98  # all but cells on the line
    nb.shot(shots / "explorer-lasso.png", ".splicevi-explorer")
    nb.execute("ex.selected = [1, 2, 3]")
    wait_until(lambda: nb.page.locator(".splicevi-map").first.get_attribute("data-selected") == "3", 30)
    check_no_complaints(nb)


ALONG = """
import numpy as np
order = mdata.obs["cell_type"].cat.codes.to_numpy()
mdata.obs["pseudotime"] = order + np.random.default_rng(0).beta(3, 3, len(order))
programs = model.programs()
ds = model.differential_splicing(groupby="cell_type", group1="type_1", group2="type_2", silent=True)
places = np.random.default_rng(0).normal(size=(300, 2))
ex = PSIExplorer(model, ds=ds, programs=programs, along="pseudotime", latent=places)
ex
"""
POINTS = """mode => {
  for (const plot of document.querySelectorAll('.splicevi-plot .js-plotly-plot')) {
    const trace = plot._fullData.find(t => t.type === 'heatmap');
    if (!trace) continue;
    plot.scrollIntoView({ block: 'center' });
    const box = plot.getBoundingClientRect(), { xaxis: x, yaxis: y } = plot._fullLayout;
    return trace.x.map((_, i) => [box.left + x._offset + x.l2p(i), box.top + y._offset + y.l2p(0)]);
  }
}"""  # of the squares of the programs in the first group


@BOTH
@pytest.mark.browser
def test_programs_curves_and_power(open_notebook, shots):
    "A click on a program shows what it moves most, arcs and gene; events are ranked along pseudotime and opened."
    train = "model.train(max_epochs=15, lr=1e-3, enable_progress_bar=False)"
    nb = open_notebook("programs.ipynb", SETUP, train, ALONG, width=1300, height=2400)
    nb.run_all()
    nb.wait_done()
    plotted(nb)
    names = nb.execute("print(*programs.junctions, sep='\\n')").split("\n")
    for k in (0, 1):
        want = nb.execute(f"print(programs.top_junctions({names[k]!r}, 1).index[0])").strip()
        nb.execute(f"j = ex.state.data.junctions; mine = j.at[{want!r}, 'event_id']")
        nb.execute("ex.event = next(e for e in ex.state.data.index.events if e != mine)")
        time.sleep(1)
        before = heading(nb), arcs(nb)
        nb.page.mouse.click(*nb.page.evaluate(POINTS)[k])
        wait_until(lambda want=want: nb.execute("print(ex.junction)").strip() == want, 30)
        wait_until(lambda before=before: heading(nb) != before[0] and arcs(nb) != before[1], 30)
        assert want in arcs(nb) and nb.execute("print(ex.gene)").strip() in heading(nb)
    explorer = nb.page.locator(".splicevi-explorer")
    explorer.locator("button:text-is('rank events')").click()
    first = explorer.locator(".splicevi-table:has(th:has-text('range')) tbody tr").first
    first.click(timeout=60_000)
    wait_until(lambda: nb.execute("print(ex.event == ex.trends().index[0])").strip() == "True", 30)
    wait_until(lambda: "rises along pseudotime" in explorer.inner_text() or "falls along" in explorer.inner_text(), 30)
    assert "it would be found in" in explorer.inner_text()
    nb.execute("ex.state.choose(ex.state.events().query('~called').index[0])")
    wait_until(lambda: "Not called." in explorer.inner_text(), 30)
    nb.shot(shots / "explorer-programs.png", ".splicevi-explorer")
    check_no_complaints(nb)


@pytest.mark.browser
@pytest.mark.parametrize("binary", (True, False), ids=("bytes at once", "bytes later"))
def test_nothing_is_loaded_and_bytes_may_come_later(browser, tmp_path, shots, binary):
    "The explorer draws where nothing may be loaded, as in VS Code, and where bytes are left out at first, as in Colab."
    import numpy as np

    from splicevi.datasets import simulate

    mdata = simulate(n_cells=200, n_genes=20, n_junctions=60, n_cell_types=3, observed=0.3, seed=1)
    mdata.obs["age"] = np.arange(200.0)
    ex = PSIExplorer(mdata, latent=np.random.default_rng(0).normal(size=(200, 2)), along="age")
    sent = static_page(ex.widget, tmp_path / "a.html", binary)
    page, errors = browser.new_page(viewport={"width": 1200, "height": 1600}), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: m.type in ("error", "warning") and errors.append(m.text))
    page.on("request", lambda r: r.url.startswith("http") and errors.append(r.url))
    page.goto((tmp_path / "a.html").as_uri())
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= 5", timeout=60_000)
    if not binary:
        lost = wait_until(lambda: page.evaluate("window.sent.find(([k]) => k.endsWith('_lost'))"), 30)
        assert lost[1] == 1 and page.locator(".splicevi-map[data-drawn='200']").count() == 0
        page.evaluate("text => window.receive(text)", as_json(sent))
    page.locator(".splicevi-map[data-drawn='200']").wait_for(timeout=30_000)
    asked = page.evaluate("window.sent.some(([k]) => k.endsWith('_lost'))")
    assert asked != binary and not errors, errors
    page.close()


MANY = """
import numpy as np, pandas as pd
from anndata import AnnData
from splicevi.views import LatentMap
rng, n = np.random.default_rng(0), 1_000_000
kind = rng.integers(0, 4, n)
xy = 7 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])[kind] + rng.normal(size=(n, 2))
obs = pd.DataFrame({"cell_type": pd.Categorical.from_codes(kind, list("ABCD"))}, np.arange(n).astype(str))
adata = AnnData(obs=obs, obsm={"X_umap": xy})
"""


@pytest.mark.browser
@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
def test_a_map_of_a_million_cells(open_notebook, shots, dark):
    "All cells are drawn; legend, box and Python select the same; a pointer is told the cell's name; colours change."
    nb = open_notebook(
        f"million{dark}.ipynb", MANY, "cells = LatentMap(adata)\ncells", width=860, height=900, dark=dark
    )
    nb.run_all()
    nb.wait_done()
    nb.page.wait_for_selector(".splicevi-map[data-drawn='1000000']", timeout=60_000)
    count = lambda: int(nb.page.locator(".splicevi-map").get_attribute("data-selected"))
    nb.page.locator(".splicevi-map .key button:has-text('B')").click()
    wait_until(lambda: nb.execute("print((cells.mask.to_numpy() == (kind == 1)).all())").strip() == "True", 30)
    assert count() == int(nb.execute("print((kind == 1).sum())"))
    nb.page.locator(".splicevi-map button[data-name=box]").click()
    box = nb.page.locator(".splicevi-map canvas").first.bounding_box()
    point = lambda a, b: (box["x"] + a * box["width"], box["y"] + b * box["height"])
    nb.page.mouse.move(*point(0.002, 0.002))
    nb.page.mouse.down()
    nb.page.mouse.move(*point(0.5, 0.998), steps=5)
    nb.page.mouse.up()
    wait_until(lambda: nb.execute("print(set(kind[cells.selected[:1000]]) <= {0, 2})").strip() == "True", 30)
    left = "m = (xy[:, 0].min() + xy[:, 0].max()) / 2; print(((xy[:, 0] < m) == cells.mask).mean())"
    assert float(nb.execute(left)) > 0.999
    nb.shot(shots / f"map-{'dark' if dark else 'light'}-700.png", ".splicevi-view")
    nb.page.locator(".splicevi-map button[data-name=pan]").click()
    nb.page.mouse.move(*point(0.5, 0.5))
    nb.page.mouse.click(*point(0.5, 0.5))
    for _ in range(12):
        nb.page.mouse.wheel(0, -100)
    moved = nb.page.evaluate("document.querySelector('.splicevi-map').stats.frames")
    assert moved > 0
    nb.execute("cells.selected = [5, 7]")
    wait_until(lambda: count() == 2, 30)
    nb.page.keyboard.press("0")
    nb.execute("cells.color = np.where(kind == 3, np.nan, xy[:, 0])")
    nb.page.locator(".splicevi-map .strip").wait_for()
    at = nb.execute("i = np.argmin(((xy - [0, 7]) ** 2).sum(1)); print(kind[i])")
    assert at.strip() == "2" and "250" in nb.page.locator(".splicevi-map .key").inner_text().replace("249", "250")
    nb.page.mouse.move(*point(0.35, 0.35))
    nb.page.mouse.move(*point(0.36, 0.36))
    wait_until(lambda: nb.page.locator(".splicevi-map .hint span").count() == 1, 30)
    name = nb.page.locator(".splicevi-map .hint span").inner_text()
    assert int(nb.execute(f"print(kind[{int(name)}])")) in (0, 1, 2, 3)
    nb.shot(shots / f"map-values-{'dark' if dark else 'light'}-700.png", ".splicevi-view")
    check_no_complaints(nb)


@pytest.mark.browser
@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
def test_views_fit_into_700_pixels(open_notebook, shots, dark):
    nb = open_notebook(
        f"narrow{dark}.ipynb", SETUP, TRAIN.format(n=25), EXPLORE, width=860, height=2600, dark=dark
    )  # 700 are left beside the menus
    nb.run_all()
    nb.wait_done()
    plotted(nb)
    time.sleep(2)
    wide = nb.page.evaluate(
        """() => [...document.querySelectorAll('.splicevi-explorer, .svi')]
          .filter(e => e.scrollWidth > e.clientWidth + 2 && e.clientWidth)
          .map(e => [e.className, e.scrollWidth, e.clientWidth])"""
    )
    kind = "dark" if dark else "light"
    nb.shot(shots / f"dashboard-{kind}-700.png", ".jp-Cell:nth-of-type(2) .jp-OutputArea")
    nb.shot(shots / f"explorer-{kind}-700.png", ".splicevi-explorer")
    assert not wide, wide
    check_no_complaints(nb)


@BOTH
@pytest.mark.browser
def test_stop_button_ends_a_run_in_the_background(open_notebook, shots):
    nb = open_notebook(
        "background.ipynb",
        SETUP,
        "run = model.train(max_epochs=5000, lr=1e-3, early_stopping=False, dashboard=True, background=True)",
        "6 * 7",
    )
    nb.run_all()
    nb.wait_done(60)  # the cells return while training goes on
    wait_until(lambda: epoch(nb) >= 3)
    nb.shot(shots / "background.png")
    assert nb.execute("print(run.running)").strip() == "True"
    nb.page.locator("button:has-text('Stop')").click()
    wait_until(lambda: nb.execute("print(run.running)").strip() == "False", 60)
    wait_until(lambda: "stopped" in " ".join(nb.page.locator(".svi:visible").all_inner_texts()), 30)
    assert (
        nb.execute("print(run.wait(), model.is_trained, 3 <= len(model.history['elbo_train']) < 5000)").split()
        == ["True"] * 3
    )
    check_no_complaints(nb)


@pytest.mark.browser
def test_interrupt_keeps_the_model(open_notebook):
    nb = open_notebook("interrupt.ipynb", SETUP, TRAIN.format(n=5000))
    nb.run_all()
    wait_until(lambda: epoch(nb) >= 3)
    nb.interrupt()
    nb.wait_done(60)
    assert "stopped" in nb.page.locator(".svi:visible").last.inner_text()
    assert (
        nb.execute(
            "print(model.is_trained, len(model.history['elbo_train']) >= 3, model.get_latent_representation().shape)"
        ).strip()
        == "True True (300, 10)"
    )
    check_no_complaints(nb)


@BOTH
@pytest.mark.browser
def test_saved_notebook_shows_the_last_state(open_notebook, lab, shots):
    "Saved, its kernel ended, and opened again: dashboard and explorer still say what they said."
    nb = open_notebook("saved.ipynb", SETUP, TRAIN.format(n=15), EXPLORE, width=1300, height=1500)
    nb.run_all()
    nb.wait_done()
    plotted(nb)
    shown = heading(nb)
    time.sleep(2)
    nb.save()
    nb.shut_down()
    nb.page.close()
    again = open_notebook("saved.ipynb", width=1300, height=1500)
    wait_until(lambda: "finished" in again.page.locator(".jp-Notebook").inner_text(), 30)
    time.sleep(3)
    text = again.page.locator(".jp-Notebook").inner_text()  # of what can be seen
    again.shot(shots / "reopened.png")
    assert "epoch 15 / 15" in text and shown in text and "model not found" not in text, text[-2000:]
    assert not [e for e in again.errors if "model not found" not in e], (
        again.errors
    )  # JupyterLab's own word on every widget without a kernel


@pytest.mark.browser
@pytest.mark.parametrize("name", ("01_quickstart.ipynb", "02_explore_psi.ipynb"))
def test_tutorial_runs_in_the_browser(open_notebook, lab, shots, root, name):
    notebook = json.loads((root / "nbs" / "tutorials" / name).read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    (lab[1] / name).write_text(json.dumps(notebook))
    nb = open_notebook(name, width=1300, height=1500)
    nb.run_all()
    nb.wait_done(400)
    plotted(nb)
    assert not nb.failed(stderr=False), nb.failed(stderr=False)
    nb.shot(shots / name.replace(".ipynb", ".png"), ".splicevi-explorer")
    nb.shot(shots / name.replace(".ipynb", "-dashboard.png"), ".jp-OutputArea:has(.svi)")
    assert not nb.errors, nb.errors


HOSTILE = """
import logging, warnings
warnings.simplefilter("ignore")
import sys; sys.path.insert(0, {tests!r})
import scvi
for name in ("lightning.pytorch", "lightning.fabric"): logging.getLogger(name).setLevel(logging.ERROR)
from hostile import COLUMN, NAMES, hostile_mdata
from splicevi import SPLICEVI, PSIExplorer, TrainingDashboard, pl
scvi.settings.seed = 0
mdata = hostile_mdata()
SPLICEVI.setup_mudata(mdata, batch_key="batch")
model = SPLICEVI(mdata, n_latent=4)
quiet = dict(lr=1e-3, batch_size=16, early_stopping=False)
one, two = mdata.obs["cell_type"].cat.categories[:2]
"""
# what names would have put there: elements with an address or a handler, and their script's mark
PLANTED = """() => [window.pwned, document.querySelectorAll(
  '[onerror],[onload],a[href^=javascript],img[src=x],.svi img,.svi a,.splicevi-explorer a[href],.js-plotly-plot a[href]'
).length]"""


def watch_dialogs(page) -> list[str]:
    "Messages of dialogs, as they come."
    said = []
    page.on("dialog", lambda d: (said.append(d.message), d.dismiss()))
    return said


@pytest.mark.browser
def test_hostile_names_in_widgets(open_notebook, shots, root):
    "Dashboard and explorer show names that look like scripts letter by letter, drawn, hovered and searched."
    nb = open_notebook(
        "hostile.ipynb",
        HOSTILE.format(tests=str(root / "tests")),
        'model.train(max_epochs=4, dashboard=TrainingDashboard("html", map_every=1), **quiet)',
        'model.train(max_epochs=3, dashboard=TrainingDashboard("widget", map_every=1, color_by=COLUMN), **quiet)',
        "ds = model.differential_splicing(groupby='cell_type', group1=one, group2=two, silent=True)\n"
        "ex = PSIExplorer(model, ds=ds)\nex",
        width=1300,
        height=2400,
    )
    said = watch_dialogs(nb.page)
    nb.run_all()
    nb.wait_done()
    plotted(nb)
    for text in (NAMES[0], NAMES[1][:20]):
        assert text in nb.page.locator(".splicevi-explorer").inner_text()
        assert text in " ".join(nb.page.locator(".svi-legend").all_inner_texts())
    drawn = " ".join(nb.page.locator(".js-plotly-plot .main-svg text").all_text_contents())
    listed = nb.page.locator(".splicevi-explorer").inner_text()
    assert "<script>wind" in drawn and "two\\nlines" in drawn + listed, (drawn, listed)
    assert "a very long name " * 4 not in drawn  # a sentence cuts it
    nb.shot(shots / "hostile-dashboard.png", ".jp-OutputArea:has(.svi)")
    nb.shot(shots / "hostile-explorer.png", ".splicevi-explorer")
    click_arc(nb, nb.execute("print(ex.junction)").strip("\n"))  # hovers first
    hovered = " ".join(nb.page.locator(".hoverlayer text").all_text_contents())
    assert "PSI" in hovered and ("<" in hovered or '">' in hovered), hovered
    nb.shot(shots / "hostile-hover.png", ".splicevi-explorer")
    box = nb.page.locator(".splicevi-search input").first
    for text in ("script", "img src", "turned", "very long"):
        box.click()
        box.fill(text)
        nb.page.locator(".splicevi-search li .name").first.wait_for()
    nb.shot(shots / "hostile-search.png", ".splicevi-explorer")
    before = heading(nb)
    nb.page.locator(".splicevi-search li .name").first.click()
    wait_until(lambda: heading(nb) != before, 30)
    nb.shot(shots / "hostile-long.png", ".splicevi-explorer")
    wide = nb.page.evaluate(
        """() => [...document.querySelectorAll('.splicevi-explorer, .svi, .splicevi-explorer .sv-head')]
          .filter(e => e.scrollWidth > e.clientWidth + 2 && e.clientWidth).map(e => [e.className, e.scrollWidth])"""
    )
    assert not wide, wide
    assert nb.page.evaluate(PLANTED) == [None, 0] and not said, (nb.page.evaluate(PLANTED), said)
    check_no_complaints(nb)


@pytest.fixture
def hostile_pages(tmp_path):
    "Report, coverage report and the page of an event, of data with such names."
    import numpy as np
    import pandas as pd

    mdata, folder = hostile_mdata(), tmp_path / "<img src=x onerror=window.pwned=1>"
    folder.mkdir()
    ex = PSIExplorer(mdata, event=NAMES[0] + " 0")
    ex.to_html(folder / "event.html")
    ex.event = next(e for e in ex.state.data.index.events if e.startswith("a very long"))
    ex.to_html(folder / "long.html")
    coverage_report(mdata, folder / "coverage.html", label_key=COLUMN)
    history = {"elbo_train": pd.DataFrame({"elbo_train": np.arange(9.0)[::-1]})}
    facts = dict(zip(["title", *NAMES[:3]], [NAMES[14], *NAMES]))
    report(folder / 're"port.html', mdata, history, mdata.obs["cell_type"], True, facts=facts, timing={NAMES[2]: 1.0})
    return sorted(folder.iterdir())


@pytest.mark.browser
@pytest.mark.parametrize("width", (1200, 700))
def test_hostile_names_in_pages(browser, hostile_pages, shots, width):
    "Pages that are sent show them letter by letter, and fit into the window."
    for path in hostile_pages:
        page = browser.new_page(viewport={"width": width, "height": 1000})
        said, errors = watch_dialogs(page), []
        page.on("pageerror", lambda e, errors=errors: errors.append(str(e)))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        time.sleep(0.5)
        page.screenshot(path=shots / f"hostile-{path.stem.replace(chr(34), '')}-{width}.png", full_page=True)
        assert page.evaluate(PLANTED) == [None, 0] and not said and not errors, (path.name, said, errors)
        text = page.locator("body").inner_text()
        assert "<script>window.pwned=1</script>" in text or "a very long name" in text or "events" in text
        drawn = " ".join(page.locator(".main-svg text").all_text_contents())
        assert "<" in drawn, path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, path.name
        page.close()
