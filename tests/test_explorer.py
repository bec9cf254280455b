"""The PSI explorer without a browser: search, tables, linked selection, exports, what is refused and left alone."""

import json
import re
import sys
import time
import types

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy.stats import beta

from splicevi import SPLICEVI
from splicevi.data.build import hold_out
from splicevi.data.events import junction_frame
from splicevi.data.gtf import exons_of
from splicevi.datasets import simulate
from splicevi.views.explorer.explorer import PSIExplorer
from splicevi.views.explorer.search import SearchIndex
from splicevi.views.explorer.source import event_data
from splicevi.views.explorer.state import ExplorerState
from splicevi.views.explorer.tables import cells_table, groups_table

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = dict(n_cells=150, n_genes=60, n_junctions=150, n_cell_types=3, observed=0.3, seed=3)


def flagged(mdata, **options):
    "A model with the weights it starts with, taken as trained."
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = SPLICEVI(mdata, n_latent=6, **options)
    model.is_trained_ = True
    return model


@pytest.fixture(scope="module")
def mdata():
    return simulate(**SIZES)


@pytest.fixture(scope="module")
def model():
    return flagged(simulate(**SIZES))


@pytest.fixture(scope="module")
def ds(model):
    return model.differential_splicing(groupby="cell_type", group1="type_1", group2="type_2", silent=True)


@pytest.fixture
def ex(model, ds):
    return PSIExplorer(model, ds=ds, latent=np.random.default_rng(0).normal(size=(150, 2)))


def view_of(ex):
    "The widgets of an explorer."
    assert ex.widget is ex._view.widget
    return ex._view


def click(plot, *data):
    "What a click on a point with this customdata sends."
    n = plot.widget.clicked[1] + 1 if plot.widget.clicked else 1
    plot.widget.clicked = [list(data) if len(data) > 1 else data[0], n]


# search


@pytest.fixture(scope="module")
def large():
    "5,000 junctions in 1,667 events of 834 genes."
    n = 5000
    event, rng = np.arange(n) // 3, np.random.default_rng(0)
    start = rng.integers(1, 2e8, n)
    table = pd.DataFrame(
        {
            "chrom": [f"chr{k}" for k in event % 22 + 1],
            "start": start,
            "end": start + rng.integers(100, 9999, n),
            "strand": "+",
            "event_id": [f"ATSE_{k:06d}" for k in event],
            "gene_name": [f"GENE{k // 2:05d}" for k in event],
        }
    )
    return SearchIndex(
        table.set_axis([f"{c}:{s}:{e}:+" for c, s, e in zip(table["chrom"], table["start"], table["end"])])
    )


def test_search_ranks_exact_prefix_substring():
    "An exact gene stands before longer names, these before names that hold the text; genes, events, junctions."
    names = ["RPS2", "RPS24", "MRPS2", "rps2p1"]
    junctions = pd.DataFrame(
        {
            "chrom": "chr1",
            "start": [10, 20, 30, 40],
            "end": [15, 25, 35, 45],
            "strand": "+",
            "event_id": ["e1", "e2", "e3", "e_rps2"],
            "gene_name": names,
        },
        index=list("abcd"),
    )
    hits = SearchIndex(junctions).search("rps2")
    assert [(h.kind, h.name, h.rank) for h in hits] == [
        ("gene", "RPS2", "exact"),
        ("gene", "RPS24", "prefix"),
        ("gene", "rps2p1", "prefix"),
        ("gene", "MRPS2", "substring"),
        ("event", "e_rps2", "substring"),
    ]


@pytest.mark.parametrize(
    "write",
    ["{c}:{s:,}-{e:,}", "{c}:{s}-{e}", "{c}:{s}:{e}:+", "{b}:{s}..{e}", " {c}: {s:,} – {e:,} ", "{c}:{s}-{e} (+)"],
)
def test_coordinates_find_their_junction(large, write):
    "Coordinates as browsers, papers and file names write them."
    row = large.junctions.iloc[4321]
    text = write.format(c=row.chrom, b=row.chrom.removeprefix("chr"), s=row.start, e=row.end)
    assert large.search(text)[0][1:3] == (large.junctions.index[4321], "exact")


# tables


def test_cells_by_hand(model):
    "Reads, totals and observed PSI of a pandas reckoning; NaN where nothing was read."
    mdata = model.adata
    data = event_data(model)
    var, counts = mdata["splicing"].var, mdata["splicing"].layers["cell_by_junction_matrix"].toarray()
    event = var["event_id"].astype(str).value_counts().index[0]
    at = np.flatnonzero(var["event_id"] == event)
    hand = (
        pd.DataFrame(counts[:, at], index=mdata.obs_names, columns=var.index[at])
        .melt(ignore_index=False, var_name="junction_id", value_name="reads")
        .reset_index(names="cell")
    )
    hand["total"] = hand.groupby("cell")["reads"].transform("sum")
    hand["group"] = mdata.obs["cell_type"].reindex(hand["cell"]).astype(str).to_numpy()
    table = cells_table(data.event(event), data.obs.index, data.cell_groups("cell_type"))
    exon = [f"{kind}_inclusion" for kind in ("observed", "decoded", "smoothed")]
    assert list(table) == ["cell", "group", "junction_id", "observed", "decoded", "smoothed", "reads", "total", *exon]
    merged = hand.merge(
        table.astype({"junction_id": str, "group": str}), on=["cell", "junction_id"], suffixes=("_hand", "")
    )
    assert len(merged) == len(hand) == len(table)
    for column in ("reads", "total"):
        np.testing.assert_allclose(merged[column], merged[f"{column}_hand"])
    assert (merged["group"] == merged["group_hand"]).all()
    np.testing.assert_allclose(
        merged["observed"], np.where(merged["total"] > 0, merged["reads"] / merged["total"].clip(1), np.nan)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(splicing_decoder_architecture="vanilla", dm_concentration="scalar"),
        dict(splicing_loss_type="beta_binomial"),
        dict(splicing_loss_type="binomial"),
        dict(modality_weights="concatenate"),
        dict(latent_distribution="ln"),
    ],
    ids=str,
)
def test_decoded_is_what_the_model_says(options):
    "Decoded and smoothed PSI of the kept latent points are those of the model's methods."
    model = flagged(simulate(**SIZES), **options)
    data = event_data(model)
    for event in list(data.index.events)[:3]:
        v = data.event(event)
        names = list(v.junctions.index)
        np.testing.assert_allclose(
            v.decoded, model.get_normalized_splicing(junction_list=names, return_numpy=True), atol=1e-6
        )
        if model.module.splicing_loss_type == "binomial":
            assert np.isnan(v.smoothed).all()
        else:
            np.testing.assert_allclose(
                v.smoothed, model.get_normalized_splicing_DM(junction_list=names, return_numpy=True), atol=1e-6
            )


