"""Likelihoods and mixing rules at the ends of what data and training can bring, in single against double precision.

1 to 10⁶ reads of an event, 1 to 10⁵ junctions in it, concentrations from 1e-4 to 1e6, logits to ±80. Single precision
is compared with double precision, double precision with SciPy. Tolerances: `VALUE` for each read or unit of the
logits (a log-likelihood of 10⁶ reads is a sum of 10⁶ terms), `SLOPE` relative to the gradient's largest entry.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import digamma, gammaln
from torch.testing import assert_close

from splicevi.data.pairs import EventOrder
from splicevi.nn import likelihoods as ll
from splicevi.nn.batch import SplicingBatch
from splicevi.nn.fusion import MIXINGS, PENALTIES
from splicevi.tl.concentration import log_beta_binomial, log_dirichlet_multinomial, log_rising

VALUE, SLOPE = 5e-6, 2e-5
fixed = settings(max_examples=60, deadline=None, derandomize=True, database=None)

reads_up_to = lambda top: st.floats(0, np.log(top)).map(lambda x: float(round(np.exp(x))))
reads = st.one_of(st.just(0.0), reads_up_to(1e6))
concentrations = st.floats(np.log(1e-4), np.log(1e6))
logit = st.floats(-80, 80, width=32)


def batch_of(observations: Sequence[Sequence[float]], dtype=torch.float64) -> SplicingBatch:
    "One cell for each observation, each of an event of its own."
    size = torch.tensor([len(y) for y in observations])
    y = torch.tensor([v for o in observations for v in o], dtype=dtype)
    at = torch.arange(len(size)).repeat_interleave(size)
    total = torch.zeros(len(size), dtype=dtype).index_add_(0, at, y)
    rows = torch.arange(len(size))
    indptr = torch.cat([torch.zeros(1), size.cumsum(0)]).int()
    junction, hit = torch.arange(len(y), dtype=torch.int32), y.nonzero().squeeze(1)
    return SplicingBatch(at, junction, y, total[at], y / total[at], indptr, at, rows, rows, total, hit)


def in_precision(name: str, dtype, observations, logits, log_c):
    "Log-probability of each observation, and the gradients of their sum by logits and log concentration."
    b, make = batch_of(observations, dtype), ll.SPLICING_LIKELIHOODS[name]
    x, c = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (logits, log_c))
    lp = (make(c) if make.has_concentration else make()).log_prob(x, b)
    lp.sum().backward()
    return [t.double() for t in (lp.detach(), x.grad, torch.zeros_like(c) if c.grad is None else c.grad)]


def assert_near(single, double, scale: float, slope: float) -> None:
    "Values within `VALUE` of their scale, gradients within `slope` of their largest entry, or of one read."
    for t in (*single, *double):
        assert torch.isfinite(t).all()
    assert_close(single[0], double[0], rtol=VALUE, atol=VALUE * scale)
    pairs = single[1].numel()  # as many terms has the gradient by the concentration
    for one, two in zip(single[1:], double[1:]):
        assert_close(one, two, rtol=slope, atol=slope * max(1.0, two.abs().max().item()) + 1e-6 * pairs / one.numel())


def compare(name, observations, logits, log_c, slope=SLOPE) -> None:
    "Single and double precision agree. All numbers are first rounded to single precision."
    logits, log_c = (np.asarray(v, np.float32).astype(float) for v in (logits, log_c))
    observations = [o for o in observations if sum(o)]
    most = max(sum(o) for o in observations)
    steep = 1 + np.abs(logits).max() if len(logits) else 1.0
    given = (observations, logits, log_c)
    single, double = (in_precision(name, t, *given) for t in (torch.float32, torch.float64))
    assert_near(single, double, most * (steep if name != "dirichlet_multinomial" else 1) + steep, slope)


@st.composite
def observed(draw):
    "Up to four observations of events of one to five junctions, their logits, and a log concentration for each pair."
    some = st.lists(reads, min_size=1, max_size=5).filter(lambda y: 1 <= sum(y) <= 1e6)
    observations = draw(st.lists(some, min_size=1, max_size=4))
    n = sum(map(len, observations))
    return observations, draw(st.lists(logit, min_size=n, max_size=n)), draw(concentrations)


@pytest.mark.parametrize("name", ll.SPLICING_LIKELIHOODS)
@fixed
@given(data=observed())
@example(data=([[403.0, 403.0]], [0.0, 0.0], 6.0))  # what the terms of the concentration leave is a thousandth of them
@example(data=([[300_000.0, 700_000.0]], [0.0, np.log(7 / 3)], np.log(1e6)))
def test_splicing_likelihoods_in_single_precision(name, data):
    "Value and gradients are those of double precision, whatever reads, logits and concentration."
    observations, logits, log_c = data
    compare(name, observations, logits, log_c)


@pytest.mark.parametrize("name", ll.SPLICING_LIKELIHOODS)
@pytest.mark.parametrize("log_c", [np.log(1e-4), 0.0, np.log(1e6)])
@pytest.mark.parametrize("junctions", [1, 100, 100_000])
def test_events_of_many_junctions(name, log_c, junctions):
    "An event of 100,000 junctions, with 1 and with a million reads, with equal logits and with logits of ±80."
    rng = np.random.default_rng(0)
    for total in (1, 1_000_000):
        y = rng.multinomial(total, rng.dirichlet(np.full(junctions, 0.3))).astype(float)
        for scale in (0, 80):
            compare(name, [y], scale * np.sign(rng.normal(size=junctions)), log_c, slope=1e-4)


def test_multichoose_against_scipy():
    "The function that all over-dispersed likelihoods are made of, over its whole range."
    rng = np.random.default_rng(0)
    log_a = rng.uniform(np.log(1e-8), np.log(1e6), 20_000).astype(np.float32)
    k = np.exp(rng.uniform(0, np.log(1e6), 20_000)).round()
    a = np.exp(log_a.astype(float))
    value = gammaln(a + k) - gammaln(a) - gammaln(k + 1)
    slope = a * (digamma(a + k) - digamma(a))
    for dtype, near, steep in ((torch.float32, 3e-6, 1e-6), (torch.float64, 1e-10, 1e-7)):
        x = torch.tensor(log_a, dtype=dtype, requires_grad=True)
        out = ll.log_multichoose(x, torch.tensor(k, dtype=dtype))
        out.sum().backward()
        np.testing.assert_array_less(np.abs(out.detach().numpy() - value), near * (10 + k + np.abs(value)))
        exact = a * k > 1e-3  # below, SciPy's difference has too few digits
        np.testing.assert_allclose(x.grad.numpy()[exact], slope[exact], rtol=max(steep, 2e-7))


def test_dirichlet_multinomial_against_scipy():
    "Double precision is SciPy's distribution."
    y, p = np.array([3.0, 0, 5, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    for c in (1e-4, 1.0, 1e6):
        got = in_precision("dirichlet_multinomial", torch.float64, [y], np.log(p), np.log(c))[0].item()
        np.testing.assert_allclose(got, stats.dirichlet_multinomial.logpmf(y.astype(int), c * p, 9), rtol=1e-7)


# properties


@fixed
@given(data=observed(), seed=st.integers(0, 1000))
def test_order_of_junctions_does_not_matter(data, seed):
    "Junctions of an event may come in any order."
    (y, *_), logits, log_c = data
    x, order = np.array(logits[: len(y)]), np.random.default_rng(seed).permutation(len(y))
    for name in ll.SPLICING_LIKELIHOODS:
        one = in_precision(name, torch.float64, [y], x, log_c)
        two = in_precision(name, torch.float64, [np.array(y)[order]], x[order], log_c)
        assert_close(two[0], one[0], rtol=1e-9, atol=1e-9)
        assert_close(two[1], one[1][order], rtol=1e-9, atol=1e-6)


@fixed
@given(y=st.lists(reads_up_to(1e3), min_size=1, max_size=6), shift=st.floats(-30, 30), log_c=concentrations)
def test_dirichlet_multinomial_does_not_see_a_common_shift(y, shift, log_c):
    "A number that is added to all logits of an event changes nothing, and its gradient is 0."
    x = np.linspace(-2, 2, len(y))
    one, two = (in_precision("dirichlet_multinomial", torch.float64, [y], v, log_c) for v in (x, x + shift))
    assert_close(two[0], one[0], rtol=1e-9, atol=1e-7)
    assert abs(one[1].sum().item()) < 1e-6 * max(sum(y), 1)


def all_splits(n: int):
    "The ways to place n reads on two junctions."
    return [(float(k), float(n - k)) for k in range(n + 1)]


@pytest.mark.parametrize("log_c", [np.log(1e-4), 0.0, np.log(1e6)])
def test_merged_junctions_are_dirichlet_multinomial(log_c):
    "The reads of two junctions together are those of one with both PSI: the probabilities of their splits add up."
    p, of_merged, rest = np.array([0.2, 0.3, 0.5]), 6, 4.0
    split = [(*s, rest) for s in all_splits(of_merged)]
    parts = in_precision("dirichlet_multinomial", torch.float64, split, np.log(np.tile(p, len(split))), log_c)[0]
    merged = in_precision("dirichlet_multinomial", torch.float64, [(of_merged, rest)], np.log([0.5, 0.5]), log_c)[0]
    assert_close(parts.logsumexp(0), merged[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ll.SPLICING_LIKELIHOODS)
@pytest.mark.parametrize("log_c", [np.log(1e-4), 3.0, np.log(1e6)])
def test_probabilities_sum_to_one(name, log_c):
    "Over all ways to place 8 reads, in single precision."
    splits = [(k, 8 - k) for k in range(9)]
    single = in_precision(name, torch.float32, splits, np.tile([0.7, -0.4], 9), log_c)[0]
    if name == "dirichlet_multinomial":
        assert_close(single.exp().sum(), torch.tensor(1.0).double(), rtol=3e-6, atol=0)
    else:  # each junction by itself: one junction of 8 reads is a cell with one pair
        whole = in_precision(name, torch.float64, splits, np.tile([0.7, -0.4], 9), log_c)[0]
        assert_close(single, whole, rtol=VALUE, atol=VALUE)
        b = batch_of([(float(k), 8.0 - k) for k in range(9)], torch.float32)
        b = b._replace(cell=torch.arange(18), indptr=torch.arange(19).int())
        make = ll.SPLICING_LIKELIHOODS[name]
        c = torch.tensor(log_c, dtype=torch.float32)
        first = (make(c) if make.has_concentration else make()).log_prob(torch.full((18,), 0.7), b)[::2]
        assert_close(first.exp().sum(), torch.tensor(1.0), rtol=3e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_c", [np.log(1e-4), 0.0, np.log(1e6)])
def test_events_of_one_junction_say_nothing(dtype, log_c):
    "Their reads are certain: no term and no gradient, however many."
    lp, logits, c = in_precision("dirichlet_multinomial", dtype, [(1.0,), (37.0,), (1e6,)], [-80.0, 0.0, 80.0], log_c)
    assert not lp.any() and not logits.any()
    assert c.abs().max() < 1e-6 * 1e6


@pytest.mark.parametrize("name", ["beta_binomial", "dirichlet_multinomial"])
def test_large_concentrations_are_the_binomial(name):
    "With c = 10⁶ and few reads PSI do not vary; single precision can still tell."
    y, x = [(3.0, 7.0)], [0.4, -0.4]
    got = in_precision(name, torch.float32, y, x, np.log(1e6))
    p = 1 / (1 + np.exp(-0.8 if name == "dirichlet_multinomial" else -0.4))
    once = stats.binom.logpmf(3, 10, p)
    want = once if name == "dirichlet_multinomial" else 2 * once
    np.testing.assert_allclose(got[0].item(), want, rtol=1e-4)
    np.testing.assert_allclose(got[1][0].item(), 3 - 10 * p, rtol=1e-4)


# genes


@fixed
@given(
    x=st.one_of(st.just(0.0), reads_up_to(1e6)),
    log_mu=st.floats(-80, 14, width=32),
    log_theta=st.floats(-9, 14, width=32),
    gate=logit,
)
@pytest.mark.parametrize("name", ll.GENE_LIKELIHOODS)
def test_gene_likelihoods_in_single_precision(name, x, log_mu, log_theta, gate):
    "Means from e⁻⁸⁰ to 10⁶, inverse dispersions from 1e-4 to 10⁶, gates of ±80, counts to 10⁶."
    out = []
    for dtype in (torch.float32, torch.float64):
        mu, theta, pi = (torch.tensor([[v]], dtype=dtype, requires_grad=True) for v in (log_mu, log_theta, gate))
        some = [x] if x else []
        counts = (torch.tensor(some, dtype=dtype), torch.zeros(len(some), dtype=torch.long))
        lp = ll.GENE_LIKELIHOODS[name]().log_prob(*counts, mu, theta, pi)
        lp.sum().backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in (mu, theta, pi)]
        out.append([t.double() for t in (lp.detach(), *grads)])
    scale = 1 + max(x, np.exp(log_mu)) * (1 + abs(log_mu - log_theta)) + abs(gate)
    for t in (*out[0], *out[1]):
        assert torch.isfinite(t).all()
    assert_close(out[0][0], out[1][0], rtol=VALUE, atol=VALUE * scale)
    most = max(1.0, *(g.abs().item() for g in out[1][1:]), x)
    for one, two in zip(out[0][1:], out[1][1:]):
        assert_close(one, two, rtol=SLOPE, atol=SLOPE * most)


def test_negative_binomial_against_scipy():
    "Also where the dispersion is all but Poisson's."
    x, mu = np.array([0.0, 1, 7, 300]), np.array([0.3, 1.0, 9.0, 250.0])
    for theta, dtype, near in ((0.5, torch.float64, 1e-9), (1e6, torch.float64, 1e-6), (1e6, torch.float32, 3e-5)):
        log_mu = torch.tensor(np.log(mu)[:, None], dtype=dtype)
        hit = torch.tensor([1, 2, 3])
        log_theta = torch.tensor([np.log(theta)], dtype=dtype)
        got = ll.NegativeBinomial().log_prob(torch.tensor(x[1:], dtype=dtype), hit, log_mu, log_theta)
        np.testing.assert_allclose(got.numpy(), stats.nbinom.logpmf(x, theta, theta / (theta + mu)), rtol=near)


# mixing rules and penalties


def posteriors(rng, cells: int, spread: float, dtype):
    "Posteriors of two modalities: means to ±spread, variances from 1e-4 to 1e4."
    mean = torch.tensor(rng.uniform(-spread, spread, (2, cells, 3)), dtype=torch.float32)
    var = torch.tensor(np.exp(rng.uniform(np.log(1e-4), np.log(1e4), (2, cells, 3))), dtype=torch.float32)
    return [t.to(dtype).requires_grad_() for t in (mean, var)]


def mixed(name, seed, spread, dtype, free, present):
    "Joint mean and variance of a rule whose parameters are `free` times random numbers, and all gradients."
    torch.manual_seed(0)
    rule = MIXINGS[name](3)
    for p in rule.parameters():
        p.data.copy_(free * torch.randn(p.shape))
    rule = rule.to(dtype)
    mean, var = posteriors(np.random.default_rng(seed), present.shape[1], spread, dtype)
    m, v = rule(mean, var, present)
    (m.square() + v.sqrt()).sum().backward()
    if name == "cell":  # the kink of a rectifier is on one side in one precision, and on the other in the other
        seen = torch.cat([mean[0], mean[1], var[0].log(), var[1].log()], -1)
        assume(rule.net[0](seen).abs().min() > 1e-4 * (10 + spread))
    var_grad = var.grad * var.detach()  # by the log of the variance, as a network gives it
    grads = [mean.grad, var_grad, *(p.grad for p in rule.parameters())]
    return [t.double() for t in (m.detach(), v.detach(), *(g for g in grads if g is not None))]


@fixed
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 10.0, 1e4]), free=st.sampled_from([0.0, 1.0, 5.0]))
@pytest.mark.parametrize("name", MIXINGS)
def test_mixing_rules_in_single_precision(name, seed, spread, free):
    "Joint posteriors and gradients, with cells that lack one modality or both."
    present = torch.tensor(np.random.default_rng(seed).random((2, 6)) < 0.7)
    single, double = (mixed(name, seed, spread, t, free, present) for t in (torch.float32, torch.float64))
    most = max(g.abs().max().item() for g in double[2:])
    for i, (one, two) in enumerate(zip(single, double)):
        assert torch.isfinite(one).all() and torch.isfinite(two).all()
        own = spread if i == 0 else 0 if i == 1 else most + 100 * (1 + spread**2)  # sums of such terms
        assert_close(one, two, rtol=1e-3, atol=1e-5 * own)
    assert (double[1] > 0).all()


@pytest.mark.parametrize("name", MIXINGS)
def test_a_missing_modality_does_not_count(name):
    "Whatever an encoder makes of it, infinity included: the joint posterior and the gradients are those without it."
    present = torch.tensor([[True, True, False, False], [True, False, True, False]])
    rule = MIXINGS[name](2)
    for p in rule.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    mean, var = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4, 2) * 0.5
    out = []
    for filler in (0.0, 1e30, torch.inf):
        absent = ~present.unsqueeze(-1)
        inputs = [torch.where(absent, filler, t).requires_grad_() for t in (mean, var)]
        rule.zero_grad()
        m, v = rule(*inputs, present)
        (m.sum() + v.sum()).backward()
        assert torch.isfinite(inputs[0].grad).all() and not (inputs[0].grad * absent).any()
        out.append([m.detach(), v.detach(), *(p.grad.clone() for p in rule.parameters() if p.grad is not None)])
    for other in out[1:]:
        for a, b in zip(out[0], other):
            assert_close(a, b)
    m, v = out[0][:2]
    assert not m[3].any() and (v[3] == 1).all()  # neither: the prior
    expression, splicing = (slice(0, 2), slice(2, 4)) if name == "concatenate" else (slice(None), slice(None))
    assert_close(m[1, expression], mean[0, 1])
    assert_close(m[2, splicing], mean[1, 2])


@pytest.mark.parametrize("name", [n for n in MIXINGS if n != "concatenate"])
def test_mixing_equal_posteriors_changes_nothing(name):
    "Weights sum to one: two posteriors that agree are the joint one."
    rule = MIXINGS[name](3)
    for p in rule.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(2))
    mean, var = torch.randn(5, 3).expand(2, 5, 3), torch.rand(5, 3).add(0.1).expand(2, 5, 3)
    m, v = rule(mean, var, torch.ones(2, 5, dtype=torch.bool))
    assert_close(m, mean[0])
    assert_close(v, var[0])


@fixed
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.0, 1e-3, 1.0, 1e4]))
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_in_single_precision(name, seed, spread):
    "Values and gradients; symmetric in the modalities, not negative, 0 (but for a millionth) where they agree."
    out = []
    for dtype in (torch.float32, torch.float64):
        mean, var = posteriors(np.random.default_rng(seed), 4, spread, dtype)
        value = PENALTIES[name](mean, var)
        if name != "None":
            value.sum().backward()
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in (mean, var)]
        out.append([t.double() for t in (value.detach(), *grads)])
        assert_close(PENALTIES[name](mean.flip(0), var.flip(0)), value)
        same = PENALTIES[name](mean[:1].expand(2, -1, -1), var[:1].expand(2, -1, -1))
        assert (value >= -1e-6).all() and same.abs().max() < 2e-6
    for one, two in zip(*out):
        assert torch.isfinite(one).all()
        assert_close(one, two, rtol=1e-4, atol=1e-5 * max(1.0, two.abs().max().item()))


# the same statistics outside of torch


@fixed
@given(data=observed())
def test_numpy_and_torch_agree(data):
    "The likelihood of tests and scores is the model's, but for the multinomial coefficient."
    (y, *_), logits, log_c = data
    y, x = np.array(y), np.clip(np.array(logits[: len(y)]), -20, 20)
    p, c = np.exp(x - np.logaddexp.reduce(x)), np.exp(log_c)
    mine = log_dirichlet_multinomial(y, p, c, EventOrder(np.zeros(len(y), int)))[0]
    mine += gammaln(y.sum() + 1) - gammaln(y + 1).sum()
    got = in_precision("dirichlet_multinomial", torch.float64, [y], x, log_c)[0].item()
    np.testing.assert_allclose(mine, got, rtol=1e-7, atol=1e-7 * (1 + y.sum()) ** 0.5)
    p = 1 / (1 + np.exp(-x))
    mine = log_beta_binomial(y, y.sum(), c * p, c) + gammaln(y.sum() + 1) - gammaln(y + 1) - gammaln(y.sum() - y + 1)
    got = in_precision("beta_binomial", torch.float64, [y], x, log_c)[0].item()
    np.testing.assert_allclose(mine.sum(), got, rtol=1e-6, atol=1e-6 * (1 + y.sum()) ** 0.5)


def test_reads_and_psi_of_zero_outside_of_torch():
    "No reads: 0, whatever the PSI. A PSI of 0 or 1 makes contrary reads impossible and none certain."
    a = np.array([0.0, 1e-300, 1e-4, 1.0, 1e6])
    assert not log_rising(a, 0.0).any() and log_rising(0.0, 3.0) == -np.inf
    one = EventOrder(np.array([0, 0]))
    assert log_dirichlet_multinomial(np.array([7.0, 0.0]), np.array([1.0, 0.0]), 5.0, one)[0] == 0
    assert log_beta_binomial(0.0, 7.0, 0.0, 5.0) == 0 and log_beta_binomial(7.0, 7.0, 5.0, 5.0) == 0
    assert log_beta_binomial(1.0, 7.0, 0.0, 5.0) == -np.inf
