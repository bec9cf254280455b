"""Differential expression and splicing: what every argument does, awkward groups, held-out data."""

import logging
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from splicevi import SPLICEVI, pl, tl
from splicevi.core import KEYS
from splicevi.data.build import assemble_mudata
from splicevi.data.pairs import CellStore, EventOrder, event_codes, observed_pairs, splicing_layers
from splicevi.datasets import simulate
from splicevi.model.parts import Parts, Together
from splicevi.model.psi import event_concentration
from splicevi.model.splicing_test import DifferentialMixin, SplicingTest
from splicevi.nn import loader
from splicevi.nn.loader import get_store
from splicevi.tl.batch_effects import batch_corrected_reads, batch_scatter, downweighted
from splicevi.tl.donors import likelihood_ratio
from splicevi.tl.event_test import Contrast, called, effect_posterior, fit_prior
from splicevi.tl.fold_changes import FoldPosterior, GroupMean, fit_folds, group_mean
from splicevi.tl.gene_sums import gene_sums
from splicevi.tl.groups import Comparison, call_at_fdr, group_reads
from splicevi.tl.model_prior import kinds_by_spread
from splicevi.views.explorer.state import ExplorerState

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")
N_GENES, N_JUNCTIONS = 40, 300
PAIR = dict(groupby="cell_type", group1="type_1", group2="type_2", silent=True)
SIMULATED = dict(
    n_cells=400,
    n_genes=N_GENES,
    n_junctions=N_JUNCTIONS,
    n_cell_types=3,
    n_batches=3,
    observed=0.3,
    batch_effect_psi=0.6,
)


def trained(mdata, setup=None, epochs=15, **options):
    "A briefly trained model."
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(mdata, **({"batch_key": "batch"} | (setup or {})))
    model = SPLICEVI(mdata, **({"n_latent": 5} | options))
    model.train(
        max_epochs=epochs,
        lr=5e-3,
        batch_size=64,
        n_epochs_kl_warmup=5,
        early_stopping=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    return model


@pytest.fixture(scope="module")
def mdata():
    return simulate(**SIMULATED, seed=0)


@pytest.fixture(scope="module")
def model(mdata):
    return trained(mdata)


@pytest.fixture(scope="module")
def ds(model):
    return model.differential_splicing(**PAIR)


@pytest.fixture(scope="module")
def de(model):
    return model.differential_expression(**PAIR)


def truth(mdata, a="type_1", b="type_2"):
    "True difference of PSI, batches averaged."
    v = mdata["splicing"].varm["psi_true_batch"]
    of = lambda t: v[[c for c in v if c.startswith(t + "|")]].mean(axis=1).to_numpy()
    return of(b) - of(a)


# ---------------------------------------------------------------- splicing: columns and their meaning
def test_columns(ds, model, mdata):
    assert list(ds.columns) == [
        "proba_ds",
        "is_ds_fdr",
        "proba_not_ds",
        "bayes_factor",
        "effect_size",
        "effect_lower",
        "effect_upper",
        "est_prob1",
        "est_prob2",
        "emp_effect",
        "emp_prob1",
        "emp_prob2",
        "n_obs_group1",
        "n_obs_group2",
        "n_reads_group1",
        "n_reads_group2",
        "n_batches",
        "n_batches_agree",
        "junction_id",
        "event_id",
        "gene_name",
        "inclusion1",
        "inclusion2",
        "inclusion_effect",
        "comparison",
        "group1",
        "group2",
        "higher_in",
        "direction",
        "event_name",
        "event_type",
        "weights_disagree",
    ]
    assert list(ds.index) == list(mdata["splicing"].var_names)
    assert (
        set(ds["comparison"]) == {"type_1 vs type_2"}
        and set(ds["group1"]) == {"type_1"}
        and set(ds["group2"]) == {"type_2"}
    )
    assert (ds["event_id"].astype(str).to_numpy() == mdata["splicing"].var["event_id"].astype(str).to_numpy()).all()


def test_values_agree(ds):
    p = ds["proba_ds"]
    assert np.allclose(ds["bayes_factor"], np.log(p + 1e-8) - np.log(1 - p + 1e-8), atol=1e-6)
    assert np.allclose(ds["effect_size"], ds["est_prob2"] - ds["est_prob1"], atol=1e-6)
    assert np.allclose(ds.groupby("event_id", observed=True)[["est_prob1", "est_prob2"]].sum(), 1, atol=1e-5)
    assert (ds["effect_lower"] <= ds["effect_size"]).all() and (ds["effect_size"] <= ds["effect_upper"]).all()
    assert (p + ds["proba_not_ds"] <= 1 + 1e-6).all()
    assert np.allclose(ds["emp_effect"], ds["emp_prob2"] - ds["emp_prob1"], equal_nan=True)
    assert (ds["is_ds_fdr"] == call_at_fdr(p.to_numpy(), 0.05)).all()


def test_inclusion_and_direction_of_sites(ds, model, mdata):
    "Junctions of the simulator share a donor: the shortest intron leaves the longest exon. Any row has its event's."
    var = mdata["splicing"].var
    length = (var["end"] - var["start"]).groupby(var["event_id"].astype(str))
    longest = ds[(length.transform("min") == var["end"] - var["start"]).to_numpy()].set_index("event_id")
    event = ds["event_id"].astype(str)
    np.testing.assert_allclose(ds["inclusion1"], event.map(longest["est_prob1"]), rtol=1e-6)
    np.testing.assert_allclose(ds["inclusion_effect"], ds["inclusion2"] - ds["inclusion1"])
    more = np.where(event.map(longest["higher_in"]) == "type_1", "type_1", "type_2")
    assert (ds["direction"] == "more inclusion of the longer exon in " + pd.Series(more, ds.index)).all()
    some = model.differential_splicing(**PAIR, junction_list=list(ds.index[:1]))
    events = model.differential_splicing(**PAIR, level="event")
    for table in (some, events.iloc[:1]):
        np.testing.assert_allclose(table["inclusion2"], ds["inclusion2"].iloc[:1], rtol=0.1)
        assert table["direction"].iloc[0] == ds["direction"].iloc[0]


def test_empirical_columns_are_those_of_the_observed_cells(ds, mdata):
    v, rows = mdata["splicing"], (mdata.obs["cell_type"] == "type_1").to_numpy()
    y, n = (v.layers[k][rows].toarray() for k in (KEYS.junction_counts, KEYS.event_counts))
    with np.errstate(invalid="ignore"):
        psi = np.where(n > 0, y / n, np.nan)
    assert np.allclose(ds["emp_prob1"], np.nanmean(psi, axis=0), equal_nan=True, atol=1e-5)
    assert np.allclose(ds["n_obs_group1"], (n > 0).sum(0)) and np.allclose(ds["n_reads_group1"], n.sum(0))


def test_unobserved_is_nan(model, mdata):
    "No sentinel number where a group has no reads; no call either."
    y = mdata["splicing"].layers[KEYS.junction_counts].tolil(copy=True)
    event = mdata["splicing"].var["event_id"].to_numpy()
    rows = np.flatnonzero(mdata.obs["cell_type"] == "type_1")
    columns = np.flatnonzero(event == event[0])
    for i in rows:
        y[i, columns] = 0
    layers = splicing_layers(observed_pairs(sparse.csr_matrix(y), event_codes(mdata["splicing"].var["event_id"])[0]))
    part = AnnData(layers[KEYS.psi], var=mdata["splicing"].var.copy(), obs=mdata.obs.copy(), layers=layers)
    table = model.differential_splicing(
        assemble_mudata({"rna": mdata["rna"].copy(), "splicing": part}, mdata.obs), **PAIR
    )
    first = table.iloc[columns]
    assert (
        first["emp_prob1"].isna().all()
        and first["emp_effect"].isna().all()
        and (first["n_obs_group1"] == 0).all()
        and not first["is_ds_fdr"].any()
    )
    assert first[["effect_size", "proba_ds"]].notna().all().all()


def test_truth_is_found(ds, mdata):
    t = truth(mdata)
    assert np.corrcoef(ds["effect_size"], t)[0, 1] > 0.9
    assert (np.abs(t[ds["proba_not_ds"] > 0.95]) < 0.2).mean() > 0.95


# ---------------------------------------------------------------- splicing: arguments
def test_swapped_groups_change_sign(ds, model):
    other = model.differential_splicing(groupby="cell_type", group1="type_2", group2="type_1", silent=True)
    assert np.allclose(other["effect_size"], -ds["effect_size"], atol=0.04) and np.allclose(
        other["proba_ds"], ds["proba_ds"], atol=0.1
    )


def test_cells_by_mask_rows_and_query(ds, model, mdata):
    of = lambda t: (mdata.obs["cell_type"] == t).to_numpy()
    for first, second in (
        (of("type_1"), of("type_2")),
        (np.flatnonzero(of("type_1")), list(np.flatnonzero(of("type_2")))),
        ("cell_type == 'type_1'", "cell_type == 'type_2'"),
    ):
        table = model.differential_splicing(idx1=first, idx2=second, silent=True)
        names = {"idx1": "type_1", "idx2": "type_2"}
        table["higher_in"] = table["higher_in"].map(names)
        table["direction"] = table["direction"].replace({"idx1": "type_1", "idx2": "type_2"}, regex=True)
        pd.testing.assert_frame_equal(table, ds.drop(columns=["comparison", "group1", "group2"]))
    rest = model.differential_splicing(idx1=of("type_1"), silent=True)
    assert (rest["n_obs_group2"] >= ds["n_obs_group2"]).all() and rest["n_obs_group2"].sum() > ds["n_obs_group2"].sum()


def test_several_groups_stack(model):
    table = model.differential_splicing(groupby="cell_type", silent=True, all_stats=False, n_draws=20)
    assert (
        list(table["comparison"].unique()) == [f"type_{i} vs Rest" for i in (1, 2, 3)] and len(table) == 3 * N_JUNCTIONS
    )
    two = model.differential_splicing(
        groupby="cell_type", group1=["type_3", "type_1"], group2="type_2", silent=True, n_draws=20
    )
    assert list(two["comparison"].unique()) == ["type_3 vs type_2", "type_1 vs type_2"]
    assert list(
        model.differential_splicing(groupby="cell_type", group2="type_2", silent=True, n_draws=20)["group1"].unique()
    ) == ["type_1", "type_3"]


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.differential_splicing(groupby="cell_type", silent=True),
        lambda m: m.differential_splicing(groupby="cell_type", prior="model", silent=True),
        lambda m: m.differential_splicing(groupby="cell_type", batch_correction=True, silent=True),
        lambda m: m.differential_expression(groupby="cell_type", silent=True),
        lambda m: m.markers("cell_type", silent=True),
    ],
    ids=["splicing", "prediction", "batches", "expression", "markers"],
)
def test_data_are_looked_at_once_a_call(model, monkeypatch, call):
    "Whether they were edited is asked by each call, not for each comparison or part of the cells."
    seen, look = [], loader._fingerprint
    monkeypatch.setattr(loader, "_fingerprint", lambda *a, **k: seen.append(1) or look(*a, **k))
    for n in (1, 2):
        call(model)
        assert len(seen) == n


