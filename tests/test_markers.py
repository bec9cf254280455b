"""One row an event, and the events that set each group of cells apart from all others."""

import numpy as np
import pandas as pd
import pytest
import scvi

from splicevi import SPLICEVI, tl
from splicevi.datasets import simulate
from splicevi.tl.event_test import Contrast
from splicevi.tl.markers import set_apart, sides


@pytest.fixture(scope="module")
def model():
    "A model of 500 cells of four types, after two epochs."
    mdata = simulate(n_cells=500, n_genes=20, n_junctions=240, n_cell_types=4, n_batches=2, observed=0.4, seed=1)
    mdata.obs["number"] = mdata.obs["cell_type"].astype(str).str[-1].astype(int)
    mdata.obs["donor"] = np.arange(500) % 5
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    out = SPLICEVI(mdata, n_latent=3)
    out.train(max_epochs=2, batch_size=64, enable_progress_bar=False, accelerator="cpu")
    return out


@pytest.fixture(scope="module")
def table(model):
    "All rows that were looked at."
    return model.markers("cell_type", only_called=False, silent=True)


def apart_by(model, table):
    "The least difference of the true PSI to each other type, in one direction; 0 if the directions differ."
    truth = model.adata["splicing"].varm["psi_true"]
    at = model.adata["splicing"].var_names.get_indexer(table["top_junction"])
    gap = np.array([[truth[g].iloc[j] - truth[h].iloc[j] for h in truth if h != g] for g, j in zip(table["group"], at)])
    return np.maximum(np.maximum(gap.min(1), -gap.max(1)), 0)


def test_markers_are_apart_from_every_other_group(model, table):
    "Nearly all rows are true, and surer rows are truer than the rest; each event is there once for a group."
    called = table["is_marker_fdr"]
    true = apart_by(model, table) >= 0.1
    assert called.sum() >= 15 and true[called].mean() >= 0.9 > 0.2 > true[~called].mean()
    assert not table.reset_index().duplicated(["group", "event_id"]).any()
    assert list(pd.unique(table["group"])) == ["type_1", "type_2", "type_3", "type_4"]


def test_a_marker_is_more_than_a_difference_from_the_rest(model, table):
    "Most events that differ from the rest do not set the group apart; what sets it apart differs from the rest."
    rest = tl.by_event(model.differential_splicing(groupby="cell_type", silent=True))
    rest = rest[rest["is_ds_fdr_all"]]
    pairs = set(zip(rest["group1"], rest.index))
    ours = set(zip(table["group"], table.index, table["is_marker_fdr"]))
    ours = {(g, e) for g, e, called in ours if called}
    assert len(ours & pairs) >= 0.95 * len(ours) and len(ours) < 0.6 * len(pairs)


def test_words_say_what_the_numbers_say(table):
    up = table["psi"] > table["psi_nearest"]
    junction = table["inclusion"].isna()
    assert (table["direction"].str.contains("more")[junction] == up[junction]).all()
    more = table["inclusion"] > table["inclusion_nearest"]
    assert (table["direction"].str.contains("more")[~junction] == more[~junction]).all() and (~junction).sum() > 5
    assert all(str(g) in s and d in s for g, s, d in zip(table["nearest_group"], table["sentence"], table["direction"]))


def test_choices_of_markers(model, table):
    "Numbers as groups, some groups, a few rows, donors, and cells that have no group."
    by_number = model.markers("number", only_called=False, silent=True)
    assert (by_number["group"] == table["group"].str[-1].astype(int)).all()
    np.testing.assert_array_equal(by_number["proba_marker"], table["proba_marker"])
    two = model.markers("cell_type", groups=["type_1", "type_2"], n_top=3, silent=True)
    assert len(two) == 6 and (two["n_compared"] == 1).all() and "the other group" in two["sentence"].iloc[0]
    donors = model.markers("cell_type", sample_key="donor", only_called=False, silent=True)
    of = lambda t: t.reset_index().set_index(["group", "event_id"])["proba_marker"]
    calls = of(table[table["is_marker_fdr"]]).index
    gap = of(donors)[calls] - of(table)[calls]  # these donors are cells at random: asking for them costs nothing
    assert 0 < gap.abs().max() < 0.3 and abs(gap.mean()) < 0.02


