"""What sets selected cells apart, against sums over cells with pandas, and who is found and who is not."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from splicevi import SPLICEVI, tl
from splicevi.data.build import hold_out
from splicevi.data.pairs import event_codes, observed_pairs
from splicevi.datasets import simulate
from splicevi.tl.selection import (
    GroupSums,
    count_sums,
    psi_differences,
    ranked_junctions,
    reads_of_counts,
    reads_of_pairs,
)


@pytest.fixture(scope="module")
def mdata():
    return simulate(n_cells=300, n_genes=80, n_junctions=160, n_cell_types=3, observed=0.3, seed=2)


@pytest.fixture(scope="module")
def of_type(mdata):
    return (mdata.obs["cell_type"] == "type_2").to_numpy()


def shown_reads(mdata):
    "Reads that the mask shows, dense, and the code of each junction's event."
    s = mdata["splicing"]
    y = np.asarray(s.layers["cell_by_junction_matrix"].todense(), float)
    return y * (s.layers["psi_mask"].toarray() > 0), event_codes(s.var["event_id"])[0]


def by_hand(y, event, mask):
    "PSI, squares and cells of a group, one junction and one cell after the other."
    rows = []
    for j in range(y.shape[1]):
        n = y[:, event == event[j]].sum(1)
        of = []
        for side in (mask, ~mask):
            psi = y[side, j].sum() / max(n[side].sum(), 1e-12)
            squares = sum((y[i, j] - psi * n[i]) ** 2 for i in np.flatnonzero(side))
            of.append((psi, squares, n[side].sum(), int((n[side] > 0).sum())))
        rows.append(of)
    return np.array(rows)  # (junctions, sides, 4)


@pytest.mark.parametrize("hidden", [False, True])
def test_sums_are_those_of_a_loop(mdata, of_type, hidden):
    "PSI, squared deviations, reads and cells of both sides, also where a mask hides events."
    data = hold_out(mdata, 0.3, seed=1)[0] if hidden else mdata
    y, event = shown_reads(data)
    s = data["splicing"]
    reads = reads_of_counts(s.layers["cell_by_junction_matrix"], event, s.layers["psi_mask"])
    want = by_hand(y, event, of_type)
    for k, side in enumerate((of_type, ~of_type)):
        got = GroupSums(*reads.sums(np.flatnonzero(side)))
        np.testing.assert_allclose(got.psi, want[:, k, 0], atol=1e-9)
        np.testing.assert_allclose(got.squares, want[:, k, 1], atol=1e-6)
        np.testing.assert_allclose(got.n, want[:, k, 2])
        np.testing.assert_allclose(got.cells, want[:, k, 3])
    again = GroupSums(*reads.sums(np.flatnonzero(of_type)))  # nothing is left of the last sums
    np.testing.assert_array_equal(again.y, y[of_type].sum(0))


def test_totals_of_junctions_that_stand_alone():
    "Where each junction is its own event, the reads of the event come with the pairs."
    y = np.array([[2, 0, 1], [0, 3, 0], [1, 1, 1]], float)
    pairs = observed_pairs(sp.csr_matrix(y), np.array([0, 0, 1]))
    alone = observed_pairs(sp.csr_matrix(y), np.arange(3))
    alone.observation_total = 2 * alone.observation_total  # as if others of the event were filtered out
    got = GroupSums(*reads_of_pairs(alone, np.arange(3)).sums(np.arange(3)))
    np.testing.assert_allclose(got.psi, 0.5)
    summed = GroupSums(*reads_of_pairs(pairs, np.array([0, 0, 1])).sums(np.arange(3)))
    np.testing.assert_allclose(summed.n, [7, 7, 2])


def test_differences_by_the_formula(mdata, of_type):
    "Difference, standard error and score as they are defined; never surer than with independent reads."
    y, event = shown_reads(mdata)
    reads = reads_of_counts(y, event)
    a, b = (GroupSums(*reads.sums(np.flatnonzero(s))) for s in (of_type, ~of_type))
    found = psi_differences(a, b)
    both = (a.y + b.y) / (a.n + b.n)
    p, q = (a.y + both) / (a.n + 1), (b.y + both) / (b.n + 1)
    np.testing.assert_allclose(found["difference"], p - q)
    independent = np.sqrt(p * (1 - p) / (a.n + 1) + q * (1 - q) / (b.n + 1))
    assert (found["se"] >= independent - 1e-12).all() and (found["se"] < 4 * independent + 1e-12).all()
    np.testing.assert_allclose(found["score"], found["difference"].abs() - 2 * found["se"])
    turned = psi_differences(b, a)
    np.testing.assert_allclose(turned["difference"], -found["difference"])
    np.testing.assert_allclose(turned["se"], found["se"])


def test_cells_that_say_little_are_no_surprise():
    "Three reads that agree do not come before a hundred that nearly do."
    y = np.zeros((206, 4))
    y[:3, 0] = 1  # event 1: three reads in the selection, all of the first junction
    y[6:106, [0, 1]] = 0.5 * 2 * np.array([1, 1])
    y[:6, 2], y[3:6, 3] = 18, 2  # event 2: a hundred reads, nearly all of the first
    y[6:106, [2, 3]] = 1
    mask = np.arange(206) < 6
    junctions = pd.DataFrame({"gene_name": "", "event_id": list("aabb"), "event_name": ""}, index=list("wxyz"))
    found = ranked_junctions(reads_of_counts(y, np.array([0, 0, 1, 1])), mask, junctions)
    assert found["event_id"].tolist() == ["b", "a"] and found["score"].iloc[0] > 0.3


def test_random_cells_have_nothing_and_types_have_their_events(mdata, of_type):
    "About one in twenty junctions of a random half scores above 0; those of a type that differ in truth come first."
    rng = np.random.default_rng(0)
    share = []
    for _ in range(20):
        chance = tl.rank_selection(mdata, rng.permutation(300)[:150], level="junction")
        share.append([(chance.events["score"] > 0).mean(), (chance.genes["score"] > 0).mean()])
    assert (np.mean(share, axis=0) < 0.08).all(), share
    psi = np.asarray(mdata["splicing"].varm["psi_true"])
    true = np.abs(psi[:, 1] - psi[:, [0, 2]].mean(1))
    found = tl.rank_selection(mdata, of_type, level="junction").events
    true = pd.Series(true, mdata["splicing"].var_names)[found.index].to_numpy()
    assert true[:20].mean() > 0.25 > 2 * true[-40:].mean(), (true[:20].mean(), true[-40:].mean())
    genes = tl.rank_selection(mdata, of_type).genes.head(40)  # of rare genes little is known
    mean = np.log2(np.asarray(mdata["rna"].varm["mean_true"]))
    fold = pd.Series(mean[:, 1] - mean[:, [0, 2]].mean(1), mdata["rna"].var_names)[genes.index]
    assert np.corrcoef(fold, genes["log2_fold_change"])[0, 1] > 0.8


def test_a_model_a_mudata_and_an_anndata_say_the_same(mdata, of_type):
    "Whatever holds the reads, in whatever order the modalities are, and however cells are named."
    own = mdata.copy()
    SPLICEVI.setup_mudata(own, batch_key="batch")
    model = SPLICEVI(own, n_latent=3)
    one, two = tl.rank_selection(mdata, of_type), tl.rank_selection(model, mdata.obs_names[of_type])
    pd.testing.assert_frame_equal(one.events, two.events, check_categorical=False)
    pd.testing.assert_frame_equal(one.genes, two.genes)
    rows = tl.rank_selection(mdata, pd.Series(of_type, mdata.obs_names)[::-1])
    pd.testing.assert_frame_equal(one.events, rows.events)
    assert repr(one) == repr(two) and "100 cells against 200" in repr(one)
    part = mdata[:150]
    some = tl.rank_selection(part, of_type[:150])
    y, event = shown_reads(part)
    first = some.events.iloc[0]
    at = list(mdata["splicing"].var_names).index(first["junction_id"])
    assert first["n_reads_selected"] == y[of_type[:150]][:, event == event[at]].sum()


def test_a_sample_of_cells_is_the_same_each_time(mdata, of_type):
    "And close to what all cells say."
    few = [tl.rank_selection(mdata, of_type, n_cells=60) for _ in range(2)]
    pd.testing.assert_frame_equal(few[0].events, few[1].events)
    assert few[0].events["n_cells_rest"].max() <= 60 < tl.rank_selection(mdata, of_type).events["n_cells_rest"].max()
    whole = tl.rank_selection(mdata, of_type).events
    same = whole.head(15).index.intersection(few[0].events.head(30).index)
    assert len(same) >= 10


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_genes_by_a_loop(mdata, kind):
    "Counts per 10,000 and their squares, of matrices of any kind; cells without a count are left out."
    x = mdata["rna"].X.toarray().astype(float)
    x[3] = 0
    given = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind](x)
    rows = np.array([0, 3, 7, 50])
    u = np.array([1e4 * x[i] / x[i].sum() for i in rows if x[i].sum()])
    got, cells = count_sums(given, rows, block=2)
    assert cells == 3
    np.testing.assert_allclose(got, np.stack([u.sum(0), (u**2).sum(0)], 1), rtol=1e-9)
