"""Reads and counts of cells of donors who differ, with a known effect of the group."""

import numpy as np
import scipy.sparse as sp

from splicevi.data.pairs import CellStore, observed_pairs
from splicevi.datasets import dirichlet_multinomial, event_sizes, random_psi, within_event


def donors_and_cells(n_donors, crossed, cells, rng):
    "Group and donor of each sample, and the sample of each cell; numbers of cells are unbalanced."
    of = lambda g: np.arange(n_donors) + (0 if crossed else g * n_donors)
    group, donor = np.repeat([0, 1], n_donors), np.concatenate([of(0), of(1)])
    size = np.round(np.exp(rng.uniform(*np.log(cells), 2 * n_donors))).astype(int)
    return group, donor, np.repeat(np.arange(2 * n_donors), size)


def spliced(seed, n_donors, crossed=False, scatter=0.8, own=0.4, changed=0.0, effect=2.0, cells=(50, 500), **size):
    """Reads of two groups. Logits of the donors' PSI scatter with `scatter`, where donors are in both groups their
    responses with `own`; of the events, `changed` differ between the groups by `effect` on the logit."""
    rng = np.random.default_rng(seed)
    group, donor, sample = donors_and_cells(n_donors, crossed, cells, rng)
    sizes = event_sizes(size.get("n_junctions", 400), rng)
    event, start = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes) - sizes
    base = random_psi(sizes, 1, rng, shape=1.0, floor=0.1)[:, 0]
    is_ds, shift = rng.random(len(sizes)) < changed, np.zeros(len(base))
    shift[start] = np.where(is_ds, rng.choice([-effect, effect], len(sizes)), 0)
    of_group = [within_event(base * np.exp(g * shift), sizes) for g in (0, 1)]
    sd, response = scatter / 2**0.5, own / 2**0.5 * crossed  # of log usage, so that of two junctions' logit is right
    of_donor = rng.normal(0, sd, (donor.max() + 1, len(base)))[donor] + rng.normal(0, response, (len(donor), len(base)))
    psi = np.stack([within_event(of_group[g] * np.exp(d), sizes) for g, d in zip(group, of_donor)], axis=1)
    rate = size.get("observed", 0.12) * rng.lognormal(-0.18, 0.6, len(sizes))
    cell, seen = np.nonzero(rng.random((len(sample), len(sizes)), np.float32) < np.minimum(rate, 0.95))
    n, width = rng.geometric(1 / size.get("reads", 6.0), len(cell)), sizes[seen]
    junction = np.repeat(start[seen] - (np.cumsum(width) - width), width) + np.arange(width.sum())
    row = np.repeat(cell, width)
    y = dirichlet_multinomial(n, 20.0 * psi[junction, sample[row]], width, rng)
    counts = sp.csr_matrix((y.astype(np.float32), (row, junction)), shape=(len(sample), len(base)))
    counts.eliminate_zeros()
    people = np.random.default_rng(seed + 10**6).normal(0, np.hypot(sd, response), (400, len(base)))
    truth = [np.mean([within_event(p * np.exp(d), sizes) for d in people], axis=0) for p in of_group]
    return dict(
        counts=counts,
        event=event,
        store=CellStore(pairs=observed_pairs(counts, event.astype(np.int32))),
        group=group[sample],
        donor=donor[sample],
        truth=truth[1] - truth[0],
        is_ds=is_ds,
    )


def expressed(
    seed, n_donors, crossed=False, scatter=0.4, own=0.2, changed=0.0, effect=1.2, cells=(50, 200), n_genes=300
):
    "Counts of two groups: log expression of donors scatters with `scatter`, their responses with `own`."
    rng = np.random.default_rng(seed)
    group, donor, sample = donors_and_cells(n_donors, crossed, cells, rng)
    base, is_de = rng.normal(0, 1.2, n_genes), rng.random(n_genes) < changed
    shift = np.where(is_de, rng.normal(0, effect, n_genes), 0)
    of_donor = rng.normal(0, scatter, (donor.max() + 1, n_genes))[donor]
    log = base + group[:, None] * shift + of_donor + rng.normal(0, own * crossed + 1e-9, (len(donor), n_genes))
    depth = rng.gamma(4, 0.25, (len(sample), 1))
    x = rng.poisson(np.exp(log)[sample] * depth * rng.gamma(2, 0.5, (len(sample), n_genes)))
    share = [np.exp(base + g * shift) / np.exp(base + g * shift).sum() for g in (0, 1)]
    return dict(x=x, group=group[sample], donor=donor[sample], truth=np.log2(share[1] / share[0]), is_de=is_de)


