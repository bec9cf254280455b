"""The model is right when it is used in an order, and with objects, that the lessons do not show."""

import copy
import pickle
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData, read_h5ad

from splicevi import SPLICEVI
from splicevi.core import Limits, check_number
from splicevi.data import hold_out, sequencing_protocol
from splicevi.datasets import simulate
from splicevi.model.train import TRAIN_LIMITS
from splicevi.nn.options import Options, kinds_of
from splicevi.pl.qc import coverage_values
from splicevi.tl import neighbor_psi
from splicevi.tl.selection import rank_selection
from splicevi.views.explorer.source import event_data

QUIET = dict(enable_progress_bar=False, accelerator="cpu")


@pytest.fixture(scope="module")
def mdata():
    "120 cells of three types in two batches, with sizes and a covariate that differs from cell to cell."
    out = simulate(n_cells=120, n_genes=40, n_junctions=60, n_cell_types=3, n_batches=2, observed=0.4, seed=0)
    rng = np.random.default_rng(0)
    out.obsm["X_library_size"] = rng.lognormal(0, 1, (120, 1)).astype(np.float32)
    out.obs["age"] = rng.normal(size=120)
    out.obs["site"] = pd.Categorical(rng.choice(["a", "b", "c"], 120))
    return out


def curve(data, setup=SPLICEVI.setup_mudata, model=None, **given):
    "The training curve of a model of the data."
    scvi.settings.seed = 0
    setup(data, batch_key="batch", categorical_covariate_keys=["site"], continuous_covariate_keys=["age"], **given)
    m = SPLICEVI(data, n_latent=4, encode_covariates=True, **(model or {}))
    m.train(max_epochs=4, lr=1e-3, batch_size=32, **QUIET)
    return m, np.concatenate([m.history[k].to_numpy().astype(float).ravel() for k in ("elbo_train", "elbo_validation")])


@pytest.mark.parametrize("kind", ["sparse", "dense genes", "junctions without X"])
def test_backed_mudata_trains_to_the_same_curve(mdata, tmp_path, kind):
    "Counts, pairs, sizes, batch and covariates of a mini-batch belong to the same cells, wherever the data lie."
    data = mdata.copy()
    if kind == "dense genes":
        data["rna"].X = data["rna"].X.toarray()
    if kind == "junctions without X":
        data["splicing"].X = None
    data.write(tmp_path / "data.h5mu")
    in_memory, backed = mudata.read_h5mu(tmp_path / "data.h5mu"), mudata.read_h5mu(tmp_path / "data.h5mu", backed="r")
    m1, one = curve(in_memory)
    m2, two = curve(backed)
    np.testing.assert_allclose(two, one, rtol=1e-4)
    np.testing.assert_allclose(m2.get_latent_representation(), m1.get_latent_representation(), atol=1e-3)
    rows = [70, 3, 3, 15]
    np.testing.assert_allclose(
        m2.get_normalized_expression(indices=rows, return_numpy=True),
        m1.get_normalized_expression(indices=rows, return_numpy=True),
        rtol=1e-3,
    )


def concatenated(mdata):
    "The same cells as an AnnData of genes followed by junctions."
    rna, junctions = mdata["rna"], mdata["splicing"]
    both = lambda x, y: sp.hstack([x, y]).tocsr()
    empty = sp.csr_matrix(rna.shape, dtype=np.float32)
    layers = {k: both(empty, junctions.layers[k]) for k in ("cell_by_junction_matrix", "psi_mask")}
    var = pd.concat([rna.var[[]], junctions.var[["event_id"]]])
    zeros = sp.csr_matrix(junctions.shape, dtype=np.float32)
    out = AnnData(both(rna.X, zeros), obs=mdata.obs.copy(), var=var, layers=layers)
    out.obsm["X_library_size"] = mdata.obsm["X_library_size"]
    return out


