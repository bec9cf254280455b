"""PSI along a number of the cells: errors where nothing depends on it, power, donors, shapes, odd data."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from splicevi import SPLICEVI, pl, tl
from splicevi.core import KEYS
from splicevi.data.pairs import observed_pairs
from splicevi.datasets import dirichlet_multinomial, event_sizes, random_psi, simulate
from splicevi.tl.along import fit_along

SHAPES = (
    lambda t: t - 0.5,
    lambda t: np.exp(-((t - 0.5) ** 2) / 0.03) - 0.5,
    lambda t: 1 / (1 + np.exp(-(t - 0.3) / 0.05)) - 0.5,
)


def cells(seed, n=800, n_junctions=400, donors=1, changed=0.2, own=0.0, level=0.0, observed=0.12):
    "Reads of cells with a number; changed events follow a shape; donors have a shape and a level of their own (logit)."
    rng = np.random.default_rng(seed)
    t, donor, sizes = rng.random(n), rng.integers(0, donors, n), event_sizes(n_junctions, rng)
    start, event = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    base = np.log(random_psi(sizes, 1, rng, shape=1.0, floor=0.1)[:, 0])
    is_ds, kind = rng.random(len(sizes)) < changed, rng.integers(0, 3, len(sizes))
    size = np.where(is_ds, rng.choice([-2.0, 2.0], len(sizes)), 0)
    at = np.stack([f(t) for f in SHAPES], 1)
    of_level, of_shape = rng.normal(0, level, (donors, len(sizes))), rng.normal(0, own, (donors, len(sizes), 3))
    cell, seen = np.nonzero(rng.random((n, len(sizes))) < observed)
    shift = size[seen] * at[cell, kind[seen]] + of_level[donor[cell], seen]
    shift += (of_shape[donor[cell], seen] * at[cell]).sum(1)
    total, width = rng.geometric(1 / 6, len(cell)), sizes[seen]
    first = np.cumsum(width) - width
    junction = np.repeat(start[seen] - first, width) + np.arange(width.sum())
    weight, of = base[junction], np.repeat(np.arange(len(cell)), width)
    weight[first] += shift
    psi = np.exp(weight) / np.bincount(of, np.exp(weight))[of]
    y = dirichlet_multinomial(total, 20.0 * psi, width, rng).astype(np.float32)
    counts = sp.csr_matrix((y, (np.repeat(cell, width), junction)), shape=(n, len(event)))
    counts.eliminate_zeros()
    return dict(counts=counts, event=event, t=t, donor=donor, is_ds=is_ds, kind=kind, size=size)


def anndata(c):
    "The cells as AnnData with integer donors."
    n, m = c["counts"].shape
    var = pd.DataFrame({"event_id": [f"e{k}" for k in c["event"]]}, [f"chr1:{10 * i}:{10 * i + 5}:+" for i in range(m)])
    obs = pd.DataFrame({"t": c["t"], "donor": c["donor"]}, [f"cell_{i}" for i in range(n)])
    return ad.AnnData(c["counts"], obs, var, layers={KEYS.junction_counts: c["counts"]})


def p_values(c, t=None, by_donor=False):
    pairs = observed_pairs(c["counts"], c["event"].astype(np.int32))
    return fit_along(pairs, c["t"] if t is None else t, c["donor"] if by_donor else None).p_value


def test_errors_and_power():
    "One in twenty errs where PSI does not depend on the number; most of what changes is found."
    null, found, shuffled = [], [], []
    for seed in range(3):
        c = cells(seed)
        p = p_values(c)
        null.append(p[~c["is_ds"]])
        found.append(p[c["is_ds"]])
        shuffled.append(p_values(c, np.random.default_rng(seed).permutation(c["t"])))
    rate = lambda p: (np.concatenate(p) < 0.05).mean()
    assert 0.025 <= rate(null) <= 0.08 and 0.025 <= rate(shuffled) <= 0.08 and rate(found) > 0.6


def test_curves_of_donors_are_no_common_curve():
    "Six donors with curves of their own: cells as replicates err too often, donors do not; levels alone are no curve."
    naive, right, levels = [], [], []
    for seed in range(3):
        c = cells(seed, n=1200, n_junctions=300, donors=6, own=0.8, level=0.8, changed=0)
        naive.append(p_values(c))
        right.append(p_values(c, by_donor=True))
        levels.append(p_values(cells(seed, donors=6, level=0.8, n_junctions=300, changed=0), by_donor=True))
    rate = lambda p: (np.concatenate(p) < 0.05).mean()
    assert rate(naive) > 0.1 and 0.02 <= rate(right) <= 0.075 and 0.015 <= rate(levels) <= 0.075


@pytest.mark.slow
@pytest.mark.parametrize("donors", [1, 3, 6, 12])
def test_errors_and_calls_grid(donors):
    "Errors at 0.05 and 0.01, false calls, and numbers shuffled within donors."
    rows = []
    for seed in range(8):
        c = cells(seed, n=1500, n_junctions=800, donors=donors, own=0.6 * (donors > 1), level=0.8 * (donors > 1))
        data, key = anndata(c), "donor" if donors > 1 else None
        table = tl.splicing_along(data, "t", key)
        is_ds = pd.Series(c["is_ds"], [f"e{k}" for k in range(len(c["is_ds"]))])[table.index]
        data.obs["t"] = data.obs.groupby("donor")["t"].transform(np.random.default_rng(seed).permutation)
        chance = tl.splicing_along(data, "t", key)
        calls = table["is_ds_fdr"]
        null = table["p_value"][~is_ds]
        rows.append(
            {
                "p < 0.05": (null < 0.05).mean(),
                "p < 0.01": (null < 0.01).mean(),
                "called, nothing there": (calls & ~is_ds).sum() / max(calls.sum(), 1),
                "found": calls[is_ds].mean(),
                "shuffled p < 0.05": (chance["p_value"] < 0.05).mean(),
                "shuffled called": chance["is_ds_fdr"].mean(),
            }
        )
    found = pd.DataFrame(rows).mean()
    print(donors, found.round(3).to_dict())
    assert 0.03 <= found["p < 0.05"] <= 0.07 and found["shuffled p < 0.05"] <= 0.06, found
    assert found["called, nothing there"] <= 0.05 and found["shuffled called"] <= 0.001, found


@pytest.fixture(scope="module")
def data():
    return anndata(cells(5, n=1000, n_junctions=150, donors=4, changed=0.5))


def test_table_of_events(data):
    "A row for each event; ranges, intervals and words agree; junctions hold the same answers."
    table, every = tl.splicing_along(data, "t"), tl.splicing_along(data, "t", level="junction")
    assert table.index.is_unique and len(table) == data.var["event_id"].nunique() and len(every) == 150
    size, surely = table["effect_size"].abs(), table["proba_ds"] > 0.5
    assert (table["range_lower"] <= size).all() and (size <= table["range_upper"])[surely].all()
    rises, falls = (table["direction"].str.startswith(w) for w in ("rises", "falls"))
    assert (table["effect_size"][rises] > 0).all() and (table["psi_last"] < table["psi_first"])[falls].all()
    same = every.loc[table["top_junction"]]
    for column in ("p_value", "proba_ds", "effect_size"):
        np.testing.assert_array_equal(same[column], table[column])
    assert set(every["event_id"][every["is_ds_fdr"]]) == set(table.index[table["is_ds_fdr"]])
    assert len(tl.by_event(every)) == len(table) and tl.explain(table).ne("A column of your own data.").all()
    strict = tl.splicing_along(data, "t", delta=0.4)
    assert 0 < strict["is_ds_fdr"].sum() < table["is_ds_fdr"].sum()


def test_many_events_are_as_few():
    "The posterior is drawn in blocks of junctions; the last blocks have the answers of their own events."
    c = cells(1, n=250, n_junctions=4500, changed=0.3, observed=0.4)
    every = tl.splicing_along(anndata(c), "t", n_draws=50)
    surely = every["p_value"] < 1e-8
    late = every.index.str[1:].astype(int) > 0.7 * len(every)
    assert (every["proba_ds"] > 0.8)[surely & late].all() and (surely & late).sum() > 3


def test_shapes_are_told_apart():
    "Peaks and dips where the truth has them, rises and falls elsewhere."
    c = cells(7, n=2500, n_junctions=200, changed=1, observed=0.4)
    table = tl.splicing_along(anndata(c), "t", df=4)
    at, start = table.index.str[1:].astype(int), np.unique(c["event"], return_index=True)[1]
    first = table["top_junction"].str.split(":").str[1].astype(int) // 10 == start[at]
    bent, size, word = c["kind"][at] == 1, c["size"][at], table["direction"].str.split().str[0].to_numpy()
    sure = (table["is_ds_fdr"] & first).to_numpy()
    want = np.where(bent, np.where(size > 0, "peaks", "dips"), np.where(size > 0, "rises", "falls"))
    assert (word == want)[sure & bent].mean() > 0.8 and (word == want)[sure & ~bent].mean() > 0.8 and sure.sum() > 30


def test_cells_without_a_number_are_left_out(data):
    "NaN and infinite numbers, missing donors; the order of cells and junctions, and a view, are no matter."
    part = data.copy()
    part.obs["t"] = np.where(np.arange(1000) < 30, np.inf, part.obs["t"])
    part.obs.loc[part.obs_names[30:40], "t"] = np.nan
    with pytest.warns(UserWarning, match="40 cells have no value of 't'") as seen:
        table = tl.splicing_along(part, "t")
    assert {w.filename for w in seen} == {__file__}
    clean = tl.splicing_along(data[40:], "t")
    np.testing.assert_array_equal(table["p_value"], clean["p_value"])
    rng = np.random.default_rng(0)
    mixed = data[rng.permutation(1000)][:, rng.permutation(150)].copy()
    again = tl.splicing_along(mixed, "t").loc[tl.splicing_along(data, "t").index]
    np.testing.assert_allclose(again["p_value"], tl.splicing_along(data, "t")["p_value"], rtol=1e-6)
    later = data.copy()
    later.obs["t"] = 1000 * later.obs["t"] - 5000
    np.testing.assert_allclose(
        tl.splicing_along(later, "t")["p_value"], tl.splicing_along(data, "t")["p_value"], rtol=1e-5
    )


def test_figure_shows_the_curve_of_the_reads(data):
    "Points are means of bins; the curve goes through them, in its interval; with donors it is as wide or wider."
    best = tl.splicing_along(data, "t").sort_values("p_value")["top_junction"].iloc[0]
    values = tl.psi_along(data, "t", best)
    at = np.interp(values.points["t"], values.curve["t"], values.curve["psi"])
    assert np.abs(at - values.points["psi"]).mean() < 0.08
    assert (values.curve["lower"] <= values.curve["psi"]).all() and (values.curve["psi"] <= values.curve["upper"]).all()
    fig = pl.psi_along(data, "t", best, "donor", template="dark")
    assert fig.data[1].y.min() >= 0 and len(fig.data[2].x) == 12 and fig.layout.xaxis.title.text == "t"
    event = data.var.loc[best, "event_id"]
    assert tl.psi_along(data, "t", event).junction in data.var_names[data.var["event_id"] == event]


# ---------------------------------------------------------------- the model's method
@pytest.fixture(scope="module")
def model():
    "A model of cells along a number that two types differ in, with donors."
    rng, out = np.random.default_rng(0), simulate(400, 10, 120, n_cell_types=2, observed=0.4, seed=0)
    t = np.where(out.obs["cell_type"] == "type_2", 0.6, 0.4) + rng.normal(0, 0.15, 400)
    out.obs = out.obs.assign(t=t, donor=rng.integers(1, 5, 400))
    SPLICEVI.setup_mudata(out)
    model = SPLICEVI(out, n_latent=3)
    model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.mark.parametrize("sample_key", [None, "donor"])
@pytest.mark.parametrize("level", ["event", "junction"])
def test_the_method_has_the_curves_of_the_function(model, level, sample_key):
    plain = tl.splicing_along(model.adata, "t", sample_key, level=level, n_draws=1000)
    table = model.differential_splicing(along="t", sample_key=sample_key, level=level)
    same = table.loc[plain.index.astype(str)]
    assert len(table) == len(plain) and plain["is_ds_fdr"].any()
    for k in ("p_value", "q_value", "effect_size", "proba_ds", "is_ds_fdr", "psi_first"):
        np.testing.assert_allclose(same[k].to_numpy(float), plain[k].to_numpy(float), atol=1e-9)
    assert (table["proba_ds"] + table["proba_not_ds"] <= 1).all()
    assert ("donor_scatter" in table) == (sample_key is not None)


def test_by_chance_nothing_is_called(model):
    ask, rng, tables = dict(along="chance", level="event", n_draws=100), np.random.default_rng(0), []
    for _ in range(8):
        model.adata.obs["chance"] = rng.permutation(model.adata.obs["t"])
        tables.append(model.differential_splicing(**ask))
    assert sum(table["is_ds_fdr"].any() for table in tables) <= 1
    assert 0.02 < np.mean([(table["p_value"] < 0.05).mean() for table in tables]) < 0.08


def test_a_table_has_the_rows_that_are_wanted(model):
    "In their order; NaN where an event was read in too few cells; the same cells, other order of rows and modalities."
    names = list(model.junction_names[[7, 2, 90]])
    table = model.differential_splicing(along="t", junction_list=names)
    assert list(table.index) == names
    few = model.differential_splicing(along="t", min_cells=165)
    assert len(few) == 120 and 0 < few["p_value"].isna().sum() < 120
    assert not few["is_ds_fdr"][few["p_value"].isna()].any() and few["is_ds_fdr"].dtype == bool
    order = np.random.default_rng(0).permutation(400)
    turned = model.differential_splicing(model.adata[order].copy(), along="t", junction_list=names)
    np.testing.assert_allclose(turned["p_value"], table["p_value"], rtol=1e-6)
    by_size = model.differential_splicing(along="t", sort=True)["proba_ds"]
    assert by_size.is_monotonic_decreasing