def test_delta(model, ds):
    small, large = (model.differential_splicing(delta=d, **PAIR)["proba_ds"] for d in (0.02, 0.4))
    assert (
        (small >= ds["proba_ds"]).all()
        and (large <= ds["proba_ds"]).all()
        and large.sum() < ds["proba_ds"].sum() < small.sum()
    )
    assert np.allclose(model.differential_splicing(delta=0.0, **PAIR)["proba_ds"], 1)


def test_vanilla_mode(model, ds):
    table = model.differential_splicing(mode="vanilla", **PAIR)
    assert {"proba_m1", "proba_m2", "bayes_factor"} <= set(table) and not {"proba_ds", "is_ds_fdr"} & set(table)
    assert np.allclose(table["proba_m1"] + table["proba_m2"], 1)
    sides = {"proba_m1": ds["effect_upper"] < 0, "proba_m2": ds["effect_lower"] > 0}  # if there is a difference
    for column, at in sides.items():  # 0.975 and more if there is one, which is at least as likely as a large one
        assert at.sum() > 10 and (table[column][at] >= 0.5 + 0.475 * ds["proba_ds"][at] - 0.005).all(), column
    sure = (ds["effect_lower"] > 0.05) & (ds["proba_ds"] > 0.98)
    assert sure.sum() > 10 and (table["proba_m2"][sure] > 0.97).all()
    for column in ("effect_size", "effect_lower", "effect_upper"):
        assert np.allclose(table[column], ds[column]), column


WAYS = dict(), dict(prior="reads"), dict(prior="model"), dict(weights="reads"), dict(mode="vanilla")


@pytest.mark.parametrize("way", WAYS, ids=["default", "reads", "model", "weighted by reads", "vanilla"])
def test_what_few_cells_cannot_tell_is_not_said_to_be_known(model, mdata, ds, way):
    "Where nothing is called, the interval is as wide as the reads are few, and holds the effect."
    kind = mdata.obs["cell_type"]
    some = [np.flatnonzero(kind == PAIR[k])[:8] for k in ("group1", "group2")]
    few = model.differential_splicing(idx1=some[0], idx2=some[1], silent=True, **way)
    all_cells = model.differential_splicing(**PAIR, **way)
    varied = ds[["est_prob1", "est_prob2"]].mean(axis=1).between(0.3, 0.7).to_numpy()
    quiet = varied & (ds["proba_ds"] < 0.1).to_numpy()
    width = [(t["effect_upper"] - t["effect_lower"]).to_numpy()[quiet] for t in (few, all_cells)]
    assert quiet.sum() > 10 and width[0].min() > 0.1 and np.median(width[0]) > 1.5 * np.median(width[1]) > 0.02
    for t in (few, all_cells):
        assert t["effect_size"].between(t["effect_lower"], t["effect_upper"]).all()


def test_fdr_target(model, ds):
    strict, loose = (model.differential_splicing(fdr_target=t, **PAIR)["is_ds_fdr"] for t in (0.001, 0.3))
    assert strict.sum() <= ds["is_ds_fdr"].sum() < loose.sum() and (loose | ~strict).all()
    assert 1 - ds["proba_ds"][ds["is_ds_fdr"]].mean() <= 0.05


@pytest.mark.parametrize("level", ["junction", "event"])
def test_volcano_and_explorer_agree_on_what_is_called(model, mdata, level):
    "Also without the column of calls, and where a value is missing."
    tested = model.differential_splicing(level=level, **PAIR)
    tested.iloc[:4, tested.columns.get_loc("proba_ds")] = 0.99
    tested.iloc[:4, tested.columns.get_loc("effect_size")] = [0.02, 0.4, -0.4, np.nan]
    tested.iloc[4, tested.columns.get_loc("proba_ds")] = np.nan
    missing = tested["is_ds_fdr"].astype(object)
    missing.iloc[1], missing.iloc[2] = True, np.nan
    drawn = lambda t: {c[0] for trace in pl.volcano(t).data if trace.name == "called" for c in trace.customdata}
    listed = lambda t: set(ExplorerState(mdata, ds=t, level=level).events().query("called").index)
    for table in (tested.drop(columns="is_ds_fdr"), tested.assign(is_ds_fdr=missing)):
        has_values = table[["effect_size", "proba_ds"]].notna().all(axis=1)
        assert (
            drawn(table)
            == set(table.index[called(table) & has_values])
            == listed(table) - set(table.index[~has_values])
        )
    without = tested.drop(columns="is_ds_fdr")
    assert list(called(without)[:5]) == [False, True, True, False, False]
    assert listed(without) == set(without.index[called(without)])
    assert called(tested.assign(is_ds_fdr=missing))[1] and not called(tested.assign(is_ds_fdr=missing))[2]