def test_backed_anndata_trains_to_the_same_curve(mdata, tmp_path):
    "An AnnData whose X stays on disk gives the same training as one in memory."
    concatenated(mdata).write(tmp_path / "data.h5ad")
    sizes = dict(n_genes=40, n_junctions=60)
    given = dict(setup=SPLICEVI.setup_anndata, model=sizes)
    _, one = curve(read_h5ad(tmp_path / "data.h5ad"), **given)
    _, two = curve(read_h5ad(tmp_path / "data.h5ad", backed="r"), **given)
    np.testing.assert_allclose(two, one, rtol=1e-4)


class Modes(scvi.train._callbacks.Callback if hasattr(scvi.train._callbacks, "Callback") else object):
    "Whether the module was in training mode at each training step."


def modes_of(model, **kwargs):
    "Training modes of the module at the steps of a training."
    seen, forward = [], model.module.forward

    def watched(*args, **kw):
        if torch.is_grad_enabled():
            seen.append(model.module.training and all(m.training for m in model.module.modules()))
        return forward(*args, **kw)

    model.module.forward = watched
    try:
        model.train(max_epochs=2, batch_size=64, **QUIET, **kwargs)
    finally:
        del model.module.forward
    return seen


def test_every_training_is_in_training_mode(mdata, tmp_path):
    "A second training, one after loading, and one watched by a callback that predicts, drop out as the first does."
    from lightning.pytorch.callbacks import Callback

    SPLICEVI.setup_mudata(mdata)
    model = SPLICEVI(mdata, n_latent=4)

    class Predicts(Callback):
        def on_train_batch_end(self, *args):
            model.get_latent_representation(indices=[0, 1])

    assert all(modes_of(model)) and all(modes_of(model))
    model.save(tmp_path / "model")
    assert all(modes_of(SPLICEVI.load(tmp_path / "model", mdata)))
    assert all(modes_of(model, callbacks=[Predicts()]))
    assert not model.module.training
    model.module.train()
    model.get_latent_representation(indices=[0])
    assert model.module.training


def reference_and_query(mdata, one_batch: bool, **kwargs):
    "A trained reference, its cells, and cells of a new batch."
    cells, query = mdata[:80].copy(), mdata[80:].copy()
    for part, name in ((cells, "ref"), (query, "new")):
        if one_batch or part is query:
            part.obs["batch"] = pd.Categorical([name] * part.n_obs)
    setup = {k: kwargs.pop(k) for k in ("categorical_covariate_keys", "size_factor_key") if k in kwargs}
    SPLICEVI.setup_mudata(cells, batch_key="batch", **setup)
    model = SPLICEVI(cells, n_latent=4, **kwargs)
    model.train(max_epochs=3, lr=1e-3, batch_size=32, **QUIET)
    return model, cells, query


def decoded(model, cells):
    "What a model says of some cells."
    out = {
        "psi": model.get_normalized_splicing(cells, return_numpy=True),
        "rho": model.get_normalized_expression(cells, return_numpy=True),
    }
    for part in ("joint", "expression", "splicing"):
        out[part] = model.get_latent_representation(cells, modality=part)
    return out | {"library": model.get_library_size_factors(cells)["expression"]}


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(one_batch=True),
        dict(one_batch=False),
        dict(one_batch=False, categorical_covariate_keys=["site"]),
        dict(
            one_batch=True,
            encode_covariates=True,
            splicing_decoder_architecture="vanilla",
            expression_architecture="vanilla",
        ),
        dict(one_batch=False, dispersion="gene-batch", deeply_inject_covariates=True, encode_covariates=True),
        dict(one_batch=True, dispersion="gene-batch"),
    ],
    ids=str,
)
def test_a_query_leaves_the_reference_as_it_was(mdata, kwargs):
    "Mapping cells of a new batch, trained or not, changes nothing that the model says of reference cells."
    data = mdata.copy()
    del data.obsm["X_library_size"]  # a library encoder is learned
    model, cells, query = reference_and_query(data, **kwargs)
    before, theta = decoded(model, cells), model.module.px_r.detach().clone()
    mapped = SPLICEVI.load_query_data(query, model)
    mapped.is_trained_ = True  # as it was loaded
    for key, value in decoded(mapped, cells).items():
        np.testing.assert_allclose(value, before[key], atol=1e-6, rtol=1e-5, err_msg=f"{key}, loaded")
    start = decoded(mapped, query)
    mapped.train(max_epochs=3, lr=1e-2, batch_size=20, weight_decay=0.1, **QUIET)
    for key, value in decoded(mapped, cells).items():
        np.testing.assert_allclose(value, before[key], atol=1e-6, rtol=1e-5, err_msg=f"{key}, trained")
    assert torch.equal(mapped.module.px_r[..., : theta.shape[-1]] if theta.dim() > 1 else mapped.module.px_r, theta)
    assert not np.allclose(decoded(mapped, query)["psi"], start["psi"], atol=1e-5), "the new batch learns"


