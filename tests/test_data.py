"""Observed pairs, building, checking and holding out, on random data and on disk."""

import functools
import logging
import subprocess
import sys
import tracemalloc
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from splicevi.core import KEYS
from splicevi.data import pairs as pairs_module
from splicevi.data.build import hold_out, make_mudata, quiet_mudata
from splicevi.data.checks import check_mudata
from splicevi.data.pairs import event_codes, observed_pairs, splicing_layers
from splicevi.datasets import simulate
from splicevi.nn.loader import informative_psi

LAYERS = (KEYS.junction_counts, KEYS.event_counts, KEYS.psi, KEYS.mask)
fast = settings(max_examples=60, deadline=None)


@st.composite
def count_table(draw):
    "Small random counts (some cells and junctions empty) with the event of each junction."
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_cells, n_junctions = draw(st.integers(0, 7)), draw(st.integers(1, 11))
    y = rng.poisson(draw(st.sampled_from([0.1, 0.5, 3.0])), (n_cells, n_junctions)).astype(np.float32)
    return y, rng.integers(0, draw(st.integers(1, 5)), n_junctions)


def strict():
    "Warnings that a user would see become errors (deprecations between libraries are theirs)."
    for kind in (UserWarning, FutureWarning, RuntimeWarning):
        warnings.simplefilter("error", kind)


def dense_totals(y, event):
    "n of every pair by definition."
    return np.stack([y[:, event == e].sum(1) for e in event], 1)


def same_matrix(a, b):
    "Equal values, dtype aside."
    dense = [m.toarray() if sp.issparse(m) else np.asarray(m) for m in (a, b)]
    np.testing.assert_array_equal(*dense)


def snapshot(adata):
    "Everything of an AnnData that a function could have changed."
    dense = lambda m: None if m is None else (m.toarray() if sp.issparse(m) else np.array(m))
    return dense(adata.X), {k: dense(v) for k, v in adata.layers.items()}, adata.obs.copy(), adata.var.copy()


def assert_unchanged(adata, before):
    "The AnnData is as it was at the snapshot."
    x, layers, obs, var = snapshot(adata)
    np.testing.assert_array_equal(x, before[0])
    assert layers.keys() == before[1].keys()
    for k in layers:
        np.testing.assert_array_equal(layers[k], before[1][k])
    pd.testing.assert_frame_equal(obs, before[2])
    pd.testing.assert_frame_equal(var, before[3])


# observed pairs


@fast
@given(count_table())
def test_pairs_are_the_dense_definition(table):
    y, event = table
    n = dense_totals(y, event)
    pairs = observed_pairs(sp.csr_matrix(y), event)
    want = sorted((i, event[j], j) for i, j in zip(*np.nonzero(n > 0)))
    assert [(i, event[j], j) for i, j in zip(pairs.cell, pairs.junction)] == want
    np.testing.assert_array_equal(pairs.y, y[pairs.cell, pairs.junction])
    np.testing.assert_array_equal(pairs.n, n[pairs.cell, pairs.junction])
    assert pairs.indptr[-1] == len(pairs) and pairs.observation_indptr[-1] == len(pairs.observation_event)
    assert pairs.observation_size.sum() == len(pairs)
    np.testing.assert_array_equal(np.repeat(pairs.observation_event, pairs.observation_size), event[pairs.junction])
    assert (pairs.indptr.dtype, pairs.junction.dtype, pairs.y.dtype, pairs.observation_event.dtype) == (
        np.int64,
        np.int32,
        np.float32,
        np.int32,
    )


