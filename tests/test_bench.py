"""The benchmarks: what they measure follows from what they are given; times, where a machine does nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from splicevi.bench.speed import (
    FULL,
    DenseReference,
    Size,
    Stepper,
    data_of,
    exponents,
    main,
    measure,
    model_of,
    peer_class,
)
from splicevi.bench.truth import losses, plain_psi, thinned
from splicevi.datasets import simulate

pytestmark = pytest.mark.filterwarnings("ignore")


def test_reads_are_taken_away_evenly():
    "What is left has the PSI of all, no pair is new, and the data given are unchanged."
    mdata = simulate(n_cells=150, n_genes=20, n_junctions=80, n_cell_types=2, observed=0.5, seed=0)
    before = mdata["splicing"].layers["cell_by_junction_matrix"].copy()
    left = thinned(mdata, 0.75)["splicing"].layers
    y, n = left["cell_by_junction_matrix"], left["cell_by_cluster_matrix"]
    assert (mdata["splicing"].layers["cell_by_junction_matrix"] != before).nnz == 0
    assert (y > before).nnz == 0 and (n > mdata["splicing"].layers["cell_by_cluster_matrix"]).nnz == 0
    assert abs(y.sum() / before.sum() - 0.25) < 0.01
    everyone = np.zeros(150, np.int64)
    assert np.abs(plain_psi(mdata, everyone) - plain_psi(thinned(mdata, 0.75), everyone)).mean() < 0.03


def test_a_baseline_that_wins_is_named():
    "Also by the share of the reads removed; ties and tables without errors are no losses."
    table = pd.DataFrame(
        dict(removed=[0.1, 0.1, 0.9, 0.9], estimate=["model", "mean by group"] * 2, RMSE=[0.1, 0.099, 0.3, 0.2])
    )
    said = losses({"Imputation": table, "Power": pd.DataFrame({"found": [1.0]})})
    assert said == [
        "Imputation with 90% of the reads removed: model has an error of 0.300, less have mean by group (0.200)."
    ]


def test_the_dense_reference_has_the_same_loss():
    "Its splicing likelihood is that of the module, at the same PSI and concentration."
    import torch
    from scipy.stats import dirichlet_multinomial

    reference = DenseReference(np.array([0, 0, 0]), n_latent=2, n_hidden=3)
    with torch.no_grad():
        for p in reference.parameters():
            p.zero_()
        reference.decoder.bias[:] = torch.log(torch.tensor([0.2, 0.3, 0.5]))
        reference.log_c[:] = np.log(7.0)
        reference.encoder[2].bias[2:] = 0.0  # unit variance: no divergence
        got = -reference(torch.tensor([[3.0, 0.0, 2.0]])).item()
    exact = dirichlet_multinomial.logpmf([3, 0, 2], 7 * np.array([0.2, 0.3, 0.5]), 5) - np.log(10)
    assert abs(got - exact) < 1e-4


def test_the_command_writes_a_page(tmp_path, monkeypatch):
    "With a peer by its import path; a peer that is none says so before anything is measured."
    from splicevi.bench import speed

    monkeypatch.setattr(speed, "QUICK", (Size(80, 60, 0.3, 10, 40), Size(80, 120, 0.3, 10, 40)))
    page = main([str(tmp_path / "speed.html"), "--peer", "splicevi.model.splicevi:SPLICEVI"])
    text = page.read_text()
    assert all(f">{part}<" in text for part in ("Beside the peer", "Hidden reads", "How it grows"))
    assert [p.name for p in tmp_path.iterdir()] == ["speed.html"]
    with pytest.raises(TypeError, match="lacks setup_mudata"):
        peer_class("pathlib:Path")


def test_a_peer_is_told_all_by_name(monkeypatch):
    "A model that finds nothing by itself: layers, modalities, size factors and numbers of features are given."
    from splicevi import SPLICEVI
    from splicevi.bench.speed import compare_peer

    told = []

    class Strict:
        train = get_latent_representation = None

        def __new__(cls, adata, *, n_genes, n_junctions, n_latent):
            told.append((n_genes, n_junctions))
            return SPLICEVI(adata, n_latent=n_latent)

        @staticmethod
        def setup_mudata(mdata, *, batch_key, modalities, size_factor_key, **layers):
            told.append({batch_key, size_factor_key, *modalities.values(), *layers.values()})
            SPLICEVI.setup_mudata(mdata, batch_key=batch_key)

    monkeypatch.setattr("splicevi.Strict", Strict, raising=False)
    table = compare_peer("splicevi:Strict", Size(60, 60, 0.3, 10, 40), epochs=2, repeats=1)
    layers = {"junc_ratio", "cell_by_cluster_matrix", "cell_by_junction_matrix", "psi_mask"}
    assert told == [{"batch", "X_library_size", "rna", "splicing"} | layers, (10, 60)]
    assert list(table.index) == ["before the first epoch", "epoch", "latent", "memory (MB)"]
    np.testing.assert_allclose(table["ratio"][:3], (table["peer"] / table["ours"])[:3])


@pytest.fixture(scope="module")
def steppers():
    "Steps of models of few and of four times as many junctions with as many observed pairs."
    sizes = Size(512, 22_458, 0.144, 50, 256), Size(512, 89_831, 0.036, 50, 256)
    return [Stepper(model_of(data_of(size)), 256) for size in sizes]


@pytest.mark.timed
def test_cost_follows_the_observed_pairs(steppers):
    "Four times as many junctions with as many observed pairs cost less than twice as much, not four times."
    from splicevi.bench.speed import seconds_of

    seconds = [[], []]
    for _ in range(6):  # in turns, as other processes come and go
        for kept, stepper in zip(seconds, steppers):
            kept.append(seconds_of(stepper.step))
    few, many = (np.median(kept[1:]) for kept in seconds)  # without the allocations of the first step
    assert many < 2 * few, f"{many / few:.2f} times as long"


@pytest.mark.timed
def test_exponents_of_a_step():
    "A step grows with pairs and junctions as 0.8 to 1.1, and not with the cells in the data."
    base = FULL[1]
    sizes = (base, replace(base, n_junctions=3 * base.n_junctions), replace(base, n_cells=3 * base.n_cells))
    found = exponents(measure(sizes, 12)).loc["step"]
    assert 0.8 <= found["pairs and junctions"] <= 1.1 and abs(found["cells"]) <= 0.1, found.to_dict()
