"""Larger than memory: outputs in a file or by group, data on disk; the numbers are those of data in memory."""

import copy
import tracemalloc
from functools import partial
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch.distributed as dist
from anndata import AnnData, read_h5ad
from scipy import sparse

from splicevi import SPLICEVI
from splicevi.cli import main
from splicevi.data import hold_out, open_mudata, write_store
from splicevi.data.build import assemble_mudata
from splicevi.data.store import is_store, stored_pairs
from splicevi.datasets import simulate
from splicevi.model import outputs
from splicevi.nn.loader import ROWS, CellLoader
from splicevi.pl import latent_space

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


def fit(data, epochs=15, batch_key="batch", **given):
    "A model trained on data, from the same random numbers."
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(data, batch_key=batch_key)
    out = SPLICEVI(data, n_latent=4)
    out.train(**dict(max_epochs=epochs, lr=2e-3, batch_size=64, n_epochs_kl_warmup=5, **QUIET) | given)
    return out


@pytest.fixture(scope="module")
def small_windows():
    "Windows of some 200 cells, so that a small store has several."
    from splicevi.nn import loader

    patch = pytest.MonkeyPatch()
    patch.setattr(loader, "WINDOW", 5_000)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A store of 1,200 cells, the same in memory, and models of both."
    data = simulate(n_cells=1200, n_genes=40, n_junctions=80, n_cell_types=3, n_batches=2, observed=0.3, seed=0)
    return write_store(data, tmp_path_factory.mktemp("store") / "store.h5mu"), data


@pytest.fixture(scope="module")
def both(store, small_windows):
    "Models trained on the store and in memory."
    path, data = store
    return fit(open_mudata(path)), fit(data.copy())


def test_training_from_disk_is_as_good(both):
    "The validation loss is within 1 % of that of training in memory, which it is not after one epoch."
    disk, memory = (m.history["elbo_validation"].to_numpy().ravel() for m in both)
    assert abs(disk[-1] / memory[-1] - 1) < 0.01 < abs(disk[0] / memory[-1] - 1)


def test_training_from_disk_can_be_repeated(store, both):
    again = fit(open_mudata(store[0]), epochs=2)
    np.testing.assert_array_equal(again.history["elbo_train"], both[0].history["elbo_train"][:2])


def test_predictions_from_disk_are_those_in_memory(store, both):
    "Any rows, in any order; both tests; the concentration of a model without one."
    model, data = both[0], store[1].copy()
    rows = np.r_[1100:5:-3, 7, 7]
    few = dict(groupby="cell_type", group1="type_1", silent=True)
    for ask in (
        lambda d: model.get_latent_representation(d, indices=rows),
        lambda d: model.get_normalized_splicing_DM(d, indices=rows),
        lambda d: model.get_normalized_expression(d, groupby="cell_type").variance,
        lambda d: model.differential_splicing(d, n_draws=50, **few)["proba_ds"],
        lambda d: model.differential_expression(d, **few)["lfc_mean"],
    ):
        np.testing.assert_allclose(np.asarray(ask(None)), np.asarray(ask(data)), rtol=1e-5, atol=1e-6)


def test_a_model_of_a_store_is_saved_and_goes_on(store, both, tmp_path):
    "Saved, loaded with the store, mapped onto, copied; a training that was cut off ends with the same curve."
    path, model = store[0], both[0]
    model.save(tmp_path / "model")
    z = model.get_latent_representation(indices=[3, 900])
    loaded = SPLICEVI.load(tmp_path / "model", open_mudata(path), accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(indices=[3, 900]), z, atol=1e-6)
    np.testing.assert_allclose(copy.deepcopy(model).get_latent_representation(indices=[3, 900]), z, atol=1e-6)
    query = open_mudata(path)
    query.obs["batch"] = "new"
    mapped = SPLICEVI.load_query_data(query, loaded, accelerator="cpu")
    mapped.train(max_epochs=1, **QUIET)
    assert mapped.get_latent_representation(indices=[3]).shape == (1, 4)
    first = fit(open_mudata(path), epochs=2, checkpoint=tmp_path / "c")
    second = fit(open_mudata(path), epochs=4, checkpoint=tmp_path / "c", resume=True)
    whole = fit(open_mudata(path), epochs=4)
    np.testing.assert_array_equal(second.history["elbo_train"], whole.history["elbo_train"])
    assert len(first.history["elbo_train"]) == 2


