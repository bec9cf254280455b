"""Figures: what is drawn, on which ground, what stands where nothing can be drawn, and that no labels overlap."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from splicevi import pl
from splicevi.pl.arc_layout import event_axis
from splicevi.pl.style import THEMES, contrast_ratio, text_width

TEMPLATES = ["light", "dark", None]
EXPECTED_GROUND = {"light": "#FFFFFF", "dark": "#14171B", None: "rgba(0,0,0,0)"}


def event(k, groups, strand="+", gap=20_000, seed=0, shared=False):
    "An event of `k` junctions with random sites, and its PSI and reads in groups."
    rng = np.random.default_rng(seed)
    start = np.full(k, 10_000) if shared else np.sort(rng.integers(10_000, 10_000 + 3 * gap, k))
    end = start + np.sort(rng.integers(gap // 10, gap, k))
    junctions = pd.DataFrame(
        {"chrom": "chr7", "start": start, "end": end, "strand": strand, "gene_name": "ABC1", "event_id": "ATSE_1"}
    )
    junctions.index = [f"chr7:{a}:{b}:{strand}" for a, b in zip(start, end)]
    reads = pd.DataFrame(rng.integers(1, 30_000, (k, groups)), junctions.index, [f"type {g}" for g in range(groups)])
    return junctions, reads / reads.sum(), reads


@pytest.fixture(scope="module")
def tidy():
    "Cells and groups of an event of two junctions: 30, 3 and no cells."
    rng = np.random.default_rng(3)
    rows = []
    for g, n in (("a", 30), ("b", 3)):
        for i in range(n):
            total = int(rng.integers(1, 9))
            y = int(rng.binomial(total, 0.3))
            rows += [
                (f"{g}{i}", g, j, v / total, 0.3, 0.35, v, total)
                for j, v in (("chr1:10:20:+", y), ("chr1:10:30:+", total - y))
            ]
    cells = pd.DataFrame(
        rows, columns=["cell", "group", "junction_id", "observed", "decoded", "smoothed", "reads", "total"]
    )
    cells["group"] = pd.Categorical(cells["group"], ["a", "b", "empty"])
    groups = pd.DataFrame(
        [
            (g, j, k, 0.3 + 0.1 * (g == "b"), 0.2, 0.5, 30, 60, 150)
            for g in "ab"
            for j in cells["junction_id"].unique()
            for k in ("observed", "decoded", "smoothed")
        ],
        columns=["group", "junction_id", "kind", "psi", "lower", "upper", "n_cells", "reads", "total"],
    )
    return cells, groups


@pytest.fixture(scope="module")
def ds():
    "A table as `differential_splicing` makes it, with two rows that have no value."
    rng = np.random.default_rng(5)
    effect = np.r_[rng.normal(scale=0.04, size=60), rng.choice([-1, 1], 20) * rng.uniform(0.2, 0.6, 20), np.nan, 0.3]
    proba = np.r_[rng.uniform(0, 0.4, 60), rng.uniform(0.97, 1, 20), 0.99, np.nan]
    index = [f"chr1:{i}00:{i}90:+" for i in range(82)]
    return pd.DataFrame(
        {
            "effect_size": effect,
            "proba_ds": proba,
            "is_ds_fdr": np.nan_to_num(proba) > 0.9,
            "gene_name": [f"G{i}" for i in range(82)],
            "event_id": "E",
        },
        index,
    )


def grid_event(*sizes):
    "An event as a grid takes it."
    return dict(zip(("junctions", "psi", "reads"), event(*sizes)))


def covered():
    "Coverage of two exons in two groups."
    from splicevi.io.depth import Depth

    depth = pd.DataFrame({"x": np.r_[[9] * 50, [0] * 900, [7] * 51], "y": [0] * 1001}, pd.RangeIndex(100, 1101))
    junctions = pd.DataFrame({"start": [150, 150], "end": [1049, 1048], "x": [9, 1], "y": [0, 0]}, index=["a", "b"])
    return Depth("chr1", depth, junctions, pd.Series({"x": 5, "y": 2}))


def every_figure(template, tidy, ds):
    "One of each, by name."
    cells, groups = tidy
    rng = np.random.default_rng(0)
    xy, labels = rng.normal(size=(50, 2)), pd.Series(np.repeat(["x", "y"], 25), name="cell_type")
    held = pd.DataFrame({"counts": rng.integers(0, 5, 90), "total": 5})
    past = {f"elbo_{s}": pd.DataFrame({"elbo": 100 / np.arange(1, 31)}) for s in ("train", "validation")}
    return {
        "history": pl.history(past, template=template),
        "latent": pl.latent(xy, labels, template=template),
        "latent_psi": pl.latent_psi(xy, np.where(labels == "x", 0.2, np.nan), "chr1:10:20:+", template=template),
        "psi_violin": pl.psi_violin(cells, groups, template=template),
        "psi_heatmap": pl.psi_heatmap(groups, template=template),
        "expression_violin": pl.expression_violin(rng.poisson(3, 50), labels, "G", template=template),
        "event_arcs": pl.event_arcs(*event(3, 2), template=template),
        "event_grid": pl.event_grid([grid_event(2, 2), grid_event(3, 2)], template=template),
        "sashimi": pl.sashimi(covered(), template=template),
        "volcano": pl.volcano(ds, template=template),
        "calibration": pl.calibration(rng.random(90), rng.random(90) < 0.5, template=template),
        "imputation": pl.imputation(held, {"mean": np.full(90, 0.4)}, template=template),
        "psi_calibration": pl.psi_calibration(held, {"mean": rng.random(90)}, template=template),
    }


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_figure_has_the_common_look(template, tidy, ds):
    "700 px, a title, the ground of the template, text that stands out from it, traces with hover text or none at all."
    for name, fig in every_figure(template, tidy, ds).items():
        assert isinstance(fig, go.Figure) and fig.layout.width == 700 and fig.layout.title.text, name
        assert (
            fig.layout.paper_bgcolor == EXPECTED_GROUND[template] and fig.layout.font.color == THEMES[template].ink
        ), name
        assert all(
            t.hoverinfo == "skip" or t.hovertemplate or t.hoverinfo == "text"
            for t in fig.data
            if t.showlegend is not True and t.x is not None and len(t.x) and t.x[0] is not None
        ), name
        assert any(t.hovertemplate or t.hovertext is not None for t in fig.data), name
        if template:
            inks = {a.font.color for a in fig.layout.annotations if a.text} - {None}
            assert all(contrast_ratio(c, fig.layout.paper_bgcolor) > 4.5 for c in inks), (name, inks)


def test_title_can_be_left_out_and_replaced(tidy, ds):
    assert pl.volcano(ds, title="").layout.title.text is None
    assert pl.volcano(ds, title="A and B").layout.title.text.startswith("A and B")


def test_unknown_template_is_refused(ds):
    with pytest.raises(ValueError, match="'light', 'dark' or None"):
        pl.volcano(ds, template="plotly_dark")


def test_one_colour_for_a_category_in_all_figures(tidy):
    "Arcs, violins and the latent map give a label the same colour; `hue` overrules it."
    cells, groups = tidy
    junctions, psi, reads = event(2, 3)
    psi.columns = reads.columns = ["a", "b", "empty"]
    for hue in (None, {"b": "#123456"}):
        want = pl.colors(cells["group"], hue)
        arcs = {t.meta: t.line.color for t in pl.event_arcs(junctions, psi, reads, hue=hue).data if t.meta}
        violin = {
            t.name: t.fillcolor or t.marker.color
            for t in pl.psi_violin(cells, groups, "decoded", hue=hue).data
            if t.name in want
        }
        maps = {
            t.name: t.marker.color
            for t in pl.latent(np.zeros((6, 2)), pd.Categorical(list("aabbab"), ["a", "b", "empty"]), hue=hue).data
        }
        assert arcs == want
        assert violin == {k: want[k] for k in "ab"} == maps


# ---- arcs


def test_introns_are_compressed_in_closed_form():
    "Exons keep their length, introns are capped, the map is monotone and every base of an exon is one unit."
    rng = np.random.default_rng(0)
    for _ in range(20):
        edge = np.sort(rng.choice(50_000, 12, replace=False)).astype(float)
        exons, cap = edge.reshape(-1, 2), float(rng.integers(10, 3000))
        knots = pl.compress_introns(exons, edge[0], edge[-1], cap)
        exon, intron = np.diff(edge)[::2], np.diff(edge)[1::2]
        assert np.allclose(np.diff(knots[:, 1])[::2], exon) and np.allclose(
            np.diff(knots[:, 1])[1::2], np.minimum(intron, cap)
        )
        at = np.interp(np.arange(edge[0], edge[-1] + 1), *knots.T)
        assert (np.diff(at) > 0).all() and np.diff(at).max() <= 1 + 1e-9


def test_arcs_draw_psi_reads_and_places():
    junctions, psi, reads = event(3, 2)
    fig = pl.event_arcs(junctions, psi, reads, template="light")
    axis = event_axis(junctions, None, fig.layout.width - fig.layout.margin.l - 24)
    for j in junctions.index:
        for g in psi.columns:
            line = next(t for t in fig.data if t.name == j and t.meta == g)
            assert line.line.width == pytest.approx(0.8 + 7.2 * psi.at[j, g])
            assert [line.x[0], line.x[-1]] == pytest.approx(
                list(axis.at(junctions.loc[j, ["start", "end"]].to_numpy(float)))
            )
            assert any(
                f"{psi.at[j, g]:.2f}" in a.text and f"{reads.at[j, g]:,}" in a.text for a in fig.layout.annotations
            )
    ticks = {a.text for a in fig.layout.annotations}
    assert {f"{s:,}" for s in [*junctions["start"], *junctions["end"]]} <= ticks
    click = next(t for t in fig.data if t.name == "type 1")
    assert {tuple(c) for c in click.customdata} == {
        (j, "type 1") for j in junctions.index
    } and click.marker.opacity == 0
    assert f"chr7:{junctions['start'].iloc[0]:,}-{junctions['end'].iloc[0]:,} (+)" in " ".join(click.text)
    assert f"of {reads['type 1'].sum():,} reads" in click.text[0]


def test_arcs_lanes_follow_groups_and_say_what_is_not_observed():
    junctions, psi, reads = event(2, 4)
    psi["type 2"], reads["type 2"] = np.nan, 0
    fig = pl.event_arcs(junctions, psi, reads, groups=["type 3", "type 2"])
    level = {t.name: min(t.y) for t in fig.data if t.name in psi.columns}
    assert list(level) == ["type 3", "type 2"] and level["type 3"] > level["type 2"]  # the first is on top
    assert any("type 2" in a.text and "not observed" in a.text for a in fig.layout.annotations)
    assert {t.line.width for t in fig.data if t.meta == "type 2"} == {0.8}


def test_arcs_selected_and_novel_stand_out():
    junctions, psi, _reads = event(3, 1)
    chosen = junctions.index[1]
    fig = pl.event_arcs(junctions.assign(annotated=[True, True, False]), psi, selected=chosen)
    assert {t.name: t.opacity for t in fig.data if t.meta} == {j: 1 if j == chosen else 0.45 for j in junctions.index}
    assert {t.name: t.line.dash for t in fig.data if t.meta} == dict(
        zip(junctions.index, ["solid", "solid", "4px,3px"])
    )
    assert "dashed: novel" in fig.layout.title.text and "dashed" not in pl.event_arcs(junctions, psi).layout.title.text


@pytest.mark.parametrize(
    "strand, flip, symbol, reverse",
    [("+", True, "triangle-right", False), ("-", False, "triangle-left", False), ("-", True, "triangle-right", True)],
)
def test_arcs_know_the_strand(strand, flip, symbol, reverse):
    junctions, psi, _ = event(2, 1, strand)
    fig = pl.event_arcs(junctions, psi, flip=flip)
    assert next(t for t in fig.data if t.name == "strand").marker.symbol == symbol
    assert (fig.layout.xaxis.range[0] > fig.layout.xaxis.range[1]) == reverse
    ends = {a.text: a.x for a in fig.layout.annotations if a.text in ("5′", "3′")}
    assert (ends["5′"] < ends["3′"]) == (strand == "+")
    assert f"({strand.replace('-', '−')})" in fig.layout.title.text


def test_arcs_without_a_strand_have_no_arrow():
    junctions, psi, _ = event(2, 1, ".")
    fig = pl.event_arcs(junctions, psi)
    assert not any(t.name == "strand" for t in fig.data) and not {a.text for a in fig.layout.annotations} & {"5′", "3′"}


def test_arcs_take_exons_from_a_gtf():
    "Known exons are filled boxes at their places; a site that none of them touches gets a guess."
    junctions, psi, _ = event(1, 1)
    a, b = junctions.iloc[0][["start", "end"]]
    gtf = pd.DataFrame({"chrom": "chr7", "start": [a - 200, b + 1, 1], "end": [a - 1, b + 150, 10**8]})
    fig = pl.event_arcs(junctions, psi, exons=gtf)
    assert [t.name for t in fig.data if t.fill == "toself"] == ["exons"]
    fig = pl.event_arcs(junctions, psi, exons=gtf.iloc[1:2])
    assert [t.name for t in fig.data if t.fill == "toself"] == ["exons", "exons (guessed)"]


def arc_boxes(fig):
    "Boxes in pixels of the texts of an arc figure that stand in the plot."
    out = []
    for a in fig.layout.annotations:
        if a.xref == "paper":
            continue
        lines = pd.Series(a.text.split("<br>")).str.replace(r"<[^>]+>", "", regex=True)
        w, h = max(text_width(t, a.font.size) for t in lines), a.font.size * 1.2 * len(lines)
        y = a.y + (a.yshift or 0) + (h / 2 if a.yanchor == "bottom" else 0)
        out.append((a.x - w / 2, y - h / 2, a.x + w / 2, y + h / 2))
    return np.array(out)


@pytest.mark.parametrize("groups", [2, 5, 8])
@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("kind", ["short", "long", "shared"])
def test_labels_of_arcs_do_not_overlap(k, groups, kind):
    "Nested, crossing and sharing junctions, long and short introns: no text covers another."
    for seed in range(3):
        junctions, psi, reads = event(
            k, groups, gap=300 if kind == "short" else 20_000, seed=seed, shared=kind == "shared"
        )
        fig = pl.event_arcs(junctions, psi, reads)
        b = arc_boxes(fig)
        hit = (
            (b[:, None, 0] < b[None, :, 2])
            & (b[None, :, 0] < b[:, None, 2])
            & (b[:, None, 1] < b[None, :, 3])
            & (b[None, :, 1] < b[:, None, 3])
        )
        assert hit.sum() == len(b), f"{hit.sum() - len(b)} overlaps, seed {seed}"


def test_parts_of_many_arcs_are_handed_over_at_once(monkeypatch):
    "11 junctions in 8 groups took 24 s when they were added to the figure one by one."
    for name in ("add_trace", "add_traces", "add_annotation", "add_shape"):
        monkeypatch.setattr(go.Figure, name, lambda *args, **kwargs: pytest.fail("a part was added by itself"))
    fig = pl.event_arcs(*event(11, 8))
    assert sum(t.meta is not None for t in fig.data) == 88


# ---- violins, heatmap, latent map


def test_violin_of_each_kind_and_junction(tidy):
    cells, groups = tidy
    fig = pl.psi_violin(cells, groups, "smoothed")
    assert {t.x[0] for t in fig.data if t.type == "violin"} == {0.35} and sum(
        t.name == "group mean" for t in fig.data
    ) == 2
    assert [a.text for a in fig.layout.annotations[:2]] == ["chr1:10-20", "chr1:10-30"]
    assert "Smoothed PSI" in fig.layout.title.text
    assert not any(t.name == "group mean" for t in pl.psi_violin(cells).data)


def test_heatmap_of_the_tidy_table_and_of_plain_tables(tidy):
    _, groups = tidy
    fig = pl.psi_heatmap(groups)
    assert [t.type for t in fig.data] == ["heatmap"] * 3 and np.allclose(
        np.asarray(fig.data[0].z, float), [[0.3, 0.4]] * 2
    )
    table = pd.DataFrame({"x": [0.1, np.nan], "y": [0.5, 1.0]}, ["j1", "j2"])
    fig = pl.psi_heatmap({"observed": table}, ["first", "second"])
    assert np.allclose(np.asarray(fig.data[0].z, float), table, equal_nan=True) and fig.layout.yaxis.ticktext == (
        "first",
        "second",
    )
    dash = next(t for t in fig.data if t.name == "no value")
    assert (list(dash.x), list(dash.y)) == (["x"], [1]) and "not observed" in fig.data[0].text[1][0]


# ---- tests and their calibration


def test_volcano_names_the_selected_row_even_in_a_crowd():
    "On a line full of points its name stands above."
    n = 60
    ds = pd.DataFrame(
        {
            "effect_size": np.linspace(0.3, 0.6, n),
            "proba_ds": 1.0,
            "is_ds_fdr": True,
            "gene_name": [f"GENE{i:02d}" for i in range(n)],
        },
        [str(i) for i in range(n)],
    )
    names = [a for a in pl.volcano(ds, selected="30").layout.annotations if "GENE" in a.text]
    assert names[0].text == "<b>GENE30</b>" and (names[0].xanchor, names[0].yshift, names[0].y) == ("center", 14, 4)


def test_volcano_calls_by_thresholds(ds):
    fig = pl.volcano(ds, delta=0.3, proba=0.98)
    called = next(t for t in fig.data if t.name == "called")
    want = ds.index[(ds["proba_ds"] >= 0.98) & (ds["effect_size"].abs() >= 0.3)]
    assert {c[0] for c in called.customdata} == set(want)
    line = [s for s in fig.layout.shapes if s.y0 == s.y1]
    assert (
        len(line) == 1
        and line[0].y0 == pytest.approx(-np.log10(0.02))
        and any(a.text == "P ≥ 0.98" for a in fig.layout.annotations)
    )


def test_volcano_uses_webgl_and_names_do_not_overlap():
    rng = np.random.default_rng(0)
    n = 5000
    ds = pd.DataFrame(
        {
            "effect_size": rng.normal(0.4, 0.02, n),
            "proba_ds": rng.uniform(0.99, 1, n),
            "gene_name": [f"GENE{i}" for i in range(n)],
        },
        [str(i) for i in range(n)],
    )
    fig = pl.volcano(ds, n_labels=10)
    assert {t.type for t in fig.data} == {"scattergl"}
    names = [a for a in fig.layout.annotations if a.text.startswith("GENE")]
    ends = sorted((a.y, a.xanchor) for a in names)
    pixel = (fig.layout.height - fig.layout.margin.t - 90) / fig.layout.yaxis.range[1]
    for side in ("left", "right"):
        y = np.array([y for y, s in ends if s == side]) * pixel
        assert (np.diff(y) > 15).all()


# ---- nothing to draw, and tables of the wrong kind


def test_nothing_to_draw_is_a_sentence(tidy, ds):
    cells, groups = tidy
    junctions, psi, _ = event(2, 2)
    figures = {
        "choose a gene": pl.event_arcs(junctions.iloc[:0], psi),
        "choose a column of obs": pl.event_arcs(junctions, psi, groups=[]),
        "choose an event that was read": pl.psi_violin(cells.iloc[:0], groups),
        "pass a trained model": pl.psi_violin(cells.assign(decoded=np.nan), groups, "decoded"),
        "look at decoded PSI": pl.psi_violin(cells.assign(observed=np.nan)),
        "or pass a trained model": pl.psi_heatmap(groups.assign(psi=np.nan)),
        "run model.differential_splicing": pl.volcano(ds.iloc[:0]),
        "share no observed event": pl.volcano(ds.assign(effect_size=np.nan)),
        "train the model first": pl.history({}),
        "choose other cells": pl.latent(np.zeros((0, 2)), []),
        "other cells": pl.latent_psi(np.zeros((0, 2)), []),
        "not among the genes": pl.expression_violin(np.full(4, np.nan), list("aabb"), "G"),
        "hold some out": pl.imputation(pd.DataFrame({"counts": [], "total": []}), {}),
        "whose truth is known": pl.calibration(np.full(3, np.nan), np.ones(3)),
    }
    for sentence, fig in figures.items():
        assert (
            not fig.data and sentence in fig.layout.annotations[0].text.replace("<br>", " ") and fig.layout.title.text
        ), sentence
    nothing = pl.latent_psi(np.zeros((5, 2)), np.full(5, np.nan))
    assert [t.name for t in nothing.data] == ["not observed"] and "0 of 5 cells observed" in nothing.layout.title.text


@pytest.mark.parametrize(
    "draw, message",
    [
        (
            lambda c, g, d: pl.event_arcs(pd.DataFrame({"chrom": ["1"], "start": [1]}), None),
            "junctions has no column end, strand",
        ),
        (lambda c, g, d: pl.psi_violin(c, g.drop(columns="lower")), "groups has no column lower"),
        (lambda c, g, d: pl.psi_heatmap(g.drop(columns="kind")), "groups has no column kind"),
    ],
)
def test_wrong_columns_are_named(draw, message, tidy, ds):
    with pytest.raises(KeyError, match=message.replace("(", r"\(").replace("+", r"\+")):
        draw(*tidy, ds)


def test_inputs_are_left_alone(tidy, ds):
    cells, groups = tidy
    junctions, psi, reads = event(3, 2)
    before = [t.copy(deep=True) for t in (cells, groups, ds, junctions, psi, reads)]
    every_figure("light", tidy, ds)
    pl.event_arcs(junctions, psi, reads, selected=junctions.index[0])
    for a, b in zip(before, (cells, groups, ds, junctions, psi, reads)):
        pd.testing.assert_frame_equal(a, b)


def test_groups_of_a_grid_are_at_one_height():
    "Lanes of all events in a row are where their names are; the arcs of every event are inside of its part."
    parts = [grid_event(2, 3), grid_event(6, 3), grid_event(3, 3)]
    fig = pl.event_grid(parts, columns=2, title="")
    names = {a.text.split(" <")[0]: a for a in fig.layout.annotations if "■" in a.text and a.yref == "y"}
    groups = list(parts[0]["psi"].columns)
    base = lambda k, g: min(y for t in fig.data if t.yaxis == k and t.meta == g for y in t.y)
    for g in groups:
        assert base("y", g) == base("y2", g) == names[g].y + 5
    for k in ("", "2", "3"):
        (left, right), (low, top) = fig.layout[f"xaxis{k}"].domain, fig.layout[f"yaxis{k}"].domain
        assert 0 <= left < right <= 1 and 0 <= low < top <= 1
        lo, hi = fig.layout[f"yaxis{k}"].range
        assert all(lo <= y <= hi for t in fig.data if t.yaxis == f"y{k}" and t.meta for y in t.y)
    assert fig.layout.xaxis.domain[1] < fig.layout.xaxis2.domain[0]
    assert fig.layout.yaxis.domain[0] > fig.layout.yaxis3.domain[1]
    with pytest.raises(KeyError, match="has 'colour'"):
        pl.event_grid([{**parts[0], "colour": 1}])


def test_sashimi_draws_what_was_read():
    "The area is as high as the coverage at every base, the arcs as wide as their reads, weak junctions are left out."
    depth = covered()
    fig = pl.sashimi(depth, min_share=0)
    line = next(t for t in fig.data if t.customdata is not None and t.name == "x")
    told = dict(zip(line.customdata[:, 0], line.customdata[:, 1]))
    assert max(told.values()) == 9 and max(line.y) == pytest.approx(54) and min(line.y) == 0
    assert {t.name: t.line.width for t in fig.data if t.meta} == {"a": 6.0, "b": pytest.approx(0.8 + 5.2 / 9)}
    assert [t.name for t in pl.sashimi(depth, min_share=0.5).data if t.meta] == ["a"]
    common = pl.sashimi(depth, ["y"], scale="common") if depth.depth["y"].any() else None
    assert common is None and "No molecules of these groups" in pl.sashimi(depth, ["y"]).layout.annotations[0].text
    wide = pd.DataFrame({"x": np.random.default_rng(0).integers(0, 50, 200_000)}, pd.RangeIndex(1, 200_001))
    from splicevi.io.depth import Depth

    fig = pl.sashimi(Depth("chr1", wide, depth.junctions.iloc[:0], pd.Series({"x": 1}), "reads"))
    line = next(t for t in fig.data if t.customdata is not None)
    assert len(line.x) < 4000 and max(line.y) == pytest.approx(54 * wide["x"].max() / wide["x"].max())


def test_samples_are_points_on_the_row_of_their_group(tidy):
    "Each sample at its PSI, the same height in every group."
    cells, groups = tidy
    samples = pd.concat([groups.assign(sample=s, psi=p) for s, p in (("d1", 0.2), ("d2", 0.7))])
    fig = pl.psi_violin(cells, groups, "observed", samples=samples)
    points = [t for t in fig.data if t.name == "sample"]
    assert points and set(points[0].x) == {0.2, 0.7}
    y = np.asarray(points[0].y)
    offset = y - np.round(y)
    assert len(set(offset.round(6))) == 2 and np.abs(offset).max() < 0.4
    with pytest.raises(KeyError, match="samples has no column sample"):
        pl.psi_violin(cells, groups, "observed", samples=groups)
