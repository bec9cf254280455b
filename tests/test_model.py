"""Every option of the model changes what it should; awkward data train; nothing is lost on the way to disk and back."""

import logging

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse
from torch import nn

from splicevi import SPLICEVI
from splicevi.core import KEYS
from splicevi.data.build import assemble_mudata, make_mudata
from splicevi.data.pairs import event_codes
from splicevi.datasets import simulate
from splicevi.nn.encoders import MLPInteraction, PartialEncoder, VanillaEncoder
from splicevi.nn.loader import get_store
from splicevi.nn.plan import SplicingTrainingPlan

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")
N_CELLS, N_GENES, N_JUNCTIONS = 90, 40, 60


@pytest.fixture(scope="module")
def source():
    "A small data set that no test changes."
    return simulate(n_cells=N_CELLS, n_genes=N_GENES, n_junctions=N_JUNCTIONS, n_cell_types=3, observed=0.4, seed=0)


@pytest.fixture
def mdata(source):
    return source.copy()


@pytest.fixture
def build(mdata):
    "A model of the small data set."

    def make(setup=None, **options):
        scvi.settings.seed = 0
        SPLICEVI.setup_mudata(mdata, **({"batch_key": "batch"} | (setup or {})))
        model = SPLICEVI(mdata, **({"n_latent": 4} | options))
        model.is_trained_ = True  # scvi-tools refuses to answer for an untrained model
        return model

    return make


def fit(model, **options):
    "A short, silent training."
    scvi.settings.seed = 0
    model.is_trained_ = False
    model.train(**(dict(max_epochs=2, lr=1e-3, batch_size=32, enable_progress_bar=False, accelerator="cpu") | options))
    return model


def finite(model):
    "Whether all recorded losses are finite numbers."
    return all(np.isfinite(h.astype(float).to_numpy()).all() for h in model.history.values())


def outputs(model):
    "Posteriors and decoder outputs of the first 20 cells without noise."
    model.module.eval()
    tensors = next(iter(model._make_data_loader(adata=model.adata, batch_size=20)))
    with torch.no_grad():
        q = model.module.inference(**model.module._get_inference_input(tensors))
        out = model.module.generative(**model.module._get_generative_input(tensors, q, use_z_mean=True))
        return tensors, q, out, model.module.loss(tensors, q, out)


# ---------------------------------------------------------------- constructor


@pytest.mark.parametrize("rule", ["equal", "universal", "cell", "per_dimension_weighted_average", "concatenate"])
def test_mixing_rule(build, rule):
    model = fit(build(modality_weights=rule))
    joint, e, s = (model.get_latent_representation(modality=m) for m in ("joint", "expression", "splicing"))
    assert finite(model)
    if rule == "concatenate":
        np.testing.assert_allclose(joint, np.hstack([e, s]), atol=1e-5)
        assert model.module.splicing_decoder.head.in_features == 8 + 2  # both spaces, and two batches
        return
    w = (joint - e) / (s - e)  # weight of splicing, cells × dimensions
    by_dimension, by_cell = w.std(0).max(), np.median(w.std(1))
    expected = {
        "equal": (0, 0, 0.5),
        "universal": (0, 0, None),
        "cell": (None, 0, None),
        "per_dimension_weighted_average": (0, None, 0.5),
    }[rule]
    tolerance = 2e-2
    assert by_dimension < tolerance if expected[0] == 0 else by_dimension > 0
    assert by_cell < tolerance if expected[1] == 0 else by_cell > 1e-4
    if expected[2]:
        assert abs(np.median(w.mean(1)) - expected[2]) < tolerance
    learned = {"universal": "logits", "cell": "net.2.weight", "per_dimension_weighted_average": "free"}.get(rule)
    if learned:
        assert dict(model.module.mixing.named_parameters())[learned].detach().abs().max() > 0  # starts at 0


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_gene_likelihood(build, likelihood):
    from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

    tensors, _, out, loss = outputs(build(gene_likelihood=likelihood))
    counts, x = out["counts"], tensors["X"]
    mu, theta = counts.log_mu.exp(), counts.log_theta.exp()
    by_hand = {
        "zinb": lambda: ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=counts.gate),
        "nb": lambda: NegativeBinomial(mu=mu, theta=theta),
        "poisson": lambda: torch.distributions.Poisson(mu),
    }[likelihood]()
    np.testing.assert_allclose(loss.reconstruction_loss["expression"], -by_hand.log_prob(x).sum(1).detach(), rtol=1e-3)


@pytest.mark.parametrize(
    "dispersion,shape",
    [("gene", (N_GENES,)), ("gene-batch", (N_GENES, 2)), ("gene-label", (N_GENES, 3)), ("gene-cell", None)],
)
def test_dispersion(build, dispersion, shape):
    model = build(setup={"labels_key": "cell_type"}, dispersion=dispersion)
    if shape is None:
        assert outputs(model)[2]["counts"].log_theta.shape == (20, N_GENES) and not hasattr(model.module, "px_r")
        assert finite(fit(model))
        return
    assert model.module.px_r.shape == shape
    before = outputs(model)
    with torch.no_grad():
        model.module.px_r[..., *([0] if len(shape) == 2 else [])] += 1.0
    after = outputs(model)[3].reconstruction_loss["expression"]
    moved = (after - before[3].reconstruction_loss["expression"]).abs() > 1e-3
    of = {
        "gene": torch.ones(20, dtype=bool),
        "gene-batch": before[0]["batch"].squeeze() == 0,
        "gene-label": before[0]["labels"].squeeze() == 0,
    }[dispersion]
    assert torch.equal(moved, of) and finite(fit(model))


@pytest.mark.parametrize("architecture,made", [("partial", PartialEncoder), ("vanilla", VanillaEncoder)])
def test_splicing_encoder(build, architecture, made):
    model = fit(build(splicing_encoder_architecture=architecture))
    assert isinstance(model.module.z_encoder_splicing, made) and finite(model)