def test_all_stats(model, ds):
    table = model.differential_splicing(all_stats=False, **PAIR)
    assert not [c for c in table if c.startswith(("emp_", "n_"))]
    pd.testing.assert_frame_equal(table, ds[table.columns])


def test_silent(model, capfd):
    model.differential_splicing(**PAIR, n_draws=5)
    assert "type_1 vs type_2" not in "".join(capfd.readouterr())
    model.differential_splicing(**(PAIR | {"silent": False}), n_draws=5)
    assert "type_1 vs type_2" in "".join(capfd.readouterr())


def test_batch_size_changes_nothing_but_speed(model):
    a, b = (model.differential_splicing(batch_correction=True, batch_size=k, **PAIR)["effect_size"] for k in (7, 400))
    assert np.allclose(a, b, atol=2e-3)


def test_corrected_reads_are_the_dense_definition(model, mdata):
    "Few cells are decoded under all batches; the reads moved are those of PSI decoded for all cells, by hand."
    x = mdata["splicing"].layers["cell_by_junction_matrix"]
    rows = np.flatnonzero(mdata.obs["cell_type"] == "type_1")
    pair = Comparison(rows, np.flatnonzero(mdata.obs["cell_type"] == "type_2"))
    data, ask = model._compared(mdata, Together([pair], mdata.n_obs), weights="reads"), SplicingTest(weights="reads")
    (moved,), event = model._corrected_reads(data, rows, [0, 1, 2], ask, np.random.default_rng(0))
    names = ["batch_1", "batch_2", "batch_3"]
    psi = {b: model.get_normalized_splicing(transform_batch=b, return_numpy=True) for b in (None, *names)}
    for k, b in enumerate(names):
        mine = rows[mdata.obs["batch"].to_numpy()[rows] == b]
        own, average = psi[None][mine].mean(0), np.mean([psi[n][mine].mean(0) for n in names], axis=0)
        code = np.isin(np.arange(mdata.n_obs), mine) - 1
        a, _ = group_reads(data.store, code, 1, data.concentration, deep=data.deep).weighted("reads")
        assert np.allclose(moved[[k]], batch_corrected_reads(a, own[None], average[None], event), atol=1e-2)
    assert moved.sum() > 1000 and x.shape[1] == moved.shape[1]


def test_work_of_batch_correction_does_not_grow_with_batches(model, mdata, monkeypatch):
    "Cells are decoded under their own batch and a number of others that n_samples_overall sets, not the batches'."
    decoded, plain = [], DifferentialMixin._psi
    spy = lambda self, inputs, events: decoded.append(len(inputs[0])) or plain(self, inputs, events)
    monkeypatch.setattr(DifferentialMixin, "_psi", spy)
    effects, rows = {}, np.isin(mdata.obs["cell_type"], ["type_1", "type_2"]).sum()
    for most in (60, None):
        decoded.clear()
        ask = dict(batch_correction=True, n_samples_overall=most, prior="reads") | PAIR
        effects[most] = model.differential_splicing(**ask)["effect_size"]
        assert sum(decoded) == (2 * 60 * 2 if most else rows * 4)  # own and one other; own and all three
    assert np.corrcoef(*effects.values())[0, 1] > 0.98


def test_batch_correction_moves_towards_the_decoder(model, ds):
    table = model.differential_splicing(batch_correction=True, **PAIR)
    assert (
        not np.allclose(table["effect_size"], ds["effect_size"], atol=1e-3)
        and np.corrcoef(table["effect_size"], ds["effect_size"])[0, 1] > 0.8
    )
    assert (table["emp_effect"].fillna(9) == ds["emp_effect"].fillna(9)).all()


def test_batchid(model):
    run = lambda b1, b2: model.differential_splicing(batch_correction=True, batchid1=b1, batchid2=b2, **PAIR)[
        "effect_size"
    ]
    every = run(None, None)
    assert np.allclose(every, run(["batch_1", "batch_2", "batch_3"], ["batch_3", "batch_2", "batch_1"]), atol=1e-4)
    one = run(["batch_1"], "batch_1")
    assert not np.allclose(every, one, atol=1e-3) and not np.allclose(one, run(["batch_1"], ["batch_2"]), atol=1e-3)


def test_norm_splicing_function(model, mdata, ds):
    table = model.differential_splicing(norm_splicing_function="decoder", n_draws=100, **PAIR)
    of = lambda t: model.get_normalized_splicing(
        indices=np.flatnonzero(mdata.obs["cell_type"] == t), return_numpy=True
    ).mean(0)
    assert np.abs(table["effect_size"] - (of("type_2") - of("type_1"))).mean() < 0.02
    assert list(table.columns) == list(ds.columns) and not np.allclose(
        table["effect_size"], ds["effect_size"], atol=0.01
    )


def test_level_event(model, ds, mdata):
    table = model.differential_splicing(level="event", **PAIR)
    events = ds["event_id"].astype(str)
    assert (
        list(table.index) == list(pd.unique(events))
        and (table["is_ds_fdr"] == call_at_fdr(table["proba_ds"].to_numpy(), 0.05)).all()
    )
    assert (table["proba_ds"] >= ds.groupby(events.to_numpy(), sort=False)["proba_ds"].max() - 1e-6).all()
    top = ds.assign(size=ds["effect_size"].abs()).groupby(events.to_numpy(), sort=False)["size"].idxmax()
    assert (table["top_junction"].to_numpy() == top.to_numpy()).mean() > 0.9 and (
        events[table["top_junction"]].to_numpy() == table.index
    ).all()
    for column in ("effect_size", "effect_lower", "effect_upper", "est_prob1", "est_prob2"):
        assert np.allclose(table[column], ds.loc[table["top_junction"], column]), column
    assert (table["max_abs_effect"] >= table["effect_size"].abs() - 1e-5).all() and table[
        "n_junctions"
    ].sum() == N_JUNCTIONS
    some = list(ds.index[[9, 3]])
    few = model.differential_splicing(level="event", junction_list=some, **PAIR)
    assert list(few.index) == list(pd.unique(events[some]))


def test_junction_list(model, ds):
    some = list(ds.index[[120, 4, 7]])
    table = model.differential_splicing(junction_list=some, **PAIR)
    assert list(table.index) == some and np.allclose(table["effect_size"], ds.loc[some, "effect_size"], atol=0.05)
    decoded = model.differential_splicing(junction_list=some, norm_splicing_function="decoder", n_draws=20, **PAIR)
    assert list(decoded.index) == some


def test_sort_and_draws(model, ds):
    table = model.differential_splicing(sort=True, **PAIR)
    assert table["proba_ds"].is_monotonic_decreasing and set(table.index) == set(ds.index)
    pd.testing.assert_frame_equal(model.differential_splicing(seed=0, n_draws=1000, **PAIR), ds)
    assert not np.allclose(model.differential_splicing(seed=1, **PAIR)["effect_size"], ds["effect_size"], atol=1e-6)
    assert (model.differential_splicing(no_change=0.2, **PAIR)["proba_not_ds"] >= ds["proba_not_ds"]).all()
    assert (
        model.differential_splicing(grid=(32.0,), **PAIR)["effect_size"].abs().mean() < ds["effect_size"].abs().mean()
    )
    sampled = model.differential_splicing(batch_correction=True, n_samples_overall=10, **PAIR)["effect_size"]
    assert not np.allclose(
        sampled,
        model.differential_splicing(batch_correction=True, n_samples_overall=None, **PAIR)["effect_size"],
        atol=1e-5,
    )


def test_held_out_data(model, ds):
    new = simulate(**SIMULATED, seed=0)[:250].copy()
    table = model.differential_splicing(new, **PAIR)
    assert (table["n_obs_group1"] <= ds["n_obs_group1"]).all() and np.corrcoef(table["effect_size"], ds["effect_size"])[
        0, 1
    ] > 0.9
    shuffled = assemble_mudata({"rna": new["rna"].copy(), "splicing": new["splicing"][:, ::-1].copy()}, new.obs)
    pd.testing.assert_frame_equal(model.differential_splicing(shuffled, **PAIR), table)
    assert len(model.differential_expression(new, n_samples_overall=100, **PAIR)) == N_GENES