def test_groups_by_hand(model):
    "Observed: effective reads and a Beta interval; decoded: mean over the cells and its standard error."
    data = event_data(model)
    event = list(data.index.events)[4]
    v, group = data.event(event), data.cell_groups("cell_type")
    table = groups_table(v, group)
    exon = ["inclusion", "inclusion_lower", "inclusion_upper"]
    assert list(table) == ["group", "junction_id", "kind", "psi", "lower", "upper", "n_cells", "reads", "total", *exon]
    cells = cells_table(v, data.obs.index, group)
    column = list(data.junctions.index).index(v.junctions.index[0])
    c = float(np.exp(model.module.log_phi_j.detach().numpy())[model.module.junc2atse.numpy()[column]])
    for name in group.categories:
        mine = cells[(cells["group"] == name) & (cells["junction_id"] == v.junctions.index[0])]
        w = np.where(mine["total"] > 0, (1 + c) / (mine["total"] + c), 0)
        a, b, k = (w * mine["reads"]).sum(), (w * mine["total"]).sum(), len(v.junctions)
        row = table[(table["group"] == name) & (table["junction_id"] == v.junctions.index[0])].set_index("kind")
        assert row.loc["observed", "psi"] == pytest.approx(a / b, abs=1e-6)
        if 0 < a < b:
            expected = beta.ppf([0.025, 0.975], a + 1 / k, b - a + 1 - 1 / k)
            np.testing.assert_allclose(
                row.loc["observed", ["lower", "upper"]].to_numpy(float),
                [min(expected[0], a / b), max(expected[1], a / b)],
                atol=1e-6,
            )
        assert row.loc["observed", "n_cells"] == (mine["total"] > 0).sum()
        assert (
            row.loc["observed", "reads"] == mine["reads"].sum() and row.loc["decoded", "total"] == mine["total"].sum()
        )
        mean, half = mine["decoded"].mean(), 1.96 * mine["decoded"].std(ddof=1) / np.sqrt(len(mine))
        np.testing.assert_allclose(
            row.loc["decoded", ["psi", "lower", "upper"]].to_numpy(float),
            [mean, max(mean - half, 0), min(mean + half, 1)],
            atol=1e-5,
        )
        assert row.loc["smoothed", "n_cells"] == len(mine)


def test_a_model_trained_further_is_decoded_anew():
    "What is kept of a model is thrown away when its weights change."
    model = flagged(simulate(**SIZES))
    state = ExplorerState(model)
    before, means = state.values().decoded.copy(), state.groups()["psi"].copy()
    model.train(max_epochs=2, lr=1e-2, accelerator="cpu", enable_progress_bar=False)
    names = list(state.junctions.index)
    np.testing.assert_allclose(
        state.values().decoded, model.get_normalized_splicing(junction_list=names, return_numpy=True), atol=1e-6
    )
    assert not np.allclose(state.values().decoded, before) and not np.allclose(
        state.groups()["psi"].dropna(), means.dropna()
    )


def weights_set_through_data(model):
    "An edit that moves no version counter."
    next(iter(model.module.splicing_decoder.parameters())).data.numpy().ravel()[0] += 1


def two_weights_swapped(model):
    p = next(p for p in model.module.splicing_decoder.parameters() if p.numel() > 1).data.reshape(-1)
    p[[0, 1]] = p[[1, 0]].clone()


def other_weights_loaded(model):
    model.module.load_state_dict({k: 1.01 * v for k, v in model.module.state_dict().items()})


def trained_twice(model):
    for _ in range(2):
        model.train(max_epochs=1, lr=1e-2, accelerator="cpu", enable_progress_bar=False)


def counters_stopped(model):
    "A step of an optimizer that leaves version counters and trainer as they are."
    before = [p._version for p in model.module.parameters()]
    for p in model.module.parameters():
        p.data.add_(0.01)
    assert [p._version for p in model.module.parameters()] == before


@pytest.mark.parametrize(
    "change", (weights_set_through_data, two_weights_swapped, other_weights_loaded, trained_twice, counters_stopped)
)
def test_whatever_changes_weights_is_seen(change):
    "What is shown is the model's as it is now; what has not changed is not computed again."
    model = flagged(simulate(**SIZES))
    state = ExplorerState(model)
    stamp, points = state.data.stamp, state.data.points()
    assert state.data.stamp == stamp and state.data.points() is points
    change(model)
    assert state.data.stamp != stamp and state.data.points() is not points
    names = list(state.junctions.index)
    now = model.get_normalized_splicing(junction_list=names, return_numpy=True)
    np.testing.assert_allclose(state.values().decoded, now, atol=1e-6)


def test_cells_in_another_order(model):
    "Data of the same cells in another order are aligned: each cell keeps its PSI and its reads."
    order = np.random.default_rng(0).permutation(150)
    other = model.adata[order].copy()
    one, two = (ExplorerState(model, mdata=m) for m in (None, other))
    two.event = one.event
    np.testing.assert_allclose(two.values().decoded, one.values().decoded[order], atol=1e-6)
    np.testing.assert_allclose(two.values().y, one.values().y[order])


def test_masked_events_are_not_observed(mdata):
    "Events that the mask hides have no reads, in a MuData and in a model."
    masked = simulate(**SIZES)
    s = masked["splicing"]
    event = s.var["event_id"].astype(str).iloc[0]
    columns = np.flatnonzero(s.var["event_id"] == event)
    hide = sp.lil_matrix(s.layers["psi_mask"])
    hide[:75, columns] = 0
    s.layers["psi_mask"] = hide.tocsr()
    for source in (masked, flagged(masked)):
        v = event_data(source).event(event)
        whole = event_data(mdata).event(event)
        assert (v.n[:75] == 0).all() and np.isnan(v.observed[:75]).all()
        np.testing.assert_allclose(v.n[75:], whole.n[75:])