@pytest.mark.parametrize("architecture", ["vanilla", "linear"])
def test_decoders(build, architecture):
    m = fit(
        build(
            splicing_decoder_architecture=architecture,
            expression_architecture=architecture,
            n_hidden=24,
            n_layers_decoder=3,
        )
    ).module
    hidden = list(m.splicing_decoder.layers.fc_layers)
    assert len(hidden) == (3 if architecture == "vanilla" else 1)
    assert m.splicing_decoder.head.in_features == (24 if architecture == "vanilla" else 4 + 2)
    assert (
        (m.expression_decoder.scale.in_features == 24)
        if architecture == "vanilla"
        else hasattr(m.expression_decoder.scale, "fc_layers")
    )


def test_widths_and_depths(build):
    m = build(
        n_hidden=24, n_latent=5, n_layers_encoder=3, encoder_hidden_dim=20, code_dim=6, h_hidden_dim=9, dropout_rate=0.3
    ).module
    e, s = m.z_encoder_expression, m.z_encoder_splicing
    assert [e.mean_encoder.in_features, e.mean_encoder.out_features, len(e.encoder.fc_layers)] == [24, 5, 3]
    assert [
        s.encoder.mean_encoder.in_features,
        len(s.encoder.encoder.fc_layers),
        s.embedding.shape,
        s.interaction.g[0].out_features,
    ] == [20, 3, (N_JUNCTIONS, 6), 9]
    assert {l.p for l in m.modules() if isinstance(l, nn.Dropout)} == {0.3}
    d = build(n_latent=None).module
    assert (d.n_hidden, d.n_latent) == (7, 2)  # √60, √7


@pytest.mark.parametrize("where", ["encoder", "decoder", "both", "none"])
@pytest.mark.parametrize("kind,layer", [("use_batch_norm", nn.BatchNorm1d), ("use_layer_norm", nn.LayerNorm)])
def test_norms(build, where, kind, layer):
    m = build(
        splicing_decoder_architecture="vanilla",
        expression_architecture="vanilla",
        **{"use_batch_norm": "none", "use_layer_norm": "none", kind: where},
    ).module
    has = lambda part: any(isinstance(l, layer) for l in part.modules())
    assert [has(m.z_encoder_expression), has(m.z_encoder_splicing)] == [where in ("encoder", "both")] * 2
    assert [has(m.expression_decoder), has(m.splicing_decoder)] == [where in ("decoder", "both")] * 2


def test_logistic_normal(build):
    model = fit(build(latent_distribution="ln"))
    np.testing.assert_allclose(model.get_latent_representation().sum(1), 1, rtol=1e-4)
    assert finite(model) and abs(fit(build()).get_latent_representation().sum(1) - 1).max() > 1e-2


def test_deep_covariates(build):
    def second(deep):
        m = build(
            deeply_inject_covariates=deep,
            splicing_decoder_architecture="vanilla",
            expression_architecture="vanilla",
            n_hidden=24,
            encoder_hidden_dim=20,
            encode_covariates=True,
        ).module
        layers = (
            m.splicing_decoder.layers,
            m.expression_decoder.px_decoder,
            m.z_encoder_expression.encoder,
            m.z_encoder_splicing.encoder.encoder,
        )
        return [l.fc_layers[1][0].in_features for l in layers]

    assert (second(True), second(False)) == ([26, 26, 26, 22], [24, 24, 24, 20])


def test_encode_covariates(build):
    def moved(encode):
        model = build(encode_covariates=encode)
        tensors, q, *_ = outputs(model)
        inputs = model.module._get_inference_input(tensors)
        inputs["batch_index"] = 1 - inputs["batch_index"]
        with torch.no_grad():
            return (model.module.inference(**inputs)["mean"] - q["mean"]).abs().amax((1, 2))

    assert (moved(True) > 1e-4).all() and (moved(False) == 0).all()


@pytest.mark.parametrize("loss", ["dirichlet_multinomial", "beta_binomial", "binomial"])
def test_splicing_loss(build, loss):
    model = fit(build(splicing_loss_type=loss))
    assert finite(model)
    if loss == "binomial":
        with pytest.raises(ValueError, match="no concentration"):
            model.get_normalized_splicing_DM()
    else:
        assert model.get_normalized_splicing_DM().to_numpy().max() <= 1


def test_concentrations(build):
    fixed = fit(build(splicing_loss_type="beta_binomial", splicing_concentration=7.0)).module
    assert fixed.log_phi_j.exp().item() == pytest.approx(7) and "log_phi_j" not in dict(fixed.named_parameters())
    one = build(dm_concentration="scalar").module
    start = one.log_phi_j.item()
    assert one.log_phi_j.dim() == 0
    model = build(dm_concentration="scalar")
    assert fit(model).module.log_phi_j.item() != start and model.get_normalized_splicing_DM().notna().all().all()


def test_pooling(build):
    latents = [build(pool_mode=mode).get_latent_representation(modality="splicing") for mode in ("mean", "sum")]
    assert np.abs(latents[0] - latents[1]).max() > 1e-3


def test_max_nobs(build, monkeypatch):
    sizes = []
    real = torch.nn.functional.embedding_bag
    monkeypatch.setattr(
        torch.nn.functional, "embedding_bag", lambda *a, **k: sizes.append(a[0].numel()) or real(*a, **k)
    )
    whole, capped = build().get_latent_representation(), None
    most = max(sizes)
    sizes.clear()
    capped = build(max_nobs=50).get_latent_representation()
    np.testing.assert_allclose(whole, capped, atol=1e-4)
    assert max(sizes) == 50 < most


def test_pca_start(build):
    random, pca = (
        build(initialize_embeddings_from_pca=p).module.z_encoder_splicing.embedding.detach() for p in (False, True)
    )
    model = build()
    p, psi = get_store(model.adata_manager).pairs, model.module.z_encoder_splicing.psi_mean.numpy()
    residual = np.zeros(p.shape)
    residual[p.cell, p.junction] = (p.y - p.n * psi[p.junction]) / np.sqrt(p.n + 1)
    axes = np.linalg.svd(residual)[2][:4].T  # the leading directions, by another route
    assert not torch.allclose(random, pca) and pca.std() == pytest.approx(random.std().item(), rel=0.3)
    for k in range(4):
        assert abs(np.corrcoef(pca[:, k], axes[:, k])[0, 1]) > 0.95
    with pytest.raises(ValueError, match="needs splicing_encoder_architecture='partial'"):
        build(initialize_embeddings_from_pca=True, splicing_encoder_architecture="vanilla")