@pytest.mark.parametrize("loss", ["beta_binomial", "binomial"])
def test_other_likelihoods(mdata, ds, loss):
    model = trained(mdata.copy(), splicing_loss_type=loss, epochs=2)
    c = event_concentration(model.module, get_store(model.adata_manager))
    assert len(c) == ds["event_id"].nunique() and (c > 0).all()
    table = model.differential_splicing(**PAIR)
    assert np.corrcoef(table["effect_size"], ds["effect_size"])[0, 1] > 0.9 and list(table.columns) == list(ds.columns)


@pytest.mark.parametrize("loss", ["beta_binomial", "binomial"])
def test_unknown_events(mdata, ds, loss):
    "Totals without event_id: each junction against the rest of its event."
    part = mdata["splicing"].copy()
    del part.var["event_id"]
    other = assemble_mudata({"rna": mdata["rna"].copy(), "splicing": part}, mdata.obs)
    model = trained(other, splicing_loss_type=loss, epochs=2)
    table = model.differential_splicing(**PAIR)
    assert "event_id" not in table and np.corrcoef(table["effect_size"], ds["effect_size"])[0, 1] > 0.9
    with pytest.raises(ValueError, match="level='event' needs the event"):
        model.differential_splicing(level="event", **PAIR)


def test_batch_correction_without_events(mdata):
    "A junction against the rest of its event is moved too."
    part = mdata["splicing"].copy()
    del part.var["event_id"]
    model = trained(
        assemble_mudata({"rna": mdata["rna"].copy(), "splicing": part}, mdata.obs),
        splicing_loss_type="binomial",
        epochs=15,
    )
    few = dict(
        idx1="cell_type == 'type_1' and batch == 'batch_1'",
        idx2="cell_type == 'type_2' and batch != 'batch_1'",
        silent=True,
    )
    raw, corrected = (model.differential_splicing(batch_correction=k, **few)["effect_size"] for k in (False, True))
    off = lambda e: np.sqrt(((e - truth(mdata)) ** 2).mean())
    assert off(corrected) < 0.95 * off(raw)


def test_concatenated_anndata(mdata, ds):
    y, x = mdata["splicing"].layers[KEYS.junction_counts], mdata["rna"].X
    zeros = sparse.csr_matrix(x.shape, dtype=np.float32)
    var = pd.concat(
        [
            mdata["rna"].var[["gene_name"]],
            mdata["splicing"].var[["event_id", "junction_id", "gene_name"]].astype(object),
        ]
    )
    adata = AnnData(
        sparse.hstack([x, y], format="csr"),
        obs=mdata.obs.copy(),
        var=var,
        layers={KEYS.junction_counts: sparse.hstack([zeros, y], format="csr")},
    )
    SPLICEVI.setup_anndata(adata, batch_key="batch")
    model = SPLICEVI(adata, n_genes=N_GENES, n_junctions=N_JUNCTIONS, n_latent=5)
    model.train(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
    table = model.differential_splicing(**PAIR)
    assert (
        list(table.index) == list(mdata["splicing"].var_names)
        and np.corrcoef(table["effect_size"], ds["effect_size"])[0, 1] > 0.9
    )
    assert list(model.differential_expression(n_samples_overall=100, **PAIR).index) == list(mdata["rna"].var_names)


def test_one_modality(mdata):
    splicing = trained(assemble_mudata({"splicing": mdata["splicing"].copy()}, mdata.obs), epochs=1)
    assert len(splicing.differential_splicing(n_draws=10, **PAIR)) == N_JUNCTIONS
    with pytest.raises(ValueError, match="no expression modality"):
        splicing.differential_expression(**PAIR)
    expression = trained(assemble_mudata({"rna": mdata["rna"].copy()}, mdata.obs), epochs=1)
    with pytest.raises(ValueError, match="no splicing modality"):
        expression.differential_splicing(**PAIR)


# ---------------------------------------------------------------- splicing: several comparisons share what is decoded


@pytest.fixture
def decoded(monkeypatch):
    "Cells of each mini-batch that is decoded."
    found, plain = [], DifferentialMixin._psi
    spy = lambda self, inputs, events: found.append(len(inputs[0])) or plain(self, inputs, events)
    monkeypatch.setattr(DifferentialMixin, "_psi", spy)
    return found


@pytest.fixture
def eight(mdata):
    "Groups of 5 to 120 cells, and donors."
    rng, size = np.random.default_rng(0), [120, 100, 70, 50, 30, 15, 10, 5]
    obs = dict(eight=rng.permutation(np.repeat(list("abcdefgh"), size)), donor=rng.integers(0, 3, 400).astype(str))
    before, mdata.obs = mdata.obs, mdata.obs.assign(**obs)
    yield dict(groupby="eight", silent=True, n_draws=100)
    mdata.obs = before


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        (dict(), 400),
        (dict(group2="a"), 400 - 120),
        (dict(prior="model"), 400),  # and those that it was trained on
        (dict(batch_correction=True), 400 * (1 + 4)),
        (dict(batch_correction=True, prior="reads", batchid1="batch_1", weights="reads"), 400 * (2 + 4)),
        (dict(batch_correction=True, prior="reads", sample_key="donor"), 400 * 4),
    ],
    ids=str,
)
def test_many_comparisons_decode_each_cell_once(model, mdata, eight, decoded, options, cells):
    "The tables are those of the comparisons one by one, also where groups are of very different size."
    table = model.differential_splicing(**eight, **options)
    assert sum(decoded) == cells + ("model" in options.values()) * len(model.train_indices)
    for group in "bh":
        alone = model.differential_splicing(**eight, group1=group, **options)
        mine = table[table["group1"] == group]
        numbers = alone.select_dtypes("number").columns
        assert len(numbers) > 10 and np.allclose(mine[numbers], alone[numbers], atol=1e-4, equal_nan=True), group


def test_many_comparisons_share_a_sample(model, mdata, eight, decoded, monkeypatch):
    "What they find of the events is what each finds by itself, of as many cells; each part has a say."
    spreads = []
    kept = lambda spread: spreads.append(spread) or kinds_by_spread(spread)
    monkeypatch.setattr("splicevi.model.splicing_test.kinds_by_spread", kept)
    monkeypatch.setattr("splicevi.model.splicing_test.CELLS_ELSEWHERE", 160)
    monkeypatch.setattr("splicevi.model.splicing_test.TO_VARY", 10)
    model.differential_splicing(**eight)
    assert sum(decoded) == 5 * 20 + 15 + 10 + 5
    together = spreads.copy()
    decoded.clear(), spreads.clear()
    for group in "abcdefgh":
        model.differential_splicing(**eight, group1=group)
    assert sum(decoded) == 80 + 80 + 70 + 50 + 30 + 15 + 10 + 5 + 8 * 80
    near = [stats.spearmanr(a, b).statistic for a, b in zip(together, spreads, strict=True)]
    assert min(near) > 0.9 and np.mean(near) > 0.97, near