def test_anndata_model(mdata):
    "A model of an AnnData with genes and junctions side by side shows the same event as one of a MuData."
    r, s = mdata["rna"], mdata["splicing"]
    both = lambda a, b: sp.hstack([a, b], format="csr", dtype=np.float32)
    none = lambda n: sp.csr_matrix((r.n_obs, n), dtype=np.float32)
    var = pd.concat(
        [
            r.var[["gene_name"]],
            s.var[["gene_name", "event_id", "chrom", "start", "end", "strand"]].astype({"event_id": object}),
        ]
    )
    adata = AnnData(
        both(r.X, none(s.n_vars)),
        obs=mdata.obs.copy(),
        var=var,
        layers={"cell_by_junction_matrix": both(none(r.n_vars), s.layers["cell_by_junction_matrix"])},
    )
    SPLICEVI.setup_anndata(adata, batch_key="batch")
    model = SPLICEVI(adata, n_latent=4, n_genes=r.n_vars, n_junctions=s.n_vars)
    model.is_trained_ = True
    ex, other = PSIExplorer(model), PSIExplorer(mdata)
    ex.event = other.event
    seen = lambda e: e.frame()[lambda t: t["kind"] == "observed"]
    pd.testing.assert_series_equal(seen(ex)["reads"], seen(other)["reads"])
    assert ex.gene == other.gene
    np.testing.assert_allclose(ex.state.data.expression(ex.gene), other.state.data.expression(ex.gene), rtol=1e-5)
    np.testing.assert_allclose(
        ex.state.values().decoded,
        model.get_normalized_splicing(junction_list=list(ex.state.junctions.index), return_numpy=True),
        atol=1e-6,
    )


def test_an_untrained_model_shows_what_was_observed():
    SPLICEVI.setup_mudata(mdata := simulate(**SIZES), batch_key="batch")
    ex = PSIExplorer(SPLICEVI(mdata))
    assert ex.state.shows == ("observed",) and set(ex.frame()["kind"]) == {"observed"}


def test_cells_without_a_group_and_groups_of_numbers(mdata):
    "Cells without a value are in no group; whole numbers make groups; both from Python and on the screen."
    some = hold_out(mdata, 0.1)[0]
    some.obs["cluster"] = np.arange(150) % 3
    some.obs["known"] = pd.Categorical(np.where(np.arange(150) < 60, None, some.obs["cell_type"].astype(object)))
    ex = PSIExplorer(some, groupby="known", latent=np.zeros((150, 2)))
    view = view_of(ex)
    table = ex.frame()
    v = ex.state.values()
    assert table.drop_duplicates("group")["total"].sum() == v.n[60:].sum() and ex.frame("cells")[
        "group"
    ].isna().sum() == 60 * len(ex.state.junctions)
    ex.groupby = "cluster"
    assert list(ex.frame()["group"].unique()) == ["0", "1", "2"] and view.groupby.value == "cluster"
    first = ex.frame()[lambda t: t["group"] == "0"]
    assert first["total"].iloc[0] == v.n[::3].sum()
    ex.figures()


def test_events_without_reads_gene_or_coordinates(mdata):
    "Nothing read, no gene name, no coordinates: figures say what is missing, tables hold NaN."
    import mudata as md

    poor = hold_out(mdata, 0.1)[0]  # a copy
    s = poor["splicing"]
    first = s.var["event_id"].astype(str) == s.var["event_id"].astype(str).iloc[0]
    keep = sp.diags_array((~first.to_numpy()).astype(np.float32))
    s.layers["cell_by_junction_matrix"] = sp.csr_matrix(s.layers["cell_by_junction_matrix"] @ keep)
    s.layers["psi_mask"] = sp.csr_matrix((s.layers["cell_by_junction_matrix"] != 0).astype(np.float32))
    for key in ("psi_mask", "cell_by_cluster_matrix"):
        del s.layers[key]
    s.var["gene_name"] = s.var["gene_name"].astype(object).where(~first, None)
    s.var = s.var.drop(columns=["chrom", "start", "end", "strand"])
    s.var_names = [f"junction{i}" for i in range(s.n_vars)]
    ex = PSIExplorer(poor, event=s.var["event_id"].astype(str).iloc[0], latent=np.zeros((150, 2)))
    assert ex.gene == "" and ex.frame()["psi"].isna().all() and (ex.frame()["reads"] == 0).all()
    figures = ex.figures()
    assert (
        "no coordinates" in figures["arcs"].layout.annotations[0].text
        and "no gene name" in figures["expression"].layout.annotations[0].text
    )
    with pytest.raises(ValueError, match="no coordinates"):
        print(ex.locus)
    assert "no coordinates" in view_of(ex).head.value
    assert event_data(md.MuData({"splicing": s})).expression("GENE00001") is None


def test_nothing_is_written_into_the_users_objects(model):
    "Neither the data set nor other data that are looked at with a model change."

    def facts(m):
        parts = {"": m, **m.mod}
        return {
            k: (list(a.obs), list(a.obsm), list(a.uns), list(a.var), list(getattr(a, "layers", None) or []))
            for k, a in parts.items()
        }, [a.X.data.copy() for a in m.mod.values()]

    other, latent = hold_out(simulate(**SIZES), 0.3)[0], np.zeros((150, 2))
    for given, make in (
        (model.adata, lambda: PSIExplorer(model, latent=latent)),
        (other, lambda: PSIExplorer(model, mdata=other, latent=latent)),
        (other, lambda: PSIExplorer(other)),
    ):
        before = facts(given)
        ex = make()
        ex.figures()
        view_of(ex).plots["arcs"]
        ex.frame("cells")
        after = facts(given)
        assert before[0] == after[0]
        assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1]))
    v = PSIExplorer(model, mdata=other).state.values()
    want = model.get_normalized_splicing(other.copy(), junction_list=list(v.junctions.index), return_numpy=True)
    np.testing.assert_allclose(v.decoded, want, atol=1e-6)


# linked selection


def test_click_on_the_volcano_moves_everything(ex, ds):
    "A point of the volcano: arcs, map and expression of its junction, its row in the table."
    view = view_of(ex)
    target = next(j for j in ex.state.events().index[::-1] if ds.at[j, "event_id"] != ex.event)
    old = view.plots["arcs"].widget.figure
    click(view.plots["volcano"], target, ds.at[target, "event_id"])
    assert ex.junction == target and ex.event == ds.at[target, "event_id"]
    assert view.plots["arcs"].widget.figure != old and target in view.plots["arcs"].widget.figure
    assert view.table.widget.selected == target and target in view.table.widget.visible["names"]
    assert (
        ex.gene in view.plots["expression"].widget.figure
        and ex.gene in view.head.value
        and view.search.widget.text == ex.gene
    )
    assert target in view.plots["volcano"].widget.marks