def test_a_new_batch_starts_at_the_mean_of_the_known_ones(mdata):
    "Before it is trained, a new batch is decoded as the average over the reference's batches on the decoder's scale."
    model, cells, query = reference_and_query(mdata, one_batch=False, splicing_loss_type="binomial")
    mapped = SPLICEVI.load_query_data(query, model)
    mapped.is_trained_ = True
    logit = lambda p: np.log(p) - np.log1p(-p)
    known = [
        logit(mapped.get_normalized_splicing(cells, transform_batch=b, return_numpy=True))
        for b in cells.obs["batch"].cat.categories
    ]
    new = logit(mapped.get_normalized_splicing(cells, transform_batch="new", return_numpy=True))
    np.testing.assert_allclose(new, np.mean(known, axis=0), atol=1e-4)


def without_junctions(query, share, seed=0):
    "The query without a share of its junctions."
    keep = np.sort(
        np.random.default_rng(seed).permutation(query["splicing"].n_vars)[int(share * query["splicing"].n_vars) :]
    )
    return mudata.MuData({"rna": query["rna"].copy(), "splicing": query["splicing"][:, keep].copy()}), keep


def test_missing_junctions_are_unobserved_not_zero(mdata):
    "Of a query that lacks junctions their events count as unobserved, as if they were hidden in the full query."
    from splicevi.data.pairs import event_codes

    model, _cells, query = reference_and_query(mdata, one_batch=True)
    part, keep = without_junctions(query, 0.3)
    part.obs["batch"] = query.obs["batch"]
    part.obsm["X_library_size"] = query.obsm["X_library_size"]
    with pytest.warns(UserWarning, match="18 of 60 junctions.*unobserved"):
        mapped = SPLICEVI.load_query_data(part, model)
    codes = event_codes(query["splicing"].var["event_id"])[0]
    lost = np.isin(codes, np.setdiff1d(codes, []) if not len(keep) else codes[np.setdiff1d(np.arange(60), keep)])
    hidden = query.copy()
    for name in list(hidden["splicing"].layers):
        layer = hidden["splicing"].layers[name].tolil()
        layer[:, np.flatnonzero(lost)] = 0
        hidden["splicing"].layers[name] = layer.tocsr()
    hidden["splicing"].X = hidden["splicing"].layers["junc_ratio"]
    other = SPLICEVI.load_query_data(hidden, model)
    mapped.is_trained_ = other.is_trained_ = True
    for modality in ("joint", "splicing", "expression"):
        np.testing.assert_allclose(
            mapped.get_latent_representation(modality=modality),
            other.get_latent_representation(modality=modality),
            atol=1e-5,
        )
    assert mapped.get_normalized_splicing().shape == (40, 60)
    assert part["splicing"].n_vars == len(keep), "the user's object is as it was"


def test_prepare_query_mudata(mdata):
    "scvi-tools' way to prepare a query gives an object with the reference's features, in its order."
    model, _cells, query = reference_and_query(mdata, one_batch=True)
    part, _keep = without_junctions(query, 0.2)
    part.obs["batch"] = query.obs["batch"].astype(str)
    part.obsm["X_library_size"] = query.obsm["X_library_size"]
    ready = SPLICEVI.prepare_query_mudata(part, model, inplace=False)
    assert list(ready["splicing"].var_names) == list(model.junction_names)
    names = SPLICEVI.prepare_query_mudata(part, model, return_reference_var_names=True)
    assert list(names["splicing"]) == list(model.junction_names)
    mapped = SPLICEVI.load_query_data(ready, model)
    mapped.train(max_epochs=1, **QUIET)
    assert mapped.get_latent_representation().shape == (40, 4)


