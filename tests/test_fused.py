"""Compiled code against PyTorch: the same likelihood, gradients, mini-batches and trainings, whatever the threads."""

import gc
import threading

import numpy as np
import pytest
import scipy.sparse as sp
import scvi
import torch
from torch.testing import assert_close

from splicevi import SPLICEVI
from splicevi.core import KEYS
from splicevi.data import compiled as code
from splicevi.datasets import simulate
from splicevi.nn import encoders, fused, fused_counts
from splicevi.nn.batch import SplicingBatch, splicing_batch
from splicevi.nn.decoders import DecodedCounts, DecodedPairs
from splicevi.nn.likelihoods import DirichletMultinomial, ZeroInflatedNegativeBinomial

CELLS, EVENTS, WIDTH = 200, 40, 5  # over 10,000 pairs, which threads share


@pytest.fixture
def compiled(monkeypatch):
    "Compiled code also for small mini-batches."
    monkeypatch.setattr(fused, "FUSE_FROM", 0)
    monkeypatch.setattr(fused_counts, "COUNTS_FROM", 0)


@pytest.fixture(params=[1, 2])
def threads(request):
    "One thread, and two."
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def mini_batch(most: float, seed: int = 0, whole: bool = True) -> SplicingBatch:
    "Random reads of events of 1 to 90 junctions; some cells see no event, some junctions are seen by no cell."
    rng = np.random.default_rng(seed)
    size = np.r_[1, 1, 90, rng.integers(2, 6, EVENTS - 3)]
    start = np.r_[0, size.cumsum()]
    seen = [(i, e) for i in range(CELLS) for e in range(EVENTS - 1) if i % 9 and rng.random() < 0.4]
    y = [rng.multinomial(np.exp(rng.uniform(0, np.log(most))), rng.dirichlet(np.full(size[e], 0.4))) for _, e in seen]
    y = [v if v.any() else np.eye(len(v), dtype=int)[0] for v in y]
    y = [v * (1 if whole else rng.uniform(0.3, 2)) for v in y]
    total = np.array([v.sum() for v in y])
    cell, event = np.array(seen).T
    n = size[event]
    observation = np.repeat(np.arange(len(seen)), n)
    junction = np.concatenate([np.arange(start[e], start[e + 1]) for e in event])
    y = np.concatenate(y)
    indptr = np.r_[0, np.bincount(cell, n, CELLS).cumsum()]
    as_float = lambda a: torch.tensor(a, dtype=torch.float32)
    return SplicingBatch(
        torch.tensor(np.repeat(cell, n)),
        torch.tensor(junction, dtype=torch.int32),
        as_float(y),
        as_float(total[observation]),
        as_float(y / total[observation]),
        torch.tensor(indptr, dtype=torch.int32),
        torch.tensor(observation),
        torch.tensor(cell),
        torch.tensor(event),
        as_float(total),
        torch.tensor(y).nonzero().squeeze(1),
    )


def in_double(batch: SplicingBatch) -> SplicingBatch:
    return SplicingBatch(*(t.double() if t.is_floating_point() else t for t in batch))


def answers(batch, given, weights):
    "Log-likelihood of each cell, and the gradients of a weighted sum of them."
    inputs = [t.clone().requires_grad_() for t in given]
    lp = DecodedPairs(*inputs[:3], batch).log_prob(DirichletMultinomial(inputs[3]))
    return [lp.detach(), *torch.autograd.grad((lp * weights.to(lp)).sum(), inputs)]


