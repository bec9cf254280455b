"""What the model has to reach on simulated truth and on real cells (slow; the figures are printed with -s)."""

import logging

import numpy as np
import pytest
import scvi
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from splicevi import SPLICEVI, tl
from splicevi.data.build import hold_out
from splicevi.datasets import simulate, true_psi

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FAST = dict(max_epochs=120, lr=1e-3, batch_size=128, n_epochs_kl_warmup=20)
QUIET = dict(enable_progress_bar=False, accelerator="cpu")


def aris(model, labels, space=("joint", "expression", "splicing")):
    "Agreement of KMeans with the labels in each latent space."
    clusters = lambda z: KMeans(labels.nunique(), n_init=10, random_state=0).fit_predict(z)
    return {m: float(adjusted_rand_score(labels, clusters(model.get_latent_representation(modality=m)))) for m in space}


def trained(seed, training, **options):
    "A model of the benchmark data, with RMSE against the truth at the held-out pairs and ARI of the latents."
    scvi.settings.seed = seed
    mdata = simulate(n_cells=2500, n_genes=1000, n_junctions=3000, n_cell_types=6, observed=0.12, seed=seed)
    train, held = hold_out(mdata, 0.25, seed=seed)
    SPLICEVI.setup_mudata(train, batch_key="batch")
    model = SPLICEVI(train, n_latent=20, **options)
    model.train(**training, **QUIET)
    truth = np.asarray(true_psi(mdata, held["cell"], held["junction"]))
    at = held["cell_index"].to_numpy(), held["junction_index"].to_numpy()
    error = lambda p: float(np.sqrt(np.mean((p - truth) ** 2)))
    pooled = tl.pooled_psi(train).to_numpy()[at[1]]
    figures = dict(
        seed=seed,
        rmse=error(model.get_normalized_splicing(return_numpy=True)[at]),
        pooled=error(pooled),
        **aris(model, mdata.obs["cell_type"]),
        concentration=float(model.module.log_phi_j.exp().median()),
    )
    print({k: round(v, 4) for k, v in figures.items()}, {**training, **options})
    return figures


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fast_training(seed):
    f = trained(seed, FAST)
    assert f["rmse"] <= 0.034 and f["splicing"] >= 0.975 and f["joint"] >= 0.98, f
    assert f["rmse"] < f["pooled"] / 3 and 15 < f["concentration"] < 27, f


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_penalty(seed):
    f = trained(seed, FAST, modality_penalty="None")
    assert f["joint"] >= 0.98, f


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_training(seed):
    f = trained(seed, {})
    assert f["rmse"] <= 0.034 and f["splicing"] >= 0.98 and f["joint"] >= 0.98, f


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cell_lines(real_data, seed):
    import mudata

    scvi.settings.seed = seed
    mdata = mudata.read_h5mu(real_data / "scmixology.h5mu")
    train, held = hold_out(mdata, 0.25, seed=seed)
    SPLICEVI.setup_mudata(train)
    model = SPLICEVI(train, n_latent=20)
    model.train(max_epochs=300, lr=1e-3, batch_size=64, n_epochs_kl_warmup=20, **QUIET)
    at = held["cell_index"].to_numpy(), held["junction_index"].to_numpy()
    predictions = {
        "model": model.get_normalized_splicing(return_numpy=True)[at],
        "pooled": tl.pooled_psi(train).to_numpy()[at[1]],
        "neighbours": tl.neighbor_psi(train, held),
    }
    scores, ari = tl.imputation(held, predictions), aris(model, mdata.obs["cell_type"])
    print(scores.round(4).to_string(), ari)
    assert ari["joint"] >= 0.9, ari
    for score in ("r", "r_weighted", "log_likelihood_per_read"):
        assert scores[score].idxmax() == "model", scores