def test_markers_decode_each_cell_once(model, mdata, eight, decoded):
    "Pairs of eight groups are 28 comparisons."
    model.markers("eight", groups=list("abcde"), silent=True)
    assert sum(decoded) == mdata.n_obs


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(0, 4))
def test_parts_are_the_cells_with_the_same_labels(seed, n_cells, n_labels):
    "Against sorted rows of labels."
    labels = np.random.default_rng(seed).integers(-1, 3, (n_labels, n_cells))
    parts = Parts(labels, n_cells)
    rows, code, size = np.unique(labels, axis=1, return_inverse=True, return_counts=True)
    assert (parts.code == code.ravel()).all() and (parts.size == size).all() and (parts.label == rows.T).all()


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "options,message",
    [
        (dict(), "groupby, a column of obs"),
        (dict(groupby="kind"), "cell_type, batch"),
        (dict(groupby="cell_type", group1="B cell"), "type_1, type_2, type_3"),
        (dict(groupby="cell_type", group1="type_1", group2="B cell"), "group2: B cell"),
        (dict(groupby="cell_type", group1="type_1", group2="type_1"), "share"),
        (dict(idx1=[0, 1, 2], idx2=[2, 3]), "share 1 cells"),
        (dict(idx1=[0]), "one cell"),
        (dict(idx1=[]), "no cell"),
        (dict(idx1="cell_type == 'B'"), "no cell"),
        (dict(idx1="kind == 'B'"), "cell_type"),
        (dict(idx1=[True, False]), "mask of 2 values"),
        (dict(idx1=[100_000, 1]), "row 100,000"),
        (dict(idx2=[0, 1]), "idx2 needs idx1"),
        (PAIR | dict(mode="fold"), "'vanilla', 'change'"),
        (PAIR | dict(fdr_target=0), "fdr_target"),
        (PAIR | dict(batchid1=["batch_1"]), "batch_correction=True"),
        (PAIR | dict(batch_correction=True, batchid2=["b"]), "batchid2: b is no batch"),
        (PAIR | dict(delta=-0.1), "delta"),
    ],
)
def test_errors(model, options, message):
    for method in (model.differential_splicing, model.differential_expression):
        with pytest.raises((ValueError, KeyError, TypeError), match=message.replace("(", r"\(")):
            method(**options)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(delta=None), "at least 0 and at most 1. It is a difference of PSI"),
        (dict(level="event", mode="vanilla"), "mode='change'"),
        (dict(junction_list=["x"]), "not in the model: x"),
        (dict(n_draws=0), "at least 1"),
    ],
)
def test_splicing_errors(model, options, message):
    with pytest.raises((ValueError, KeyError, TypeError), match=message):
        model.differential_splicing(**PAIR, **options)


def test_untrained(mdata):
    SPLICEVI.setup_mudata(mdata)
    with pytest.raises(RuntimeError):
        SPLICEVI(mdata, n_latent=4).differential_splicing(**PAIR)


def test_nothing_is_left_in_the_data(model, mdata):
    before = set(model.adata.obs.columns), set(model.adata["splicing"].var.columns)
    model.differential_expression(n_samples_overall=50, **PAIR)
    model.differential_splicing(n_draws=5, **PAIR)
    assert before == (set(model.adata.obs.columns), set(model.adata["splicing"].var.columns))


# ---------------------------------------------------------------- expression
def test_expression_columns(de, mdata):
    wanted = [
        "proba_de",
        "proba_not_de",
        "bayes_factor",
        "scale1",
        "scale2",
        "pseudocounts",
        "delta",
        "lfc_mean",
        "lfc_median",
        "lfc_std",
        "lfc_min",
        "lfc_max",
        "raw_mean1",
        "raw_mean2",
        "non_zeros_proportion1",
        "non_zeros_proportion2",
        "raw_normalized_mean1",
        "raw_normalized_mean2",
        "is_de_fdr_0.05",
        "comparison",
        "group1",
        "group2",
        "higher_in",
    ]
    assert list(de.columns) == wanted and list(de.index) == list(mdata["rna"].var_names)
    x = mdata["rna"].X[(mdata.obs["cell_type"] == "type_1").to_numpy()]
    assert np.allclose(de["raw_mean1"], np.asarray(x.mean(0)).ravel()) and np.allclose(
        de["non_zeros_proportion1"], np.asarray((x > 0).mean(0)).ravel()
    )


def test_expression_is_right(de, mdata):
    mean = mdata["rna"].varm["mean_true"]
    assert np.corrcoef(np.log2(mean["type_1"] / mean["type_2"]), de["lfc_mean"])[0, 1] > 0.9


def test_expression_arguments(model, de):
    run = lambda **options: model.differential_expression(**(PAIR | dict(n_samples_overall=500) | options))
    assert run(delta=2.0)["proba_de"].sum() < run(delta=0.1)["proba_de"].sum() and (run(delta=2.0)["delta"] == 2).all()
    vanilla = run(mode="vanilla")
    assert {"proba_m1", "proba_m2"} <= set(vanilla) and "proba_de" not in vanilla
    assert ((vanilla["proba_m1"] > 0.5) == (de["lfc_mean"] > 0))[de["lfc_mean"].abs() > 0.5].all()
    assert not {"raw_mean1", "non_zeros_proportion2"} & set(run(all_stats=False))
    assert "is_de_fdr_0.2" in run(fdr_target=0.2) and run(sort=True)["proba_de"].is_monotonic_decreasing
    assert len(run(groupby=None, group1=None, group2=None, idx1=[0, 1, 2], batch_size=2)) == N_GENES
    assert (run(pseudocounts=0.5)["pseudocounts"] == 0.5).all() and len(run(filter_outlier_cells=True)) == N_GENES
    assert list(run(group1=None, group2=None)["comparison"].unique()) == [f"type_{i} vs Rest" for i in (1, 2, 3)]


def test_expression_counts_have_a_say(model, mdata):
    raw = np.log2(
        np.asarray(
            [mdata["rna"].X[(mdata.obs["cell_type"] == t).to_numpy()].mean(0) for t in ("type_1", "type_2")]
        ).reshape(2, -1)
    )
    off = lambda t: np.abs(t["lfc_mean"].to_numpy() - (raw[0] - raw[1])).mean()
    assert off(model.differential_expression(**PAIR)) < off(model.differential_expression(use_counts=False, **PAIR))


def test_expression_batches(model):
    run = lambda b1, b2: model.differential_expression(batch_correction=True, batchid1=b1, batchid2=b2, **PAIR)[
        "lfc_mean"
    ]
    same, other = run("batch_1", ["batch_1"]), run(["batch_1"], ["batch_2"])
    assert not np.allclose(same, other, atol=0.05) and np.isfinite(run(None, None)).all()
    assert np.isfinite(
        run(["batch_1", "batch_2", "batch_3"], "batch_1")
    ).all()  # numbers of samples that have to be made alike
    assert np.allclose(
        run(["batch_1", "batch_2"], ["batch_2", "batch_1"]),
        run(["batch_1", "batch_2"], ["batch_1", "batch_2"]),
        atol=1e-5,
    )


def test_expression_of_swapped_groups(model, de):
    other = model.differential_expression(groupby="cell_type", group1="type_2", group2="type_1", silent=True)
    assert np.allclose(other["lfc_mean"], -de["lfc_mean"], atol=0.05) and np.allclose(
        other["proba_de"], de["proba_de"], atol=0.05
    )
    assert np.allclose(other["scale1"], de["scale2"], rtol=0.05) and np.allclose(de["scale1"].sum(), 1, atol=0.05)


def test_expression_however_rows_are_paired(model, de):
    "scvi-tools may shuffle the rows of its samples; the fold changes stay the same."
    mixed = model.differential_expression(use_permutation=True, **PAIR)
    assert np.allclose(mixed["lfc_mean"], de["lfc_mean"], atol=0.05) and np.allclose(
        mixed["lfc_std"], de["lfc_std"], rtol=0.1, atol=0.01
    )


def test_expression_without_counts_is_that_of_scvi(model, mdata):
    from functools import partial

    from scvi.model.base import DifferentialComputation

    from splicevi.model.expression_test import GeneCounts

    rows = [np.flatnonzero(mdata.obs["cell_type"] == t) for t in ("type_1", "type_2")]
    decode = partial(model.get_normalized_expression, return_numpy=True, n_samples=1, use_z_mean=False)
    scvi.settings.seed = 1
    plain = DifferentialComputation(decode, None, GeneCounts(model.adata_manager, N_GENES)).get_bayes_factors(
        *rows, mode="change", delta=0.25, use_observed_batches=True, n_samples_overall=200
    )
    scvi.settings.seed = 1
    ours = model.differential_expression(use_counts=False, n_samples_overall=200, **PAIR)
    for k, v in plain.items():
        assert np.allclose(ours[k], v), k