def test_fully_paired(build):
    model = build(fully_paired=True)
    assert model.get_latent_representation().shape == (N_CELLS, 4)
    with pytest.raises(ValueError, match="only a joint latent space"):
        model.get_latent_representation(modality="splicing")


def test_module_kwargs(build):
    model = build(partial_interaction="mlp")
    assert isinstance(model.module.z_encoder_splicing.interaction, MLPInteraction) and finite(fit(model))
    with pytest.raises(TypeError):
        build(not_an_option=1)


# ---------------------------------------------------------------- setup


def concatenated(mdata):
    "The same cells in one AnnData, genes first."
    import anndata as ad

    rna, s = mdata["rna"], mdata["splicing"]
    zeros = sparse.csr_matrix((mdata.n_obs, N_GENES), dtype=np.float32)
    out = ad.AnnData(
        sparse.hstack([rna.X, s.layers[KEYS.junction_counts] * 0], "csr"),
        obs=pd.DataFrame(mdata.obs),
        layers={k: sparse.hstack([zeros, s.layers[k]], "csr") for k in (KEYS.junction_counts, KEYS.event_counts)},
    )
    out.var_names = [*rna.var_names, *s.var_names]
    out.var[KEYS.event] = [None] * N_GENES + list(s.var[KEYS.event])
    return out


def test_anndata_equals_mudata(build, mdata):
    adata = concatenated(mdata)
    SPLICEVI.setup_anndata(adata, batch_key="batch")
    reference = build()
    scvi.settings.seed = 0
    model = SPLICEVI(adata, n_genes=N_GENES, n_junctions=N_JUNCTIONS, n_latent=4)
    model.module.load_state_dict(reference.module.state_dict())
    model.is_trained_ = True
    np.testing.assert_allclose(model.get_latent_representation(), reference.get_latent_representation(), atol=1e-5)
    np.testing.assert_allclose(model.get_normalized_splicing(), reference.get_normalized_splicing(), atol=1e-5)
    assert finite(fit(model)) and list(model.get_normalized_expression().columns) == list(mdata["rna"].var_names)
    for numbers in (dict(n_genes=N_GENES), dict(n_genes=N_GENES, n_junctions=3)):
        with pytest.raises(ValueError, match="n_genes"):
            SPLICEVI(adata, **numbers)


def test_derived_layers_give_the_same_model(build, mdata):
    full = build().get_latent_representation()
    for layer in (KEYS.event_counts, KEYS.psi, KEYS.mask):
        del mdata["splicing"].layers[layer]
    mdata["splicing"].X = None
    np.testing.assert_allclose(build().get_latent_representation(), full, atol=1e-5)


def test_named_layers(build, mdata):
    full = build().get_latent_representation()
    s, rna = mdata["splicing"], mdata["rna"]
    for new, old in (("y", KEYS.junction_counts), ("n", KEYS.event_counts), ("p", KEYS.psi), ("m", KEYS.mask)):
        s.layers[new] = s.layers.pop(old)
    rna.layers["counts"], rna.X = rna.X, rna.X * 0
    names = dict(
        rna_layer="counts", junc_ratio_layer="p", atse_counts_layer="n", junc_counts_layer="y", psi_mask_layer="m"
    )
    np.testing.assert_allclose(build(setup=names).get_latent_representation(), full, atol=1e-5)
    with pytest.raises(KeyError, match="junc_counts_layer='z'"):
        build(setup=names | {"junc_counts_layer": "z"})


def test_mask_hides_events(build, mdata):
    s = mdata["splicing"]
    shown = s.layers[KEYS.mask].copy().tolil()
    shown[:, np.flatnonzero(s.var[KEYS.event] == s.var[KEYS.event].iloc[0])] = 0
    s.layers["shown"] = shown.tocsr()
    pairs = get_store(build(setup={"psi_mask_layer": "shown"}).adata_manager).pairs
    hidden = event_codes(s.var[KEYS.event])[0][0]
    whole = get_store(build().adata_manager).pairs
    assert hidden in whole.observation_event and hidden not in pairs.observation_event and len(pairs) < len(whole)
    z = build(setup={"psi_mask_layer": "shown"}).get_latent_representation()
    reads = s.layers[KEYS.junction_counts].tolil()
    reads[:, np.flatnonzero(s.var[KEYS.event] == s.var[KEYS.event].iloc[0])] = 0
    for layer in (KEYS.event_counts, KEYS.psi, KEYS.mask, "shown"):
        del s.layers[layer]
    s.layers[KEYS.junction_counts], s.X = reads.tocsr(), None
    model = build()  # the same reads, removed instead of hidden
    np.testing.assert_allclose(model.get_latent_representation(), z, atol=1e-5)
    assert get_store(model.adata_manager).pairs.y.sum() == pairs.y.sum()


def test_informative_psi_layer(build, mdata):
    s = mdata["splicing"]
    s.layers["smoothed"] = s.layers[KEYS.psi] * 0.5
    a, b = (
        build(setup={"junc_ratio_layer": k}).get_latent_representation(modality="splicing")
        for k in (KEYS.psi, "smoothed")
    )
    assert np.abs(a - b).max() > 1e-3


def test_size_factors(build, mdata):
    total = np.asarray(mdata["rna"].X.sum(1), dtype=np.float32)
    assert hasattr(build().module, "library_encoder")
    mdata.obsm[KEYS.size_factor] = total / total.mean()  # the default key is found, whatever its scale
    model = build()
    assert not hasattr(model.module, "library_encoder")
    np.testing.assert_allclose(model.get_library_size_factors()["expression"], total.ravel(), rtol=1e-4)
    mdata.obs["size"] = total.ravel() * 2
    np.testing.assert_allclose(
        build(setup={"size_factor_key": "size"}).get_library_size_factors()["expression"], total.ravel(), rtol=1e-4
    )
    with pytest.raises(KeyError, match="neither in mdata.obsm"):
        build(setup={"size_factor_key": "nope"})


