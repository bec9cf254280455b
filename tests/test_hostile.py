"""Names that look like HTML, scripts, formulas or templates are text in every view."""

import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hostile import COLUMN, LONG, NAMES, elements_of, hostile_mdata

from splicevi import SPLICEVI, pl
from splicevi.model.record import LatentMap
from splicevi.pl.style import plain, plain_all, visible
from splicevi.views.coverage import coverage_report
from splicevi.views.dashboard.contents import demo_record
from splicevi.views.dashboard.dashboard import label_colors, label_text
from splicevi.views.dashboard.display import HTMLView
from splicevi.views.dashboard.html import page_html
from splicevi.views.explorer.explorer import PSIExplorer
from splicevi.views.explorer.export import snapshot
from splicevi.views.explorer.layout import file_name, heading, table_title
from splicevi.views.explorer.search import SearchIndex
from splicevi.views.explorer.widgets import SearchBox
from splicevi.views.page import code_html, facts_html, figure_html, page, script_json, section, table_html
from splicevi.views.report import loading, report

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def mdata():
    return hostile_mdata()


@pytest.fixture(scope="module")
def model(mdata):
    data = mdata.copy()
    SPLICEVI.setup_mudata(data, batch_key="batch")
    model = SPLICEVI(data, n_latent=3)
    model.is_trained_ = True
    return model


@pytest.fixture(scope="module")
def ds(model):
    one, two = model.adata.obs["cell_type"].cat.categories[:2]
    return model.differential_splicing(groupby="cell_type", group1=one, group2=two, silent=True)


@pytest.fixture(scope="module")
def ex(model, ds):
    return PSIExplorer(model, ds=ds)


# Plotly's texts

DRAWN = re.compile(r"</?(\w+)[^<>]*>")  # what Plotly takes for markup
OURS = {"b", "br", "span", "extra"}


def texts(x, key: str = ""):
    "All texts in the JSON of a figure, with the key that each stands at."
    if isinstance(x, str):
        yield key, x
    elif isinstance(x, dict):
        for k, v in x.items():
            yield from texts(v, k)
    elif isinstance(x, list):
        for v in x:
            yield from texts(v, key)


# what nobody sees: identities, and categories whose `ticktext` is drawn
UNSEEN = ("meta", "bdata", "legendgroup", "x", "y", "tickvals")


def check_figure(fig: go.Figure) -> list[str]:
    "No text of a figure has markup but ours, and none is taken for a template, a formula or more than one line."
    shown = []
    content = json.loads(fig.to_json())
    content["layout"].pop("template", None)
    for trace in content["data"]:
        silent = trace.get("hoverinfo") == "skip" or str(trace.get("hovertemplate")).endswith("<extra></extra>")
        if silent and trace.get("showlegend") is False:
            trace.pop("name", None)
        trace["customdata"] = [row[1:] for row in trace.get("customdata", []) if type(row) is list and len(row) == 5]
    for key, text in texts(content):
        if key in UNSEEN:
            continue
        shown.append(text)
        assert {m[1] for m in DRAWN.finditer(text)} <= OURS, (key, text)
        assert "window.pwned" not in text or "<" not in re.sub(r"</?(b|br|span|extra)\b[^<>]*>", "", text), (key, text)
        assert not re.search("[\x00-\x1f\u2028\u202e]", text), (key, text)
        assert "$\\alpha" not in text and "%{x} $" not in text, (key, text)
    return shown


def test_names_are_plain_text():
    "What Plotly decodes is the name itself; control characters are signs; ordinary names stay what they are."
    from html import unescape

    for name in NAMES:
        assert unescape(plain(name)) == visible(name)
        assert not set(plain(name)) & set("<>{$\n\0\u2028\u202e")
    assert visible("a\0b\nc") == "a\\x00b\\nc" and visible("\u202e") == "\\u202e" and visible("\ud800") == "\\ud800"
    ordinary = ["CD4+ T cell", "chr1:100:200:+", "Müller glia", "type #1 (50 %)"]
    assert [visible(name) for name in ordinary] == ordinary
    assert plain_all(NAMES, 90) == [plain(name, 90) for name in NAMES]
    assert len(plain(LONG, 200)) < 45 and plain("&" * 500, 90).endswith("&amp;…")