def test_python_moves_the_widgets(ex):
    "What is set from Python is seen, and controls set what Python reads."
    view = view_of(ex)
    ex.show, ex.groupby = "observed", "batch"
    assert (view.show.value, view.groupby.value) == ("observed", "batch")
    assert "batch_1" in view.plots["arcs"].widget.figure and view.group1.options == ("batch_1", "batch_2")
    view.show.value, view.groupby.value = "smoothed", None
    assert (ex.show, ex.groupby) == ("smoothed", None) and set(ex.frame()["group"]) == {"all cells"}
    view.psi_panel.value = "heatmap"
    assert [t.type for t in view.plots["psi"].figure.data] == ["heatmap"] * 3
    event = list(ex.state.data.index.events)[7]
    view.search.widget.query = event
    view.search.widget.chosen = [*view.search.widget.hits[0][:2], 1]
    assert ex.event == event


def test_errors_of_clicks_are_shown(ex):
    "What cannot be is written below the search box, and gone with the next action."
    view = view_of(ex)
    click(view.plots["volcano"], "no such row")
    assert "no such row" in view.status.value and "sv-error" in view.status.value
    view.search.widget.submitted = ["GENE000", 1]
    assert "type more" in view.status.value
    view.table.widget.selected = next(n for n in view.table.widget.visible["names"] if n != view.table.widget.selected)
    assert view.status.value == ""


def test_comparisons(model, ex):
    "A new comparison fills table and volcano; a table of several offers each."
    view = view_of(ex)
    table = ex.compare("type_3", "type_1", n_draws=50)
    want = model.differential_splicing(groupby="cell_type", group1="type_3", group2="type_1", silent=True, n_draws=50)
    np.testing.assert_allclose(table["effect_size"], want["effect_size"])
    assert table["comparison"].unique().tolist() == ["type_3 vs type_1"] and "type_3 → type_1" in view.table_head.value
    with pytest.raises(KeyError, match="type_1, type_2, type_3"):
        ex.compare("type_9")
    ex.ds = model.differential_splicing(groupby="cell_type", silent=True, n_draws=50)
    assert (
        view.comparison.options == tuple(f"type_{k} vs Rest" for k in (1, 2, 3))
        and view.comparison.layout.display is None
    )
    view.comparison.value = "type_2 vs Rest"
    assert (
        ex.comparison == "type_2 vs Rest"
        and set(ex.state.tested()["group1"]) == {"type_2"}
        and len(view.table.view.frame)
        == len(ex.state.data.index.events)
        == len(view.table.view.frame["event_id"].unique())
    )
    view.all_junctions.value = True
    assert ex.level == "junction" and len(view.table.view.frame) == model.n_junctions
    ex.level = "event"
    assert view.all_junctions.value is False
    ex.ds = model.differential_splicing(groupby="cell_type", group1="type_1", level="event", silent=True, n_draws=50)
    ex.state.choose(ex.ds.index[3])
    assert ex.event == ex.ds.index[3] and ex.junction == ex.ds["top_junction"].iloc[3]
    ex.ds = None
    assert (
        view.table.view.frame.index.name is None
        and "n_junctions" in view.table.view.frame
        and "No test yet" in view.plots["volcano"].widget.figure
    )


def test_what_is_refused(model, mdata, ds):
    "Wrong values name what there is, and change nothing."
    ex = PSIExplorer(model, ds=ds, latent=np.zeros((150, 2)))
    before = ex.event, ex.junction, ex.groupby, ex.show, ex.ds
    for name, value, error, match in (
        ("event", "ATSE_", KeyError, "ATSE_"),
        ("junction", "chr1:1:2:+", KeyError, "those of"),
        ("gene", "", KeyError, "GENE"),
        ("groupby", "celltype", KeyError, "cell_type"),
        ("show", "psi", ValueError, "observed, decoded, smoothed"),
        ("ds", ds.drop(columns="proba_ds"), KeyError, "mode='change'"),
        ("ds", ds.set_axis([f"x{i}" for i in range(len(ds))]), KeyError, "No row of ds"),
        ("ds", pd.concat([ds.drop(columns="comparison")] * 2), ValueError, "occur twice"),
        ("ds", "table.csv", TypeError, "differential_splicing"),
        ("comparison", "a vs b", KeyError, "type_1 vs type_2"),
    ):
        with pytest.raises(error, match=match):
            setattr(ex, name, value)
    assert before[:4] == (ex.event, ex.junction, ex.groupby, ex.show) and ex.ds.equals(before[4])
    for make, error, match in (
        (lambda: PSIExplorer(mdata["splicing"]), TypeError, "make_mudata"),
        (lambda: PSIExplorer(mdata, groupby="louvain"), KeyError, "cell_type"),
        (lambda: PSIExplorer(mdata, latent="X_umap"), KeyError, "no coordinates"),
        (lambda: PSIExplorer(mdata, latent=np.ones((3, 2))), ValueError, r"\(150, 2\)"),
        (lambda: PSIExplorer(mdata, gtf=pd.DataFrame({"chrom": []})), KeyError, "end"),
        (lambda: PSIExplorer(mdata, splicing="psi"), KeyError, "there are rna, splicing"),
        (lambda: ex.figures("sashimi"), KeyError, "arcs, psi, heatmap"),
        (lambda: ex.frame("genes"), ValueError, "groups, cells, events"),
    ):
        with pytest.raises(error, match=match):
            make()
    wide = simulate(**SIZES)
    wide.obs["depth"] = np.arange(150.0)
    with pytest.raises(ValueError, match="150 different values"):
        PSIExplorer(wide, groupby="depth")
    with pytest.raises(AttributeError):
        ex.evnet = "ATSE_00001"


# one row an event, what decoded PSI contradict, selected cells, donors, events side by side


def test_one_row_an_event(ex, ds):
    "The called junction with the largest effect stands for its event, in table and volcano; all on demand."
    rows = ex.state.events()
    called = ds["is_ds_fdr"].to_numpy()
    want = ds.assign(size=ds["effect_size"].abs(), called=called).sort_values(["called", "size"], ascending=False)
    want = want[~want["event_id"].duplicated()]
    assert set(rows.index) == set(want.index) and rows["event_id"].is_unique and len(rows) < len(ds)
    assert len(ex.figures("volcano")["volcano"].data[0].x) <= len(rows)
    drawn = lambda: sum(len(t.x) for t in ex.figures("volcano")["volcano"].data)
    few = drawn()
    ex.level = "junction"
    assert len(ex.state.events()) == len(ds) and drawn() > few
    other = next(j for j in ex.state.junctions.index if j not in rows.index)
    ex.junction = other
    assert view_of(ex).table.widget.selected == other
    ex.level = "event"
    row = view_of(ex).table.widget.selected
    assert row in rows.index and rows.at[row, "event_id"] == ex.event  # the row of the event of that junction
    with pytest.raises(ValueError, match="event, junction"):
        ex.level = "gene"