def test_covariates(build, mdata):
    rng = np.random.default_rng(0)
    mdata.obs["donor"], mdata.obs["age"], mdata.obs["i"] = (
        rng.choice(["a", "b", "c"], N_CELLS),
        rng.normal(size=N_CELLS),
        np.arange(N_CELLS),
    )
    model = fit(
        build(
            setup=dict(categorical_covariate_keys=["donor"], continuous_covariate_keys=["age"], idx_layer="i"),
            encode_covariates=True,
        )
    )
    assert model.module.splicing_decoder.head.in_features == 4 + 1 + 2 + 3 and finite(model)
    assert next(iter(model._make_data_loader(adata=mdata, indices=[7, 3])))["ind_x"].ravel().tolist() == [7, 3]
    assert model.get_normalized_splicing(n_samples=2, return_mean=False, return_numpy=True).shape == (
        2,
        N_CELLS,
        N_JUNCTIONS,
    )
    with pytest.raises(KeyError, match="continuous_covariate_keys='bmi'"):
        build(setup=dict(continuous_covariate_keys=["bmi"]))


def test_batch_key_in_a_modality(build, mdata):
    mdata["rna"].obs["lane"] = pd.Categorical(["x", "y", "z"] * (N_CELLS // 3))
    assert (
        build(
            setup=dict(
                batch_key="lane", modalities={"rna_layer": "rna", "junc_ratio_layer": "splicing", "batch_key": "rna"}
            )
        ).module.n_batch
        == 3
    )


def test_bad_data_is_refused_with_every_reason(build, mdata):
    s = mdata["splicing"]
    s.layers[KEYS.junction_counts].data[0] = np.nan
    mdata["rna"].X.data[0] = -1
    with pytest.raises(ValueError) as e:
        build()
    assert "negative" in str(e.value) and "NaN" in str(e.value) and KEYS.junction_counts in str(e.value)


def test_setup_leaves_the_data_alone(source, build, mdata):
    columns = set(mdata.obs.columns)
    fit(build())
    for k in ("rna", "splicing"):
        assert set(mdata[k].layers) == set(source[k].layers) and (mdata[k].X != source[k].X).nnz == 0
        for layer in source[k].layers:
            assert (mdata[k].layers[layer] != source[k].layers[layer]).nnz == 0
    assert {c for c in mdata.obs if not c.startswith("_scvi")} == columns


# ---------------------------------------------------------------- awkward data


@pytest.mark.parametrize("only", ["splicing", "expression"])
def test_one_modality(mdata, only):
    key = {"splicing": {"junc_ratio_layer": "splicing"}, "expression": {"rna_layer": "rna"}}[only]
    SPLICEVI.setup_mudata(mdata, modalities=key, batch_key="batch")
    model = fit(SPLICEVI(mdata, n_latent=4))
    assert finite(model) and model.get_latent_representation().shape == (N_CELLS, 4)
    np.testing.assert_array_equal(model.get_latent_representation(), model.get_latent_representation(modality=only))
    absent = {
        "splicing": ["get_normalized_expression", "get_library_size_factors"],
        "expression": ["get_normalized_splicing", "get_normalized_splicing_DM"],
    }[only]
    for method in absent:
        with pytest.raises(ValueError, match=f"set up with {only} only"):
            getattr(model, method)()
    with pytest.raises(ValueError, match="set up with"):
        model.get_latent_representation(modality={"splicing": "expression", "expression": "splicing"}[only])


def test_no_rna_in_the_mudata(mdata):
    alone = assemble_mudata({"splicing": mdata["splicing"].copy()}, mdata.obs)
    SPLICEVI.setup_mudata(alone)
    assert finite(fit(SPLICEVI(alone, n_latent=4)))


@pytest.mark.parametrize(
    "rule,parameter", [("universal", "logits"), ("cell", "net.2.bias"), ("per_dimension_weighted_average", "free")]
)
def test_weights_that_leave_a_modality_nothing(rule, parameter):
    mdata = simulate(n_cells=N_CELLS, n_genes=N_GENES, n_junctions=N_JUNCTIONS, unpaired=0.5, observed=0.4, seed=1)
    SPLICEVI.setup_mudata(mdata)
    model = SPLICEVI(mdata, n_latent=4, modality_weights=rule)
    with torch.no_grad():
        dict(model.module.mixing.named_parameters())[parameter][:2] = torch.tensor([300.0, -300.0])
    assert finite(fit(model)) and np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("rule", ["equal", "universal", "cell", "concatenate", "per_dimension_weighted_average"])
def test_cells_without_a_modality(rule):
    mdata = simulate(n_cells=N_CELLS, n_genes=N_GENES, n_junctions=N_JUNCTIONS, unpaired=0.5, observed=0.4, seed=1)
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = fit(SPLICEVI(mdata, n_latent=4, modality_weights=rule))
    has_rna = np.asarray(mdata["rna"].X.sum(1)).ravel() > 0
    has_reads = np.asarray(mdata["splicing"].layers[KEYS.junction_counts].sum(1)).ravel() > 0
    assert finite(model) and (~has_rna).any() and (~has_reads).any()
    joint, e, s = (model.get_latent_representation(modality=m) for m in ("joint", "expression", "splicing"))
    if rule != "concatenate":
        np.testing.assert_allclose(joint[~has_rna & has_reads], s[~has_rna & has_reads], atol=1e-5)
        np.testing.assert_allclose(joint[has_rna & ~has_reads], e[has_rna & ~has_reads], atol=1e-5)
    assert (e[~has_rna] == 0).all() and (s[~has_reads] == 0).all()
    assert (
        np.isfinite(model.get_normalized_splicing()).all().all()
        and np.isfinite(model.get_normalized_expression()).all().all()
    )


@pytest.mark.parametrize("loss", ["dirichlet_multinomial", "beta_binomial", "binomial"])
def test_sparse_corners(source, loss):
    "A junction without reads, an event in one cell, an empty cell, one batch, one cell type, a last mini-batch of one."
    mdata = source.copy()
    s = mdata["splicing"]
    y = s.layers[KEYS.junction_counts].tolil()
    event = event_codes(s.var[KEYS.event])[0]
    y[:, np.flatnonzero(event == 0)] = 0
    y[5, np.flatnonzero(event == 0)[0]] = 3  # event 0 in one cell, with reads of one junction
    y[:, np.flatnonzero(event == 1)] = 0  # event 1 nowhere
    y[7] = 0
    for layer in list(s.layers):
        del s.layers[layer]
    s.layers[KEYS.junction_counts], s.X = y.tocsr(), None
    x = mdata["rna"].X.tolil()
    x[7] = 0
    mdata["rna"].X = x.tocsr()
    SPLICEVI.setup_mudata(mdata)
    model = SPLICEVI(mdata, n_latent=4, splicing_loss_type=loss)
    assert finite(fit(model, train_size=81 / 90, batch_size=16)) and model.module.n_batch == 1
    psi = model.get_normalized_splicing()
    assert np.isfinite(psi).all().all() and (model.get_latent_representation()[7] == 0).all()
    if loss == "dirichlet_multinomial":
        np.testing.assert_allclose(psi.T.groupby(s.var[KEYS.event]).sum(), 1, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "both"])
def test_last_batch_of_one(build, norm):
    model = fit(build(use_batch_norm=norm), train_size=1.0, early_stopping=False, batch_size=N_CELLS - 1)
    assert finite(model)


def test_without_events(mdata):
    s = mdata["splicing"]
    del s.var[KEYS.event]
    SPLICEVI.setup_mudata(mdata)
    with pytest.raises(ValueError, match="event_id"):
        SPLICEVI(mdata)
    assert finite(fit(SPLICEVI(mdata, n_latent=4, splicing_loss_type="beta_binomial")))
    del s.layers[KEYS.event_counts]
    with pytest.raises(ValueError, match="event_id"):
        SPLICEVI.setup_mudata(mdata)


# ---------------------------------------------------------------- training


def test_optimiser_options(build):
    model = fit(
        build(),
        lr=3e-3,
        weight_decay=0.02,
        eps=1e-6,
        plan_kwargs={"concentration_lr_factor": 2.0, "table_lr_factor": 3.0, "table_lr_max": 1.0},
    )
    main, _classifier = model.trainer.optimizers
    group = {g["name"]: g for g in main.param_groups}
    first, phi = group["networks"], group["concentrations"]
    assert (first["lr"], first["weight_decay"], first["eps"], phi["lr"]) == (3e-3, 0.02, 1e-6, 6e-3) and type(
        main
    ).__name__ == "AdamW"
    assert group["tables"]["lr"] == pytest.approx(9e-3) and any(
        p is model.module.splicing_decoder.head.weight for p in group["tables"]["params"]
    )


@pytest.mark.parametrize("mixing,n", [(True, 2), (False, 1)])
def test_adversarial_mixing(build, mixing, n):
    model = fit(build(), adversarial_mixing=mixing)
    assert len(model.trainer.optimizers) == n and ("adversarial_loss_train" in model.history) == mixing


def test_adversary_acts_on_the_latents(build):
    "The weight of the adversarial loss reaches the encoders; weight 0 leaves them as without an adversary."

    def latents(mixing, scale):
        return fit(
            build(), adversarial_mixing=mixing, max_epochs=4, plan_kwargs={"scale_adversarial_loss": scale}
        ).get_latent_representation()

    alone, idle, auto, strong = latents(False, 1.0), latents(True, 0.0), latents(True, "auto"), latents(True, 30.0)
    assert np.abs(idle - alone).max() < np.abs(strong - alone).max() and np.abs(auto - strong).max() > 1e-3


def test_adversary_learns_the_batches():
    "With the fooling off by the schedule, the classifier finds batches that are in the latent space."
    mdata = simulate(n_cells=300, n_genes=N_GENES, n_junctions=N_JUNCTIONS, n_cell_types=2, seed=0)
    mdata.obs["group"] = mdata.obs["cell_type"]  # what the latents hold for sure
    SPLICEVI.setup_mudata(mdata, batch_key="group")
    model = SPLICEVI(mdata, n_latent=4, encode_covariates=True)
    plan = SplicingTrainingPlan(model.module, adversarial_classifier=True)
    z, group = torch.randn(200, 4), torch.randint(0, 2, (200, 1))
    z[:, 0] += 4 * group.squeeze()
    batch, optimiser = {"batch": group}, plan.configure_optimizers()[0][1]
    losses = []
    for _ in range(300):
        optimiser.zero_grad()
        loss = plan._classifier_loss(z, batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < losses[0]
    assert plan.loss_adversarial_classifier(z, group, False) > 2  # and moving the latents to the other batch would pay


def test_gradient_clipping(build, monkeypatch):
    norms = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, m: norms.append(m) or real(p, m))
    fit(build(), gradient_clipping=True, gradient_clipping_max_norm=0.7)
    assert set(norms) == {0.7}
    norms.clear()
    fit(build(), gradient_clipping=False)
    assert not norms


def test_warm_up_by_epochs_and_steps(build):
    weights = lambda **kw: fit(build(), max_epochs=4, **kw).history["kl_weight"].to_numpy(float).ravel()
    np.testing.assert_allclose(weights(n_epochs_kl_warmup=4), [0, 0.25, 0.5, 0.75])
    steps = 3  # 81 training cells in mini-batches of 32
    np.testing.assert_allclose(
        weights(n_epochs_kl_warmup=None, n_steps_kl_warmup=10),
        [np.minimum(np.arange(e * steps, (e + 1) * steps) / 10, 1) @ [32 / 81, 32 / 81, 17 / 81] for e in range(4)],
        atol=1e-5,
    )


def test_schedules(build):
    rate = lambda m: m.trainer.optimizers[0].param_groups[0]["lr"]
    assert rate(fit(build(), max_epochs=5, lr_scheduler_type="step", step_size=2, lr_factor=0.1)) == pytest.approx(1e-5)
    plateau = dict(
        max_epochs=4, reduce_lr_on_plateau=True, lr_factor=0.5, lr_patience=0, lr_threshold=1e9
    )  # nothing counts as progress
    assert rate(fit(build(), **plateau)) == pytest.approx(1e-3 / 8)
    assert rate(fit(build(), **plateau | {"lr_patience": 2})) == pytest.approx(1e-3 / 2)
    assert rate(fit(build(), **plateau | {"lr_threshold": 0.0, "lr_patience": 30})) == 1e-3
    assert rate(fit(build(), **plateau | {"reduce_lr_on_plateau": False})) == 1e-3
    seen = []
    real = torch.optim.lr_scheduler.ReduceLROnPlateau.step
    for metric in ("elbo_validation", "reconstruction_loss_validation", "kl_local_validation"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch.optim.lr_scheduler.ReduceLROnPlateau, "step", lambda s, m: seen.append(float(m)) or real(s, m)
            )
            model = fit(build(), max_epochs=2, reduce_lr_on_plateau=True, lr_scheduler_metric=metric)
        np.testing.assert_allclose(seen, model.history[metric].to_numpy(float).ravel(), rtol=1e-5)
        seen.clear()
    with pytest.raises(ValueError, match="lr_scheduler_type"):
        fit(build(), lr_scheduler_type="cosine")


def test_early_stopping(build):
    stuck = dict(max_epochs=12, lr=1e-12)
    assert (
        len(fit(build(), early_stopping_patience=3, early_stopping_min_delta=1e9, **stuck).history["elbo_train"]) == 4
    )
    assert len(fit(build(), early_stopping=False, **stuck).history["elbo_train"]) == 12


def test_split_options(build):
    model = fit(build(), train_size=0.5, validation_size=0.2, shuffle_set_split=False)
    assert [len(i) for i in (model.train_indices, model.validation_indices, model.test_indices)] == [45, 18, 27]
    assert list(model.validation_indices) == list(range(18))
    own = [np.arange(70), np.arange(70, 90), np.array([], int)]
    assert list(fit(build(), datasplitter_kwargs={"external_indexing": own}).train_indices) == list(range(70))
    assert (
        len(
            fit(build(), max_epochs=4, early_stopping=False, check_val_every_n_epoch=2)
            .history["elbo_validation"]
            .dropna()
        )
        == 2
    )


def test_batch_size_callbacks_and_trainer_kwargs(build):
    from lightning.pytorch.callbacks import Callback

    class Count(Callback):
        n = 0

        def on_train_batch_end(self, *_):
            self.n += 1

    count = Count()
    fit(build(), batch_size=10, callbacks=[count], limit_train_batches=5)
    assert count.n == 10


def test_seeds_repeat_a_training(build):
    a, b = (fit(build()).get_latent_representation() for _ in range(2))
    np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- what a model says


def test_library_is_learned(build):
    model = fit(build(), max_epochs=5)
    assert model.module.library_encoder.correction.weight.abs().max() > 0


def test_transform_batch(build, mdata):
    model = fit(build(), lr=5e-3, max_epochs=10)
    batches = list(model.adata_manager.get_state_registry("batch").categorical_mapping)
    p = {
        b: model.get_normalized_splicing(transform_batch=b, return_numpy=True)
        for b in (batches[0], batches[1], 0, None)
    }
    np.testing.assert_array_equal(p[batches[0]], p[0])
    assert np.abs(p[batches[0]] - p[batches[1]]).max() > 1e-4
    own = np.where((mdata.obs["batch"] == batches[0]).to_numpy()[:, None], p[batches[0]], p[batches[1]])
    np.testing.assert_allclose(p[None], own, atol=1e-6)
    mean = model.get_normalized_splicing(transform_batch=batches, return_numpy=True)
    np.testing.assert_allclose(mean, (p[batches[0]] + p[batches[1]]) / 2, atol=1e-6)
    e = [model.get_normalized_expression(transform_batch=b, return_numpy=True) for b in (*batches, batches)]
    np.testing.assert_allclose(e[2], (e[0] + e[1]) / 2, atol=1e-6)
    for bad in ("nope", 2, 0.5, True):
        with pytest.raises(ValueError, match="is no batch"):
            model.get_normalized_splicing(transform_batch=bad)


@pytest.mark.parametrize(
    "method,n",
    [
        ("get_normalized_expression", N_GENES),
        ("get_normalized_splicing", N_JUNCTIONS),
        ("get_normalized_splicing_DM", N_JUNCTIONS),
    ],
)
def test_shapes_samples_and_subsets(build, mdata, method, n):
    get = getattr(fit(build()), method)
    features = "gene_list" if n == N_GENES else "junction_list"
    names = list((mdata["rna"] if n == N_GENES else mdata["splicing"]).var_names)
    whole = get()
    assert whole.shape == (N_CELLS, n) and list(whole.index) == list(mdata.obs_names) and list(whole.columns) == names
    pd.testing.assert_frame_equal(
        get(indices=[4, 2], **{features: [names[5], names[1]]}),
        whole.loc[mdata.obs_names[[4, 2]], [names[5], names[1]]],
        rtol=1e-4,
    )
    pd.testing.assert_frame_equal(get(indices=np.arange(N_CELLS) < 3), whole.iloc[:3], rtol=1e-4)
    pd.testing.assert_frame_equal(get(batch_size=7), whole, rtol=1e-4)
    assert isinstance(get(return_numpy=True), np.ndarray)
    draws = get(use_z_mean=False, n_samples=3, return_mean=False, return_numpy=True)
    assert draws.shape == (3, N_CELLS, n) and np.abs(draws[0] - draws[1]).max() > 1e-5
    assert get(use_z_mean=False, n_samples=3).shape == (N_CELLS, n)
    assert get(n_samples_overall=11).shape == (11, n)
    scvi.settings.seed = 3
    once = get(use_z_mean=False, return_numpy=True)
    scvi.settings.seed = 3
    assert np.array_equal(get(use_z_mean=False, return_numpy=True), once)
    with pytest.raises(KeyError, match="nowhere"):
        get(**{features: ["nowhere"]})


def test_progress_bar_only_if_asked(build, capfd):
    model = build()
    model.get_normalized_splicing()
    assert "Decoding" not in "".join(capfd.readouterr())
    model.get_normalized_splicing(silent=False)
    assert "Decoding" in "".join(capfd.readouterr())


def test_latent_samples(build):
    model = fit(build())
    mean, a, b = (
        model.get_latent_representation(),
        *(model.get_latent_representation(give_mean=False) for _ in range(2)),
    )
    assert not np.array_equal(a, b) and np.abs(a - mean).max() > 0.1


# ---------------------------------------------------------------- disk, other data, queries


@pytest.mark.parametrize(
    "options",
    [{}, dict(modality_weights="universal", splicing_loss_type="beta_binomial", initialize_embeddings_from_pca=True)],
)
def test_save_and_load(build, mdata, tmp_path, options):
    model = fit(build(**options))
    z, psi = model.get_latent_representation(), model.get_normalized_splicing(return_numpy=True)
    model.save(tmp_path / "m", save_anndata=True)
    for adata in (mdata, None):
        loaded = SPLICEVI.load(str(tmp_path / "m"), adata)
        assert np.array_equal(loaded.get_latent_representation(), z) and np.array_equal(
            loaded.get_normalized_splicing(return_numpy=True), psi
        )
        assert loaded.is_trained and set(loaded.history) == set(model.history)
    without = SPLICEVI.load(str(tmp_path / "m"), False)
    assert np.array_equal(without.get_latent_representation(mdata.copy()), z)


def test_load_matches_features_by_name(build, mdata, tmp_path):
    model = fit(build())
    model.save(tmp_path / "m")
    shuffled = assemble_mudata({k: mdata[k][:, ::-1].copy() for k in ("rna", "splicing")}, mdata.obs)
    with pytest.warns(UserWarning, match="matched by name"):
        loaded = SPLICEVI.load(str(tmp_path / "m"), shuffled)
    np.testing.assert_allclose(loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-5)


def test_held_out_data(build, mdata):
    model = fit(build())
    z = model.get_latent_representation()
    other = mdata[:30].copy()
    np.testing.assert_allclose(model.get_latent_representation(other), z[:30], atol=1e-5)
    shuffled = assemble_mudata(
        {k: other[k][:, np.random.default_rng(0).permutation(other[k].n_vars)].copy() for k in ("rna", "splicing")},
        other.obs,
    )
    names = {k: list(shuffled[k].var_names) for k in shuffled.mod}
    with pytest.warns(UserWarning, match="matched by name"):
        again = model.get_latent_representation(shuffled)
    np.testing.assert_allclose(again, z[:30], atol=1e-5)
    assert {k: list(shuffled[k].var_names) for k in shuffled.mod} == names
    psi = model.get_normalized_splicing(shuffled)
    assert list(psi.columns) == list(mdata["splicing"].var_names)
    fewer = assemble_mudata({"rna": other["rna"].copy(), "splicing": other["splicing"][:, 2:].copy()}, other.obs)
    with pytest.raises(ValueError, match="2 of the model's 60 features of mdata\\['splicing'\\] are missing"):
        model.get_latent_representation(fewer)


def test_held_out_data_with_reads_alone(build, mdata):
    "Totals, PSI, mask and events of new cells are derived, and the model knows the events."
    model, other = build(), mdata.copy()
    z = model.get_latent_representation()
    for layer in (KEYS.event_counts, KEYS.psi, KEYS.mask):
        del other["splicing"].layers[layer]
    other["splicing"].X = None
    del other["splicing"].var[KEYS.event]
    np.testing.assert_allclose(model.get_latent_representation(other), z, atol=1e-5)
    reads = other["splicing"].layers[KEYS.junction_counts].copy()
    reads.data[0] = -1
    other["splicing"].layers[KEYS.junction_counts] = reads
    with pytest.raises(ValueError, match="negative"):
        model.get_latent_representation(other)


def test_query(build, mdata):
    model = fit(build(), max_epochs=5)
    query = mdata[:40].copy()
    query.obs["batch"] = "new"
    mapped = SPLICEVI.load_query_data(query, model)
    frozen = {k: v.clone() for k, v in mapped.module.state_dict().items()}
    fit(mapped, max_epochs=3)
    changed = {k for k, v in mapped.module.state_dict().items() if not torch.equal(v, frozen[k])}
    assert mapped.module.n_batch == 3 and changed
    w = mapped.module.splicing_decoder.head.weight
    assert torch.equal(
        w[:, :6], frozen["splicing_decoder.layers.fc_layers.Layer 0.0.weight"][:, :6]
    ) and not torch.equal(w[:, 6], frozen["splicing_decoder.layers.fc_layers.Layer 0.0.weight"][:, 6])
    assert all("decoder" in k or "encoder" in k for k in changed)
    assert mapped.get_latent_representation().shape == (40, 4)


def test_elbo_of_scvi_works(build):
    model = fit(build())
    assert np.isfinite(float(model.get_elbo()))


def test_no_prints(build, capsys):
    fit(build()).get_normalized_splicing()
    assert capsys.readouterr().out == ""


def test_make_mudata_goes_straight_in(source):
    joined = make_mudata(source["rna"].copy(), source["splicing"].copy())
    SPLICEVI.setup_mudata(joined)
    assert finite(fit(SPLICEVI(joined, n_latent=4)))


def test_save_replaces_a_model_only_when_it_is_written(build, tmp_path, monkeypatch):
    model = fit(build())
    model.save(tmp_path / "m")
    before = (tmp_path / "m" / "model.pt").read_bytes()
    with pytest.raises(ValueError, match="overwrite"):
        model.save(tmp_path / "m")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda obj, file, **_: (file.write(b"half"), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            model.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "model.pt").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m"]
    model.save(tmp_path / "m", overwrite=True)
    model.save(tmp_path / "m", prefix="second_", overwrite=True)
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"model.pt", "second_model.pt"}