def test_vanilla_expression_has_no_prior(model):
    "Which group is higher is asked of each gene by itself; the fold change that unchanged genes share decides nothing."
    half = np.flatnonzero(model.adata.obs["cell_type"] == "type_1")
    table = model.differential_expression(idx1=half[::2], idx2=half[1::2], mode="vanilla", silent=True)
    assert table["proba_m1"].between(0.02, 0.98).mean() > 0.8 and table["proba_m1"].std() > 0.1


def test_no_expression_is_called_between_halves(model):
    half = np.flatnonzero(model.adata.obs["cell_type"] == "type_1")
    table = model.differential_expression(idx1=half[::2], idx2=half[1::2], delta=0.5, silent=True)
    assert (
        not table["is_de_fdr_0.05"].any()
        and (model.differential_expression(idx1=half[::2], idx2=half[1::2], delta=None, silent=True)["delta"] > 0).all()
    )


# ---------------------------------------------------------------- expression: every cell once
def dense_expectation(model, mdata, batch=None):
    "Counts that the decoder expects of every cell, (cells, genes), from what users can ask for."
    share = model.get_normalized_expression(transform_batch=batch, return_numpy=True)
    with torch.inference_mode():
        library = torch.cat([q["library"] for _, q in model._posteriors(mdata, np.arange(mdata.n_obs), None)])
    return share * np.exp(library.numpy())


def dense_fold_change(x, expected, rows, batches):
    "Mean log2 fold change of two groups by the definition, from dense arrays."
    own = [expected[None][r].sum(0) for r in rows]
    means = [[group_mean(x[r], e, expected[b][r].sum(0)) for b in batches] for r, e in zip(rows, own)]
    one, two = (GroupMean(*(np.mean(v, axis=0) for v in zip(*m))) for m in means)
    lfc, variance = one.mean - two.mean, one.variance + two.variance
    return FoldPosterior(lfc, variance, fit_folds(lfc, variance)).mean


@pytest.mark.parametrize("correct", [False, True])
def test_one_against_the_rest_is_the_dense_definition(model, mdata, correct):
    "Each cell is decoded once; the tables are those of the groups' cells put together by hand."
    decoded, plain = [], model._posteriors
    spy = lambda adata, rows, *a, **k: decoded.append(len(rows)) or plain(adata, rows, *a, **k)
    model._posteriors = spy
    try:
        table = model.differential_expression(groupby="cell_type", batch_correction=correct, silent=True)
    finally:
        del model._posteriors
    assert decoded == [mdata.n_obs]
    batches = ["batch_1", "batch_2", "batch_3"] if correct else [None]
    expected = {b: dense_expectation(model, mdata, b) for b in {None, *batches}}
    x, kind = mdata["rna"].X.toarray(), mdata.obs["cell_type"].to_numpy()
    for group in np.unique(kind):
        lfc = dense_fold_change(x, expected, [kind == group, kind != group], batches)
        mine, rest = table[table["group1"] == group], kind != group
        assert np.abs(mine["lfc_mean"] - lfc).max() < 0.03 and np.corrcoef(mine["lfc_mean"], lfc)[0, 1] > 0.9999
        assert np.allclose(mine["raw_mean2"], x[rest].mean(0)) and np.allclose(
            mine["non_zeros_proportion2"], (x[rest] > 0).mean(0)
        )
        depth = x.sum(1)
        assert np.allclose(
            mine["raw_normalized_mean2"], (x * np.median(depth) / depth[:, None])[rest].mean(0), rtol=1e-4
        )
        alone = model.differential_expression(groupby="cell_type", group1=group, batch_correction=correct, silent=True)
        assert np.allclose(mine["lfc_mean"], alone["lfc_mean"], atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [dict(sample_key="donor"), dict(filter_outlier_cells=True), dict(sample_key="donor", batch_correction=True)],
)
def test_comparisons_together_and_one_by_one(model, mdata, options, monkeypatch):
    "Where the sums of all parts are too many to hold, comparisons are taken one after another, with the same result."
    mdata.obs["donor"] = np.random.default_rng(0).permutation(np.arange(mdata.n_obs) % 4).astype(str)
    ask = dict(groupby="cell_type", silent=True, n_samples_overall=300) | options
    scvi.settings.seed = 0  # the search for outliers is random
    together = model.differential_expression(**ask)
    monkeypatch.setattr("splicevi.model.expression_test.MOST", 0)
    scvi.settings.seed = 0
    one_by_one = model.differential_expression(**ask)
    del mdata.obs["donor"]
    numbers = together.select_dtypes("number").columns
    assert np.allclose(together[numbers], one_by_one[numbers], rtol=1e-3, atol=1e-3) and len(numbers) > 10