def test_decoded_psi_that_contradict_the_reads_are_told(model, mdata):
    "A model that knows nothing, a called event, and the numbers of a pandas reckoning in the sentence."
    from splicevi.views.explorer.disagreement import disagreement

    state = ExplorerState(model, show="observed")
    spread = lambda e: np.ptp(
        state.groups(e).query("kind == 'observed'").pivot(index="junction_id", columns="group", values="psi"), axis=1
    ).max()
    event = max(state.data.index.events, key=spread)
    ex = PSIExplorer(model, event=event, latent=np.zeros((150, 2)))
    assert ex.show == "observed"
    psi = ex.frame().query("junction_id == @ex.junction").pivot(index="group", columns="kind", values="psi")
    psi = psi.sort_values("observed")
    one, two = psi.index[0], psi.index[-1]
    effect = float(psi["observed"].iloc[-1] - psi["observed"].iloc[0])
    ex.ds = pd.DataFrame({"effect_size": [effect], "proba_ds": [0.99], "group1": [one], "group2": [two]}, [ex.junction])
    said = ex.disagreement
    for number in (f"+{effect:.2f}", f"from {one} to {two}", f"{psi['observed'].iloc[0]:.2f} and", "hardly differ"):
        assert number in said, (number, said)
    assert f"({psi['decoded'].iloc[0]:.2f} and {psi['decoded'].iloc[-1]:.2f})" in said
    assert "contradict" in view_of(ex).head.value and "contradict" in view_of(ex).plots["psi"].figure.layout.title.text
    assert "contradict" in ex.figures("arcs")["arcs"].layout.title.text
    ex.ds = ex.ds.assign(effect_size=-effect)  # the test said the other way round: that is another contradiction
    assert "−" in ex.disagreement and "hardly" in ex.disagreement
    ex.ds = ex.ds.assign(proba_ds=0.5)  # not called: what was observed in a group is still missed
    assert ex.disagreement.startswith("Decoded and observed PSI disagree in") and "95 %" in ex.disagreement
    assert disagreement(ExplorerState(mdata, event=event)) == ""


def test_decoded_psi_that_agree_are_not_blamed(model):
    "Where decoded PSI are those that were read, nothing is said."
    from splicevi.views.explorer.disagreement import disagreement

    state = ExplorerState(model)
    v = state.values()
    pooled = np.stack([v.y[state.cell_groups.codes == g].sum(0) for g in range(3)])
    pooled = (pooled / pooled.sum(1, keepdims=True))[state.cell_groups.codes]
    state._cache["values"] = (state._event, state.data.stamp), v._replace(decoded=pooled)
    assert disagreement(state) == ""


def test_a_lasso_ranks_what_sets_the_cells_apart(mdata):
    "What the map sends selects the cells, fills both tables, and a row shows its event."
    xy = np.random.default_rng(0).normal(size=(150, 2))
    ex = PSIExplorer(simulate(**SIZES), latent=xy)
    view = view_of(ex)
    assert view.ranked["events"].widget.layout.display == "none" and "Draw around" in view.ranked_head.value
    view.map.selected = np.flatnonzero((xy > 0).all(1))  # as a lasso does
    assert (ex.selected.to_numpy() == (xy > 0).all(1)).all() and list(ex.selected.index) == list(mdata.obs_names)
    names = view.ranked["events"].widget.visible["names"]
    assert (
        names == list(ex.ranking().events.index[: len(names)])
        and f"{ex.selected.sum()} selected" in view.ranked_head.value
    )
    target = next(n for n in names if n != ex.event)
    view.ranked["events"].widget.selected = target
    assert ex.event == target and ex.junction == ex.ranking().events.at[target, "junction_id"]
    with_event = next(g for g in ex.ranking().genes.index if g in ex.state.data.index.genes and g != ex.gene)
    view.ranked["genes"].view.scroll(list(ex.ranking().genes.index).index(with_event))
    view.ranked["genes"].widget.selected = with_event
    assert ex.gene == with_event
    ex.selected = mdata.obs["cell_type"] == "type_1"
    assert (view.map.selected == np.flatnonzero(mdata.obs["cell_type"] == "type_1")).all()
    assert sum(len(t.selectedpoints) for t in ex.figures("groups")["groups"].data) == ex.selected.sum()
    view.map.selected = []
    assert not ex.selected.any() and ex.ranking() is None


def test_a_selection_is_saved_when_told(model):
    "As a column of the user's obs, never over another one; it can be grouped and tested by at once."
    own = simulate(**SIZES)
    ex = PSIExplorer(model, mdata=own, latent=np.zeros((150, 2)))
    with pytest.raises(ValueError, match="No cells are selected"):
        ex.save_selection("mine")
    ex.selected = own.obs_names[:40]
    assert "mine" not in own.obs
    view = view_of(ex)
    view.selection_name.value = "mine"
    view.save_button.click()
    assert (own.obs["mine"] == "selected").sum() == 40 and ("mine", "mine") in view.groupby.options
    view.save_button.click()
    assert "overwrite=True" in view.status.value and "sv-error" in view.status.value
    ex.selected = [0, 1]
    ex.save_selection("mine", overwrite=True)
    ex.groupby = "mine"
    assert ex.frame()["group"].unique().tolist() == ["selected", "rest"]
    ex.selected = np.arange(150) < 60
    ex.save_selection("mine", overwrite=True)
    assert ex.frame("cells").drop_duplicates("cell")["group"].value_counts()["selected"] == 60
    assert ex.compare("selected", "rest", n_draws=20)["n_obs_group1"].max() <= 60