def test_bad_values_in_an_anndata(mdata):
    for key, value, message in (
        (KEYS.junction_counts, -1, "negative"),
        (KEYS.junction_counts, np.nan, "NaN"),
        (KEYS.event_counts, 1e6, "sum of the event"),
    ):
        adata = concatenated(mdata)
        adata.layers[key].data[0] = value
        SPLICEVI.setup_anndata(adata)
        with pytest.raises(ValueError, match=message):
            SPLICEVI(adata, n_genes=N_GENES, n_junctions=N_JUNCTIONS)


def test_plateau_schedule_validates_by_itself(build):
    model = fit(
        build(),
        max_epochs=3,
        early_stopping=False,
        reduce_lr_on_plateau=True,
        lr_factor=0.5,
        lr_patience=0,
        lr_threshold=1e9,
    )
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 4)


def test_edits_of_held_out_data_are_seen(build, mdata):
    "Also in place, and also where the features are in another order."
    model = build()
    for order in (slice(None), slice(None, None, -1)):
        other = assemble_mudata({k: mdata[k][:, order].copy() for k in ("rna", "splicing")}, mdata.obs)
        before = model.get_latent_representation(other)
        other["splicing"].layers[KEYS.mask].data[:] = 0
        other["rna"].X = other["rna"].X * 2
        after = model.get_latent_representation(other)
        assert (
            np.abs(after - before).max() > 1e-3
            and (model.get_latent_representation(other, modality="splicing") == 0).all()
        )


