"""Larger than memory: outputs in a file or by group, data on disk; the numbers are those of data in memory."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import read_h5ad

from splicevi import SPLICEVI
from splicevi.datasets import simulate
from splicevi.model import outputs

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = dict(enable_progress_bar=False, accelerator="cpu")
METHODS = ("get_normalized_splicing", "get_normalized_splicing_DM", "get_normalized_expression")


@pytest.fixture(scope="module")
def mdata():
    "300 cells of three types in two batches; some have no type."
    out = simulate(n_cells=300, n_genes=30, n_junctions=60, n_cell_types=3, n_batches=2, observed=0.3, seed=0)
    out.obs["kind"] = out.obs["cell_type"].astype(object).where(np.arange(300) % 7 > 0)
    return out


@pytest.fixture(scope="module")
def model(mdata):
    scvi.settings.seed = 0
    data = mdata.copy()
    SPLICEVI.setup_mudata(data, batch_key="batch")
    out = SPLICEVI(data, n_latent=4)
    out.train(max_epochs=2, batch_size=64, **QUIET)
    return out


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.parametrize("method", [*METHODS, "get_latent_representation"])
def test_values_in_a_file_are_those_in_memory(model, tmp_path, method, ending):
    "Whatever the mini-batches are, in the order of `indices`, with the cells' names."
    if ending == "zarr":
        pytest.importorskip("zarr")
    import anndata

    rows, ask = np.r_[290:10:-1], getattr(model, method)
    path = ask(indices=rows, batch_size=37, out=tmp_path / f"values.{ending}")
    back = read_h5ad(path) if ending == "h5ad" else anndata.read_zarr(path)
    np.testing.assert_allclose(back.X, np.asarray(ask(indices=rows)), rtol=1e-4, atol=1e-6)
    assert list(back.obs_names) == list(model.adata.obs_names[rows])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("method", [*METHODS, "get_latent_representation"])
def test_moments_of_groups_are_those_of_the_table(model, method):
    "Cells without a label are in no group."
    ask = getattr(model, method)
    found, table = ask(groupby="kind", batch_size=37), pd.DataFrame(np.asarray(ask()))
    by = table.groupby(model.adata.obs["kind"].to_numpy())
    np.testing.assert_allclose(found.mean, by.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.variance, by.var(), rtol=2e-3, atol=1e-9)
    assert list(found.mean.index) == list(by.size().index) and (found.n_cells == by.size()).all()


def test_a_file_is_there_when_it_is_complete(model, tmp_path, monkeypatch):
    "What fails half way leaves nothing behind."
    real, calls = model.module.inference, []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(model.module, "inference", fails)
    with pytest.raises(KeyboardInterrupt):
        model.get_normalized_splicing(batch_size=100, out=tmp_path / "psi.h5ad")
    assert len(calls) == 3 and not list(tmp_path.iterdir())


def test_too_large_a_table_is_refused_before_it_is_computed(model, monkeypatch):
    monkeypatch.setattr(outputs, "free_memory", lambda: 300 * 60 * 4 - 1)
    with pytest.raises(MemoryError, match=r"300 cells × 60 features .* out='values.zarr' .* groupby="):
        model.get_normalized_splicing()
    assert model.get_normalized_splicing(indices=np.arange(299)).shape == (299, 60)
    assert model.get_normalized_splicing(groupby="kind").mean.shape == (3, 60)


def test_no_array_of_cells_and_junctions():
    "Neither a file, nor moments of groups, nor differential splicing and expression build one."
    scvi.settings.seed = 0
    data = simulate(n_cells=1500, n_genes=30, n_junctions=4000, n_cell_types=2, observed=0.005, seed=0)
    SPLICEVI.setup_mudata(data)
    wide = SPLICEVI(data, n_latent=3, n_hidden=8)
    wide.is_trained_, table = True, 4 * 1500 * 4000

    def peak(call):
        call()  # what is made once
        tracemalloc.start()
        call()
        out = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return out

    few = dict(groupby="cell_type", group1="type_1", silent=True)
    assert peak(lambda: wide.get_normalized_splicing(batch_size=32)) > table  # the probe sees it
    assert peak(lambda: wide.get_normalized_splicing(batch_size=32, groupby="cell_type")) < table / 4
    assert peak(lambda: wide.differential_splicing(n_draws=20, batch_size=32, **few)) < table / 2
    assert peak(lambda: wide.differential_expression(batch_size=32, **few)) < table / 2
