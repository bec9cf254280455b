"""Donors as replicates: errors where only donors differ, power, paired donors, few donors, whose PSI is compared."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from cells_of_donors import expressed, spliced
from scipy import stats

from splicevi import SPLICEVI, tl
from splicevi.core import KEYS
from splicevi.data.build import assemble_mudata
from splicevi.data.pairs import CellStore, EventOrder, observed_pairs, splicing_layers
from splicevi.datasets import simulate
from splicevi.tl.agreement import WEIGHINGS, compared_donors, weighings
from splicevi.tl.dispersion import cell_concentration
from splicevi.tl.donor_counts import counted_donors, donor_counts, donor_mean, gene_p_values
from splicevi.tl.donors import likelihood_ratio
from splicevi.tl.event_test import Contrast, effect_posterior
from splicevi.tl.fold_changes import FoldPosterior, fit_folds
from splicevi.tl.groups import Comparison, call_at_fdr, group_reads
from splicevi.tl.replicates import names_donors, samples_of
from splicevi.tl.scatter import donor_reads, event_p_values, p_of_events


def samples_read(data, by_donor=True, donor=None):
    "Sums of the reads of each sample of simulated cells, group and donor of the samples."
    pair = Comparison(*(np.flatnonzero(data["group"] == g) for g in (0, 1)))
    donor = data["donor"] if donor is None else donor
    s = samples_of(pair, donor if by_donor else np.zeros(len(donor), int))
    return group_reads(data["store"], s.code, len(s.group), 20.0), s.group, s.donor


def reads_of(data, **options):
    "Reads of each sample by cells, group and donor of the samples."
    sums, group, donor = samples_read(data, **options)
    return sums.weighted("cells")[0], group, donor


def answers(data, n_draws=200, weights="cells", **options):
    "P-value of each event, and the posterior of each junction in the order of junctions."
    sums, group, donor = samples_read(data, **options)
    w = weighings(np.stack([sums.weighted(k)[0] for k in WEIGHINGS[weights]]), data["event"])
    (a, event, chance), p = w, None
    if len(group) > 2:
        found, p = compared_donors(w, lambda a, event: donor_reads(a, group, donor, event))
        a, chance = found.reads, found.chance
    contrast = Contrast(a, event, chance=chance)
    effect, _ = effect_posterior(contrast, n_draws=n_draws)
    effect = effect._replace(**{k: v[np.argsort(contrast.junctions)] for k, v in effect._asdict().items()})
    return p, effect


def beta_binomial(data):
    "Largest likelihood ratio of each event's junctions, of pseudobulk, scaled as for few samples."
    pair = Comparison(*(np.flatnonzero(data["group"] == g) for g in (0, 1)))
    s = samples_of(pair, data["donor"])
    sums = group_reads(data["store"], s.code, len(s.group), wanted=("reads", "totals"))
    events = EventOrder(data["event"])
    return events.max(likelihood_ratio(sums.reads.T, sums.totals.T, s.group)[0][events.order])


def power(null, changed):
    "Share of changed events beyond the 95 % quantile of those that are not."
    return (np.concatenate(changed) >= np.quantile(np.concatenate(null), 0.95)).mean()


def figures(n_donors, crossed, seeds=4, changed=0.25, least=0.1, **options):
    """What is wrongly and rightly found with a number of donors, over seeds. Power is that in events of which a PSI
    changes by `least` or more (0: all that change); a beta-binomial test weighs cells by their reads."""
    rows, null, found = [], {}, {}
    for seed in range(seeds):
        alike = spliced(seed, n_donors, crossed, **options)
        differ = spliced(seed + 100, n_donors, crossed, changed=changed, **options)
        for data, to in ((alike, null), (differ, found)):
            events = EventOrder(data["event"])
            size = events.max(np.abs(data["truth"])[events.order])
            of = (data["is_ds"] & (size >= least)) if data is differ else slice(None)
            for w in ("cells", "reads"):
                to.setdefault(w, []).append(-answers(data, n_draws=2, weights=w)[0][of])
            to.setdefault("beta-binomial", []).append(beta_binomial(data)[of])
        (_, e0), (_, naive), (_, e) = answers(alike), answers(alike, by_donor=False), answers(differ)
        real, called = np.abs(differ["truth"]) >= 0.1, call_at_fdr(e.proba, 0.05)
        inside = (e.lower <= differ["truth"]) & (differ["truth"] <= e.upper)
        rows.append(
            {
                "p < 0.05": (null["cells"][-1] > -0.05).mean(),
                "called": call_at_fdr(e0.proba, 0.05).mean(),
                "called by cells": call_at_fdr(naive.proba, 0.05).mean(),
                "false": (called & ~real).sum() / max(called.sum(), 1),
                "calls": called.sum(),
                "calls of none": (called & (differ["truth"] == 0)).sum(),
                "found": called[real].mean(),
                "covered": inside.mean(),
                "covered, of changed": inside[differ["truth"] != 0].mean(),
            }
        )
    return pd.concat([pd.DataFrame(rows).mean(), pd.Series({f"power, {k}": power(null[k], found[k]) for k in null})])


@pytest.mark.parametrize("crossed", [False, True], ids=["nested", "crossed"])
def test_errors_and_power_where_donors_differ(crossed):
    "Four donors: one in twenty errs at 0.05, nothing is called, more is found than by pseudobulk at the same error."
    found = figures(4, crossed, n_junctions=300)
    assert 0.02 <= found["p < 0.05"] <= 0.075 and found["called"] <= 0.001, found
    assert found["called by cells"] >= (0.02 if crossed else 0.1), found
    assert found["false"] <= 0.08 and found["covered"] >= 0.9, found
    assert found["power, reads"] >= found["power, beta-binomial"] - 0.05, found  # two standard errors


@pytest.mark.slow
@pytest.mark.parametrize("crossed", [False, True], ids=["nested", "crossed"])
@pytest.mark.parametrize("n_donors", [3, 5, 10, 20])
def test_errors_and_power_grid(n_donors, crossed):
    "3, 5, 10 and 20 donors a group, 50 to 500 cells each."
    found = figures(n_donors, crossed, seeds=12, least=0)
    print(n_donors, "crossed" if crossed else "nested", found.round(3).to_dict())
    assert 0.03 <= found["p < 0.05"] <= 0.06 and found["called"] <= 0.001, found
    assert found["false"] <= 0.06 and 0.92 <= found["covered"] <= 0.98, found
    assert found["power, reads"] >= found["power, beta-binomial"] - 0.01, found  # two standard errors
    assert found["power, cells"] >= found["power, beta-binomial"] - 0.01, found


@pytest.mark.slow
@pytest.mark.parametrize("n_donors, crossed, effect", [(10, 0, 1.0), (10, 1, 0.7), (20, 0, 0.8), (20, 1, 0.5)])
def test_power_of_many_donors_where_it_could_be_more(n_donors, crossed, effect):
    """More than by pseudobulk, with effects of which a part is missed; in the grid it is one in a hundred. They are
    about as large as the least that counts: errors are calls of junctions that do not change, over all seeds."""
    found = figures(n_donors, bool(crossed), seeds=12, least=0, effect=effect)
    print(n_donors, crossed, effect, found.round(3).to_dict())
    assert min(found["power, cells"], found["power, reads"]) >= found["power, beta-binomial"], found
    assert found["called"] <= 0.001 and found["p < 0.05"] <= 0.06, found
    assert found["calls of none"] <= 0.06 * found["calls"], found


def test_paired_donors_tell_more_than_strangers():
    "Donors in both groups cancel; a donor in one group only takes nothing away."
    data = spliced(3, 5, crossed=True, changed=0.3, effect=1.2)
    strangers = data | dict(donor=data["donor"] + 100 * data["group"])
    rate = lambda d: (answers(d, n_draws=5)[0][data["is_ds"]] < 0.05).mean()
    assert rate(data) > rate(strangers) + 0.1
    some = data["donor"] == 4
    mixed = data | dict(donor=np.where(some, data["donor"] + 100 * data["group"], data["donor"]))
    a, group, donor = reads_of(mixed)
    assert donor_reads(a, group, donor, data["event"]).paired.mean() > 0.8 and rate(mixed) > rate(strangers) + 0.05


def test_donors_alike_are_not_held_against_the_test():
    "Without scatter of donors p-values are about uniform, where the classical ratio hardly ever is below 0.05."
    p, ratio = [], []
    for seed in range(5):
        data = spliced(seed, 3, scatter=0.0, n_junctions=300)
        p.append(answers(data, n_draws=5)[0])
        ratio.append(beta_binomial(data))
    assert 0.02 < (np.concatenate(p) < 0.05).mean() < 0.08
    assert 0.15 < (np.concatenate(p) < 0.25).mean() < 0.35


def test_order_of_junctions_and_samples_is_no_matter():
    data, rng = spliced(0, 3, n_junctions=60), np.random.default_rng(0)
    a, group, donor = reads_of(data)
    junctions, samples = rng.permutation(len(data["event"])), rng.permutation(len(a))
    one = donor_reads(a, group, donor, data["event"])
    two = donor_reads(a[samples][:, junctions], group[samples], donor[samples], data["event"][junctions])
    np.testing.assert_allclose(two.reads, one.reads[..., junctions], atol=1e-9)
    np.testing.assert_allclose(two.chance, one.chance, atol=1e-9)
    turned = donor_reads(a, 1 - group, donor, data["event"])
    np.testing.assert_allclose(event_p_values(turned, data["event"]), event_p_values(one, data["event"]))


def test_an_event_without_reads_in_a_group_has_no_p_value():
    data = spliced(0, 3, n_junctions=60)
    a, group, donor = reads_of(data)
    lost, alone = data["event"] == 3, np.append(data["event"], 99)
    a[np.ix_(group == 1, lost)] = 0
    p = p_of_events(lambda a, event: donor_reads(a, group, donor, event), np.column_stack([a, a[:, 0]]), alone)
    assert np.isnan(p[[3, -1]]).all() and np.isfinite(np.delete(p, [3, len(p) - 1])).all()


# ---------------------------------------------------------------- genes
def genes_tested(data):
    "P-values, probabilities of a fold change of 0.25, and intervals of the genes."
    rows = [np.flatnonzero(data["group"] == g) for g in (0, 1)]
    s, total = samples_of(Comparison(*rows), data["donor"]), [data["x"][r].sum(0).astype(float) for r in rows]
    codes = [np.unique(data["donor"][r], return_inverse=True)[1] for r in rows]
    found = counted_donors([donor_counts(data["x"][r], k, t) for r, k, t in zip(rows, codes, total)], s)
    one, two = (donor_mean(found, g, t) for g, t in enumerate(total))
    lfc, variance = (two.mean - one.mean).T, (one.variance + two.variance).T
    prior = fit_folds(lfc, variance, chance=found.chance)
    draws = FoldPosterior(lfc, variance, prior, one.common + two.common, found.chance).draws(
        400, np.random.default_rng(0)
    )
    proba, inside = (np.abs(draws) >= 0.25).mean(0), np.quantile(draws, (0.025, 0.975), axis=0)
    return gene_p_values(lfc, variance, found.chance, prior.center), proba, inside, found


@pytest.mark.parametrize("crossed", [False, True], ids=["nested", "crossed"])
def test_errors_of_genes_where_donors_differ(crossed):
    p, called, false, found = [], [], [], []
    for seed in range(3):
        p0, proba, _, donors = genes_tested(expressed(seed, 4, crossed))
        data = expressed(seed + 50, 4, crossed, changed=0.2)
        _, changed, _, _ = genes_tested(data)
        calls, real = call_at_fdr(changed, 0.05), np.abs(data["truth"]) >= 0.25
        p.append(p0)
        called.append(call_at_fdr(proba, 0.05).mean())
        false.append((calls & ~real).sum() / calls.sum())
        found.append((calls & data["is_de"]).sum() / data["is_de"].sum())
    assert 0.03 <= (np.concatenate(p) < 0.05).mean() <= 0.075 and np.mean(called) < 0.002
    assert (
        np.mean(false) < 0.08
        and np.mean(found) > 0.6
        and donors.paired.mean() == pytest.approx(float(crossed), abs=0.05)
    )


@pytest.mark.slow
@pytest.mark.parametrize("crossed", [False, True], ids=["nested", "crossed"])
@pytest.mark.parametrize("n_donors", [3, 5, 10, 20])
def test_errors_of_genes_grid(n_donors, crossed):
    rows = []
    for seed in range(8 if n_donors < 20 else 4):
        p0, proba, _, _ = genes_tested(expressed(seed, n_donors, crossed))
        data = expressed(seed + 50, n_donors, crossed, changed=0.2)
        _, changed, (low, high), _ = genes_tested(data)
        calls, real = call_at_fdr(changed, 0.05), np.abs(data["truth"]) >= 0.25
        rows.append(
            {
                "p < 0.05": (p0 < 0.05).mean(),
                "called": call_at_fdr(proba, 0.05).mean(),
                "false": (calls & ~real).sum() / max(calls.sum(), 1),
                "found": (calls & data["is_de"]).sum() / data["is_de"].sum(),
                "covered": ((low <= data["truth"]) & (data["truth"] <= high)).mean(),
            }
        )
    found = pd.DataFrame(rows).mean()
    print(n_donors, "crossed" if crossed else "nested", found.round(3).to_dict())
    assert 0.03 <= found["p < 0.05"] <= 0.07 and found["called"] <= 0.002 and found["false"] <= 0.06, found


# ---------------------------------------------------------------- the model's methods
DONORS = dict(batch_effect=0.5, batch_effect_psi=1.0)


@pytest.fixture(scope="module")
def cells():
    "240 cells of two conditions; six donors as numbers, three in each condition; two kinds of cells in all."
    out = simulate(n_cells=240, n_genes=30, n_junctions=60, n_cell_types=2, n_batches=6, observed=0.4, seed=0, **DONORS)
    donor = out.obs["batch"].cat.codes.to_numpy() + 1
    columns = dict(donor=donor, condition=np.where(donor <= 3, "control", "treated"))
    for part in (out, out["rna"], out["splicing"]):
        del part.obs["batch"]
        for k, v in columns.items():
            part.obs[k] = v
    return out


@pytest.fixture(scope="module")
def model(cells):
    "A model of them, after two epochs."
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(cells)
    out = SPLICEVI(cells, n_latent=3)
    out.train(max_epochs=2, batch_size=64, enable_progress_bar=False, accelerator="cpu")
    return out


PAIR = dict(groupby="condition", group1="control", group2="treated", silent=True)
BOTH = pytest.mark.parametrize("method", ["differential_splicing", "differential_expression"])


@BOTH
def test_nested_donors_are_noticed(model, method):
    "A warning names the column; naming it, saying no, and comparing cell types are silent."
    run = lambda **options: getattr(model, method)(**(PAIR | options))
    with pytest.warns(tl.DonorWarning, match=r"obs\['donor'\] is in both groups \(3 against 3.*sample_key='donor'"):
        run()
    with warnings.catch_warnings():
        warnings.simplefilter("error", tl.DonorWarning)
        for options in (dict(sample_key="donor"), dict(sample_key=False)):
            run(**options)
        run(groupby="cell_type", group1="type_1", group2="type_2")
        run(groupby="cell_type", group1=None, group2=None)


@pytest.mark.parametrize(
    "column,is_one",
    [
        ("donor", True), ("Patient_ID", True), ("sampleId", True), ("mouse", True), ("orig.ident", True),
        ("rna:batch", True), ("samples", True), ("cell_type", False), ("barcode", False), ("leiden", False),
        ("sample_type", False), ("n_donors", False), ("library_size", False), ("donor_age", False),
        ("condition", False),
    ],
)  # fmt: skip
def test_names_of_donors(column, is_one):
    assert names_donors(column) == is_one


@BOTH
def test_sample_key_changes_the_answer(model, method):
    "Donors make it less sure; columns of the test of donors come last, once."
    run = lambda **options: getattr(model, method)(**PAIR, **options)
    by_cell, by_donor = run(sample_key=False), run(sample_key="donor")
    new = ["p_value", "q_value"]
    assert not set(new) & set(by_cell) and set(new) <= set(by_donor)
    assert list(by_cell) == [c for c in by_donor if c in by_cell.columns]
    known = by_donor["p_value"].dropna()
    assert known.between(0, 1).all() and (by_donor["q_value"].dropna() >= known - 1e-12).all() and len(known)
    proba = "proba_ds" if method == "differential_splicing" else "proba_de"
    assert by_donor[proba].mean() < by_cell[proba].mean()


def test_columns_of_donors_in_splicing(model, cells):
    "One p-value an event; donors are counted; by event it is the same."
    table = model.differential_splicing(**PAIR, sample_key="donor")
    assert (table.groupby("event_id", observed=True)["p_value"].nunique(dropna=False) == 1).all()
    n = cells["splicing"].layers[KEYS.event_counts].toarray() > 0
    of = (cells.obs["condition"] == "control").to_numpy()
    seen = pd.DataFrame(n[of]).groupby(cells.obs["donor"].to_numpy()[of]).any().sum().to_numpy()
    assert (table["n_donors1"] == seen).all() and table["donor_scatter"].between(0, 0.5).all()
    events = model.differential_splicing(**PAIR, sample_key="donor", level="event")
    first = table.groupby("event_id", observed=True)["p_value"].first()
    assert np.allclose(events["p_value"], first[events.index], equal_nan=True)
    assert not table["donors_paired"].any()
    crossed = model.differential_splicing(
        groupby="cell_type", group1="type_1", group2="type_2", sample_key="donor", silent=True
    )
    assert crossed["donors_paired"].any()


@BOTH
def test_few_donors(model, cells, method):
    "With one donor in a group, or in both, it says what is not known and what is done."
    run = lambda rows1, rows2: getattr(model, method)(idx1=rows1, idx2=rows2, sample_key="donor", silent=True)
    with pytest.warns(tl.DonorWarning, match="idx1 has one value of 'donor'.* as those of idx2 do"):
        table = run("donor == 1", "donor >= 4")
    assert "p_value" in table
    with pytest.warns(tl.DonorWarning, match="one of the groups or of two donors cannot be known. Cells are taken"):
        table = run("donor == 1", "donor == 4")
    assert "p_value" not in table
    with pytest.warns(tl.DonorWarning, match="one of all donors or of this one"):
        run("donor == 1 and cell_type == 'type_1'", "donor == 1 and cell_type == 'type_2'")


@BOTH
def test_cells_without_a_donor_are_left_out(model, cells, method):
    part = cells.copy()
    part.obs["donor"] = part.obs["donor"].astype(float).where(np.arange(240) >= 12)
    with pytest.warns(tl.DonorWarning, match="12 of the compared cells have no value of 'donor'"):
        table = getattr(model, method)(part, **PAIR, sample_key="donor")
    if method == "differential_splicing":
        n = cells["splicing"].layers[KEYS.event_counts].toarray()[12:] > 0
        of = (cells.obs["condition"] == "control").to_numpy()[12:]
        assert (table["n_obs_group1"] == n[of].sum(0)).all()


@BOTH
@pytest.mark.parametrize(
    "options,error,message",
    [
        (dict(sample_key="person"), KeyError, "sample_key='person' is no column of obs; it has cell_type"),
        (dict(sample_key="condition"), ValueError, "is groupby too"),
        (dict(sample_key=3), (TypeError, ValueError), "sample_key=3 is none of these"),
    ],
)
def test_errors_of_sample_key(model, method, options, error, message):
    with pytest.raises(error, match=message):
        getattr(model, method)(**PAIR, **options)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(norm_splicing_function="decoder", sample_key="donor"), "looks at no reads"),
        (dict(strata="cell_type", batch_correction=True), "strata and batch_correction"),
        (dict(strata="kind"), "strata='kind' is no column of obs"),
        (dict(weights="depth"), "'cells', 'reads'"),
    ],
)
def test_errors_of_splicing(model, options, message):
    with pytest.raises((ValueError, KeyError), match=message):
        model.differential_splicing(**PAIR, **({"sample_key": False} | options))


def test_error_of_expression(model):
    with pytest.raises(ValueError, match="sample_key needs their counts"):
        model.differential_expression(**PAIR, sample_key="donor", use_counts=False)


def test_calls_over_all_comparisons(model):
    "A column of calls that hold for the list of all comparisons, where there are several."
    for method, name in (("differential_splicing", "is_ds_fdr"), ("differential_expression", "is_de_fdr")):
        run = getattr(model, method)
        table = run(groupby="donor", silent=True, fdr_target=0.2)
        own = table[name] if name in table else table["is_de_fdr_0.2"]
        assert (own | ~table[f"{name}_all"]).mean() > 0.9 and len(table) == 6 * len(run(**PAIR, sample_key=False))
        assert f"{name}_all" not in run(**PAIR, sample_key=False)


# ---------------------------------------------------------------- whose PSI
@pytest.fixture(scope="module")
def swapped():
    "Two kinds of cells with PSI 0.9 and 0.1 in equal numbers; in the second group the other kind is the deep one."
    rng = np.random.default_rng(0)
    group, kind = np.repeat([0, 1], 200), np.tile([0, 1], 200)
    n = np.where((group == kind)[:, None], 60, 6) * np.ones((400, 20), int)
    psi = np.where(kind[:, None] == 0, 0.9, 0.1) * np.ones((400, 20))
    y = rng.binomial(n, rng.beta(20 * psi, 20 * (1 - psi)))
    reads = np.stack([y, n - y], axis=-1).reshape(400, -1)
    event = np.repeat([f"e{i:02d}" for i in range(20)], 2)
    var = pd.DataFrame({"event_id": event}, index=[f"chr1:{100 * i}:{100 * i + 50}:+" for i in range(40)])
    layers = splicing_layers(observed_pairs(reads, np.repeat(np.arange(20), 2)))
    obs = pd.DataFrame({"group": group.astype(str), "kind": kind.astype(str)}, index=[f"c{i}" for i in range(400)])
    part = AnnData(layers[KEYS.psi], obs=obs.copy(), var=var, layers=layers)
    genes = AnnData(rng.poisson(2.0, (400, 5)).astype(np.float32), obs=obs.copy())
    out = assemble_mudata({"rna": genes, "splicing": part}, obs)
    SPLICEVI.setup_mudata(out)
    model = SPLICEVI(out, n_latent=2)
    model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    model.module.log_phi_j.data.fill_(np.log(20.0))  # as if it had learned the two kinds
    return model


def test_depth_is_not_splicing(swapped):
    "Reads say 0.8 against 0.2, cells that nothing differs; and the rows are flagged."
    run = lambda **options: swapped.differential_splicing(
        groupby="group", group1="0", group2="1", silent=True, **options
    )
    cells, reads = run(), run(weights="reads")
    assert cells["effect_size"].abs().max() < 0.1 and not cells["is_ds_fdr"].any()
    assert reads["effect_size"].abs().min() > 0.15 and reads["is_ds_fdr"].all()
    assert cells["weights_disagree"].all() and reads["weights_disagree"].all()


def depth_by_subtype(seed, confounded, observed=0.15, n_events=800, cells=40, constant=0):
    """Reads of two groups of two subtypes each; the deep one is another in each group, in some events its PSI too.
    Of `constant` events more, half use one junction in all cells and half have no other."""
    rng = np.random.default_rng(seed)
    group, kind = np.repeat([0, 1], 2 * cells), np.tile(np.repeat([0, 1], cells), 2)
    gap = np.where(rng.random(n_events) < confounded, rng.choice([-0.35, 0.35], n_events), 0)
    change = np.where(rng.random(n_events) < 0.15, rng.choice([-0.3, 0.3], n_events), 0)
    psi = rng.uniform(0.15, 0.85, n_events) + np.outer(kind - 0.5, gap) + np.outer(group - 0.5, change)
    psi = np.hstack([np.clip(psi, 0.01, 0.99), np.full((len(group), constant), 0.999)])
    n_events += constant
    seen = rng.random(psi.shape) < np.minimum(observed * rng.lognormal(-0.5, 1.2, n_events), 0.95)
    n = (1 + rng.poisson(np.where(kind == group, 11, 1)[:, None], psi.shape)) * seen
    y = rng.binomial(n, rng.beta(20 * psi, 20 * (1 - psi)))
    event, single = np.repeat(np.arange(n_events), 2).astype(np.int32), np.arange(n_events) >= n_events - constant // 2
    keep = np.stack([np.ones(n_events, bool), ~single], 1).ravel()
    y = np.stack([y + (n - y) * single, n - y], axis=-1).reshape(len(group), -1)[:, keep]
    store, event = CellStore(pairs=observed_pairs(y, event[keep])), event[keep]
    real = np.abs(psi[group == 1].mean(0) - psi[group == 0].mean(0)) >= 0.1
    return *(group_reads(store, group, 2, c) for c in (cell_concentration(store, group), 20.0)), event, real


@pytest.mark.parametrize("confounded, constant", [(0.0, 0), (0.02, 0), (0.1, 0), (0.5, 0), (0.5, 800), (0.1, 800)])
def test_depth_of_some_events_is_no_more_splicing_than_by_cells(confounded, constant):
    "The sharper mean is believed where it may be: errors as by cells alone, far more found where depth is innocent."
    rows = []
    for seed in range(4):
        sums, as_known, event, real = depth_by_subtype(seed, confounded, constant=constant)
        w = weighings(np.stack([sums.weighted(k)[0] for k in WEIGHINGS["cells"]]), event)
        for name, contrast in (
            ("reads", Contrast(as_known.weighted("reads")[0], event)),  # taken as sharp as they are within a subtype
            ("cells", Contrast(w.reads[1], event)),
            ("both", Contrast(w.reads, event, chance=w.chance)),
        ):
            called = call_at_fdr(effect_posterior(contrast, n_draws=300)[1].proba, 0.05)
            rows.append((name, (called & ~real).sum() / max(called.sum(), 1), called[real].mean()))
    false, found = pd.DataFrame(rows, columns=["by", "false", "found"]).groupby("by").mean().to_numpy().T
    both, cells, reads = range(3)
    assert false[both] <= max(0.05, false[cells] + 0.02) and found[both] >= found[cells] - 0.01, (false, found)
    assert confounded > 0.02 or found[both] > found[cells] + 0.1
    assert confounded < 0.1 or false[reads] > 0.2


def test_composition_is_not_splicing(swapped):
    "Of unequal numbers of the kinds the means over cells differ; standardised over kinds nothing does."
    obs = swapped.adata.obs
    first = (obs["group"] == "0") & ((obs["kind"] == "0") | (np.arange(400) % 8 == 1))
    run = lambda **options: swapped.differential_splicing(
        idx1=first.to_numpy(), idx2=(obs["group"] == "1").to_numpy(), silent=True, **options
    )
    plain, strata = run(), run(strata="kind")
    assert plain["is_ds_fdr"].all() and not strata["is_ds_fdr"].any()
    assert strata["effect_size"].abs().max() < 0.1 < 0.15 < plain["effect_size"].abs().min()


# ---------------------------------------------------------------- pseudobulk
def test_pseudobulk_compares_donors_with_themselves(cells):
    "One p-value an event; with sample_key donors in both groups cancel."
    bulk = tl.pseudobulk(cells, "cell_type", "donor")
    run = lambda **options: tl.beta_binomial_test(bulk, "cell_type", "type_1", "type_2", **options)
    plain, paired = run(), run(sample_key="donor")
    for table in (plain, paired):
        assert (table.groupby("event_id", observed=True)["p_value"].nunique() <= 1).all()
    ranked = stats.spearmanr(plain["p_value"], paired["p_value"], nan_policy="omit")[0]
    assert 0.5 < ranked < 1 and (plain["psi1"].dropna() == paired["psi1"].dropna()).all()
    assert np.log(paired["p_value"]).mean() < np.log(plain["p_value"]).mean()