def test_donors_are_points(mdata):
    "PSI of each donor in each group, from its reads alone; cells without a donor are left out."
    own = simulate(**SIZES)
    own.obs["donor"] = np.where(np.arange(150) % 5 == 4, None, [f"d{k % 4}" for k in range(150)])
    ex = PSIExplorer(own, sample_key="donor")
    v, junction = ex.state.values(), list(ex.state.junctions.index).index(ex.junction)
    points = next(t for t in ex.figures("psi")["psi"].data if t.name == "sample")
    want = []
    for g in ex.state.cell_groups.categories:
        for d in ("d0", "d1", "d2", "d3"):
            rows = ((own.obs["cell_type"] == g) & (own.obs["donor"] == d)).to_numpy()
            table = ex.state.samples().query("group == @g and sample == @d and junction_id == @ex.junction")
            assert table["reads"].sum() == (v.y[rows, junction].sum() if v.n[rows].sum() else 0)
            want += [g] * bool(v.n[rows].sum())
    assert len(points.x) == len(want) and "points: 4 samples" in ex.figures("psi")["psi"].layout.title.text
    with pytest.raises(KeyError, match="sample_key='patient'"):
        PSIExplorer(own, sample_key="patient")


def test_columns_are_found_under_either_name(model, ds):
    "What a MuData calls rna:cluster groups, colours and names donors as cluster does."
    own = simulate(**SIZES)
    own["rna"].obs["cluster"] = pd.Categorical(np.where(np.arange(150) % 3 == 0, "a", "b"))
    own["splicing"].obs["cluster"] = pd.Categorical(["c"] * 150)
    own["rna"].obs["age"] = np.arange(150.0)
    own.obs["rna:cluster"] = own["rna"].obs["cluster"]
    coords = np.random.default_rng(0).normal(size=(150, 2))
    short = PSIExplorer(own, groupby="cluster", sample_key="batch", latent=coords)
    long = PSIExplorer(own, groupby="rna:cluster", sample_key="rna:cluster", along="rna:age", latent=coords)
    assert long.groupby == "rna:cluster" and set(long.state.sample_names()) == {"a", "b"}
    pd.testing.assert_series_equal(long.frame()["psi"], short.frame()["psi"])
    assert "by rna:cluster" in long.figures("groups")["groups"].layout.title.text
    labels = view_of(long).groupby.labels
    assert labels.count("rna:cluster") == 1 and "cluster" not in labels
    other = PSIExplorer(own, groupby="splicing:cluster")
    assert list(other.state.cell_groups.categories) == ["c"]
    from splicevi.views import LatentMap

    maps = [
        LatentMap(own, k, latent=coords).points.widget.codes for k in ("cluster", "rna:cluster", "splicing:cluster")
    ]
    assert maps[0] == maps[1] != maps[2]
    with pytest.raises(KeyError, match="rna:celltype"):
        long.groupby = "rna:celltype"


@pytest.fixture(scope="module")
def timed():
    "Cells whose first type has small numbers, and the second large ones; ten have none."
    own = simulate(n_cells=300, n_genes=20, n_junctions=60, n_cell_types=2, observed=0.5, seed=0)
    rng = np.random.default_rng(0)
    own.obs["pseudotime"] = (own.obs["cell_type"] == "type_2") * 0.3 + rng.beta(3, 3, 300)
    own.obs.iloc[:10, own.obs.columns.get_loc("pseudotime")] = np.nan
    own.obs["age"] = rng.normal(size=300)
    return own


@pytest.mark.parametrize("model_too", (False, True), ids=("mudata", "model"))
def test_curves_along_pseudotime(timed, model_too, tmp_path):
    "Curves and ranking are those of splicevi.tl; they follow the event, the junction and the column."
    from splicevi.tl.trends import psi_along, splicing_along

    ex = PSIExplorer(flagged(timed) if model_too else timed, along=["pseudotime", "age"], latent=np.ones((300, 2)))
    view = view_of(ex)
    assert view.trends.widget.layout.display == "none" and view.along_menu.labels[0] == "along pseudotime"
    view.rank_button.click()
    want = splicing_along(timed, "pseudotime")
    table = ex.trends()
    np.testing.assert_allclose(table["effect_size"], want["effect_size"].reindex(table.index), atol=0.02)
    np.testing.assert_allclose(table["q_value"], want["q_value"].reindex(table.index), atol=1e-6)
    assert table["effect_size"].abs().is_monotonic_decreasing and view.rank_button.layout.display == "none"
    view.trends.widget.selected = table.index[0]
    assert ex.event == table.index[0] and ex.junction == table["top_junction"].iloc[0]
    figure = json.loads(view.plots["along"].widget.figure)
    assert figure["layout"]["yaxis"]["range"] == [-0.02, 1.02]
    assert figure["layout"]["xaxis"]["title"]["text"] == "pseudotime"
    lines = [t for t in figure["data"] if t.get("mode") == "lines" and t["name"] != "95 % interval"]
    assert [t["customdata"][0][0] for t in lines] == list(ex.state.junctions.index)
    one = psi_along(timed, "pseudotime", ex.junction)
    drawn = ex.frame("along").query("junction_id == @ex.junction")
    np.testing.assert_allclose(drawn.query("what == 'curve'")["psi"], one.curve["psi"], atol=1e-5)
    np.testing.assert_allclose(drawn.query("what == 'observed'")["psi"], one.points["psi"], atol=1e-5)
    said = view.along_head.value
    assert f"to {one.curve['psi'].iloc[-1]:.2f}" in said and "10 without a value are left out" in said
    click(view.plots["along"], next(j for j in ex.state.junctions.index if j != ex.junction))
    assert view.along_head.value != said
    ex.along = "age"
    assert "along age" in view.along_head.value and view.trends.widget.layout.display == "none"
    assert "PSI along age" in ex.to_html(tmp_path / "a.html").read_text()
    ex.along = None
    assert view.along_row.layout.display == "none" and not ex.has_panel("along")


def test_an_event_without_a_curve_says_why(timed):
    "One junction, too few cells, no column: a sentence in place of the figure."
    few = timed[:].copy()
    few.obs["few"] = np.where(np.arange(300) < 8, np.arange(300.0), np.nan)
    ex = PSIExplorer(few, along="few")
    view = view_of(ex)
    assert "of the 8 cells that have a value of few" in view.along_head.value
    assert view.plots["along"].widget.layout.display == "none"
    assert "10 of them" in " ".join(ex.figures("along")["along"].layout.annotations[0].text.split("<br>"))
    with pytest.raises(ValueError, match="of the 8 cells"):
        ex.frame("along")
    view.rank_button.click()
    assert "min_cells=20" in view.status.value
    alone = few[:].copy()
    events = alone["splicing"].var["event_id"].astype(str)
    alone["splicing"].var["event_id"] = np.where(events == events.iloc[0], [f"one_{i}" for i in range(60)], events)
    ex = PSIExplorer(alone, along="age", event="one_0")
    assert "one junction" in view_of(ex).along_head.value
    assert (
        "As along" not in ex.state.title
        and "along=" in PSIExplorer(few).figures("along")["along"].layout.annotations[0].text
    )