@pytest.mark.slow
def test_a_query_without_a_third_of_the_junctions_finds_its_types():
    "With 30 % of the junctions absent, clusters of the joint latents are those of the full data."
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    data = simulate(n_cells=1500, n_genes=300, n_junctions=1500, n_cell_types=5, observed=0.15, seed=1)
    cells, query = data[:1000].copy(), data[1000:].copy()
    cells.obs["batch"], query.obs["batch"] = "ref", "new"
    SPLICEVI.setup_mudata(cells, batch_key="batch")
    model = SPLICEVI(cells, n_latent=10)
    model.train(max_epochs=100, lr=1e-3, n_epochs_kl_warmup=20, **QUIET)
    part, _ = without_junctions(query, 0.3)
    part.obs["batch"] = query.obs["batch"]
    full = SPLICEVI.load_query_data(query, model)
    with pytest.warns(UserWarning, match="unobserved"):
        mapped = SPLICEVI.load_query_data(part, model)
    full.is_trained_ = mapped.is_trained_ = True
    found = [KMeans(5, n_init=10, random_state=0).fit_predict(m.get_latent_representation()) for m in (full, mapped)]
    assert adjusted_rand_score(*found) >= 0.95


def test_integer_batches_are_names_not_positions(mdata):
    "Of batches 1, 2, 3 the number 1 is the first, 0 and True are none; positions count where names are no numbers."
    data = mdata.copy()
    data.obs["batch"] = np.random.default_rng(0).choice([1, 2, 3], data.n_obs)
    SPLICEVI.setup_mudata(data, batch_key="batch")
    model = SPLICEVI(data, n_latent=4)
    codes = model._batch_codes
    assert codes([1, 2, 3]) == [0, 1, 2] and codes(3) == [2]
    for wrong in (0, True, 4, 1.5, "1"):
        with pytest.raises(ValueError, match="is no batch of the model; batches are 1, 2, 3"):
            codes(wrong)
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    named = SPLICEVI(mdata, n_latent=4)
    assert named._batch_codes([0, 1]) == [0, 1]
    with pytest.raises(ValueError, match="is no batch"):
        named._batch_codes(True)


def test_a_seed_makes_decoded_differences_repeatable(mdata):
    "`seed` holds for norm_splicing_function='decoder' too, and leaves the global random state alone."
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = SPLICEVI(mdata, n_latent=4)
    model.train(max_epochs=2, **QUIET)
    ask = lambda seed: model.differential_splicing(
        groupby="cell_type", group1="type_1", group2="type_2", norm_splicing_function="decoder", seed=seed, silent=True
    )
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = ask(0)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    pd.testing.assert_frame_equal(one, ask(0))
    assert not one.equals(ask(1))


def test_the_elbo_is_reconstruction_and_kl(mdata):
    "The alignment penalty is a term and a curve of its own: models with and without it are compared by their ELBO."
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = SPLICEVI(mdata, n_latent=4)
    model.train(max_epochs=3, lr=1e-3, batch_size=32, **QUIET)
    h = {k: v.to_numpy().astype(float).ravel() for k, v in model.history.items()}
    for part in ("train", "validation"):
        np.testing.assert_allclose(
            h[f"elbo_{part}"],
            h[f"reconstruction_loss_{part}"] + h[f"kl_local_{part}"] + h[f"kl_global_{part}"],
            rtol=1e-4,
        )
        np.testing.assert_allclose(h[f"kl_local_{part}"], h[f"kl_z_{part}"], rtol=1e-3)
        assert (h[f"alignment_penalty_{part}"] > 0).all()


