"""The simulator keeps what it promises: difficulty, truth, speed, and a way to disk and back."""

import functools
import subprocess
import sys
import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splicevi.core import KEYS
from splicevi.data.build import hold_out, quiet_mudata
from splicevi.data.checks import check_mudata
from splicevi.data.pairs import event_codes, observed_pairs
from splicevi.datasets import CONCENTRATION, example, simulate, true_psi


def strict():
    "Warnings that a user would see become errors (deprecations between libraries are theirs)."
    for kind in (UserWarning, FutureWarning, RuntimeWarning):
        warnings.simplefilter("error", kind)


def pairs_of(mdata):
    s = mdata[KEYS.splicing]
    return observed_pairs(s.layers[KEYS.junction_counts], event_codes(s.var[KEYS.event])[0])


def pooled_rmse(mdata, group, seed=0):
    "Error at the held-out pairs of PSI pooled over the training cells of a group, against the truth."
    train, held = hold_out(mdata, 0.25, seed)
    y, n = (train[KEYS.splicing].layers[k].tocoo() for k in (KEYS.junction_counts, KEYS.event_counts))
    sums = []
    for m in (y, n):
        out = np.zeros((group.max() + 1, m.shape[1]))
        np.add.at(out, (group[m.row], m.col), m.data)
        sums.append(out)
    with np.errstate(invalid="ignore"):
        psi = (sums[0] / sums[1])[group[held.cell_index], held.junction_index]
    return np.sqrt(np.nanmean((psi - true_psi(mdata, held.cell_index, held.junction_index)) ** 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_task_is_as_hard_as_promised(seed):
    mdata = simulate(n_cells=2500, n_genes=1000, n_junctions=3000, n_cell_types=6, observed=0.12, seed=seed)
    types = mdata.obs.cell_type.cat.codes.to_numpy().astype(int)
    assert 0.11 < pooled_rmse(mdata, 0 * types) < 0.13
    assert 0.025 < pooled_rmse(mdata, types) < 0.033
    pairs = pairs_of(mdata)
    assert abs(len(pairs) / np.prod(pairs.shape) / 0.12 - 1) < 0.05
    assert 8 < pairs.observation_total.mean() < 10
    assert pairs.observation_total.max() > 20 * pairs.observation_total.mean()


@settings(max_examples=15, deadline=None)
@given(
    n_cells=st.integers(1, 30),
    n_genes=st.integers(1, 20),
    n_junctions=st.integers(2, 40),
    types=st.integers(1, 4),
    batches=st.integers(1, 3),
    observed=st.sampled_from([0.02, 0.3, 0.9]),
    unpaired=st.sampled_from([0.0, 0.5, 1.0]),
    psi=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_size_is_sound(n_cells, n_genes, n_junctions, types, batches, observed, unpaired, psi, seed):
    with warnings.catch_warnings():
        strict()
        mdata = simulate(n_cells, n_genes, n_junctions, types, observed, 0.5, batches, 0.3, psi, unpaired, seed)
        found = check_mudata(mdata, raise_errors=False)
    empty = [k for k in (KEYS.rna, KEYS.splicing) if not mdata[k].layers.get(KEYS.junction_counts, mdata[k].X).sum()]
    assert set(found.level) <= {"note", "error"}
    assert (found.level == "error").sum() == found.problem.str.contains("counts are 0|reads are 0").sum() == len(empty)
    assert mdata.shape == (n_cells, n_genes + n_junctions)
    s = mdata[KEYS.splicing]
    by_event = s.varm["psi_true"].groupby(s.var[KEYS.event].astype(str).to_numpy())
    np.testing.assert_allclose(by_event.sum(), 1, atol=1e-9)
    assert s.var[KEYS.event].value_counts().between(2, 5).all()
    np.testing.assert_array_equal(np.ptp(s.varm["psi_true"].to_numpy(), axis=1) > 0, s.var.is_ds)
    kinds = mdata.obs.measured.value_counts()
    assert kinds["splicing"] + kinds["expression"] == round(unpaired * n_cells)
    assert not mdata[KEYS.rna].X[(mdata.obs.measured == "splicing").to_numpy()].nnz
    assert not s.layers[KEYS.junction_counts][(mdata.obs.measured == "expression").to_numpy()].nnz


def test_seed_decides():
    a, b, c = (simulate(n_cells=50, n_genes=20, n_junctions=60, seed=s) for s in (3, 3, 4))
    for key in (KEYS.rna, KEYS.splicing):
        assert (a[key].X != b[key].X).nnz == 0
        assert (a[key].X != c[key].X).nnz > 0
    assert (example()[KEYS.splicing].X != example()[KEYS.splicing].X).nnz == 0


def test_reads_have_the_stated_concentration():
    "The variance of y between cells of one type, given n, is that of a Dirichlet-multinomial of that concentration."
    mdata = simulate(n_cells=4000, n_genes=2, n_junctions=60, n_cell_types=1, n_batches=1, observed=0.5)
    pairs = pairs_of(mdata)
    p = true_psi(mdata, pairs.cell, pairs.junction)
    n, c = pairs.n.astype(float), mdata[KEYS.splicing].var["concentration_true"].iloc[0]
    assert c == CONCENTRATION
    z = (pairs.y - n * p) ** 2 / (n * p * (1 - p) * (n + c) / (1 + c))
    assert abs(z.mean() - 1) < 0.05
    big = n > 30
    assert abs(z[big].mean() - 1) < 0.15


def test_expression_tells_the_types_apart_and_has_the_stated_means():
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score

    mdata = simulate(n_cells=1500, n_genes=500, n_junctions=20, n_cell_types=4, n_batches=2)
    x = mdata[KEYS.rna].X.toarray()
    scaled = np.log1p(x / x.sum(1, keepdims=True) * 1000)
    latent = PCA(10, random_state=0).fit_transform(scaled)
    assert adjusted_rand_score(mdata.obs.cell_type, KMeans(4, n_init=10, random_state=0).fit_predict(latent)) > 0.95
    truth = mdata[KEYS.rna].varm["mean_true"]
    share = pd.DataFrame(x / x.sum()).groupby(mdata.obs.cell_type.astype(str).to_numpy()).sum().T
    for t in truth:
        assert (
            np.corrcoef(np.log(truth[t] + 0.05), np.log(share[t] / share[t].sum() * truth[t].sum() + 0.05))[0, 1] > 0.97
        )


@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0])
def test_batch_effect_scales_expression(effect):
    mdata = simulate(n_cells=2000, n_genes=200, n_junctions=20, n_cell_types=1, n_batches=2, batch_effect=effect)
    x, b = mdata[KEYS.rna].X.toarray(), mdata.obs.batch.cat.codes.to_numpy()
    ratio = np.log(x[b == 0].sum(0) + 1) - np.log(x[b == 1].sum(0) + 1)
    spread = ratio[x.sum(0) > 1000].std()  # the difference of two shifts that are centred: sqrt(2) effect
    assert abs(spread - np.sqrt(2) * effect) < 0.1 + 0.2 * effect


def test_batch_effect_on_psi_is_in_the_reads_and_in_the_truth():
    kw = dict(n_cells=2000, n_genes=5, n_junctions=200, n_cell_types=3, observed=0.5, n_batches=2, seed=1)
    for effect, least, most in ((0.0, 0.0, 1e-12), (1.0, 0.05, 0.4)):
        mdata = simulate(**kw, batch_effect_psi=effect)
        s, junctions = mdata[KEYS.splicing], np.arange(200)
        cells = [
            int(np.flatnonzero((mdata.obs.cell_type == "type_1") & (mdata.obs.batch == b))[0])
            for b in ("batch_1", "batch_2")
        ]
        truth = [true_psi(mdata, np.full(200, c), junctions) for c in cells]
        assert least <= np.abs(truth[0] - truth[1]).mean() <= most
        y, n = (s.layers[k] for k in (KEYS.junction_counts, KEYS.event_counts))
        for b, t in zip(("batch_1", "batch_2"), truth):
            rows = ((mdata.obs.cell_type == "type_1") & (mdata.obs.batch == b)).to_numpy()
            pooled = np.asarray(y[rows].sum(0)).ravel() / np.asarray(n[rows].sum(0)).ravel()
            assert np.abs(pooled - t).mean() < 0.03


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_round_trip_through_disk(tmp_path, effect):
    mdata = simulate(n_cells=60, n_genes=20, n_junctions=50, batch_effect_psi=effect, unpaired=0.2)
    mdata.write_h5mu(tmp_path / "sim.h5mu")
    with quiet_mudata():
        back = mudata.read_h5mu(tmp_path / "sim.h5mu")
    assert list(back.obs) == list(mdata.obs) and list(back.obs.batch) == list(mdata.obs.batch)
    held = hold_out(mdata)[1]
    np.testing.assert_allclose(
        true_psi(back, held.cell, held.junction), true_psi(mdata, held.cell_index, held.junction_index)
    )
    np.testing.assert_allclose(back[KEYS.rna].varm["mean_true"], mdata[KEYS.rna].varm["mean_true"])
    assert (
        back[KEYS.splicing].layers[KEYS.junction_counts] != mdata[KEYS.splicing].layers[KEYS.junction_counts]
    ).nnz == 0


def test_names_are_unique_and_refer_to_the_genes():
    mdata = simulate(n_cells=10, n_genes=30, n_junctions=300)
    var = mdata[KEYS.splicing].var
    assert var.index.is_unique and (var[KEYS.junction] == var.index).all()
    assert var.index.str.fullmatch(r"chr\d+:\d+:\d+:[+-]").all()
    assert set(var[KEYS.gene_name]) <= set(mdata[KEYS.rna].var_names)
    assert (var.groupby(var[KEYS.event].astype(str))[KEYS.gene_name].nunique() == 1).all()
    donor = np.where(var.strand == "+", var.start, var.end)
    assert (pd.Series(donor).groupby(var[KEYS.event].astype(str).to_numpy()).nunique() == 1).all()


def test_import_needs_no_torch():
    heavy = "{'torch', 'scvi', 'sklearn', 'plotly'} & set(sys.modules)"  # anndata 0.11 loads torch itself
    code = f"import sys, mudata; before = {heavy}; import splicevi.datasets; assert {heavy} == before"
    subprocess.run([sys.executable, "-c", code], check=True)


@functools.cache
def large_data_set() -> tuple[float, float, float]:
    "Of 10,000 cells × 10,000 genes × 90,000 junctions: time of a cell over that among 2,000, GB, share observed."
    code = """
import resource, time
from splicevi.datasets import simulate
seconds = []
for n in (2_000, 10_000):
    t = time.perf_counter()
    mdata = simulate(n_cells=n, n_genes=10_000, n_junctions=90_000, n_cell_types=8, observed=0.036)
    seconds.append((time.perf_counter() - t) / n)
gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(seconds[1] / seconds[0], gigabytes, mdata["splicing"].layers["psi_mask"].nnz / 9e8)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


@pytest.mark.slow
def test_a_large_data_set_is_small():
    "Under 6 GB."
    _, gigabytes, observed = large_data_set()
    assert gigabytes < 6
    assert abs(observed / 0.036 - 1) < 0.05


@pytest.mark.timed
def test_a_large_data_set_is_quick():
    "A cell takes no longer than in a smaller one."
    assert large_data_set()[0] < 1.5