def test_windows_are_read_and_nothing_else(store, small_windows, monkeypatch):
    "An epoch reads each window once, of cells near each other, and never all cells."
    from splicevi.nn import loader

    data = open_mudata(store[0])
    SPLICEVI.setup_mudata(data, batch_key="batch")
    model = SPLICEVI(data, n_latent=4)
    seen, real = [], loader.read_window
    monkeypatch.setattr(loader, "read_window", lambda s, rows: seen.append(np.unique(rows)) or real(s, rows))
    model.train(max_epochs=1, batch_size=64, train_size=1.0, early_stopping=False, **QUIET)
    assert len(seen) > 3 and max(map(len, seen)) < 400
    assert sorted(np.concatenate(seen)) == list(range(1200))


def test_each_process_reads_its_own_windows(store, small_windows):
    "Of several processes each has a share of the cells, in stretches of the file, and another one in each epoch."
    data = open_mudata(store[0])
    SPLICEVI.setup_mudata(data, batch_key="batch")
    manager = SPLICEVI(data, n_latent=4).adata_manager
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        loader = CellLoader(manager, batch_size=64, shuffle=True, distributed_sampler=True)
    finally:
        dist.destroy_process_group()
    sampler, seen = loader.sampler, {}
    sampler.num_samples, sampler.total_size = 600, 1200
    for sampler.epoch in (0, 1):
        for sampler.rank in (0, 1):
            batches = [t[ROWS].numpy() for t in loader]
            seen[sampler.epoch, sampler.rank] = np.concatenate(batches)
            assert [len(b) for b in batches] == [64] * 9 + [24] and len(loader) == 10
        both = np.concatenate([seen[sampler.epoch, k] for k in (0, 1)])
        assert sorted(both) == list(range(1200))
    assert set(seen[0, 0]) != set(seen[1, 0]) and not (seen[0, 0][:600] == np.sort(seen[0, 0])).all()
    gaps = (np.diff(np.sort(seen[0, 0])) > 1).sum()
    assert 2 < gaps < 120  # of single cells there would be about 300; the window that both share is cut


@pytest.mark.parametrize("ending", ["h5mu", "zarr"])
def test_matrices_of_any_mudata_may_stay_on_disk(store, both, tmp_path, ending):
    "Without a store pairs are listed in memory, and gene counts are read as they are needed: the curve is the same."
    if ending == "zarr":
        pytest.importorskip("zarr")
    path = tmp_path / f"data.{ending}"
    (store[1].write if ending == "h5mu" else store[1].write_zarr)(path)
    lazy = fit(open_mudata(path), epochs=2)
    one, two = (m.history["elbo_train"].to_numpy(float)[:2] for m in (lazy, both[1]))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_a_store_of_what_a_mask_shows(store, tmp_path):
    "Events that are held out are not in the file."
    train, held = hold_out(store[1], fraction=0.2, seed=0)
    pairs = stored_pairs(
        open_mudata(write_store(train, tmp_path / "train.h5mu"))["splicing"].layers["cell_by_junction_matrix"]
    )
    hidden = set(zip(held["cell_index"], held["junction_index"]))
    assert len(hidden) and not hidden & set(zip(pairs.cell, pairs.junction))


def test_a_realigned_copy_is_kept(both, store):
    "Its reads are listed once; edits of the source are seen."
    model, other = both[1], store[1].copy()
    other.mod["splicing"] = other["splicing"][:, ::-1].copy()
    one = model.reads(other)
    assert model.reads(other) is one
    z = model.get_latent_representation(other, indices=[0])
    np.testing.assert_allclose(z, model.get_latent_representation(store[1].copy(), indices=[0]), atol=1e-5)
    other["rna"].X.data[:] = 1
    assert model.reads(other) is not one and model.reads(other).x.max() == 1


def test_nothing_is_computed_that_weights_replace(both, store, monkeypatch):
    "A query is not started at its data."
    calls = []
    monkeypatch.setattr(type(both[1].module), "start", lambda *args: calls.append(1))
    query = store[1].copy()
    query.obs["batch"] = "new"
    mapped = SPLICEVI.load_query_data(query, both[1], accelerator="cpu")
    assert not calls
    SPLICEVI(mapped.adata, n_latent=4)
    assert calls


def test_train_from_disk_on_the_command_line(mdata, tmp_path, monkeypatch):
    "A zarr store becomes a store of pairs in the results; its cells have the latent points that the saved model gives."
    pytest.importorskip("zarr")
    monkeypatch.setattr(latent_space, "umap", lambda z, seed: z[:, :2])
    mdata.write_zarr(tmp_path / "data.zarr")
    out = tmp_path / "out"
    given = ["train", str(tmp_path / "data.zarr"), str(out), "--on_disk", "--max_epochs", "2", "--quiet"]
    assert main([*given, "--batch_key", "batch", "--label_key", "cell_type"]) == 0
    assert {"history.csv", "mdata.h5mu", "model", "report.html", "store.h5mu"} == {p.name for p in out.iterdir()}
    written = mudata.read_h5mu(out / "mdata.h5mu")
    model = SPLICEVI.load(out / "model", open_mudata(out / "store.h5mu"), accelerator="cpu")
    np.testing.assert_allclose(written.obsm["X_splicevi"], model.get_latent_representation(), atol=1e-5)
    assert written["rna"].X is None and "300 cells" in (out / "report.html").read_text().replace("</b>", "")
    assert main(["train", "example", str(out), "--on_disk"]) == 2