def test_validation_cells_do_not_enter_the_start(mdata):
    "Pooled PSI, biases and concentrations that training starts from are those of the training cells."

    def start(data, **kwargs):
        scvi.settings.seed = 0
        SPLICEVI.setup_mudata(data, batch_key="batch")
        model = SPLICEVI(data, n_latent=4)
        model.train(max_epochs=1, lr=1e-12, weight_decay=0, **QUIET, **kwargs)
        return model

    model = start(mdata)
    rows = model.train_indices
    changed = mdata.copy()
    others = np.setdiff1d(np.arange(mdata.n_obs), rows)
    for name in ("cell_by_junction_matrix",):
        y = changed["splicing"].layers[name].tolil()
        y[others] = 0
        changed["splicing"].layers[name] = y.tocsr()
    for name in ("cell_by_cluster_matrix", "psi_mask", "junc_ratio"):
        del changed["splicing"].layers[name]
    x = changed["rna"].X.tolil()
    x[others] = 7
    changed["rna"].X = x.tocsr()
    other = start(changed)
    assert np.array_equal(other.train_indices, rows)
    for name in ("z_encoder_splicing.psi_mean", "splicing_decoder.layers.fc_layers.Layer 0.0.bias", "log_phi_j"):
        a, b = (dict(m.module.state_dict())[name] for m in (model, other))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["counts", "lr", "covariate"])
def test_what_is_not_finite_stops_training(mdata, where):
    "A loss that is not finite ends training with where it happened; the weights of the last finite step stay."
    data = mdata.copy()
    kwargs = dict(max_epochs=3, batch_size=32)
    SPLICEVI.setup_mudata(data, batch_key="batch", continuous_covariate_keys=["age"])
    model = SPLICEVI(data, n_latent=4, encode_covariates=True)
    if where == "counts":
        data["rna"].X.data[:] = np.float32(1e38)
    if where == "covariate":
        data.obsm["_scvi_extra_continuous_covs"].iloc[5] = np.nan
    if where == "lr":
        kwargs["lr"] = 1e6
    with pytest.raises((ValueError, FloatingPointError), match="not finite|NaN|infinite"):
        model.train(**kwargs, **QUIET)
    assert all(torch.isfinite(p).all() for p in model.module.parameters())


def test_counts_in_a_layer_are_aggregated(mdata):
    "Metacells add counts up, also where X holds logs and the counts are in a layer."
    from splicevi.data.metacells import aggregate_cells

    data = mdata.copy()
    data["rna"].layers["counts"] = data["rna"].X.copy()
    data["rna"].X = data["rna"].X.log1p()
    with pytest.warns(UserWarning, match="rna_layer='counts'"):
        aggregate_cells(data, by="cell_type", size=10)
    pooled = aggregate_cells(data, by="cell_type", size=10, rna_layer="counts")
    assert pooled["rna"].X.sum() == data["rna"].layers["counts"].sum()
    assert pooled["rna"].layers["counts"].sum() == data["rna"].layers["counts"].sum()


def outside(limits):
    "Values that a number must not have: beyond its bounds, on those that are excluded, and none at all."
    out = [float("nan"), float("inf"), "1", True]
    out += [limits.least - 1] + [limits.least] * limits.above if np.isfinite(limits.least) else []
    out += [limits.most + 1] + [limits.most] * limits.below if np.isfinite(limits.most) else []
    return out + [max(limits.least, 0) + 0.5] * limits.whole + [None] * (not limits.optional)


def numbers_of(kind):
    "Name and limits of each number among the arguments of the constructor or of train."
    if kind == "train":
        return list(TRAIN_LIMITS.items())
    return [(name, kind) for name, kind in kinds_of(Options).items() if isinstance(kind, Limits)]


@pytest.mark.parametrize("kind", ["constructor", "train"])
def test_numbers_out_of_range_are_refused(mdata, kind):
    "Each number is tried beyond its limits; the error names it and says what it may be, and nothing has been trained."
    SPLICEVI.setup_mudata(mdata)
    model = SPLICEVI(mdata, n_latent=4)
    call = model.train if kind == "train" else lambda **kwargs: SPLICEVI(mdata, **kwargs)
    tried = 0
    for name, limits in numbers_of(kind):
        for value in outside(limits):
            with pytest.raises((ValueError, TypeError), match=rf"^{name}=.*must be {re.escape(str(limits))}"):
                call(**{name: value})
            tried += 1
    assert tried > 40 and not model.is_trained