def designed(seed, table, effects, scatter=0.8, own=0.4, changed=0.0, effect=2.0, cells=(50, 400), **size):
    """Reads of samples with covariates: `table` has a row for each sample, with its donor and its condition (0, 1);
    logits of all events shift with each column that `effects` names, those of `changed` events with the condition."""
    rng = np.random.default_rng(seed)
    n, donor = len(table), np.unique(table["donor"], return_inverse=True)[1]
    sample = np.repeat(np.arange(n), np.round(np.exp(rng.uniform(*np.log(cells), n))).astype(int))
    sizes = event_sizes(size.get("n_junctions", 300), rng)
    event, start = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes) - sizes
    base = random_psi(sizes, 1, rng, shape=1.0, floor=0.1)[:, 0]
    is_ds, shift = rng.random(len(sizes)) < changed, np.zeros((n, len(base)))
    for name, sd in effects.items():
        shift[:, start] += np.outer(table[name], rng.normal(0, sd, len(sizes)))
    shift[:, start] += np.outer(table["condition"], np.where(is_ds, rng.choice([-effect, effect], len(sizes)), 0))
    sd = scatter / 2**0.5
    of_donor = rng.normal(0, sd, (donor.max() + 1, len(base)))[donor]
    crossed = len(np.unique(donor)) < n
    of_donor = of_donor + crossed * rng.normal(0, own / 2**0.5, (n, len(base)))
    psi = np.stack([within_event(base * np.exp(s + d), sizes) for s, d in zip(shift, of_donor)], axis=1)
    rate = size.get("observed", 0.12) * rng.lognormal(-0.18, 0.6, len(sizes))
    cell, seen = np.nonzero(rng.random((len(sample), len(sizes)), np.float32) < np.minimum(rate, 0.95))
    k, width = rng.geometric(1 / size.get("reads", 6.0), len(cell)), sizes[seen]
    junction = np.repeat(start[seen] - (np.cumsum(width) - width), width) + np.arange(width.sum())
    y = dirichlet_multinomial(k, 20.0 * psi[junction, sample[np.repeat(cell, width)]], width, rng)
    counts = sp.csr_matrix((y.astype(np.float32), (np.repeat(cell, width), junction)), shape=(len(sample), len(base)))
    counts.eliminate_zeros()
    store = CellStore(pairs=observed_pairs(counts, event.astype(np.int32)))
    return dict(counts=counts, event=event, store=store, sample=sample, is_ds=is_ds)


def designed_counts_of(
    seed, table, effects, scatter=0.4, own=0.2, changed=0.0, effect=1.2, cells=(40, 150), n_genes=300
):
    "Counts of samples with covariates, see `designed`; log expression of `changed` genes shifts with the condition."
    rng = np.random.default_rng(seed)
    n, donor = len(table), np.unique(table["donor"], return_inverse=True)[1]
    sample = np.repeat(np.arange(n), np.round(np.exp(rng.uniform(*np.log(cells), n))).astype(int))
    is_de, log = rng.random(n_genes) < changed, np.tile(rng.normal(0, 1.2, n_genes), (n, 1))
    for name, sd in effects.items():
        log += np.outer(table[name], rng.normal(0, sd, n_genes))
    log += np.outer(table["condition"], np.where(is_de, rng.normal(0, effect, n_genes), 0))
    log += rng.normal(0, scatter, (donor.max() + 1, n_genes))[donor]
    log += (len(np.unique(donor)) < n) * rng.normal(0, own, (n, n_genes))
    depth = rng.gamma(4, 0.25, (len(sample), 1))
    x = rng.poisson(np.exp(log)[sample] * depth * rng.gamma(2, 0.5, (len(sample), n_genes)))
    return dict(x=x.astype(float), sample=sample, is_de=is_de)