def test_donors_who_differ_make_a_marker_less_sure(model, table):
    "Donors are cells of a group by their PSI in a marker that is nearly sure, so that in this event they differ."
    called = table[table["is_marker_fdr"] & (table["proba_marker"] < 0.999)]
    best = called.sort_values("proba_marker").iloc[-1]
    part = model.adata["splicing"]
    at = part.var_names.get_loc(best["top_junction"])
    y, n = (
        np.asarray(part.layers[k][:, [at]].todense()).ravel()
        for k in ("cell_by_junction_matrix", "cell_by_cluster_matrix")
    )
    rank = pd.Series(np.where(n > 0, y / np.maximum(n, 1), np.nan)).groupby(model.adata.obs["cell_type"].to_numpy())
    rank = rank.rank(method="first", pct=True).to_numpy()
    model.adata.obs["uneven"] = np.where(np.isnan(rank), np.arange(len(n)) % 5, np.ceil(np.nan_to_num(rank) * 5) - 1)
    donors = model.markers("cell_type", sample_key="uneven", only_called=False, silent=True)
    row = donors[(donors["group"] == best["group"]) & (donors.index == best.name)].iloc[0]
    assert row["proba_marker"] < best["proba_marker"] - 0.01


def test_groups_that_read_too_little_are_not_compared(model, table):
    "Their number is told, and a group of one cell is left out with a warning."
    some = model.adata.obs["cell_type"].astype(object).copy()
    some.iloc[np.flatnonzero(some == "type_4")[12:]] = np.nan
    some.iloc[0] = "alone"
    model.adata.obs["some"] = some
    with pytest.warns(UserWarning, match=r"alone of obs\['some'\] has one cell only"):
        found = model.markers("some", min_cells=8, only_called=False, silent=True)
    hardly = found["n_compared"] == 2
    assert 0 < hardly.mean() < 1 and (found["sentence"].str.contains("Not compared with 1 more") == hardly).all()
    assert not (found["nearest_group"][hardly] == "type_4").any()


def test_nothing_is_a_marker_of_groups_at_random(model):
    model.adata.obs["chance"] = np.random.default_rng(0).choice(list("abcd"), 500)
    assert model.markers("chance", silent=True).empty


def test_the_bound_is_below_the_joint_probability():
    "Against two other groups, with the joint probability from one set of draws."
    reads, event = np.array([[14.0, 6], [7, 13], [6, 14]]), np.zeros(2, int)
    higher, gap = np.full((3, 3, 2), np.nan), np.zeros((3, 3, 2))
    for g, h in ((0, 1), (0, 2), (1, 2)):
        s = sides(Contrast(reads[[g, h]], event), n_draws=4000)
        higher[g, h], higher[h, g], gap[g, h], gap[h, g] = *s.higher, s.psi[0] - s.psi[1], s.psi[1] - s.psi[0]
    apart = set_apart(higher, gap)
    assert 0 <= apart.proba[0, 0] <= min(higher[0, 1, 0], higher[0, 2, 0])
    assert apart.proba[0, 0] == pytest.approx(higher[0, 1, 0] + higher[0, 2, 0] - 1, abs=1e-6)
    assert apart.up[0, 0] and not apart.up[0, 1] and apart.nearest[0, 0] == 1


def test_by_event_has_a_row_for_each_event(model):
    "Of each comparison, in the order of events; the surest junction; an event is called as surely as its junction."
    ds = model.differential_splicing(groupby="cell_type", silent=True)
    one = tl.by_event(ds)
    assert len(one) == 4 * ds["event_id"].nunique() and one.index.name == "event_id"
    best = ds.groupby(["comparison", "event_id"], observed=True, sort=False)["proba_ds"].max()
    np.testing.assert_array_equal(one["proba_ds"], best)
    assert (
        one["n_junctions"] == ds.groupby(["comparison", "event_id"], observed=True, sort=False).size().to_numpy()
    ).all()
    row = one.iloc[3]
    same = ds[(ds["comparison"] == row["comparison"]) & (ds.index == row["top_junction"])].iloc[0]
    assert row["effect_size"] == same["effect_size"]
    event = model.differential_splicing(groupby="cell_type", silent=True, level="event")
    assert (one["proba_ds"].to_numpy() <= event["proba_ds"].to_numpy() + 1e-9).all()
    strict = tl.by_event(ds, 0.001)
    assert strict["is_ds_fdr_all"].sum() < one["is_ds_fdr_all"].sum()
    calls = [t.groupby("comparison", observed=True)["is_ds_fdr"].sum() for t in (one, event)]
    assert (calls[0] <= calls[1]).all() and calls[0].sum() > 0


def test_by_event_of_pseudobulk(model):
    bulk = tl.pseudobulk(model.adata, "cell_type", "donor")
    table = tl.beta_binomial_test(bulk, "cell_type", "type_1", "type_2")
    one = tl.by_event(table)
    assert len(one) == table["event_id"].nunique() and "is_ds_fdr" not in one
    assert one["p_value"].notna().sum() == table.groupby("event_id", observed=True)["p_value"].first().notna().sum()
