"""What arguments and data mean where they are nearly right: categories, labels, totals, and which group is higher."""

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from test_bad_input import QUIET, digest, side_by_side, small

from splicevi import SPLICEVI
from splicevi.data.build import hold_out
from splicevi.data.checks import check_mudata
from splicevi.data.pairs import event_codes, layer_of_counts, normalisation
from splicevi.data.totals import rederive_totals
from splicevi.tl.groups import comparisons, confounded


@pytest.fixture(scope="module")
def data():
    "The small MuData."
    return small()


@pytest.fixture(scope="module")
def model(data):
    "A model of it, after an epoch."
    ready = data.copy()
    SPLICEVI.setup_mudata(ready, batch_key="batch")
    out = SPLICEVI(ready, n_latent=3)
    out.train(**QUIET)
    return out


@pytest.mark.parametrize("kind", ["mudata", "anndata"])
def test_a_category_that_no_cell_has_is_no_batch(data, kind):
    "Batches and covariates are the categories in use; codes and names agree, and the user's column is as it was."
    part = data if kind == "mudata" else side_by_side(data)
    part = part.copy()
    part.obs["batch"] = (
        part.obs["batch"].astype(str).astype(pd.CategoricalDtype(["batch_0", "batch_1", "x", "batch_2"]))
    )
    part.obs["site"] = part.obs["site"].cat.add_categories(["d"]).cat.reorder_categories(["d", "c", "b", "a"])
    before = digest(part.obs)
    setup = SPLICEVI.setup_mudata if kind == "mudata" else SPLICEVI.setup_anndata
    setup(part, batch_key="batch", categorical_covariate_keys="site")
    sizes = {} if kind == "mudata" else dict(n_genes=20, n_junctions=30)
    model = SPLICEVI(part, n_latent=3, **sizes)
    assert (model.module.n_batch, model.module.n_cats_per_cov) == (2, [3])
    assert model._batch_names == ["batch_1", "batch_2"]
    assert digest(part.obs[[c for c in part.obs if not c.startswith("_scvi")]]) == before
    codes = np.asarray(model.adata_manager.get_from_registry("batch")).ravel()
    assert (np.array(model._batch_names)[codes] == part.obs["batch"].astype(str)).all()
    site = np.asarray(model.adata_manager.get_from_registry("extra_categorical_covs")).ravel()
    assert (np.array(["c", "b", "a"])[site] == part.obs["site"].astype(str)).all()
    model.train(**QUIET)
    assert np.isfinite(model.get_latent_representation()).all()


def test_used_categories_survive_saving_and_new_cells(data, tmp_path):
    "Codes of a loaded model and of other cells are those of the categories in use."
    part = data.copy()
    part.obs["batch"] = (
        part.obs["batch"].cat.add_categories(["zero"]).cat.reorder_categories(["zero", "batch_1", "batch_2"])
    )
    SPLICEVI.setup_mudata(part, batch_key="batch")
    model = SPLICEVI(part, n_latent=3)
    model.train(**QUIET)
    model.save(tmp_path / "model")
    loaded = SPLICEVI.load(tmp_path / "model", data.copy())
    want = model.get_normalized_splicing()
    np.testing.assert_allclose(loaded.get_normalized_splicing(), want, atol=1e-6)
    np.testing.assert_allclose(model.get_normalized_splicing(data[:9].copy()), want[:9], atol=1e-6)


def test_one_covariate_needs_no_list(data):
    "A key by itself is a list of one, in memory and in the saved setup."
    models = []
    for keys in ("site", ["site"]):
        part = data.copy()
        SPLICEVI.setup_mudata(part, categorical_covariate_keys=keys, continuous_covariate_keys="age")
        models.append(SPLICEVI(part, n_latent=3))
    assert models[0].module.n_cats_per_cov == models[1].module.n_cats_per_cov == [3]
    assert models[0].module.n_continuous_cov == 1


def test_integer_batches_unseen_in_training_are_refused(data):
    "Also the batch 0, which scvi-tools lets pass (0 is not any)."
    part = data.copy()
    part.obs["batch"] = np.where(part.obs["batch"] == "batch_1", 1, 2)
    SPLICEVI.setup_mudata(part, batch_key="batch")
    model = SPLICEVI(part, n_latent=3)
    model.is_trained_ = True
    other = part.copy()
    other.obs["batch"] = 0
    with pytest.raises(ValueError, match="was not trained on 0; it knows 1, 2"):
        model.get_latent_representation(other)


def test_cells_without_a_label_are_in_no_group(data):
    "They are compared with nothing, as one value against the rest leaves them out."
    obs = data.obs.copy()
    obs["cell_type"] = obs["cell_type"].astype(object)
    obs.iloc[:7, obs.columns.get_loc("cell_type")] = np.nan
    for c in comparisons(obs, "cell_type"):
        assert not np.intersect1d(np.arange(7), np.concatenate(c[:2])).size
        assert len(c.rows1) + len(c.rows2) == 53