@pytest.mark.parametrize("one_for_all", [False, True], ids=["by event", "one concentration"])
@pytest.mark.parametrize("most, whole", [(8, True), (1e5, True), (50, False)], ids=["few", "many", "fractions"])
@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_log_likelihood_and_gradients(compiled, threads, monkeypatch, one_for_all, most, whole, spread):
    "Those of double precision in PyTorch; cells and junctions without reads have none."
    batch = mini_batch(most, whole=whole)
    torch.manual_seed(1)
    n_junctions = 90 + 2 + 6 * EVENTS
    log_c = torch.randn(() if one_for_all else (EVENTS,)) * 3
    given = [torch.randn(CELLS, WIDTH), torch.randn(n_junctions, WIDTH) * spread, torch.randn(n_junctions), log_c]
    weights = torch.linspace(-1, 2, CELLS)
    calls, apply = [], fused.FusedLogProb.apply
    monkeypatch.setattr("splicevi.nn.decoders.FusedLogProb.apply", lambda *a: calls.append(1) or apply(*a))
    one = answers(batch, given, weights)
    two = answers(in_double(batch), [t.double() for t in given], weights)
    assert len(calls) == 1  # in double precision PyTorch does it
    for a, b in zip(one, two):
        assert a.dtype == torch.float32 and torch.isfinite(a).all()
        assert_close(a.double(), b, rtol=1e-5, atol=2e-6 * spread * max(1.0, b.abs().max().item()))
    empty = batch.indptr.diff() == 0
    assert empty.any() and not one[0][empty].any() and not one[1][empty].any()
    unseen = torch.bincount(batch.junction, minlength=n_junctions) == 0
    assert unseen.any() and not one[2][unseen].any() and not one[3][unseen].any()


def counts_and_slopes(x, given, dtype):
    "Log-likelihood of each cell's counts, and the gradients of a weighted sum of them."
    hit = x.reshape(-1).nonzero().squeeze(1)
    inputs = [t.to(dtype).requires_grad_() for t in given]
    lp = DecodedCounts(*inputs).log_prob(ZeroInflatedNegativeBinomial(), x.reshape(-1)[hit].to(dtype), hit)
    weights = torch.linspace(-1, 2, len(x), dtype=dtype)
    return [t.double() for t in (lp.detach(), *torch.autograd.grad((lp * weights).sum(), inputs))], type(lp.grad_fn)


@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
def test_counts_and_gradients(compiled, threads, dispersion):
    "Those of double precision in PyTorch; a cell may have no counts at all, another a million of one gene."
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(60, 401) ** 3 * 20)
    x[3], x[4, 7] = 0, 1_000_000
    log_theta = 3 * torch.randn(401 if dispersion == "gene" else x.shape)
    given = 3 * torch.randn(x.shape), 6 + torch.randn(60, 1), log_theta, 5 * torch.randn(x.shape)
    (one, by), (two, _) = (counts_and_slopes(x, given, d) for d in (torch.float32, torch.float64))
    assert "FusedZeroInflated" in by.__name__
    for a, b in zip(one, two):
        assert_close(a, b, rtol=2e-5, atol=2e-6 * b.abs().max().item())


def test_counts_at_the_limits(compiled):
    "Means from e⁻⁸⁰ to 10⁶, inverse dispersions from 1e-4 to 10⁶, gates of ±80, counts to 10⁶: each gene by itself."
    rng = np.random.default_rng(0)
    n = 20_000
    uniform = lambda low, high: torch.tensor(rng.uniform(low, high, (n, 1)).astype(np.float32))
    x = torch.tensor(np.floor(np.exp(rng.uniform(-3, np.log(1e6), (n, 1)))))
    given = torch.zeros(n, 1), uniform(-80, 14), uniform(-9, 14), uniform(-80, 80)
    one, two = (counts_and_slopes(x, given, d)[0] for d in (torch.float32, torch.float64))
    most = 1 + torch.maximum(x, given[1].exp()) * (1 + (given[1] - given[2]).abs()) + given[3].abs()
    assert ((one[0] - two[0]).abs() <= 2e-6 * most.squeeze(1)).all()
    largest = torch.stack([x.expand(n, 1), torch.ones(n, 1), *(b.abs() for b in two[1:])]).amax(0)
    for a, b in zip(one[1:], two[1:]):
        assert torch.isfinite(a).all() and ((a - b).abs() <= 1e-5 * (b.abs() + largest)).all()


def test_counts_that_are_not_numbers_are_seen(compiled):
    "A diverged decoder makes the likelihood of its cell NaN, so that training stops."
    x = torch.poisson(torch.ones(4, 30))
    for k in range(4):
        given = [torch.randn(4, 30), torch.ones(4, 1), torch.zeros(30), torch.randn(4, 30)]
        given[k].view(-1)[0] = torch.nan
        lp = counts_and_slopes(x, given, torch.float32)[0][0]
        assert torch.isnan(lp[0]) and (k == 2 or torch.isfinite(lp[1:]).all())


