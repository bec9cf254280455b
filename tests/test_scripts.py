"""Scripts for the research implementation run as they are: files on disk, options from signatures, evaluation."""

import argparse
import inspect
import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import splicevi as sv
from splicevi import SPLICEVI

SPACES = ("joint", "expression", "splicing")
NAMED = dict(
    rna_layer="length_norm", junc_ratio_layer="junc_ratio", atse_counts_layer="cell_by_cluster_matrix",
    junc_counts_layer="cell_by_junction_matrix", psi_mask_layer="psi_mask", size_factor_key="X_library_size",
    modalities={"rna_layer": "rna", "junc_ratio_layer": "splicing"},
)  # fmt: skip


def in_their_layout(mdata):
    "The same cells: float64 counts in a layer, dense PSI, a mask of bytes, one table of cells in all places."
    rna, splicing = mdata["rna"], mdata["splicing"]
    obs = mdata.obs[["cell_type"]].astype(str).assign(donor_id=np.arange(mdata.n_obs) % 3)
    obs["donor_id"] = obs["donor_id"].map("d{}".format)
    genes = AnnData(rna.X.copy(), obs.copy(), pd.DataFrame({"modality": "Gene_Expression"}, rna.var_names))
    genes.layers["length_norm"] = sp.csr_matrix(rna.X, dtype=np.float64)
    genes.obsm["X_library_size"] = np.asarray(genes.layers["length_norm"].sum(axis=1))
    counts = {k: splicing.layers[k].astype(np.float64) for k in ("cell_by_junction_matrix", "cell_by_cluster_matrix")}
    mask = sp.csr_matrix(counts["cell_by_cluster_matrix"], dtype=np.uint8, copy=True)
    mask.data[:] = 1
    total = counts["cell_by_cluster_matrix"].toarray()
    psi = np.divide(counts["cell_by_junction_matrix"].toarray(), total, out=np.zeros_like(total), where=total > 0)
    var = splicing.var[["event_id"]].assign(modality="Splicing")
    junctions = AnnData(None, obs.copy(), var, layers=counts | {"junc_ratio": psi, "psi_mask": mask})
    out = mudata.MuData({"rna": genes, "splicing": junctions})
    out.obs = obs
    out.obsm["X_library_size"] = genes.obsm["X_library_size"]
    return out


def hide(mdata, event):
    "Hide an event in all cells, and keep what was hidden in layers beside."
    splicing = mdata["splicing"]
    columns = np.flatnonzero(splicing.var["event_id"] == event)
    hidden = np.zeros(splicing.shape, bool)
    hidden[:, columns] = splicing.layers["psi_mask"].toarray()[:, columns] > 0
    splicing.layers["hidden_psi"] = sp.csr_matrix(np.where(hidden, splicing.layers["junc_ratio"], 0))
    for k in ("cell_by_junction_matrix", "cell_by_cluster_matrix", "psi_mask", "junc_ratio"):
        values = splicing.layers[k].toarray() if sp.issparse(splicing.layers[k]) else splicing.layers[k]
        splicing.layers[k] = sp.csr_matrix(np.where(hidden, 0, values).astype(values.dtype))
    splicing.layers["hidden"] = sp.csr_matrix(hidden.astype(np.uint8))
    return mdata


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "Files of training cells, of test cells, and of test cells in which an event is hidden; all of cells set up before."
    folder = tmp_path_factory.mktemp("theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = in_their_layout(sv.datasets.simulate(150, 40, 80, 2, observed=0.4, seed=3))
        SPLICEVI.setup_mudata(mdata, **NAMED)  # leaves a number that goes into all three files
        parts = {"train": mdata[:100].copy(), "test": mdata[100:].copy(), "hidden": mdata[100:].copy()}
        hide(parts["hidden"], parts["hidden"]["splicing"].var["event_id"].iloc[0])
        for name, part in parts.items():
            part.write(folder / f"{name}.h5mu")
    return folder


def opened(path):
    "A file that stays on disk, with a column renamed and size factors copied to obs, as the scripts do."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mudata's own, about columns of obs
        mdata = mudata.read_h5mu(path, backed="r")
    for part in (mdata, mdata["rna"], mdata["splicing"]):
        part.obs.rename(columns={"donor_id": "mouse.id"}, inplace=True)
    mdata["rna"].obs["X_library_size"] = mdata["rna"].obsm["X_library_size"]
    return mdata


def options_of(function):
    "Arguments with a default."
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "adata" and p.default is not p.empty}


def as_flag(text):
    "True or False of a command line."
    return {"true": True, "false": False}[text.lower()]


def read_options(command: str) -> tuple[dict, dict]:
    "Options of the constructor and of `train`: each has the type of its default, and is a float where that is None."
    groups = options_of(SPLICEVI.__init__), options_of(SPLICEVI.train)
    parser = argparse.ArgumentParser()
    for name, default in [item for group in groups for item in group.items()]:
        kind = as_flag if isinstance(default, bool) else float if default is None else type(default)
        parser.add_argument(f"--{name}", type=kind, default=None, help=f"default {default!r}")
    parser.format_help()
    given = {k: v for k, v in vars(parser.parse_args(command.split())).items() if v is not None}
    return tuple({k: given[k] for k in group if k in given} for group in groups)