def test_training_without_validation_cells(build):
    with pytest.warns(UserWarning, match="early stopping is off"):
        assert finite(fit(build(), train_size=1.0))
    with pytest.raises(ValueError, match="needs validation cells"):
        fit(build(), train_size=1.0, early_stopping=False, reduce_lr_on_plateau=True)


def test_plan_kwargs_win(build):
    assert (
        fit(build(), plan_kwargs={"lr": 0.02, "optimizer": "Adam"}).trainer.optimizers[0].param_groups[0]["lr"] == 0.02
    )
    with pytest.warns(UserWarning, match="n_epochs_kl_warmup=50 wins"):
        fit(build(), n_steps_kl_warmup=4)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, lambda m: m.toarray()])
def test_forms_of_counts(build, mdata, dtype, form):
    z = build().get_latent_representation()
    for k in (KEYS.junction_counts, KEYS.event_counts):
        mdata["splicing"].layers[k] = form(mdata["splicing"].layers[k].astype(dtype))
    mdata["rna"].X = form(mdata["rna"].X.astype(dtype))
    np.testing.assert_allclose(build().get_latent_representation(), z, atol=1e-5)


def test_fractions_of_reads(build, mdata):
    "Length-normalised reads train under every likelihood."
    s = mdata["splicing"]
    for k in (KEYS.junction_counts, KEYS.event_counts):
        s.layers[k] = s.layers[k] * 0.3
    for loss in ("dirichlet_multinomial", "beta_binomial", "binomial"):
        assert finite(fit(build(splicing_loss_type=loss)))