def test_panels_of_the_explorer(ex):
    "All panels, for the first event and for each of the next ones."
    drawn = []
    for event in ex.state.events()["event_id"].unique()[:6]:
        ex.event = event
        for fig in ex.figures().values():
            drawn += check_figure(fig)
    assert any("&lt;script&gt;" in t for t in drawn)


def test_figures(mdata, model):
    "Maps, histograms, calibrations and held-out PSI with names of groups, titles and axes."
    labels = mdata.obs[COLUMN]
    xy, rng = np.asarray(mdata.obsm["X_splicevi_umap"]), np.random.default_rng(0)
    held = pd.DataFrame({"counts": [1.0, 2, 3], "total": [3.0, 4, 5]})
    p, truth = rng.random(60), rng.random(60) < 0.5
    for name in (NAMES[2], NAMES[4], NAMES[8], NAMES[9], LONG):
        figs = [
            pl.latent({name: xy, "two": xy}, labels, axis=name),
            pl.latent(xy, labels, title=name),
            pl.latent_psi(xy, rng.random(120), name, rng.integers(1, 9, 120), mdata.obs_names),
            pl.imputation(held, {name: [0.1, 0.5, 0.9]}),
            pl.psi_calibration(held, {name: [0.1, 0.5, 0.9]}, title=name),
            pl.calibration({name: p}, {name: truth}),
            pl.calibration({name: p}, {name: truth}, kind="probability", title=name),
            pl.coverage(mdata, title=name),
            pl.history({"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2, 1]}), f"{name}_train": pd.DataFrame([1.0])}),
            pl.expression_violin(rng.random(120), labels, name, name),
            pl.volcano(pd.DataFrame(columns=["effect_size", "proba_ds"]), title=name),
        ]
        for fig in figs:
            check_figure(fig)
    assert "&lt;b&gt;column&lt;/b&gt;" in pl.latent(xy, labels).layout.title.text


def test_long_names_leave_room(ex):
    "Where a name has a place of a certain width it is cut, with an ellipsis, and hovering shows more of it."
    for fig in ex.figures("psi", "heatmap", "arcs").values():
        ticks = [t for axis in fig.select_yaxes() for t in axis.ticktext or ()]
        ticks += [t for axis in fig.select_xaxes() for t in axis.ticktext or ()]
        assert all(len(re.sub("<[^>]*>|&[#a-z0-9]*;", "", t.split("<br>")[0])) < 50 for t in ticks)
        assert (fig.layout.margin.l or 0) <= 230


# pages


def drawn_figures(html: str) -> list[dict]:
    "The figures of a page, as its script reads them."
    return [json.loads(t) for t in re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)]


def check_page(html: str, svg: bool = False) -> None:
    "The page has the elements that a page of ordinary names has, and its figures can be read."
    found = elements_of(html)
    assert not set(found.tags) & {"img", "a", "i", "sup", "iframe"}
    assert found.tags.count("style") <= 1 and found.tags.count("script") == 2 + len(drawn_figures(html))
    for fig in drawn_figures(html):
        check_figure(go.Figure(fig, skip_invalid=True))


def test_report(mdata, tmp_path):
    "The report of a model of such data, in a folder of such a name."
    labels = mdata.obs[COLUMN]
    path = tmp_path / "<img src=x onerror=alert(1)>"
    path.mkdir()
    held = pd.DataFrame({"cell_index": [0, 1], "event": [0, 1], "counts": [1.0, 2], "total": [3.0, 4]})
    scores = pd.DataFrame(0.5, [NAMES[0]], ["pairs", "r_weighted", "r", "rmse", "log_likelihood_per_read"])
    history = {"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2, 1]})}
    facts = dict.fromkeys(NAMES, NAMES[1]) | {"title": LONG}
    more = dict(known=True, held=held, predictions={NAMES[0]: np.array([0.2, 0.4])}, scores=scores)
    out = report(path / 're"port.html', mdata, history, labels, facts=facts, timing={NAMES[2]: 1.0}, **more)
    html = out.read_text(encoding="utf-8")
    check_page(html)
    text = "".join(elements_of(html).text)
    assert "<script>window.pwned=1</script>" in text and "turned \\u202eback" in text


def test_coverage_report(mdata, tmp_path):
    found = coverage_report(mdata, tmp_path / "coverage.html", label_key=COLUMN)
    check_page((tmp_path / "coverage.html").read_text(encoding="utf-8"))
    for fig in found.figures.values():
        check_figure(fig)
    elements_of(found._repr_html_())


def test_exported_event(ex, tmp_path):
    "The page of an event, its snapshot in a notebook, and what stands above the panels."
    for event in ex.state.events()["event_id"].unique()[:4]:
        ex.event = event
        check_page(ex.to_html(tmp_path / "event.html").read_text(encoding="utf-8"))
        shot = elements_of(snapshot(ex.state, NAMES[0], "svi"))
        assert set(shot.tags) == {"style", "div", "b", "br", "img"} and shot.tags.count("img") == 1
        above = elements_of(heading(ex.state) + table_title(ex.state))
        assert set(above.tags) == {"span", "br"}
        assert visible(ex.gene) in "".join(above.text)


def test_snapshot_is_valid_xml(ex):
    "A control character in a name does not break the picture."
    import base64
    import xml.etree.ElementTree as ET

    ex.groupby = "batch"
    svg = base64.b64decode(re.search('base64,([^"]*)', snapshot(ex.state))[1]).decode()
    texts = [e.text for e in ET.fromstring(svg).iter() if e.tag.endswith("text")]
    ex.groupby = "cell_type"
    assert any(t.startswith("<script>wind") for t in texts) and len(texts) >= 7


def test_dashboard(mdata):
    "Labels, their column, colours and messages in the dashboard's HTML."
    rec = demo_record()
    labels = mdata.obs["cell_type"]
    rec.labels, rec.label_name = label_text(labels), COLUMN
    rec.maps.append(LatentMap(3, np.asarray(mdata.obsm["X_splicevi_umap"])))
    hue = label_colors(labels, {NAMES[0]: '"><script>window.pwned=1</script>'})
    for phase in ("training", "error"):
        rec.phase, rec.message, rec.where = phase, NAMES[1], NAMES[2]
        view = HTMLView(lambda: None, "svi-x", hue=hue)
        for html in (page_html(rec, hue=hue), view.bundle(rec)["text/html"]):
            found = elements_of(html)
            assert not set(found.tags) & {"script", "img", "a", "sup"}
            assert "<script>window.pwned=1</script>" in "".join(found.text)


def test_parts_of_a_page():
    "Text that is handed to a part is text; JSON cannot end its script, nor begin a comment in it."
    for name in NAMES:
        table = pd.DataFrame({name: [name]}, [name])
        parts = [facts_html({name: name}), code_html(name), section(name, name), table_html(table, name, words=[name])]
        parts.append(figure_html(go.Figure(go.Bar(x=[name], y=[1])), name, name))
        html = page(name, parts, heading=name, lead=name)
        found = elements_of(html)
        assert found.tags.count("script") == 3 and not set(found.tags) & {"img", "a", "b", "i", "sup", "svg"}
        assert drawn_figures(html)[0]["data"][0]["x"] == [name]
        assert json.loads(script_json(json.dumps(name))) == name and "<" not in script_json(json.dumps(name))


def test_names_of_files_and_code():
    "Files get names that a disk takes, and the lines that load a model are Python."
    for name in NAMES:
        file = file_name(name, name, ".csv")
        assert re.fullmatch(r"[\w.+-]{1,84}", file.name) and file.parent.name == "" and ".." not in file.name[:2]
        code = loading(f"/data/{name}")
        compile(code, "lines", "exec")
        path = re.search(r"read_h5mu\((.*)\)\n", code)[1]
        assert eval(path) == f"/data/{name}/mdata.h5mu"


def test_search_keeps_names(ex):
    "Answers carry the name that is chosen beside the one that is shown."
    pytest.importorskip("anywidget")
    chosen = []
    box = SearchBox(ex.state.data.index, lambda kind, name: chosen.append(name))
    box.widget.query = "turned"
    hits = box.widget.hits
    assert hits and all("\u202e" in h[1] and "\u202e" not in h[2] + h[3] for h in hits)
    box.widget.chosen = [*hits[0][:2], 1]
    assert chosen == [hits[0][1]] and isinstance(box.index, SearchIndex)