def test_numbers_on_their_limits_are_taken(mdata):
    "What the limits include is allowed, by the same table."
    for kind in ("constructor", "train"):
        for name, limits in numbers_of(kind):
            for value in (limits.least, limits.most, 1):
                if np.isfinite(value) and not (value == limits.least and limits.above):
                    check_number(name, value, limits) if value < limits.most or not limits.below else None
            if limits.optional:
                check_number(name, None, limits)


def test_what_has_no_effect_is_told(mdata):
    "A concentration of another likelihood, a penalty between spaces that are not mixed."
    SPLICEVI.setup_mudata(mdata)
    with pytest.warns(UserWarning, match="splicing_loss_type='dirichlet_multinomial' it has no effect"):
        SPLICEVI(mdata, n_latent=4, splicing_concentration=5.0)
    with pytest.warns(UserWarning, match="modality_penalty has no effect"):
        SPLICEVI(mdata, n_latent=4, modality_weights="concatenate", modality_penalty="MMD")
    with pytest.raises(ValueError, match="max_nobs=0 handles no pair"):
        SPLICEVI(mdata, n_latent=4, max_nobs=0)


def small(data, **setup):
    "A model of the data, trained for two epochs."
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(data, **({"batch_key": "batch"} | setup))
    model = SPLICEVI(data, n_latent=4, encode_covariates=True)
    model.train(max_epochs=2, lr=1e-2, batch_size=32, **QUIET)
    return model


def test_cells_in_another_order_in_one_modality_are_refused(mdata):
    "Rows are put together by position, so a modality in another order would give each cell another cell's splicing."
    from splicevi.data.metacells import aggregate_cells

    model = small(mdata.copy())
    mixed = mudata.MuData({"rna": mdata["rna"].copy(), "splicing": mdata["splicing"][::-1].copy()})
    mixed.obs["batch"], mixed.obs["cell_type"] = mdata.obs["batch"], mdata.obs["cell_type"]
    mixed.obsm["X_library_size"] = mdata.obsm["X_library_size"]
    asked = [
        model.get_latent_representation,
        model.get_normalized_splicing_DM,
        lambda d: aggregate_cells(d, "cell_type"),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=r"mdata\['splicing'\].*another order than in the MuData.*Fix"):
            ask(mixed)
    model.adata.mod["splicing"] = model.adata["splicing"][::-1].copy()
    with pytest.raises(ValueError, match="another order"):
        model.get_latent_representation()


def test_a_second_setup_leaves_the_first_model_its_columns(mdata):
    "A model trains and is asked with its own batch and covariates, also after its data were set up for another."

    def trained(interfere: bool):
        data = mdata.copy()
        scvi.settings.seed = 0
        SPLICEVI.setup_mudata(data, batch_key="batch", continuous_covariate_keys=["age"])
        model = SPLICEVI(data, n_latent=4, encode_covariates=True)
        if interfere:
            data.obs["other"], data.obs["minus"] = np.arange(120) % 3, -5 * data.obs["age"]
            SPLICEVI.setup_mudata(data, batch_key="other", continuous_covariate_keys=["minus"])
        model.train(max_epochs=2, lr=1e-2, batch_size=32, **QUIET)
        return model

    one, two = trained(False), trained(True)
    np.testing.assert_array_equal(one.history["elbo_train"], two.history["elbo_train"])
    np.testing.assert_array_equal(one.get_latent_representation(), two.get_latent_representation())


def test_a_second_setup_keeps_the_codes_of_the_first_model(mdata):
    "The code of a batch that has gone from the data since is not given to another."
    data = mdata.copy()
    model = small(data)
    last = data.obs["batch"].cat.categories[-1]
    as_last = model.get_normalized_expression(transform_batch=last)[data.obs["batch"] == last]
    data.obs["batch"] = pd.Categorical([last] * 120)
    SPLICEVI.setup_mudata(data)
    np.testing.assert_array_equal(model.get_normalized_expression().loc[as_last.index], as_last)
    assert set(model.adata_manager.get_from_registry("batch").ravel()) == {1}


