"""What `power` says can be found, against simulated cells that are tested in full; the protocol of a data set."""

import mudata
import numpy as np
import pytest

from splicevi.data.pairs import CellStore, EventOrder, observed_pairs
from splicevi.data.protocol import PROTOCOLS, sequencing_protocol
from splicevi.datasets import event_sizes, junction_counts, random_psi, simulate, within_event
from splicevi.tl.agreement import WEIGHINGS, compared_donors, weighings
from splicevi.tl.detection import Depths, Trial, mean_power, power_rows, shifted_psi
from splicevi.tl.dispersion import cell_concentration
from splicevi.tl.event_test import Contrast, effect_posterior
from splicevi.tl.groups import Comparison, call_at_fdr, group_reads
from splicevi.tl.replicates import samples_of
from splicevi.tl.scatter import donor_reads
from splicevi.views.coverage import coverage_report

EFFECTS = (0.1, 0.2, 0.4)


def cells_with_changes(seed, n_donors, scatter, crossed=False, cells=40, observed=0.12, n_junctions=1600):
    "Counts of two groups of donors; a third of the events changes by one of `EFFECTS`, donors scatter on log usage."
    rng = np.random.default_rng(seed)
    sizes = event_sizes(n_junctions, rng)
    order = EventOrder(np.repeat(np.arange(len(sizes)), sizes))
    kind = rng.choice(4, len(sizes), p=[0.67, 0.11, 0.11, 0.11])
    first = random_psi(sizes, 1, rng, shape=1.0, floor=0.1)[:, 0]
    of_group = np.stack([first, shifted_psi(first, np.array([0, *EFFECTS])[kind], order)], 1)
    group = np.repeat([0, 1], n_donors)
    donor = np.tile(np.arange(n_donors), 2) if crossed else np.arange(2 * n_donors)
    shift = rng.normal(0, scatter / 2**0.5, (len(first), donor.max() + 1))[:, donor]
    psi = within_event(of_group[:, group] * np.exp(shift), sizes)
    sample = np.repeat(np.arange(2 * n_donors), cells)
    counts = junction_counts(psi, sample, sizes, rng.lognormal(0, 0.4, len(sample)), observed, 20.0, rng)
    return CellStore(pairs=observed_pairs(counts, order.code)), order.code, kind, group[sample], donor[sample]


def found_in_full(store, event, group, donor):
    "Which events the library's test calls."
    c, pair = cell_concentration(store, group), Comparison(*(np.flatnonzero(group == g) for g in (0, 1)))
    s = samples_of(pair, np.zeros(len(group), int) if donor is None else donor)
    sums = group_reads(store, s.code, len(s.group), c)
    w = weighings(np.stack([sums.weighted(k)[0] for k in WEIGHINGS["cells"]]), event)
    a, _, chance = w
    if donor is not None:
        found, _ = compared_donors(w, lambda a, event: donor_reads(a, s.group, s.donor, event))
        a, chance = found.reads, found.chance
    _, of_events = effect_posterior(Contrast(a, event, chance=chance), 0.05, 200)
    return call_at_fdr(of_events.proba, 0.05), pair


@pytest.mark.parametrize("n_donors,scatter,crossed", [(5, 0.7, False), (4, 0.7, True)])
def test_power_with_donors(n_donors, scatter, crossed):
    "Within 0.1 of what is found, averaged over simulated data sets; without donors far more is promised."
    said, real, blind = [], [], []
    for seed in range(3):
        store, event, kind, group, donor = cells_with_changes(seed, n_donors, scatter, crossed)
        called, pair = found_in_full(store, event, group, donor)
        depths, t = Depths(store, event, group), Trial(changed=0.33, n_events=100)
        for out, who in ((said, donor), (blind, None)):
            rows = power_rows(depths, pair, who, t, seed)
            out.append(rows[rows["data"] == "now"]["found"].to_numpy())
        real.append([called[kind == k].mean() for k in (1, 2, 3)])
    said, real, blind = (np.mean(v, 0) for v in (said, real, blind))
    assert np.abs(said - real).max() <= 0.1, (said, real)
    assert crossed or blind[1] > said[1] + 0.05


def test_report_says_what_could_be_found(tmp_path):
    "Three sentences, a figure and a protocol in the page; more cells find more; a group of one cell is no comparison."
    mdata = simulate(n_cells=200, n_genes=20, n_junctions=200, n_cell_types=2, observed=0.15, seed=0)
    labels = mdata.obs["cell_type"].astype(str)
    labels.iloc[0] = "alone"
    mdata.obs["kind"] = labels
    report = coverage_report(mdata, tmp_path / "c.html", label_key="kind")
    page = (tmp_path / "c.html").read_text()
    assert len(report.words) == 3 and all(w.split(";")[0].split("(")[0] in page for w in report.words)
    assert "What could be found" in page and PROTOCOLS[report.protocol.name][:40] in page
    assert set(report.power["group1"]) == {"type_1", "type_2"} and list(report.figures)[-1] == "power"
    mean = mean_power(report.power)
    assert (mean["twice the cells"] >= mean["now"] - 0.02).all() and mean.loc[0.4, "now"] > mean.loc[0.1, "now"] + 0.2
    assert coverage_report(mdata[:3].copy()).power is None


REAL = {"scmixology": "long reads", "brie_gastrulation": "full length"}


@pytest.mark.parametrize("name", REAL)
def test_protocol_of_real_cells(name, real_data):
    "Nanopore molecules of mixed cell lines, and Smart-seq2 of mouse embryos."
    assert sequencing_protocol(mudata.read_h5mu(real_data / f"{name}.h5mu")).name == REAL[name]