@pytest.mark.parametrize("mode", ["change", "vanilla"])
def test_both_tables_name_the_higher_group(model, mode):
    "Fold changes are group 1 over group 2, PSI differences group 2 minus group 1: `higher_in` is right for both."
    groups = dict(groupby="cell_type", group1="type_1", group2="type_2", mode=mode, silent=True)
    de, ds = model.differential_expression(**groups), model.differential_splicing(**groups)
    shift = de["lfc_mean"] if mode == "change" else de["scale1"] - de["scale2"]
    assert (de["higher_in"] == np.where(shift > 0, "type_1", "type_2")).all()
    assert (ds["higher_in"] == np.where(ds["est_prob2"] > ds["est_prob1"], "type_2", "type_1")).all()
    assert de["higher_in"].nunique() == ds["higher_in"].nunique() == 2
    turned = model.differential_splicing(**groups | dict(group1="type_2", group2="type_1"))
    assert (turned["higher_in"] == ds["higher_in"])[ds["effect_size"].abs() > 0.05].all()


def test_events_and_rest_name_the_higher_group(model):
    "Also by event, and with all other cells as the second group."
    table = model.differential_splicing(groupby="cell_type", group1="type_1", level="event", silent=True)
    assert (table["higher_in"] == np.where(table["effect_size"] > 0, "Rest", "type_1")).all()