def test_gene_sums_hold_no_copy_of_the_counts(monkeypatch):
    "Counts are read a stretch at a time: what is held grows with groups and genes, not with cells."
    x = sparse.random(60_000, 200, density=0.5, format="csr", dtype=np.float32, random_state=0)
    code = np.arange(60_000) % 5 - 1
    monkeypatch.setattr("splicevi.tl.gene_sums.STRETCH", 200_000)
    tracemalloc.start()
    sums, _ = gene_sums(x, code, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = x.toarray()[code == 2].astype(float)
    assert np.allclose(sums.squares[2], (dense**2).sum(0)) and sums.cells[2] == 12_000
    wide = sparse.csc_matrix(x)  # columns after the genes are others
    assert np.array_equal(gene_sums(wide, code, 4, 50)[0].found, sums.found[:, :50])
    assert peak < 0.3 * (x.data.nbytes + x.indices.nbytes), peak  # copies of the groups would take 0.8


# ---------------------------------------------------------------- pure functions
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_random_events(seed):
    "Junctions in any order, events without reads: PSI sum to one, probabilities are probabilities, order is no matter."
    rng = np.random.default_rng(seed)
    event = rng.permutation(np.repeat(np.arange(6), rng.integers(1, 5, 6)))
    a = rng.poisson(rng.exponential(4, (2, len(event)))) * (rng.random((2, 6)) < 0.7)[:, event]
    c = Contrast(a, event)
    j, e = effect_posterior(c, n_draws=50)
    assert np.allclose(c.events.sum(j.psi1), 1, atol=1e-4) and np.allclose(c.events.sum(c.p), 1)
    for p in (*j[:3], *e[:2]):
        assert (p >= -1e-9).all() and (p <= 1 + 1e-9).all()
    assert (e.proba >= c.events.max(j.proba) - 1e-9).all() and (j.lower <= j.upper).all()
    assert np.isclose(c.prior.weights.sum(), 1)
    alone = np.isin(c.junctions, np.flatnonzero(np.bincount(event)[event] == 1))
    assert np.allclose(j.effect[alone], 0, atol=1e-6)
    shuffle = rng.permutation(len(event))
    assert np.allclose(Contrast(a[:, shuffle], event[shuffle]).prior.weights, c.prior.weights)


@pytest.mark.parametrize("seed", range(15))
def test_shift_of_unchanged_genes(seed):
    "The common fold change is found wherever it lies, and moves nothing but itself."
    rng = np.random.default_rng(seed)
    shift, changed = rng.uniform(-3, 3), rng.uniform(0, 0.4)
    error, up = rng.uniform(0.05, 0.3, 400), rng.random(400) < changed
    lfc = rng.normal(np.where(up, rng.normal(1.5, 1, 400), 0), error)
    zero, moved, turned = (fit_folds(v, error**2) for v in (lfc, lfc + shift, -lfc))
    assert (
        abs(zero.center) < 5 * zero.error + 0.01
        and moved.center - zero.center == pytest.approx(shift, abs=0.01)
        and turned.center == pytest.approx(-zero.center, abs=0.01)
    )
    post = FoldPosterior(lfc + shift, error**2, moved)
    assert np.allclose(post.r.sum(1), 1) and np.allclose(post.draws(4000, rng).mean(0), post.mean, atol=0.1)
    between = (post.mean - moved.center) * np.sign(lfc + shift - moved.center)
    assert (between >= -1e-9).all() and (between <= np.abs(lfc + shift - moved.center) + 1e-9).all()


def test_group_mean_of_sparse_and_dense_counts():
    x = np.random.default_rng(0).poisson(2.0, (30, 5)).astype(np.float32)
    dense, csr = (group_mean(k, np.full(5, 60.0)) for k in (x, sparse.csr_matrix(x)))
    assert (
        np.allclose(dense.mean, csr.mean)
        and np.allclose(dense.variance, csr.variance)
        and 0 < dense.common < dense.variance.min()
    )
    empty = group_mean(np.zeros((3, 2)), np.zeros(2))
    assert np.isfinite(empty.mean).all() and np.isfinite(empty.variance).all()


def test_prior_finds_the_weights():
    rng = np.random.default_rng(0)
    p, g, change = np.array([0.3, 0.7]), 2.0, rng.random(3000) < 0.3
    q = [np.where(change[:, None], rng.dirichlet(g * p, 3000), p) for _ in range(2)]
    a = np.stack([rng.multinomial(60, k).ravel() for k in q]).astype(float)
    c = Contrast(a, np.repeat(np.arange(3000), 2))
    assert 0.7 < c.prior.weights[0] < 0.85  # on the safe side: the common PSI was fitted to the same reads
    assert 1 < np.average(np.log2(c.prior.grid), weights=c.prior.weights[1:]) + 1 < 3  # scales about g
    assert fit_prior(np.zeros((0, 8))).weights[0] == pytest.approx(0.75)


def test_call_at_fdr_is_monotone():
    p = np.random.default_rng(0).random(500)
    sizes = [call_at_fdr(p, t).sum() for t in (0.01, 0.05, 0.2, 0.9)]
    assert sizes == sorted(sizes) and call_at_fdr(p, 0.05)[p.argmax()] == (1 - p.max() <= 0.05)
    assert not call_at_fdr(np.zeros(3), 0.5).any() and call_at_fdr(np.array([]), 0.5).size == 0


def test_moved_reads_keep_their_number():
    rng = np.random.default_rng(0)
    event = np.array([1, 0, 1, 0, 0])
    a, own, average = rng.random((3, 5)) * 9, rng.random((3, 5)), rng.random((3, 5))
    moved, e = batch_corrected_reads(a, own, average, event), EventOrder(event)
    assert np.allclose(e.sum(moved[:, e.order]), e.sum(a[:, e.order])) and np.allclose(
        batch_corrected_reads(a, own, own, event), a
    )


def scattered(seed, scatter):
    "Reads of two groups in two batches each, with scatter between them; their events; the scatter that is found."
    rng = np.random.default_rng(seed)
    event, usage = np.repeat(np.arange(800), 2), rng.uniform(0.1, 0.9, 800)
    n = rng.integers(0, 300, (4, 800))
    own = rng.beta(usage * (1 / scatter - 1), (1 - usage) * (1 / scatter - 1), n.shape) if scatter else usage
    y = rng.binomial(n, own)
    a = np.stack([y, n - y], axis=-1).reshape(4, -1).astype(float)
    return a, event, batch_scatter([a[:2], a[2:]], event)


@pytest.mark.parametrize("scatter", [0.0, 0.02, 0.2])
def test_scatter_of_batches(scatter):
    "The scatter that was put in comes out on average over many data sets, and of none is it far from that."
    found = np.array([scattered(seed, scatter)[2] for seed in range(60)])
    assert found.mean() == pytest.approx(
        scatter, rel=0.15, abs=0.001
    )  # on the safe side: large scatter is found a bit larger
    assert found.std() < 0.15 * scatter + 0.002


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.02, 0.2]))
def test_scattered_reads_are_worth_less(seed, scatter):
    "Reads are worth less where batches scatter, never more."
    a, event, found = scattered(seed, scatter)
    less = downweighted(a, event, found)
    assert (
        (less <= a.sum(0) + 1e-9).all()
        and np.allclose(downweighted(a, event, 0.0), a.sum(0))
        and (downweighted(a, event, 1.0) <= 4 + 1e-9).all()
    )


@pytest.mark.parametrize("loss", ["dirichlet_multinomial", "beta_binomial"])
def test_model_concentration_is_that_of_the_events(mdata, loss):
    "Whether the likelihood has a concentration for each event or for each junction."
    mdata = mdata.copy()
    SPLICEVI.setup_mudata(mdata)
    model = SPLICEVI(mdata, n_latent=5, splicing_loss_type=loss)
    event = model.module.junc2atse
    log_c = 0.01 * (event if loss == "beta_binomial" else event.unique())
    model.module.log_phi_j.data.copy_(log_c)
    held = pd.DataFrame({"junction_index": np.arange(N_JUNCTIONS)[::-1]})
    assert np.allclose(tl.model_concentration(model, held), np.exp(0.01 * event.numpy()[::-1]))


# ---------------------------------------------------------------- donors
@pytest.mark.parametrize("samples,n", [(3, 30), (5, 200)])
def test_p_values_of_donors_without_difference(samples, n):
    rng = np.random.default_rng(0)
    y = rng.binomial(n, rng.beta(6, 4, (500, 2 * samples))).astype(float)
    statistic, _ = likelihood_ratio(y, np.full(y.shape, float(n)), np.repeat([0, 1], samples))
    assert 0.02 < (stats.chi2.sf(statistic, 1) < 0.05).mean() < 0.08


@pytest.mark.parametrize("reads", [(200, 200), (20, 2000)], ids=["even", "1 to 100"])
def test_many_junctions_and_unequal_groups(reads):
    "Twenty junctions are found as readily as two, also where one group has a hundred times the cells."
    rng, n_events = np.random.default_rng(0), 900
    size, changed = rng.choice([2, 5, 20], n_events), rng.random(n_events) < 0.2
    drawn = [rng.dirichlet(np.ones(m)) for m in size]
    psi = [[rng.dirichlet(4 * p + 1e-9) if c else p for p, c in zip(drawn, changed)] for _ in range(2)]
    depth = [rng.poisson(n * rng.lognormal(0, 0.8, n_events)) for n in reads]
    a = np.stack([np.concatenate([rng.multinomial(n, p) for n, p in zip(*k)]) for k in zip(depth, psi)]).astype(float)
    e, of_event = effect_posterior(Contrast(a, np.repeat(np.arange(n_events), size)), n_draws=200)
    truth = np.concatenate(psi[1]) - np.concatenate(psi[0])
    real = np.array([np.abs(one - two).max() >= 0.1 for one, two in zip(*psi)])
    called = call_at_fdr(of_event.proba, 0.05)
    found = [called[real & (size == m)].mean() for m in (2, 5, 20)]
    assert (called & ~real).sum() / called.sum() <= 0.06 and found[2] >= found[0] - 0.05 and min(found) >= 0.5, found
    assert 0.92 <= ((e.lower <= truth) & (truth <= e.upper)).mean() <= 0.985


@pytest.mark.parametrize("wrong", [False, True])
def test_the_model_as_a_second_opinion(mdata, model, wrong, monkeypatch):
    "Effects stay near the truth and calls true, also where the model has the groups the wrong way round."
    own, asked = DifferentialMixin._decoded_sums, []

    def swapped(self, adata, rows, *args, **options):
        if options["squares"]:  # how much PSI varies among other cells
            return own(self, adata, rows, *args, **options)
        asked.append(len(rows))
        kind = mdata.obs["cell_type"].to_numpy()
        other = {"type_1": "type_2", "type_2": "type_1"}[kind[rows[0]]]
        rows = np.flatnonzero(kind == other)
        return own(self, adata, rows, np.full((1, len(rows)), 1 / len(rows), np.float32), *args[1:], **options)

    if wrong:
        monkeypatch.setattr(DifferentialMixin, "_decoded_sums", swapped)
    truth = mdata["splicing"].varm["psi_true"]
    truth = (truth["type_2"] - truth["type_1"]).to_numpy()
    plain, informed = (model.differential_splicing(**PAIR, prior=p) for p in ("reads", "model"))
    error = lambda t: np.sqrt(np.mean((t["effect_size"] - truth) ** 2))
    false = lambda t: (t["is_ds_fdr"] & (np.abs(truth) < 0.05)).sum() / max(t["is_ds_fdr"].sum(), 1)
    assert asked or not wrong
    moved = np.abs(plain["effect_size"] - informed["effect_size"]).max()
    assert moved > (0.002 if wrong else 0.005)  # a wrong model is asked, and hardly believed
    assert error(informed) < (1.3 if wrong else 1.1) * error(plain) and false(informed) <= max(0.05, false(plain))