def trained(data, **kwargs):
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(data, batch_key="batch")
    model = SPLICEVI(data, n_latent=4, **kwargs)
    model.train(max_epochs=5, lr=1e-3, batch_size=32, accelerator="cpu", enable_progress_bar=False)
    return model, model.history["elbo_train"].to_numpy().astype(float).ravel()


@pytest.mark.parametrize("kwargs", [{}, dict(dm_concentration="scalar"), dict(splicing_decoder_architecture="vanilla")])
def test_trainings_are_the_same(monkeypatch, kwargs):
    "With compiled code and with PyTorch: the same curve, the same latent points, the same validation."
    data = simulate(n_cells=120, n_genes=40, n_junctions=90, n_cell_types=3, n_batches=2, observed=0.4, seed=0)
    one, slow = trained(data, **kwargs)
    monkeypatch.setattr(fused, "FUSE_FROM", 0)
    monkeypatch.setattr(fused_counts, "COUNTS_FROM", 0)
    two, fast = trained(data, **kwargs)
    np.testing.assert_allclose(fast, slow, rtol=1e-4)
    np.testing.assert_allclose(two.get_latent_representation(), one.get_latent_representation(), atol=2e-3)
    np.testing.assert_allclose(two.get_elbo(), one.get_elbo(), rtol=0.01)


def test_results_do_not_depend_on_the_number_of_threads(compiled, monkeypatch):
    "Bit for bit."
    batch, out = mini_batch(100), []
    torch.manual_seed(1)
    given = [torch.randn(CELLS, WIDTH), torch.randn(400, WIDTH), torch.randn(400), torch.randn(EVENTS)]
    before = torch.get_num_threads()
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        out.append(answers(batch, given, torch.ones(CELLS)))
    torch.set_num_threads(before)
    for other in out[1:]:
        assert all(torch.equal(a, b) for a, b in zip(out[0], other))