def not_called(junctions, **columns):
    "A table of tests in which nothing is called."
    effect = np.random.default_rng(0).normal(0, 0.1, len(junctions))
    table = pd.DataFrame({"effect_size": effect, "proba_ds": 0.1, "is_ds_fdr": False}, junctions)
    return table.assign(group1="type_1", group2="type_2", **columns)


@pytest.mark.parametrize("donors", (False, True), ids=("cells", "donors"))
def test_power_is_that_of_the_comparison(timed, donors, monkeypatch):
    "Shares are those of splicevi.tl.power; donors are the replicates where they were in the tests."
    import splicevi as sv
    from splicevi.views.explorer import power

    monkeypatch.setattr(power, "TRIAL", power.Trial(n_events=20))
    own = timed[:].copy()
    own.obs["donor"] = [f"d{k % 6}" for k in range(300)]
    ds = not_called(own["splicing"].var_names, **({"n_donors1": 6} if donors else {}))
    ex = PSIExplorer(own, ds=ds, sample_key="donor")
    want = sv.tl.power(own, "cell_type", "type_1", "type_2", sample_key="donor" if donors else None, n_events=20)
    want = want[want["data"] == "now"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ex.power()[list(want)], want)
    view = view_of(ex)
    percent = f"{100 * want.set_index('effect')['found'][0.2]:.0f} %"
    assert f"between type_1 and type_2, it would be found in {percent}" in view.power.value
    assert view.power_button.layout.display == "none"
    p = ex.chance()
    size = "less than 0.05" if p < 0.05 else "more than 0.95" if p > 0.95 else f"about {round(20 * p) / 20:.2f}"
    assert f"a difference of 0.2 would be found with probability {size}.<" in view.head.value
    ex.ds = ds.assign(is_ds_fdr=True)
    assert "Not called" not in view.head.value
    ex.ds = not_called(own["splicing"].var_names).assign(group1="kidney")
    assert not view.power.value.endswith("events.") and "Not called" not in view.head.value and ex.chance() is None


def test_the_chance_of_an_event_is_its_share_of_trials(timed):
    "What is said of one event is how often it is called when it changes in whole trials of splicevi.tl.power."
    from splicevi.tl.detection import Trial, called_events
    from splicevi.views.explorer.power import depths, shown_comparison

    ex = PSIExplorer(timed, ds=not_called(timed["splicing"].var_names))
    d = depths(ex.state)
    design = d.design(d.seen(shown_comparison(ex.state)))
    worth = design.worth.min(0)
    at = int(np.argsort(worth)[len(worth) // 2])
    code = np.flatnonzero(d.kept)[at]
    ex.event = ex.state.data.junctions["event_id"].iloc[
        np.flatnonzero(ex.state.data.reads.event == d.events.names[code])[0]
    ]
    rng, trial, n = np.random.default_rng(1), Trial(), len(worth)
    found = []
    for _ in range(150):
        kind = rng.choice(4, n, p=[0.8, *[0.2 / 3] * 3])
        kind[at] = 2
        found.append(called_events(design, trial, kind, rng)[at])
    assert abs(ex.chance() - np.mean(found)) < 0.15
    with pytest.raises(ValueError, match="none of the trial's"):
        ex.chance(0.3)


def test_large_data_are_asked_for_power(timed, monkeypatch):
    "With many reads nothing is drawn until the button is pressed; then event and table are told."
    from splicevi.views.explorer import power

    monkeypatch.setattr(power, "AT_ONCE", 10)
    ex = PSIExplorer(timed, ds=not_called(timed["splicing"].var_names))
    view = view_of(ex)
    assert view.power_button.layout.display is None and "Not called" not in view.head.value
    view.power_button.click()
    assert view.power_button.layout.display == "none" and "Not called." in view.head.value
    assert "it would be found in" in view.power.value


def test_pinned_events_stand_beside_the_one_that_is_shown(ex):
    "Both are drawn, and a click on an arc of either chooses its junction."
    view, first = view_of(ex), ex.event
    view.pin_button.click()
    assert ex.pinned == (first,) and view.unpin_button.layout.display is None
    ex.event = next(e for e in ex.state.data.index.events if e != first)
    names = {c[0] for t in view.plots["arcs"].figure.data if t.customdata is not None for c in t.customdata}
    own = set(ex.state.data.junctions.index[ex.state.data.junctions["event_id"].isin([first, ex.event])])
    assert names == own
    click(view.plots["arcs"], next(j for j in own if j not in ex.state.junctions.index), "type_1")
    assert ex.event == first
    assert ex.event_grid([first, *list(ex.state.data.index.events)[3:5]], columns=3).layout.width == 700
    view.unpin_button.click()
    assert ex.pinned == () and view.pin_button.description == "pin event"
    with pytest.raises(ValueError, match="pin 5 at most"):
        ex.pinned = list(ex.state.data.index.events)[:6]


# exports


def test_csv_and_frame(ex, tmp_path):
    "The file holds the frame; an older file survives a failure."
    back = pd.read_csv(ex.to_csv(tmp_path / "a.csv"))
    np.testing.assert_allclose(back["psi"], ex.frame()["psi"])
    assert {"event_id", "gene_name", "chrom", "start", "end", "groupby", "lower", "upper", "n_cells"} <= set(back)
    assert len(pd.read_csv(ex.to_csv(tmp_path / "a.csv", level="cells"))) == len(ex.frame("cells"))
    with pytest.raises(FileNotFoundError, match="make it first"):
        ex.to_csv(tmp_path / "none" / "a.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_bed_counts_from_zero(ex, tmp_path):
    "Start minus one, end as it is; score is PSI in thousandths; one line for each group where asked."
    ex.show = "decoded"
    lines = [l.split("\t") for l in ex.to_bed(tmp_path / "a.bed").read_text().splitlines()]
    assert lines[0][0].startswith('track name="') and len(lines) == 1 + len(ex.state.junctions)
    psi = ex.state.values().decoded.mean(0)
    for line, (name, j), p in zip(lines[1:], ex.state.junctions.iterrows(), psi):
        assert (
            line[:3] == [j.chrom, str(j.start - 1), str(j.end)]
            and line[3].startswith(name)
            and int(line[4]) == round(1000 * p)
            and line[5] == j.strand
        )
    assert len(ex.to_bed(tmp_path / "b.bed", by_group=True).read_text().splitlines()) == 1 + 3 * len(ex.state.junctions)
    chrom, span = ex.locus.split(":")
    lo, hi = map(int, span.split("-"))
    assert chrom == j.chrom and lo < ex.state.junctions["start"].min() and hi > ex.state.junctions["end"].max()


def test_html_is_self_contained(ex, tmp_path):
    "One copy of the script, all panels, nothing fetched, the numbers as text."
    text = ex.to_html(tmp_path / "a.html").read_text()
    assert text.count('id="plotly"') == 1 and text.count('<div class="plot"') == 6
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", text)
    assert ex.event in text and "type_1" in text and "95 % from" in text


def test_image_or_a_clear_error(ex, tmp_path, monkeypatch):
    "Without kaleido the error names the extra."
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ImportError, match=r"splicevi\[image\]"):
        ex.to_image(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_buttons_write_beside_the_notebook(ex, tmp_path, monkeypatch):
    "The buttons write files and say so."
    monkeypatch.chdir(tmp_path)
    view = view_of(ex)
    for kind in ("CSV", "BED", "HTML"):
        view.buttons[kind].click()
        assert f"wrote {ex.gene}_{ex.event}.{kind.lower()}" in view.written.value
    assert len(list(tmp_path.iterdir())) == 3


# shown without widgets, in Colab, with exons


def test_without_widgets(model, ds, monkeypatch, tmp_path):
    "State, tables and figures work; displaying says which extra to install."
    monkeypatch.setitem(sys.modules, "anywidget", None)
    ex = PSIExplorer(model, ds=ds, latent=np.zeros((150, 2)))
    assert len(ex.figures()) == 9 and len(ex.frame()) and ex.to_html(tmp_path / "a.html").exists()
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append(a[0]))
    ex._ipython_display_()
    assert 'pip install "splicevi[notebook]"' in shown[0]["text/plain"] and ex.event in shown[0]["text/html"]


def test_a_snapshot_of_the_last_state_stays_in_the_notebook(ex, monkeypatch):
    "Beside the widget a snapshot is displayed, hidden where widgets work, and brought up to date at each change."
    shown, updated = [], []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a[0], k)))
    monkeypatch.setattr("IPython.display.update_display", lambda *a, **k: updated.append((a[0].data, k["display_id"])))
    ex._ipython_display_()
    (widget, _), (page, known) = shown
    assert (
        widget is ex.widget
        and known["display_id"] == ex.snapshot_name
        and ex.event in page.data
        and f'class="{ex.snapshot_name}"' in page.data
    )
    assert ex.widget.hides == ex.snapshot_name
    event = list(ex.state.data.index.events)[9]
    ex.event = event
    assert len(updated) == 1 and event in updated[0][0] and updated[0][1] == ex.snapshot_name