def test_logistic_normal_repeats(build):
    model = build(latent_distribution="ln")
    np.testing.assert_array_equal(model.get_latent_representation(), model.get_latent_representation())


def test_samples_cost_no_memory_where_the_mean_is_wanted(build):
    import tracemalloc

    model, peak = build(), {}
    for n in (2, 40):
        model.get_normalized_expression(use_z_mean=False, n_samples=n, batch_size=8)
        tracemalloc.start()
        model.get_normalized_expression(use_z_mean=False, n_samples=n, batch_size=8)
        peak[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak[40] < 1.5 * peak[2], peak
    same = model.get_normalized_splicing(n_samples=3, return_mean=False, return_numpy=True)
    assert same.shape == (3, N_CELLS, N_JUNCTIONS) and np.array_equal(same[0], same[2])
    with pytest.raises(ValueError, match="n_samples=0"):
        model.get_normalized_splicing(n_samples=0)


def test_no_host_synchronisation_in_the_loss(build):
    "No operation of the forward or backward pass asks the device for a number."
    from torch.utils._python_dispatch import TorchDispatchMode

    class Asked(TorchDispatchMode):
        names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    for options in (
        {},
        dict(modality_weights="cell", gene_likelihood="nb"),
        dict(splicing_loss_type="beta_binomial", modality_penalty="MMD"),
    ):
        model = build(**options)
        tensors = next(iter(model._make_data_loader(adata=model.adata, batch_size=20)))
        tensors["batch"] = (
            torch.nn.functional.one_hot(tensors["batch"].squeeze(-1).long(), 2).float().argmax(1, keepdim=True)
        )
        Asked.names.clear()
        with Asked():
            model.module(tensors, loss_kwargs={"kl_weight": 0.5, "n_obs": 90})[2].loss.backward()
        assert len(Asked.names) <= ONE_HOT_CHECKS, Asked.names


ONE_HOT_CHECKS = (
    6  # one_hot looks at the range of its codes on CPU (twice for each of three decoder heads); on a GPU it does not
)


def test_missing_values_of_covariates(build, mdata):
    mdata.obs["age"] = np.r_[np.nan, np.ones(N_CELLS - 1)]
    with pytest.raises(ValueError, match="continuous_covariate_keys='age': 1 cells"):
        build(setup=dict(continuous_covariate_keys=["age"]))


def test_query_from_a_path(build, mdata, tmp_path):
    fit(build()).save(tmp_path / "m")
    assert SPLICEVI.load_query_data(mdata[:20].copy(), tmp_path / "m").module.n_batch == 2