def traced_peak(call) -> int:
    "Bytes that are held at most while something is called."
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_writing_a_store_does_not_grow_with_cells(tmp_path, monkeypatch):
    "From a file to a store a few cells at a time, also where genes are many and reads of junctions are few."
    for name in ("store.STRETCH", "on_disk.AT_ONCE"):
        monkeypatch.setattr(f"splicevi.data.{name}", 200_000)
    peaks, rng = [], np.random.default_rng(0)
    for n in (2_000, 8_000):
        cells = pd.DataFrame(index=[str(k) for k in range(n)])
        genes = AnnData(rng.poisson(1.0, (n, 300)).astype(np.float32), obs=cells)
        reads = sparse.random(n, 60, density=0.05, format="csr", dtype=np.float32, random_state=0)
        reads.data[:] = rng.poisson(2.0, reads.nnz) + 1
        junctions = AnnData(obs=cells, var=pd.DataFrame({"event_id": [f"e{k // 3}" for k in range(60)]}, dtype=str))
        junctions.layers["cell_by_junction_matrix"] = reads
        whole, place = assemble_mudata({"rna": genes, "splicing": junctions}, cells), tmp_path / f"{n}.h5mu"
        whole.write(place)
        peaks.append(traced_peak(partial(write_store, place, tmp_path / f"{n}-store.h5mu")))
    one, four = peaks
    assert four - one < 1_000 * 6_000, peaks  # names and starts of rows; the genes alone have 1,200 bytes a cell
    stored = open_mudata(tmp_path / "8000-store.h5mu")
    np.testing.assert_array_equal(stored["rna"].X[:].toarray(), genes.X)
    np.testing.assert_array_equal(stored["splicing"].layers["cell_by_junction_matrix"][:].toarray(), reads.toarray())


def test_a_store_is_read_by_others(tmp_path):
    "mudata reads it as any file, also where the junctions of an event do not follow each other."
    data = simulate(n_cells=60, n_genes=20, n_junctions=40, seed=0)
    mixed = np.random.default_rng(0).permutation(40)
    data = assemble_mudata({"rna": data["rna"], "splicing": data["splicing"][:, mixed].copy()}, data.obs)
    path = write_store(data, tmp_path / "store.h5mu")
    for backed in (None, "r"):
        read = mudata.read_h5mu(path, backed=backed)
        counts = read["splicing"].layers["cell_by_junction_matrix"]
        assert counts.sum() == data["splicing"].layers["cell_by_junction_matrix"].sum()
        assert np.isfinite(fit(read).get_latent_representation()).all()


def test_import_to_a_store_and_train_from_it(tmp_path, monkeypatch, capsys):
    "What `splicevi import --store` writes is trained from as it is."
    monkeypatch.chdir(tmp_path)
    reads, starts = np.random.default_rng(0).poisson(2.0, (60, 80)), np.repeat(np.arange(30) * 1000 + 200, 2)
    rows = [f"chr1:{s}:{s + 201 + 400 * (k % 2)}:clu_{k // 2}_+" for k, s in enumerate(starts)]
    table = ["\t".join(f"c{k}" for k in range(80)), *("\t".join([r, *map(str, v)]) for r, v in zip(rows, reads))]
    Path("toy_perind_numers.counts").write_text("\n".join(table).replace("\t", " ") + "\n")
    given = ["import", "leafcutter", "toy_perind_numers.counts"]
    assert main([*given, "store.h5mu", "--store", "--report", "r.html"]) == main([*given, "whole.h5mu"]) == 0
    assert is_store("store.h5mu") and not is_store("whole.h5mu") and Path("r.html").exists()
    capsys.readouterr()
    assert main([*given, "store.h5mu", "--store"]) == 2 and "is there already" in capsys.readouterr().err
    layer = lambda data: data["splicing"].layers["cell_by_junction_matrix"]
    whole = mudata.read_h5mu("whole.h5mu")
    np.testing.assert_array_equal(layer(open_mudata("store.h5mu"))[:].toarray(), layer(whole).toarray())
    monkeypatch.setattr(latent_space, "umap", lambda z, seed: z[:, :2])
    assert main(["train", "store.h5mu", "out", "--on_disk", "--max_epochs", "1", "--quiet"]) == 0
    assert not Path("out/store.h5mu").exists() and Path("out/model").is_dir()