COMMANDS = {
    "usual": "--max_epochs 2",
    "all": "--max_epochs 2 --lr 1e-3 --batch_size 64 --n_epochs_kl_warmup 2 --dropout_rate 0.01 --code_dim 8 "
    "--modality_weights per_dimension_weighted_average --modality_penalty Jeffreys --use_batch_norm none "
    "--splicing_encoder_architecture partial --splicing_decoder_architecture vanilla --pool_mode mean --max_nobs -1 "
    "--expression_architecture vanilla --initialize_embeddings_from_pca true --fully_paired false --weight_decay 1e-4 "
    "--lr_scheduler_type step --lr_factor 0.1 --step_size 1 --gradient_clipping true --accelerator cpu --devices 1 "
    "--train_size 0.8 --check_val_every_n_epoch 1 --dm_concentration atse --encode_covariates false",
    "steps": "--max_epochs 2 --n_steps_kl_warmup 3 --splicing_loss_type beta_binomial --splicing_concentration 20",
}


@pytest.fixture(scope="module", params=COMMANDS)
def saved(request, files, tmp_path_factory):
    "The folder of a model that was trained as the training script does."
    init, train = read_options(COMMANDS[request.param])
    mdata, other = opened(files / "train.h5mu"), opened(files / "test.h5mu")
    batch = "mouse.id" if request.param == "all" else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "n_epochs_kl_warmup=50 wins")
        SPLICEVI.setup_mudata(mdata, batch_key=batch, **NAMED)
        SPLICEVI.setup_mudata(other, batch_key=batch, **NAMED)  # does not stand in the place of the first
        n_genes = int((mdata["rna"].var["modality"] == "Gene_Expression").sum())
        n_junctions = int((mdata["splicing"].var["modality"] == "Splicing").sum())
        model = SPLICEVI(mdata, n_genes=n_genes, n_junctions=n_junctions, **init)
        model.view_anndata_setup()
        model.train(**train)
        model.save(folder := str(tmp_path_factory.mktemp("model")), overwrite=True)
    assert len(model.history["elbo_train"]) == 2 and sum(p.numel() for p in model.module.parameters()) > 1000
    if request.param == "all":
        assert len(model.history["elbo_validation"]) == 2 and model.history["learning_rate"].iloc[-1].item() < 1e-3
    return folder, batch


def test_what_a_training_script_saves_is_evaluated_on_other_files(saved, files):
    "Latent spaces of training and test cells, and PSI of what was hidden from the test cells, in pieces."
    folder, batch = saved
    data = {name: opened(files / f"{name}.h5mu") for name in ("train", "test", "hidden")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mdata in data.values():
            SPLICEVI.setup_mudata(mdata, batch_key=batch, **NAMED)
        model = SPLICEVI.load(folder, adata=data["train"])
        model.view_anndata_setup()
        own = {s: model.get_latent_representation(modality=s) for s in SPACES}
        other = {s: model.get_latent_representation(adata=data["test"], modality=s) for s in SPACES}
        model.module.eval()
        with torch.inference_mode():
            rows = np.arange(10, 30, dtype=np.int64)
            options = dict(adata=data["hidden"], return_numpy=True)
            psi = model.get_normalized_splicing(indices=rows, batch_size=512, **options)
            smoothed = model.get_normalized_splicing_DM(batch_size=16, **options)
    assert {len(z) for z in own.values()} == {100} and {len(z) for z in other.values()} == {50}
    assert not np.allclose(own["expression"], own["splicing"]) and np.ptp(own["joint"], axis=0).min() > 0
    hidden = sp.csr_matrix(data["hidden"]["splicing"].layers["hidden"][:])
    r, c = hidden[rows].nonzero()
    assert len(r) and psi.shape == (20, 80) and np.isfinite(psi).all() and smoothed.shape == (50, 80)
    np.testing.assert_allclose(smoothed[rows][r, c], psi[r, c], atol=1e-5)  # without reads they are the decoded PSI


def test_a_derived_class_may_have_a_constructor_of_its_own(tmp_path):
    "With other arguments and defaults; a saved model knows them. What a loaded model is made of is handed on."

    class Small(SPLICEVI):
        def __init__(self, adata, n_latent=3, code_dim=4, registry=None):
            super().__init__(adata, n_latent=n_latent, code_dim=code_dim, n_hidden=8, registry=registry)

    mdata = sv.datasets.simulate(60, 10, 20, 2, observed=0.4, seed=3)
    Small.setup_mudata(mdata)
    model = Small(mdata, n_latent=2)
    model.train(max_epochs=1, enable_progress_bar=False)
    model.save(tmp_path / "small")
    again = Small.load(tmp_path / "small", adata=mdata)
    assert again.module.n_latent == 2 and again.module.n_hidden == 8
    np.testing.assert_allclose(again.get_latent_representation(), model.get_latent_representation(), atol=1e-6)