def test_confounded_batches(data, model):
    "A batch of its own for one group is an error; several, none of them shared, a warning; one batch has no effect."
    pair = comparisons(pd.DataFrame({"g": list("aabb")}), "g", "a", "b")[0]
    assert confounded(np.array([0, 0, 1, 1]), pair) == "are the same thing"
    assert confounded(np.array([0, 1, 1, 2]), pair) is None
    assert confounded(np.array([0, 0, 1, 1, 0]), pair) is None, "other cells of the batch tell what it does"
    part = data.copy()
    part.obs["donor"] = pd.Categorical([f"{t}_{i % 2}" for i, t in enumerate(part.obs["cell_type"])])
    SPLICEVI.setup_mudata(part, batch_key="donor")
    nested = SPLICEVI(part, n_latent=3)
    nested.train(**QUIET)
    ask = dict(groupby="cell_type", group1="type_1", group2="type_2", batch_correction=True, silent=True)
    with pytest.warns(UserWarning, match="each batch is in one group as a whole"):
        nested.differential_splicing(**ask, n_draws=10)
    SPLICEVI.setup_mudata(part)
    alone = SPLICEVI(part, n_latent=3)
    alone.train(**QUIET)
    with pytest.warns(UserWarning, match="one batch, so batch_correction has no effect"):
        alone.differential_splicing(**ask, n_draws=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.differential_splicing(**ask, n_draws=10)


def filtered(data, seed=0):
    "A third of the junctions filtered out after the totals had been computed, and which are left."
    keep = np.sort(np.random.default_rng(seed).permutation(30)[:20])
    part = mudata.MuData({"rna": data["rna"].copy(), "splicing": data["splicing"][:, keep].copy()})
    part.obs["batch"], part.obsm["X_library_size"] = data.obs["batch"], data.obsm["X_library_size"]
    part.uns["title"] = "kept"
    return part, keep


def by_event(part, name):
    "Sums of a layer over the junctions of each event, and the event of each junction."
    junctions = part["splicing"]
    code, events = event_codes(junctions.var["event_id"])
    belongs = sp.csr_matrix((np.ones(len(code)), (np.arange(len(code)), code)))
    return (junctions.layers[name] @ belongs).toarray(), code, events


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_rederived_totals_are_sums(data, rest, hidden):
    "Totals equal the sums of the reads, PSI add up to 1, what was hidden stays hidden, and a model takes the data."
    whole = data
    if hidden:  # reads of hidden events are there, but not shown
        whole = data.copy()
        whole["splicing"].layers["psi_mask"] = hold_out(data, 0.2)[0]["splicing"].layers["psi_mask"]
    part, keep = filtered(whole)
    with pytest.raises(ValueError, match="rederive_totals"):
        SPLICEVI.setup_mudata(part)
    before = digest(part)
    out = rederive_totals(part, rest=rest)
    assert digest(part) == before
    assert (check_mudata(out, raise_errors=False)["level"] == "error").sum() == 0
    total, code, _ = by_event(out, "cell_by_junction_matrix")
    n, mask = (out["splicing"].layers[k].toarray() for k in ("cell_by_cluster_matrix", "psi_mask"))
    np.testing.assert_allclose(n, total[:, code] * (n > 0))
    assert (n > 0).sum() == (total[:, code] > 0).sum()
    psi, *_ = by_event(out, "junc_ratio")
    np.testing.assert_allclose(psi[total > 0], 1, rtol=1e-5)
    old = part["splicing"].layers["psi_mask"].toarray() > 0
    assert not (mask[:, :20] > 0)[~old].any(), "nothing that was hidden is shown"
    if rest:
        np.testing.assert_allclose(n[:, :20][old], part["splicing"].layers["cell_by_cluster_matrix"].toarray()[old])
        np.testing.assert_allclose(
            out["splicing"].layers["junc_ratio"].toarray()[:, :20][old],
            whole["splicing"].layers["junc_ratio"].toarray()[:, keep][old],
            rtol=1e-5,
        )
        assert out["splicing"].var["rest"].sum() == out["splicing"].n_vars - 20 > 5
    assert out.uns["title"] == "kept" and list(out.obs) == list(part.obs)
    SPLICEVI.setup_mudata(out, batch_key="batch")
    model = SPLICEVI(out, n_latent=3)
    model.train(**QUIET)
    assert model.get_normalized_splicing().shape == (60, out["splicing"].n_vars)


def test_totals_of_a_table_of_junctions(data):
    "An AnnData of junctions alone, with layers of other names and no mask."
    part = filtered(data)[0]["splicing"].copy()
    part.layers = {"y": part.layers["cell_by_junction_matrix"], "n": part.layers["cell_by_cluster_matrix"]}
    names = dict(junc_counts_layer="y", atse_counts_layer="n")
    out = rederive_totals(part, rest=True, **names)
    code, _ = event_codes(out.var["event_id"])
    sums = pd.DataFrame(out.layers["y"].toarray()).T.groupby(code).sum().T.to_numpy()[:, code]
    np.testing.assert_allclose(out.layers["n"].toarray(), sums)
    assert rederive_totals(part, **names).n_vars == 20


def test_border_of_genes_and_junctions(data):
    "The right border is taken, with events and without."
    for drop in (False, True):
        both = side_by_side(data)
        if drop:
            del both.var["event_id"]
        SPLICEVI.setup_anndata(both)
        loss = {"splicing_loss_type": "binomial"} if drop else {}
        model = SPLICEVI(both, n_genes=20, n_junctions=30, n_latent=3, **loss)
        assert (model.n_genes, model.n_junctions) == (20, 30)


def test_cells_without_genes_need_no_size(data):
    "A size factor of 0 is legal in an AnnData where the cell has no gene counts, whatever its junctions."
    both = side_by_side(data)
    x = both.X.tolil()
    x[3, :20] = 0
    both.X, both.obsm["X_library_size"] = x.tocsr(), both.obsm["X_library_size"].copy()
    both.obsm["X_library_size"][3] = 0
    SPLICEVI.setup_anndata(both)
    both.obsm["X_library_size"][4] = 0
    with pytest.raises(ValueError, match="1 cells have a size factor"):
        SPLICEVI.setup_anndata(both)


def test_values_that_are_no_counts(data):
    "Masks are no counts, totals are not taken for reads, and length-normalised counts are not suspected."
    junctions = data["splicing"]
    assert layer_of_counts(junctions, "junc_ratio") == "cell_by_junction_matrix"
    part = junctions.copy()
    del part.layers["cell_by_junction_matrix"], part.layers["cell_by_cluster_matrix"]
    assert layer_of_counts(part, "junc_ratio") is None
    x = data["rna"].X
    scaled = sp.diags(1e4 / x.sum(1).A1) @ x
    assert normalisation(x) is normalisation(x.multiply(np.linspace(0.2, 3, 20)).tocsr()) is None
    assert normalisation(scaled) == "counts scaled to one total"
    assert normalisation(scaled.log1p()) == "logarithms of counts scaled to one total"


def test_a_sound_setup_says_nothing(data):
    "No warning of ours where nothing is wrong."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        part = data.copy()
        SPLICEVI.setup_mudata(part, batch_key="batch", categorical_covariate_keys=["site"])
        SPLICEVI(part, n_latent=3)
        check_mudata(part)
    assert not [w for w in seen if issubclass(w.category, UserWarning)]


def test_warnings_point_to_the_callers_line(data):
    "A warning names the file that called, not a line of the library."
    part = data.copy()
    SPLICEVI.setup_mudata(part)
    model = SPLICEVI(part, n_latent=3)
    for call in (
        lambda: SPLICEVI(part, n_latent=3, splicing_concentration=5.0),
        lambda: model.train(**QUIET, train_size=1.0),
        lambda: model.train(**QUIET, n_steps_kl_warmup=3, n_epochs_kl_warmup=2),
        lambda: (
            check_mudata(part, junc_ratio_layer=None, psi_mask_layer="psi_mask", rna_layer=None)
            if part["rna"].__setattr__("X", part["rna"].X.tocsc())
            else check_mudata(part)
        ),
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call()
        ours = [w for w in seen if "splicevi" in w.filename or w.filename == __file__]
        assert ours and all(w.filename == __file__ for w in ours), [(w.filename, str(w.message)) for w in ours]
