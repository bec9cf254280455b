"""The map of cells without a browser: what is sent, what comes back, and what strangers bring."""

import io
import re
import struct
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from splicevi.datasets import simulate
from splicevi.views import LatentMap
from splicevi.views.parts import Button, Dropdown, Layout, Markup, VBox, one_widget, view_script, view_style
from splicevi.views.point_map import (
    UNSEEN,
    PointMap,
    by_category,
    by_psi,
    by_value,
    map_picture,
    pack_rows,
    unpack_rows,
)


@pytest.fixture(scope="module")
def mdata():
    out = simulate(n_cells=150, n_genes=60, n_junctions=150, n_cell_types=3, observed=0.3, seed=3)
    out.obsm["X_umap"] = np.random.default_rng(0).normal(size=(150, 2))
    return out


def codes(cells, kind=np.uint16):
    return np.frombuffer(cells.points.widget.codes, kind)


def sent(page) -> int:
    "Bytes of a widget's state that are JSON, and of its buffers."
    state = page.get_state()
    return sum(len(str(v)) for k, v in state.items() if not isinstance(v, bytes) and not k.startswith("_"))


def test_colours_by_hand(mdata):
    "A column, a junction and a gene are coloured by their own values, cell by cell."
    cells = LatentMap(mdata, color="cell_type")
    names = np.array(cells.points.widget.look["names"])
    assert (names[codes(cells)] == mdata.obs["cell_type"].astype(str)).all()
    splicing = mdata["splicing"]
    counts = pd.DataFrame(splicing.layers["cell_by_junction_matrix"].toarray(), columns=splicing.var_names)
    junction = counts.sum().idxmax()
    event = splicing.var_names[splicing.var["event_id"] == splicing.var.at[junction, "event_id"]]
    with np.errstate(invalid="ignore"):
        psi = counts[junction] / counts[event].sum(axis=1)
    cells.color = junction
    np.testing.assert_allclose(codes(cells, np.float32), psi, rtol=1e-5)
    best = int(counts[event].sum(axis=1).argmax())
    assert f"{counts[junction][best]:.0f} of {counts[event].sum(axis=1)[best]:.0f} reads" in cells.describe(best)
    gene = str(mdata["rna"].var["gene_name"].iloc[4]) if "gene_name" in mdata["rna"].var else mdata["rna"].var_names[4]
    cells.color = gene
    x = mdata["rna"].X.toarray()
    with np.errstate(invalid="ignore", divide="ignore"):
        np.testing.assert_allclose(codes(cells, np.float32), np.log1p(1e4 * x[:, 4] / x.sum(1)), rtol=1e-4)


@pytest.mark.parametrize("kind", ["AnnData", "backed", "subset"])
def test_what_strangers_bring(mdata, kind, tmp_path):
    "An AnnData, a file that stays on disk, a part of the cells; whole numbers, booleans and gaps as labels."
    obs = mdata.obs.assign(
        leiden=np.arange(150) % 12, good=np.arange(150) % 2 == 0, none=np.nan, site=["x"] * 149 + [np.nan], score=0.5
    )
    data = AnnData(obs=obs.astype({"site": "category"}), obsm={"X_umap": mdata.obsm["X_umap"]})
    if kind == "backed":
        import anndata

        data.X = np.zeros((150, 0), np.float32)
        data.write_h5ad(tmp_path / "a.h5ad")
        data = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    if kind == "subset":
        data = data[5:100]
    before = data.obs.copy()
    cells = LatentMap(data, color="leiden")
    assert cells.points.widget.look["names"] == [str(k) for k in range(12)]  # 2 before 10
    cells.color = "good"
    assert cells.points.widget.look["names"] == ["False", "True"]
    cells.color = "site"
    assert (codes(cells) == UNSEEN).sum() == (0 if kind == "subset" else 1)
    for column, what in (("none", "value"), ("score", "value")):
        cells.color = column
        assert cells.points.widget.look["kind"] == what
    cells.selected = list(data.obs_names[[3, 1]])
    assert list(cells.selected) == [1, 3] and cells.mask.index.equals(data.obs_names)
    pd.testing.assert_frame_equal(data.obs, before)
    assert "LatentMap" in repr(cells) and "2 selected" in repr(cells)


def test_selections_come_back():
    "Bits from the page are rows; every change is told once, also of what Python sets."
    n = 1003
    rows = np.flatnonzero(np.random.default_rng(0).random(n) < 0.3)
    assert (unpack_rows(pack_rows(rows, n), n) == rows).all() and len(pack_rows(rows, n)) == 126
    points, heard = PointMap(np.zeros((n, 2))), []
    points.on_selection(lambda found: heard.append(found.tolist()))
    page = one_widget(points.widget)
    name = f"{points.widget._id}_selection"
    page.set_state({name: memoryview(pack_rows(rows, n))})  # as a front end sends it
    assert (points.selected == rows).all()
    points.selected = rows
    points.selected = []
    assert [len(h) for h in heard] == [len(rows), 0] and getattr(page, name) == b""