@pytest.mark.parametrize("column", ["batch", "site", "age"])
def test_columns_edited_after_setup_are_seen(mdata, column):
    "What is said of edited cells is what is said of a new object with the same values; unknown ones are refused."
    data = mdata.copy()
    model = small(data, categorical_covariate_keys=["site"], continuous_covariate_keys=["age"])
    before = model.get_latent_representation()
    data.obs[column] = data.obs[column].to_numpy()[::-1]
    after = model.get_latent_representation()
    assert not np.allclose(after, before, atol=1e-3)
    np.testing.assert_array_equal(after, model.get_latent_representation(data.copy()))
    data.obs[column] = "unheard of"
    with pytest.raises((ValueError, TypeError), match="unheard of|numbers are needed"):
        model.get_latent_representation()


def test_gene_counts_edited_in_an_anndata_are_seen(mdata):
    "Counts that are edited in place among concatenated features are read again, as those of a MuData are."
    data = concatenated(mdata)
    SPLICEVI.setup_anndata(data, batch_key="batch")
    model = SPLICEVI(data, n_latent=4, n_genes=40, n_junctions=60)
    model.train(max_epochs=2, lr=1e-2, **QUIET)
    before = model.get_latent_representation()
    data.X.data *= 5
    after = model.get_latent_representation()
    assert not np.allclose(after, before, atol=1e-3)
    np.testing.assert_array_equal(after, model.get_latent_representation(data.copy()))


@pytest.mark.parametrize("modality", ["rna", "splicing"])
def test_features_of_the_own_data_in_another_order_are_refused(mdata, modality):
    "A model's data are read by position: genes or junctions that were sorted after setup would be taken for others."
    model = small(mdata.copy())
    model.adata.mod[modality] = model.adata[modality][:, ::-1].copy()
    for ask in (model.get_latent_representation, lambda: model.train(max_epochs=1, **QUIET)):
        with pytest.raises(ValueError, match=rf"features of mdata\['{modality}'\] have been changed since"):
            ask()


def test_views_are_refused_with_what_to_do(mdata):
    "A part of a data set, or a data set of parts, is copied before it is set up."
    with pytest.raises(ValueError, match=r"mdata is a view.*mdata = mdata\.copy\(\)"):
        SPLICEVI.setup_mudata(mdata[:60])
    parts = mudata.MuData({"rna": mdata["rna"][:, :30], "splicing": mdata["splicing"].copy()})
    with pytest.raises(ValueError, match=r"mdata\.mod\['rna'\] = mdata\['rna'\]\.copy\(\)"):
        SPLICEVI.setup_mudata(parts)
    with pytest.raises(ValueError, match=r"adata = adata\.copy\(\)"):
        SPLICEVI.setup_anndata(concatenated(mdata)[:60])


def test_other_events_of_new_data_are_told(mdata):
    "Reads are counted by the model's events; data that group their junctions otherwise are not taken in silence."
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = SPLICEVI(mdata, n_latent=4)
    model.train(max_epochs=1, **QUIET)
    other = mdata.copy()
    for name in ("cell_by_cluster_matrix", "psi_mask", "junc_ratio"):
        del other["splicing"].layers[name]
    renamed, regrouped = other.copy(), other.copy()
    var = renamed["splicing"].var
    var["event_id"] = "new " + var["event_id"].astype(str)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same = model.get_latent_representation(renamed)
    np.testing.assert_allclose(same, model.get_latent_representation(), atol=1e-5)
    var = regrouped["splicing"].var
    first = var["event_id"].astype(str)
    var["event_id"] = first.where(
        first != first.iloc[0], first.iloc[-1]
    )  # the first event's junctions in the last event
    n = int(first.isin([first.iloc[0], first.iloc[-1]]).sum())
    with pytest.warns(UserWarning, match=f"{n} junctions are in other events .* than in the model's"):
        np.testing.assert_allclose(model.get_latent_representation(regrouped), same, atol=1e-5)