def test_colab_is_asked_for_its_widgets(ex, monkeypatch):
    "In Colab the custom widget manager is turned on before the first widget."
    calls = []
    output = types.SimpleNamespace(enable_custom_widget_manager=lambda: calls.append(1))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(output=output))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    assert ex.widget is ex.widget and calls


def test_exons_of_an_annotation(mdata):
    "Exons of the event's chromosome, strand and gene that touch its junctions, once each."
    junctions = junction_frame(mdata["splicing"].var)
    ex = PSIExplorer(mdata)
    j = ex.state.junctions
    lo, hi, chrom, strand, gene = j["start"].min(), j["end"].max(), j["chrom"].iloc[0], j["strand"].iloc[0], ex.gene
    other = "-" if strand == "+" else "+"
    gtf = pd.DataFrame(
        [
            (chrom, lo - 80, lo - 1, strand, gene),
            (chrom, lo - 80, lo - 1, strand, gene),
            (chrom, hi + 1, hi + 60, strand, gene),
            (chrom, lo - 500, lo - 300, strand, gene),
            (chrom, lo, hi, other, gene),
            (chrom, lo, hi, strand, "ELSE"),
            ("chrZ", lo, hi, strand, gene),
        ],
        columns=["chrom", "start", "end", "strand", "gene_name"],
    )
    found = exons_of(gtf, j)
    assert found["start"].tolist() == [lo - 80, hi + 1] and list(found) == ["chrom", "start", "end", "strand"]
    drawn = PSIExplorer(mdata, gtf=gtf, event=ex.event)
    assert drawn.figures("arcs")["arcs"].to_json() != ex.figures("arcs")["arcs"].to_json()
    assert len(junctions) == mdata["splicing"].n_vars


def test_many_groups_keep_the_arcs_readable(mdata):
    "Six lanes at most, those with most reads, and the figure says so."
    many = simulate(**{**SIZES, "n_cell_types": 9})
    ex = PSIExplorer(many)
    from splicevi.views.explorer.panels import lanes

    reads = ex.frame().drop_duplicates("group").set_index("group")["total"]
    assert set(lanes(ex.state)) == set(reads.sort_values(ascending=False, kind="stable").index[:6])
    assert "6 of 9 groups" in ex.figures("arcs")["arcs"].layout.title.text


@pytest.mark.timed
def test_one_event_of_100_000_cells_is_quick():
    "Another event, with all figures of an open widget, costs less than encoding the cells, which is done once."
    mdata = simulate(n_cells=100_000, n_genes=200, n_junctions=600, observed=0.12)
    model = flagged(mdata)
    ds = model.differential_splicing(groupby="cell_type", group1="type_1", group2="type_2", silent=True)
    ex = PSIExplorer(model, ds=ds)
    view = view_of(ex)

    def cpu_seconds(work):  # of both cores together, which other programs do not stretch
        start = time.process_time()
        work()
        return time.process_time() - start

    events = [e for e in list(ex.state.data.index.events)[3:40:4] if e != ex.event]
    seconds = [cpu_seconds(lambda e=e: setattr(ex, "event", e)) for e in events]
    encoding = cpu_seconds(lambda: model.latent_points(ex.state.data.adata, batch_size=1024))
    sent = sum(len(p.widget.figure) for k, p in view.plots.items() if k != "volcano")
    print(json.dumps(dict(cpu=[round(t, 3) for t in seconds], encoding=round(encoding, 2), megabytes=sent / 1e6)))
    assert np.median(seconds) < encoding