def test_a_million_cells_are_sent_as_bytes():
    "No number of a cell is written out: twelve megabytes beside a few kilobytes of JSON, colours alone in two."
    n = 1_000_000
    points = PointMap(np.random.default_rng(0).normal(size=(n, 2)))
    points.paint(by_category(pd.Categorical.from_codes(np.arange(n) % 7, list("abcdefg"))))
    page = one_widget(points.widget)
    state = page.get_state()
    assert sum(len(v) for v in state.values() if isinstance(v, bytes)) == 10 * n
    assert sent(page) < 4000
    points.selected = np.arange(n) % 2 == 0
    assert len(points.widget.selection) == n // 8


def test_values_keep_their_scale():
    "A value far from the others does not take their colours; PSI are from 0 to 1; nothing known is no error."
    values = np.append(np.linspace(0, 1, 1000), 1e9)
    assert by_value(values).look["range"][1] < 1.01 and by_psi(values).look["range"] == [0.0, 1.0]
    assert by_value(np.full(3, np.nan)).look["range"] == [0.0, 1.0]
    assert np.isnan(np.frombuffer(by_value([np.inf, 1, 2]).codes, np.float32)[0])


def test_the_picture_shows_the_cells():
    "A PNG of the size that was asked for, with a pixel of each category's colour, and one without cells."
    from PIL import Image

    color = by_category(list("aab"), hue={"a": "#112233", "b": "#445566"})
    pixels = np.asarray(Image.open(io.BytesIO(map_picture(np.array([[0, 0], [1, 1], [2, 0.0]]), color, 80, 60))))
    assert pixels.shape == (60, 80, 4)
    drawn = {tuple(p[:3]) for p in pixels[pixels[..., 3] > 0]}
    assert drawn == {(0x11, 0x22, 0x33), (0x44, 0x55, 0x66)}
    empty = map_picture(np.full((2, 2), np.nan), by_category(["a", "b"]))
    assert struct.unpack(">II", empty[16:24]) == (560, 420)


def test_names_are_text():
    "Names that look like markup are escaped in the picture, and control characters are seen."
    data = AnnData(
        obs=pd.DataFrame({"<b>": ["<script>", "a\nb"]}, index=["1", "2"]), obsm={"X_umap": np.arange(4.0).reshape(2, 2)}
    )
    cells = LatentMap(data, color="<b>")
    assert cells.points.widget.look["names"] == ["<script>", "a\\nb"]
    assert "<script>" not in cells.picture() and "&lt;script&gt;" in cells.picture()


def test_without_anywidget(mdata, monkeypatch):
    "Everything but the widget works; displaying says which extra to install."
    monkeypatch.setitem(sys.modules, "anywidget", None)
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append(a[0]))
    LatentMap(mdata)._ipython_display_()
    assert 'pip install "splicevi[notebook]"' in shown[0]["text/plain"] and "data:image/png" in shown[0]["text/html"]


def test_scripts_stand_by_themselves():
    "What Colab and VS Code ask of a widget: one small script that loads nothing, and runs no text as code."
    script, style = view_script(), view_style()
    code = re.sub(r"(?m)^\s*//.*$", "", script)
    for word in (
        r"\bimport\b",
        r"\bfetch\b",
        r"XMLHttpRequest",
        r"\beval\b",
        r"\bFunction\b",
        r"importScripts",
        r"Worker\(",
    ):
        assert not re.search(word, code), word
    assert not re.search(r"(https?:)?//[a-z]", code.replace("http://www.w3.org", "")), "an address"
    assert not re.search(r"@import|url\((?!['\"]?data:)", style)
    assert len(script) < 100_000 and script.count("export default") == 1


def test_bytes_that_were_lost_are_sent_again(mdata, monkeypatch):
    "A page that lacks the bytes, as Colab's does at first, says so and gets them."
    cells = LatentMap(mdata, color="cell_type")
    part, again = cells.points.widget, []
    page = cells.widget
    monkeypatch.setattr(type(page), "send_state", lambda self, key=None: again.append(key))
    setattr(page, f"{part._id}_lost", 1)
    mine = next(keys for keys in again if isinstance(keys, list) and len(keys) > 1)
    assert set(mine) == {f"{part._id}_{k}" for k in ("xy", "look", "codes", "selection")}


def test_parts_and_page_agree():
    "What is set on either side is known on the other, once; what is told to the page is a layout of CSS."
    menu, text, button = Dropdown(["a", "b"]), Markup("x", Layout(flex="1 1 0")), Button("go")
    heard = []
    menu.observe(lambda change: heard.append(change["new"]))
    page = one_widget(VBox([menu, text, button]), hides="shot")
    assert page.hides == "shot" and [c["kind"] for c in page.tree["children"]] == ["menu", "html", "button"]
    setattr(page, f"{menu._id}_index", 1)
    menu.options = ["b", "c"]  # the choice stays
    assert menu.value == "b" and getattr(page, f"{menu._id}_labels") == ["b", "c"]
    text.layout.display = "none"
    assert getattr(page, f"{text._id}_layout") == {"flex": "1 1 0", "display": "none"}
    button.on_click(lambda b: heard.append(b.description))
    setattr(page, f"{button._id}_clicks", 1)
    assert heard == ["b", "b", "go"]
    with pytest.raises(AttributeError, match="no value 'colour'"):
        text.colour = "red"