def test_data_of_one_event():
    "One event with two junctions is trained on and tested."
    mdata = simulate(n_cells=80, n_genes=10, n_junctions=2, n_cell_types=2, observed=0.6, seed=0)
    SPLICEVI.setup_mudata(mdata)
    for concentration in ("atse", "scalar"):
        model = SPLICEVI(mdata, n_latent=3, dm_concentration=concentration)
        model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
        table = model.differential_splicing(**PAIR)
        assert len(table) == 2 and table["proba_ds"].between(0, 1).all()


def cells_of_kinds(seed):
    "Kind A and four others; in a third of the events these are far apart, and their mean is A's. 22 events differ."
    rng, n, n_events = np.random.default_rng(seed), 400, 150
    kind = np.arange(n) % 6 % 5
    psi = np.repeat(rng.beta(2, 2, n_events)[:, None], 5, 1)
    for e in range(45):
        psi[e] = 0.5, *rng.permutation([0.05, 0.05, 0.95, 0.95])
    psi[-22:, 0] += np.where(psi[-22:, 0] < 0.5, 0.4, -0.4)
    reads = np.where(rng.random((n, n_events)) < 0.06, rng.poisson(8, (n, n_events)) + 1, 0)
    p = psi[:, kind].T
    y = rng.binomial(reads, rng.beta(30 * p, 30 * (1 - p)))
    counts = sparse.csr_matrix(np.stack([y, reads - y], 2).reshape(n, -1).astype(np.float32))
    names = pd.DataFrame(
        {KEYS.event: np.repeat([f"e{i:03}" for i in range(n_events)], 2)}, index=map("j{}".format, range(300))
    )
    splicing = AnnData(counts, var=names, layers={KEYS.junction_counts: counts})
    splicing.obs["kind"] = np.array(list("ABCDE"))[kind]
    return splicing


def test_kinds_of_all_others_are_no_sharper_than_their_sample():
    "Which kinds of the rest show an event is chance: few false calls, by any way to name the groups."
    false, called = np.zeros(3), np.zeros(3)
    for seed in range(3):
        splicing = cells_of_kinds(seed)
        mdata = assemble_mudata({"splicing": splicing}, splicing.obs)
        mdata.obs["two"] = np.where(mdata.obs["kind"] == "A", "A", "others")
        SPLICEVI.setup_mudata(mdata)
        model = SPLICEVI(mdata, n_latent=3)
        model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
        ways = dict(groupby="kind", group1="A"), dict(groupby="two", group1="A"), dict(idx1="kind == 'A'")
        tables = [model.differential_splicing(silent=True, **way).loc[splicing.var_names] for way in ways]
        false += [t["is_ds_fdr"].iloc[:-44].sum() for t in tables]
        called += [t["is_ds_fdr"].sum() for t in tables]
        several = model.differential_splicing(groupby="kind", silent=True)
        alone = several[several["group1"] == "A"].loc[splicing.var_names]
        assert np.allclose(alone["proba_ds"], tables[0]["proba_ds"], atol=0.01)
    assert (false <= 0.08 * called).all() and (called > 100).all(), (false, called)


def test_events_that_vary_elsewhere_are_believed_sooner():
    """Few reads: more is found at no more errors; kinds by chance cost nothing. Intervals hold the truth as often as
    they say, where it is a change and where it is none."""
    cells = simulate(n_cells=900, n_genes=10, n_junctions=4000, n_cell_types=6, observed=0.05, seed=2)
    splicing, kind = cells["splicing"], cells.obs["cell_type"].cat.codes.to_numpy()
    event = event_codes(splicing.var["event_id"])[0]
    store = CellStore(pairs=observed_pairs(splicing.layers[KEYS.junction_counts], event))
    reads, psi = group_reads(store, kind, 6, 20.0).weighted("cells")[0], splicing.varm["psi_true"].to_numpy()
    events, rng, rows = EventOrder(event), np.random.default_rng(0), []
    for a, b in ((0, 1), (2, 3), (4, 5)):
        others = [k for k in range(6) if k not in (a, b)]
        spread = events.max(psi[:, others].std(1)[events.order])
        real = np.abs(psi[:, b] - psi[:, a])[events.order] >= 0.1
        truth = (psi[:, b] - psi[:, a])[events.order]
        for name, of in (
            ("none", None),
            ("varies", kinds_by_spread(spread)),
            ("chance", rng.integers(0, 5, len(spread))),
        ):
            e, _ = effect_posterior(Contrast(reads[[a, b]], event, kind=of), n_draws=200)
            called, inside = call_at_fdr(e.proba, 0.05), (e.lower <= truth) & (truth <= e.upper)
            hold = [inside[of].mean() for of in (slice(None), truth == 0, truth != 0, real)]
            near = np.corrcoef(e.effect, truth)[0, 1]
            rows.append((name, called[real].mean(), (called & ~real).sum() / called.sum(), near, *hold))
    held = ["all", "unchanged", "changed", "0.1 and more"]
    found = pd.DataFrame(rows, columns=["kinds", "found", "false", "r", *held]).groupby("kinds").mean()
    none, varies, chance = (found.loc[k] for k in ("none", "varies", "chance"))
    assert varies["found"] > none["found"] + 0.05 and varies["false"] < 0.05 and varies["r"] > none["r"] + 0.01, found
    assert (found[held] >= 0.92).all(axis=None) and (found[held] <= 0.98).all(axis=None), found
    assert abs(chance["found"] - none["found"]) < 0.02 and chance["false"] < 0.05, found


def test_kinds_of_events_come_from_cells_that_are_not_compared(mdata, model, monkeypatch):
    "Cells in neither group; those of the groups where there are hardly any others."
    seen, own = [], DifferentialMixin._decoded_sums

    def watched(self, adata, rows, *args, **options):
        seen.append(rows)
        return own(self, adata, rows, *args, **options)

    monkeypatch.setattr(DifferentialMixin, "_decoded_sums", watched)
    first = np.arange(40)
    model.differential_splicing(idx1=first, idx2=first + 40, silent=True)
    assert len(seen) == 1 and seen[0].min() >= 80 and len(seen[0]) == mdata.n_obs - 80
    model.differential_splicing(**PAIR, prior="reads")
    assert len(seen) == 1
    model.differential_splicing(idx1=first, silent=True)
    assert (seen[1] == first).all() and sorted(np.concatenate(seen[1:])) == list(range(mdata.n_obs))


def test_training_cells_are_known_by_name(mdata, model, tmp_path):
    "In a copy of the data, in another order and after loading; without them there is no second opinion."
    rows = np.random.default_rng(0).permutation(mdata.n_obs)
    want = np.isin(rows, model.train_indices)
    assert 0.5 < want.mean() < 1 and (model._training_cells(mdata[rows].copy()) == want).all()
    model.save(tmp_path / "model")
    loaded = SPLICEVI.load(tmp_path / "model", mdata.copy())
    assert (loaded._training_cells(loaded.adata) == model._training_cells(model.adata)).all()
    loaded.train_indices = None
    with pytest.raises(ValueError, match="which these are is not known"):
        loaded.differential_splicing(**PAIR, prior="model")


def test_a_second_opinion_needs_plain_reads(model):
    "What changes the reads, or looks at none, goes with no second opinion."
    for options in (dict(sample_key="batch"), dict(batch_correction=True), dict(strata="batch")):
        with pytest.raises(ValueError, match="prior='model' needs the cells' own reads"):
            model.differential_splicing(**PAIR, prior="model", **options)