def test_without_a_folder_for_the_cache(monkeypatch):
    "Where numba can keep nothing, functions are compiled all the same."
    njit = code.numba.njit

    def no_cache(f, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(f, **options)

    monkeypatch.setattr(code.numba, "njit", no_cache)
    assert code.compiled(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize("rows", [[5, 2, 2, 59, 0], [7, 8, 9]])
@pytest.mark.parametrize("layer", [False, True])
def test_loader_gives_the_same_mini_batches(monkeypatch, rows, layer):
    "Large ones are compact: every field that follows, with cells named twice and out of order, and a layer of PSI."
    data = simulate(n_cells=60, n_genes=20, n_junctions=50, seed=0)
    names = {}
    if layer:
        junctions = data["splicing"]
        y = junctions.layers[KEYS.junction_counts].toarray()
        junctions.layers["other"] = np.where(y > 0, np.random.default_rng(0).uniform(0.1, 0.9, y.shape), 0)
        names = dict(junc_ratio_layer="other")
    SPLICEVI.setup_mudata(data, **names)
    model = SPLICEVI(data, n_latent=3)
    ask = lambda: next(iter(model._make_data_loader(adata=model.adata, indices=np.array(rows), batch_size=5)))
    slow = ask()
    monkeypatch.setattr(fused, "FUSE_FROM", 0)
    fast = ask()
    assert "pairs_cell" in slow and "pairs_cell" not in fast
    for k in set(slow) & set(fast):
        assert torch.equal(slow[k].to(fast[k].dtype), fast[k]), k
    one, other = splicing_batch(slow), splicing_batch(fast)
    for k in SplicingBatch._fields:
        a, b = getattr(one, k), getattr(other, k)
        assert torch.equal(a, b) and a.dtype == b.dtype, k
    assert torch.equal(fast["x_count"], slow["X"].reshape(-1)[slow["x_hit"]])
    assert other.of_reads != layer


@pytest.fixture
def own_threads():
    "Lists threads of loaders and encoders, once those of trainings that earlier tests interrupted are gone."
    gc.collect()
    return lambda: [t for t in threading.enumerate() if t.name.startswith(("splicevi-loader", "splicevi-encoder"))]


def test_a_loader_left_early_leaves_no_thread(own_threads):
    "Also when its mini-batch could not be made."
    data = simulate(n_cells=60, n_genes=20, n_junctions=50, seed=0)
    SPLICEVI.setup_mudata(data)
    loader = SPLICEVI(data, n_latent=3)._make_data_loader(adata=data, batch_size=10)
    batches = iter(loader)
    next(batches)
    batches.close()
    loader.dataset.store = None
    with pytest.raises(AttributeError):
        next(iter(loader))
    assert not own_threads()


def test_encoders_at_work_side_by_side(monkeypatch, own_threads):
    "Answers, samples and errors do not depend on how many there are, and none is left behind."
    data = simulate(n_cells=90, n_genes=20, n_junctions=50, seed=0)
    SPLICEVI.setup_mudata(data, batch_key="batch")
    model, before, out = SPLICEVI(data, n_latent=3), torch.get_num_threads(), []
    model.is_trained_ = True
    for n in (1, 2, 9):
        torch.set_num_threads(n)
        torch.manual_seed(0)
        asked = dict(indices=np.arange(90)[::-1], batch_size=7)
        out.append([model.get_latent_representation(give_mean=mean, **asked) for mean in (True, False)])
        half_way = model._posteriors(data, np.arange(90), 10, encoded_only=True)
        next(half_way)
        half_way.close()
        with monkeypatch.context() as m, pytest.raises(RuntimeError, match="no more"):
            m.setattr(model.module, "inference", lambda **_: (_ for _ in ()).throw(RuntimeError("no more")))
            model.get_latent_representation(**asked)
        assert not own_threads()
        assert torch.get_num_threads() == n
    torch.set_num_threads(before)
    for other in out[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(out[0], other))


def test_a_prediction_left_half_way_leaves_no_codes_behind():
    "Codes of junctions that were computed for it are not those of later trainings and answers."
    data = simulate(n_cells=60, n_genes=20, n_junctions=50, seed=0)
    SPLICEVI.setup_mudata(data)
    model = SPLICEVI(data, n_latent=3)
    how = dict(max_epochs=1, lr=0.05, accelerator="cpu", enable_progress_bar=False)
    model.train(**how)
    half_way = model._posteriors(data, np.arange(60), 20)
    next(half_way)
    before = model.module.z_encoder_splicing.embedding.detach().clone()
    model.train(**how)
    assert not torch.equal(before, model.module.z_encoder_splicing.embedding)
    interaction = model.module.z_encoder_splicing.interaction
    with torch.no_grad():
        unit = torch.nn.functional.normalize(model.module.z_encoder_splicing.embedding, dim=1)
        now = model.module.z_encoder_splicing.embedding + interaction.g(unit)
        assert_close(interaction.codes(model.module.z_encoder_splicing.embedding), now)
    answer = model.get_latent_representation()
    next(half_way)  # and a second one in between takes nothing away
    assert np.array_equal(model.get_latent_representation(), answer)
    half_way.close()
    assert np.array_equal(model.get_latent_representation(), answer)


@pytest.mark.parametrize("kind", ["sorted", "edited in place", "few zeros"])
def test_latent_points_of_counts_as_they_lie(compiled, monkeypatch, kind):
    "They are those of dense counts, also where an edit left rows unsorted that scipy holds for sorted."
    mdata = simulate(n_cells=80, n_genes=700, n_junctions=60, seed=1)
    x = mdata["rna"].X
    if kind == "few zeros":
        x = mdata["rna"].X = sp.csr_matrix(x.toarray() + 1)
    else:
        x.data = np.random.default_rng(0).binomial(x.data.astype(int), 0.1).astype(np.float32)
        x.eliminate_zeros()
    assert x.has_canonical_format
    if kind == "edited in place":
        x.indices[:] = x.shape[1] - 1 - x.indices
    SPLICEVI.setup_mudata(mdata, modalities=dict(rna_layer="rna", junc_ratio_layer="splicing"))
    model, products = SPLICEVI(mdata, n_latent=4), []
    model.is_trained_ = True
    found = model.get_latent_representation(), model.get_latent_representation(indices=[7, 3, 70])
    count = lambda *given: products.append(given) or as_before(*given)
    as_before = encoders.product
    monkeypatch.setattr(encoders, "product", count)
    np.testing.assert_array_equal(model.get_latent_representation(), found[0])
    assert bool(products) == (kind != "few zeros")
    monkeypatch.setattr(fused, "FUSE_FROM", 10**9)
    np.testing.assert_allclose(found[0], dense := model.get_latent_representation(), atol=1e-5)
    np.testing.assert_allclose(found[1], dense[[7, 3, 70]], atol=1e-5)