@fast
@given(count_table(), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 0.9]))
def test_mask_hides_whole_groups(table, seed, shown):
    y, event = table
    n = dense_totals(y, event)
    mask = np.random.default_rng(seed).random(y.shape) < shown
    whole = np.stack([mask[:, event == e].all(1) for e in event], 1)
    part = sum(
        1
        for i in range(len(y))
        for e in np.unique(event)
        if n[i, event == e].sum() and mask[i, event == e].any() and not mask[i, event == e].all()
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pairs = observed_pairs(sp.csr_matrix(y), event, sp.csr_matrix(mask))
        dense = observed_pairs(y, event, mask)
    same_matrix(pairs.csr(np.ones(len(pairs))), (n > 0) & whole)
    np.testing.assert_array_equal(pairs.junction, dense.junction)
    assert len(seen) == 2 * (part > 0)
    assert all(f" {part} observed" in str(w.message) for w in seen)


@fast
@given(count_table())
def test_any_storage_gives_the_same_pairs_and_stays_as_it_is(table):
    y, event = table
    want = observed_pairs(y, event)
    coo = sp.coo_matrix(y)
    order = np.random.default_rng(0).permutation(coo.nnz)
    doubled = sp.csr_matrix(
        (np.r_[coo.data, 0 * coo.data], (np.r_[coo.row, coo.row], np.r_[coo.col, coo.col])), shape=y.shape
    )
    unsorted = sp.csr_matrix((coo.data[order], (coo.row[order], coo.col[order])), shape=y.shape)
    for m in (sp.csc_matrix(y), unsorted, doubled, sp.csr_array(y), sp.csr_matrix(y.astype(np.int64))):
        data, indices = m.data.copy(), m.indices.copy()
        got = observed_pairs(m, event)
        for name in ("indptr", "junction", "y", "observation_indptr", "observation_event", "observation_total"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        np.testing.assert_array_equal(m.data, data)
        np.testing.assert_array_equal(m.indices, indices)


def test_chunks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    y, event = sp.csr_matrix(rng.poisson(0.3, (50, 40)).astype(np.float32)), rng.integers(0, 12, 40)
    mask = splicing_layers(observed_pairs(y, event))[KEYS.mask]
    mask = sp.diags((np.arange(50) != 3).astype(float), format="csr") @ mask
    whole = observed_pairs(y, event, mask)
    monkeypatch.setattr(pairs_module, "STRETCH", 17)
    parts = observed_pairs(y, event, mask)
    for name in ("indptr", "junction", "y", "observation_indptr", "observation_event", "observation_total"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert whole.indptr[3] == whole.indptr[4]


@fast
@given(count_table())
def test_layers_leave_the_pairs_alone(table):
    y, event = table
    pairs = observed_pairs(y, event)
    before = pairs.y.copy(), pairs.indptr.copy(), pairs.junction.copy()
    layers = splicing_layers(pairs)
    n = dense_totals(y, event)
    same_matrix(layers[KEYS.junction_counts], y)
    same_matrix(layers[KEYS.event_counts], n)
    same_matrix(layers[KEYS.mask], n > 0)
    np.testing.assert_allclose(
        layers[KEYS.psi].toarray(), np.divide(y, n, out=np.zeros_like(y), where=n > 0), rtol=1e-6
    )
    for now, then in zip((pairs.y, pairs.indptr, pairs.junction), before):
        np.testing.assert_array_equal(now, then)
    assert all(m.has_canonical_format and (m.data != 0).all() for m in layers.values())


@functools.cache
def many_pairs() -> tuple[int, float, float]:
    "Number of observed pairs, time to list them over time to sort them, and bytes that it takes."
    code = """
import resource, time, numpy as np, scipy.sparse as sp
from splicevi.data.pairs import observed_pairs
rng = np.random.default_rng(0)
n, j = 6000, 90_000
event = np.repeat(np.arange(j // 3), 3)
y = sp.random(n, j, 0.02, format="csr", dtype=np.float32, rng=rng)
y.data[:] = 1 + rng.poisson(5, y.nnz)
before, t = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
pairs = observed_pairs(y, event)
seconds, extra = time.perf_counter() - t, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
keys = rng.permutation(len(pairs))
t = time.perf_counter()
keys.sort(kind="stable")
print(len(pairs), seconds / (time.perf_counter() - t), extra)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return int(out[0]), float(out[1]), float(out[2])


@pytest.mark.slow
def test_pairs_of_many_reads_are_small():
    "30 million observed pairs take little more memory than the list itself."
    n_pairs, _, extra = many_pairs()
    assert n_pairs > 2e7
    assert extra < 40 * n_pairs


@pytest.mark.timed
def test_pairs_of_many_reads_are_quick():
    "They are listed in about as long as sorting them takes."
    assert many_pairs()[1] < 10


# building


def tables(seed=0, n_rna=12, n_splicing=10, n_junctions=14):
    "Gene and junction counts of cells that overlap, in different orders."
    rng = np.random.default_rng(seed)
    cells = np.array([f"cell{i:02d}" for i in range(16)])
    a, b = rng.permutation(cells)[:n_rna], rng.permutation(cells)[:n_splicing]
    batch = pd.Series(rng.choice(["x", "y"], 16), cells)
    rna = anndata.AnnData(
        sp.csr_matrix(rng.poisson(1.0, (n_rna, 5)).astype(np.float32)),
        obs=pd.DataFrame({"batch": pd.Categorical(batch[a]), "depth": np.arange(n_rna)}, index=a),
        var=pd.DataFrame(index=[f"G{g}" for g in range(5)]),
    )
    rna.obsm[KEYS.size_factor] = rng.random((n_rna, 1)) + 0.5
    y = rng.poisson(0.5, (n_splicing, n_junctions)).astype(np.float32)
    y[:, 3] = 0
    var = pd.DataFrame(
        {"event_id": rng.choice(list("ABCDE"), n_junctions)}, index=[f"J{j}" for j in range(n_junctions)]
    )
    splicing = anndata.AnnData(
        sp.csr_matrix(y), obs=pd.DataFrame({"batch": pd.Categorical(batch[b]), "plate": "p1"}, index=b), var=var
    )
    return rna, splicing


@pytest.mark.parametrize("cells", ["intersection", "union"])
@pytest.mark.parametrize("seed", range(5))
def test_make_mudata_aligns_by_name(cells, seed):
    rna, splicing = tables(seed)
    before = snapshot(rna), snapshot(splicing)
    with warnings.catch_warnings():
        strict()
        mdata = make_mudata(rna, splicing, cells=cells)
    assert_unchanged(rna, before[0])
    assert_unchanged(splicing, before[1])
    names = (
        set(rna.obs_names) & set(splicing.obs_names)
        if cells == "intersection"
        else set(rna.obs_names) | set(splicing.obs_names)
    )
    assert set(mdata.obs_names) == names and len(mdata.obs_names) == len(names)
    for key, source, layer in ((KEYS.rna, rna, None), (KEYS.splicing, splicing, KEYS.junction_counts)):
        part = mdata[key]
        assert list(part.obs_names) == list(mdata.obs_names)
        got = part.to_df(layer)
        want = source.to_df().reindex(index=part.obs_names, columns=part.var_names).fillna(0)
        pd.testing.assert_frame_equal(got, want, check_dtype=False)
    assert list(mdata.obs["batch"]) == [rna.obs.batch.get(c, splicing.obs.batch.get(c)) for c in mdata.obs_names]
    assert {"batch", "depth", "plate"} <= set(mdata.obs)
    assert not len(check_mudata(mdata))


def test_make_mudata_drops_unread_then_singletons(caplog):
    rna, splicing = tables(0)
    splicing.var["event_id"] = ["A", "A", "B", "B", "C", "C", "C", "D"] + ["E"] * 6
    splicing.layers["extra"] = splicing.X.copy()
    with caplog.at_level(logging.INFO, "splicevi"):
        mdata = make_mudata(rna, splicing)
    counts = splicing[[c for c in rna.obs_names if c in set(splicing.obs_names)]].X
    unread = set(splicing.var_names[np.asarray(counts.sum(0)).ravel() == 0])
    assert "J3" in unread  # so B has one junction left, and D had one from the start
    left = [j for j in splicing.var_names if j not in unread]
    size = splicing.var.event_id[left].value_counts()
    assert list(mdata[KEYS.splicing].var_names) == [j for j in left if size[splicing.var.event_id[j]] > 1]
    assert not {"J2", "J7"} & set(mdata[KEYS.splicing].var_names)
    assert f"{len(unread)} of 14 junctions" in caplog.text
    every = make_mudata(rna, splicing, drop_unread=False, drop_singletons=False)
    assert list(every[KEYS.splicing].var_names) == list(splicing.var_names)
    assert "extra" in every[KEYS.splicing].layers


def test_make_mudata_takes_the_count_layer_before_x():
    rna, splicing = tables(1)
    splicing.layers[KEYS.junction_counts] = splicing.X * 2
    splicing.X = splicing.X.toarray() / 7
    got = make_mudata(rna, splicing)[KEYS.splicing]
    same_matrix(got.layers[KEYS.junction_counts], splicing[got.obs_names, got.var_names].layers[KEYS.junction_counts])
    assert got.X is got.layers[KEYS.psi]


@pytest.mark.parametrize("convert", [sp.csc_matrix, sp.csr_array, lambda m: m.toarray(), lambda m: m.astype(np.int64)])
def test_make_mudata_reads_any_storage(convert):
    rna, splicing = tables(2)
    want = make_mudata(rna, splicing, cells="union")
    rna.X, splicing.X = convert(rna.X), convert(splicing.X)
    got = make_mudata(rna, splicing, cells="union")
    same_matrix(got[KEYS.rna].X, want[KEYS.rna].X)
    for k in LAYERS:
        same_matrix(got[KEYS.splicing].layers[k], want[KEYS.splicing].layers[k])
        assert got[KEYS.splicing].layers[k].format == "csr"


def test_make_mudata_moves_size_factors_where_every_cell_has_one():
    rna, splicing = tables(3)
    both = make_mudata(rna, splicing)
    np.testing.assert_allclose(both.obsm[KEYS.size_factor], rna[both.obs_names].obsm[KEYS.size_factor], rtol=1e-6)
    assert KEYS.size_factor not in make_mudata(rna, splicing, cells="union").obsm


def test_make_mudata_warns_of_contradictions():
    rna, splicing = tables(4)
    splicing.obs["batch"] = "z"
    with pytest.warns(UserWarning, match="differs between the modalities"):
        mdata = make_mudata(rna, splicing)
    assert "z" not in set(mdata.obs["batch"])


def test_make_mudata_of_one_modality():
    rna, splicing = tables(5)
    assert list(make_mudata(rna, None).mod) == [KEYS.rna]
    assert list(make_mudata(None, splicing).mod) == [KEYS.splicing]


@pytest.mark.parametrize("cells", ["intersection", "union"])
def test_round_trip_through_disk(cells, tmp_path):
    mdata = make_mudata(*tables(6), cells=cells)
    mdata.write_h5mu(tmp_path / "data.h5mu")
    with quiet_mudata():
        back = mudata.read_h5mu(tmp_path / "data.h5mu")
    assert list(back.obs["batch"]) == list(mdata.obs["batch"])
    for k in LAYERS:
        same_matrix(back[KEYS.splicing].layers[k], mdata[KEYS.splicing].layers[k])
    assert not len(check_mudata(back))
    _train, held = hold_out(back)
    pd.testing.assert_frame_equal(held, hold_out(mdata)[1], check_dtype=False)


# checking


def small():
    return simulate(n_cells=40, n_genes=12, n_junctions=30, n_cell_types=2, observed=0.4)


def set_layer(name, row, value, where=lambda n: n > 0):
    "A fault: a value in a layer of the splicing modality at the first pair of a cell that fits."

    def fault(mdata):
        s = mdata[KEYS.splicing]
        n = s.layers[KEYS.event_counts].toarray()
        col = int(np.flatnonzero(where(n[row]))[0])
        m = s.layers[name].tolil()
        m[row, col] = value
        s.layers[name] = m.tocsr()

    return fault


def drop_event(mdata):
    del mdata[KEYS.splicing].var["event_id"]


def lose_event(mdata):
    event = mdata[KEYS.splicing].var["event_id"].astype(object)
    event.iloc[3] = None
    mdata[KEYS.splicing].var["event_id"] = event


def drop_layer(mdata):
    del mdata[KEYS.splicing].layers[KEYS.junction_counts]


def drop_modality(mdata):
    del mdata.mod[KEYS.rna]


def turn_cells(mdata):
    mdata.mod[KEYS.splicing] = mdata[KEYS.splicing][::-1].copy()


def lose_cells(mdata):
    mdata.mod[KEYS.splicing] = mdata[KEYS.splicing][:30].copy()


def repeat_gene(mdata):
    mdata[KEYS.rna].var_names = ["GENE00001"] * 2 + list(mdata[KEYS.rna].var_names[2:])


def repeat_junction(mdata):
    names = list(mdata[KEYS.splicing].var_names)
    mdata[KEYS.splicing].var_names = names[:1] + names[:1] + names[2:]


def rna_value(value):
    def fault(mdata):
        mdata[KEYS.rna].X[3, 2] = value

    return fault


def bad_size(mdata):
    mdata.obsm[KEYS.size_factor] = np.r_[np.nan, np.ones(mdata.n_obs - 1)][:, None]


FAULTS = [
    (set_layer(KEYS.junction_counts, 2, 1000), KEYS.event_counts, "y > n"),
    (set_layer(KEYS.junction_counts, 2, -1), KEYS.junction_counts, "negative"),
    (set_layer(KEYS.junction_counts, 2, np.nan), KEYS.junction_counts, "NaN"),
    (set_layer(KEYS.junction_counts, 2, np.inf), KEYS.junction_counts, "infinite"),
    (set_layer(KEYS.event_counts, 2, 5000), KEYS.event_counts, "not the sum"),
    (set_layer(KEYS.event_counts, 2, 3, lambda n: n == 0), KEYS.event_counts, "not the sum"),
    (set_layer(KEYS.mask, 2, 1, lambda n: n == 0), KEYS.mask, "no reads"),
    (set_layer(KEYS.psi, 2, 1.5), KEYS.psi, "no ratio"),
    (set_layer(KEYS.psi, 2, np.nan), KEYS.psi, "no ratio"),
    (drop_event, "event_id", "missing"),
    (lose_event, "event_id", "1 junctions have no event"),
    (drop_layer, KEYS.junction_counts, "missing"),
    (drop_modality, KEYS.rna, "no such modality"),
    (turn_cells, "obs_names", "another order"),
    (lose_cells, "obs_names", "10 cells are not in this modality"),
    (repeat_gene, "var_names", "more than once"),
    (repeat_junction, "var_names", "more than once"),
    (rna_value(-1), "X", "negative"),
    (rna_value(np.nan), "X", "NaN"),
    (bad_size, KEYS.size_factor, "NaN"),
]


@pytest.mark.parametrize("fault, key, text", FAULTS, ids=[f"{k}: {t}" for _, k, t in FAULTS])
@pytest.mark.filterwarnings("ignore")
def test_check_finds_the_fault(fault, key, text):
    mdata = small()
    assert not (check_mudata(mdata).level != "note").any()
    fault(mdata)
    found = check_mudata(mdata, raise_errors=False)
    errors = found[found.level == "error"]
    assert ((errors.key == key) & errors.problem.str.contains(text, regex=False)).any(), found.to_string()
    assert (found.fix.str.len() > 0).all()
    with pytest.raises(ValueError) as e:
        check_mudata(mdata)
    assert text in str(e.value)


def test_check_warns_of_dense_and_column_layers():
    mdata = small()
    s = mdata[KEYS.splicing]
    s.layers[KEYS.psi] = s.layers[KEYS.psi].toarray()
    s.layers[KEYS.mask] = s.layers[KEYS.mask].tocsc()
    with pytest.warns(UserWarning) as seen:
        found = check_mudata(mdata)
    text = " ".join(str(w.message) for w in seen)
    assert "dense" in text and "CSC" in text
    assert set(found.level) <= {"warning", "note"}


@pytest.mark.filterwarnings("ignore")
def test_check_allows_nan_in_psi_where_nothing_was_read():
    mdata = small()
    s = mdata[KEYS.splicing]
    n = s.layers[KEYS.event_counts].toarray()
    s.layers[KEYS.psi] = np.where(n > 0, s.layers[KEYS.psi].toarray(), np.nan)
    assert not (check_mudata(mdata).level == "error").any()


def test_check_reads_names_and_layers_as_told():
    mdata = small()
    s = mdata[KEYS.splicing]
    s.layers["reads"] = s.layers[KEYS.junction_counts].copy()
    for k in LAYERS:
        del s.layers[k]
    with quiet_mudata():
        other = mudata.MuData({"ge": mdata[KEYS.rna], "atse": s})
    found = check_mudata(other, modalities={"rna_layer": "ge", "junc_ratio_layer": "atse"}, junc_counts_layer="reads")
    assert set(found.level) == {"note"}
    found = check_mudata(
        other, False, modalities={"junc_ratio_layer": "atse"}, junc_counts_layer="reads", psi_mask_layer="seen"
    )
    assert list(found[found.level == "error"].key) == ["seen"]


def excerpt(path):
    "A file with the layout of the real data sets: size factors, layers beside X, columns of genes and modalities."
    mdata = small()
    rna, splicing = mdata[KEYS.rna], mdata[KEYS.splicing]
    rna.layers["counts"], rna.layers["length_norm"] = rna.X.copy(), rna.X * 1.5
    mdata.obsm[KEYS.size_factor] = rna.obsm[KEYS.size_factor] = np.asarray(rna.layers["length_norm"].sum(1))
    for part, name in ((rna, "Gene Expression"), (splicing, "Splicing")):
        part.var = part.var[["gene_name", *part.var.columns.intersection(["event_id", "junction_id"])]].assign(
            gene_id="ENSG" + part.var["gene_name"].astype(str), modality=name
        )
        part.varm.clear()
    splicing.layers[KEYS.mask] = splicing.layers[KEYS.mask].astype(np.float32)
    mdata.update()
    mdata.write_h5mu(path)
    return path


@pytest.mark.parametrize("name", ["excerpt", "scmixology", "brie_gastrulation"])
@pytest.mark.filterwarnings("ignore")
def test_check_passes_data_of_others(request, tmp_path, name):
    own = name == "excerpt"
    path = excerpt(tmp_path / "a.h5mu") if own else request.getfixturevalue("real_data") / f"{name}.h5mu"
    mdata = mudata.read_h5mu(path)
    found = check_mudata(mdata)
    assert set(found.level) <= {"warning", "note"}
    rebuilt = make_mudata(mdata[KEYS.rna], mdata[KEYS.splicing])
    assert not len(check_mudata(rebuilt))
    same = mdata[KEYS.splicing][:, rebuilt[KEYS.splicing].var_names]
    assert own or same.n_vars == mdata[KEYS.splicing].n_vars  # a few junctions of the simulated cells are read in none
    same_matrix(rebuilt[KEYS.splicing].layers[KEYS.event_counts], same.layers[KEYS.event_counts])


# holding out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), fraction=st.sampled_from([0.05, 0.25, 0.5, 0.9]))
def test_hold_out_hides_whole_groups(seed, fraction):
    mdata = simulate(n_cells=15, n_genes=4, n_junctions=20, n_cell_types=2, observed=0.3, seed=seed % 7)
    s = mdata[KEYS.splicing]
    before = snapshot(s)
    train, held = hold_out(mdata, fraction, seed)
    assert_unchanged(s, before)
    event, _ = event_codes(s.var.event_id)
    full = observed_pairs(s.layers[KEYS.junction_counts], event)
    left = observed_pairs(train[KEYS.splicing].layers[KEYS.junction_counts], event)
    n_held = round(fraction * len(full.observation_event))
    assert len(left.observation_event) == len(full.observation_event) - n_held
    assert len(held.drop_duplicates(["cell", "event"])) == n_held
    assert len(held) + len(left) == len(full)
    assert (held.total > 0).all()
    want = s.layers[KEYS.junction_counts].toarray()
    np.testing.assert_array_equal(held.counts, want[held.cell_index, held.junction_index])
    np.testing.assert_array_equal(
        held.total, s.layers[KEYS.event_counts].toarray()[held.cell_index, held.junction_index]
    )
    assert (s.obs_names[held.cell_index] == held.cell).all() and (
        s.var_names[held.junction_index] == held.junction
    ).all()
    want[held.cell_index, held.junction_index] = 0
    layers = splicing_layers(observed_pairs(want, event))
    for k in LAYERS:
        same_matrix(train[KEYS.splicing].layers[k], layers[k])
    same_matrix(train[KEYS.splicing].X, layers[KEYS.psi])
    same_matrix(train[KEYS.rna].X, mdata[KEYS.rna].X)
    again = hold_out(mdata, fraction, seed)[1]
    pd.testing.assert_frame_equal(again, held)


def test_hold_out_differs_by_seed_and_warns_of_nothing():
    mdata = small()
    with warnings.catch_warnings():
        strict()
        (train, a), (_, b) = hold_out(mdata, seed=0), hold_out(mdata, seed=1)
        assert list(train.obs) == list(mdata.obs)
    assert not a.equals(b)


def test_hold_out_passes_over_what_the_mask_hides():
    mdata = small()
    s = mdata[KEYS.splicing]
    hidden = [0, 1, 2]
    mask = s.layers[KEYS.mask].tolil()
    mask[hidden] = 0
    s.layers[KEYS.mask] = mask.tocsr()
    train, held = hold_out(mdata, 0.9)
    assert not set(held.cell_index) & set(hidden)
    same_matrix(train[KEYS.splicing].layers[KEYS.junction_counts][hidden], s.layers[KEYS.junction_counts][hidden])


def test_hold_out_clears_dense_and_unknown_layers():
    mdata = small()
    s = mdata[KEYS.splicing]
    s.layers["log"] = np.log1p(s.layers[KEYS.junction_counts].toarray())
    s.X = s.layers[KEYS.junction_counts].toarray()
    train, held = hold_out(mdata)
    t = train[KEYS.splicing]
    at = held.cell_index, held.junction_index
    assert not t.layers["log"][at].any() and not t.X[at].any()
    assert t.layers["log"].any() and s.X[at].any()


def held_at_most(call) -> tuple[object, int]:
    "What a call returns, and the bytes that it held at most."
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_bytes_a_pair(monkeypatch):
    "No layer stands twice while data are built, held out and looked at; once 53, 79 and 20 bytes, now 36, 38, 8."
    monkeypatch.setattr(pairs_module, "STRETCH", 50_000)
    rng = np.random.default_rng(0)
    y = sp.random(2000, 1500, density=0.06, format="csr", dtype=np.float32, random_state=0)
    y.data[:] = rng.poisson(2.0, y.nnz) + 1
    cells = pd.DataFrame(index=[f"c{k}" for k in range(2000)])
    source = AnnData(obs=cells, var=pd.DataFrame({"event_id": [f"e{k // 3}" for k in range(1500)]}, dtype=str))
    source.layers["cell_by_junction_matrix"] = y.copy()
    mdata, built = held_at_most(lambda: make_mudata(None, source))
    before = {k: v.copy() for k, v in mdata["splicing"].layers.items()}
    (train, held), hidden = held_at_most(lambda: hold_out(mdata, 0.25))
    n = mdata["splicing"].layers["psi_mask"].nnz
    pairs, given = observed_pairs(y, np.arange(1500) // 3), before["junc_ratio"]
    new, looked = held_at_most(lambda: informative_psi(given, y, pairs, "PSI"))
    assert new is None and built < 42 * n and hidden < 45 * n and looked < 12 * n, (built / n, hidden / n, looked / n)
    assert abs(source.layers["cell_by_junction_matrix"] - y).nnz == 0  # what the user has is not touched
    assert all(abs(mdata["splicing"].layers[k] - v).nnz == 0 for k, v in before.items())
    at = held["cell_index"].to_numpy(), held["junction_index"].to_numpy()
    for name, layer in train["splicing"].layers.items():
        wanted = before[name].toarray()
        wanted[at] = 0
        assert np.array_equal(layer.toarray(), wanted), name
    y_dense, event = y.toarray(), np.arange(1500) // 3
    total = np.add.reduceat(y_dense, np.arange(0, 1500, 3), axis=1)[:, event]
    assert np.array_equal(before["cell_by_cluster_matrix"].toarray(), total)
    assert np.allclose(before["junc_ratio"].toarray(), np.divide(y_dense, total, out=0 * total, where=total > 0))