@pytest.mark.parametrize("setup_with", ["array", "table"])
def test_size_factors_of_new_data_may_be_an_array_or_a_table(mdata, setup_with):
    "One number a cell, whatever the column is called."
    sizes = mdata.obsm["X_library_size"]
    forms = {"array": sizes, "table": pd.DataFrame({"reads": sizes.ravel()}, mdata.obs_names)}
    data, new = mdata.copy(), mdata.copy()
    data.obsm["size"] = forms.pop(setup_with)
    SPLICEVI.setup_mudata(data, size_factor_key="size")
    model = SPLICEVI(data, n_latent=4)
    model.train(max_epochs=1, **QUIET)
    new.obsm["size"] = forms.popitem()[1]
    ask = lambda *a: model.get_normalized_expression(*a, return_numpy=True)
    np.testing.assert_allclose(ask(new), ask(), rtol=1e-4)


def test_copies_of_a_model(mdata, tmp_path):
    "A deep copy has data, weights and history of its own, also where the data are on disk; shallow ones share them."
    mdata.write(tmp_path / "data.h5mu")
    for data in (mdata.copy(), mudata.read_h5mu(tmp_path / "data.h5mu", backed="r")):
        model, _ = curve(data)
        other = copy.deepcopy(model)
        before = model.get_latent_representation()
        assert other.is_trained and np.array_equal(other.train_indices, model.train_indices)
        pd.testing.assert_frame_equal(other.history["elbo_train"], model.history["elbo_train"])
        other.train(max_epochs=1, lr=0.01, **QUIET)
        assert np.array_equal(model.get_latent_representation(), before)
        assert not np.allclose(other.get_latent_representation(), before)
        assert copy.copy(model).module is model.module
    with pytest.raises(TypeError, match="SPLICEVI can't be pickled.*SPLICEVI.load"):
        pickle.dumps(model)


def test_nothing_to_learn_in_the_background(mdata):
    "A query without a new batch has nothing to learn; the handle of the run is there all the same."
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = SPLICEVI(mdata, n_latent=4)
    model.train(max_epochs=1, **QUIET)
    query = SPLICEVI.load_query_data(mdata.copy(), model)
    with pytest.warns(UserWarning, match="Nothing is left to learn"):
        run = query.train(max_epochs=1, background=True, **QUIET)
    assert run.wait(5) and query.is_trained


@pytest.mark.parametrize("x", ["X", "layer", "none"])
def test_what_backed_data_show(mdata, tmp_path, x):
    "Figures, rankings and the explorer's genes are those of the data in memory, also where a modality has no X."
    data, layer = mdata.copy(), "counts" if x == "layer" else None
    if x != "X":
        data["rna"].layers["counts"], data["rna"].X, data["splicing"].X = data["rna"].X, None, None
    data.write(tmp_path / "data.h5mu")
    gene, held = data["rna"].var["gene_name"].iloc[3], hold_out(mdata, seed=0)[1]
    found, protocols = [], []
    for backed in (None, "r"):
        d = mudata.read_h5mu(tmp_path / "data.h5mu", backed=backed)
        shown = [event_data(d, rna_layer=layer).expression(gene), *coverage_values(d, rna_layer=layer).values()]
        shown.append(rank_selection(d, np.arange(40)).events["score"])
        protocols.append(sequencing_protocol(d).evidence)
        if x == "none":
            assert shown[0] is None
            with pytest.raises(ValueError, match="name the layer of its counts with rna_layer"):
                neighbor_psi(d, held)
            with pytest.raises(ValueError, match="the gene counts are missing"):
                SPLICEVI.setup_mudata(d, size_factor_key="X_library_size")
        else:
            shown.append(neighbor_psi(d, held, rna_layer=layer))
        found.append([s for s in shown if s is not None])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-6)
    pd.testing.assert_frame_equal(*protocols)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_training_leaves_the_number_of_threads(mdata, tmp_path, where):
    "PyTorch has as many threads as before, in this thread and in those that come later."
    data = mdata.copy()
    if where == "file":
        data.write(tmp_path / "data.h5mu")
        data = mudata.read_h5mu(tmp_path / "data.h5mu", backed="r")
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        curve(data)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 8 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
