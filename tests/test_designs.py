"""Designs with covariates: errors where only donors and covariates differ, power of pairs, contrasts, equal answers."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scvi
from cells_of_donors import designed, designed_counts_of

from splicevi import SPLICEVI, tl
from splicevi.data.pairs import EventOrder
from splicevi.datasets import simulate
from splicevi.tl.designed_counts import as_groups, designed_counts
from splicevi.tl.designs import compositions, design_of, designed_reads
from splicevi.tl.donor_counts import donor_counts, donor_mean, gene_p_values
from splicevi.tl.event_test import Contrast, effect_posterior
from splicevi.tl.fold_changes import fit_folds
from splicevi.tl.groups import call_at_fdr, group_reads
from splicevi.tl.scatter import event_p_values, p_of_events
from splicevi.tl.strata import STRATUM_FIELDS

DONORS = dict(batch_effect=0.5, batch_effect_psi=1.0)
COVARIATES = dict(sex=0.5, batch=0.7, age=0.4)


def samples(n, crossed, seed):
    "Samples of n donors in each of two conditions, with sex, batch (which goes with the condition) and age."
    rng, m = np.random.default_rng(seed), n if crossed else 2 * n
    t = pd.DataFrame(dict(donor=np.tile(np.arange(m), 2 if crossed else 1), condition=np.repeat([0, 1], n)))
    t["sex"], t["age"] = (np.arange(m) % 2)[t["donor"]], rng.normal(0, 1, m)[t["donor"]]
    t["batch"] = (rng.random(2 * n) < np.where(t["condition"], 0.7, 0.3)).astype(int)
    t.loc[[0, n], "batch"], t.loc[[1, n + 1], "batch"] = 0, 1
    return t


def question_of(data, table, design, contrast=None):
    "Reads of the samples, and how they are compared."
    cells = table.astype(dict.fromkeys(("donor", "condition", "sex", "batch"), str)).iloc[data["sample"]]
    d = design_of(cells.reset_index(drop=True), design, "donor", "condition")
    a = group_reads(data["store"], d.code, len(d.table), 20.0, STRATUM_FIELDS["cells"]).weighted("cells")[0]
    c = d.group_contrast("condition", "0", "1") if contrast is None else d.named_contrast(contrast)
    group = d.table["condition"].cat.codes.to_numpy() if contrast is None else None
    return a, lambda a, event: designed_reads(a, d.basis(c), event, group)


def fitted(data, *question):
    "Reads of the two sides of a contrast."
    a, compare = question_of(data, *question)
    return compare(a, data["event"])


def p_values(data, *question):
    a, compare = question_of(data, *question)
    return p_of_events(compare, a, data["event"])


def figures(n, crossed, designs, seeds, **size):
    "Share of p < 0.05 where nothing, and where events change, by design."
    null, found = {d: [] for d in designs}, {d: [] for d in designs}
    for seed in range(seeds):
        table = samples(n, crossed, seed)
        alike = designed(seed, table, COVARIATES, **size)
        differ = designed(seed + 100, table, COVARIATES, changed=0.3, **size)
        for d in designs:
            null[d].append(p_values(alike, table, d))
            found[d].append(p_values(differ, table, d)[differ["is_ds"]])
    share = lambda p: {d: float((np.concatenate(v) < 0.05).mean()) for d, v in p.items()}
    return share(null), share(found)


def test_errors_and_power_with_covariates():
    "Four against four: covariates that differ between donors are held equal; one in twenty errs."
    full = "~ condition + sex + batch + age"
    null, found = figures(4, False, ["~ condition", full], 3)
    assert 0.02 <= null[full] <= 0.07 and found[full] > 0.25, (null, found)


def test_pairs_tell_more_than_strangers():
    "The same donors in both conditions: errors are right, and more is found than where their samples are strangers."
    null, found = figures(4, True, ["~ condition", "~ donor + condition", "~ donor + condition + batch"], 5)
    assert 0.02 <= null["~ donor + condition + batch"] <= 0.07, null
    assert found["~ donor + condition"] > found["~ condition"] + 0.1, found
    assert null["~ condition"] < 0.02 < 0.6 < found["~ donor + condition + batch"]


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 4, 5, 10])
@pytest.mark.parametrize("crossed", [False, True], ids=["nested", "crossed"])
def test_errors_with_covariates_grid(n, crossed):
    design = "~ donor + condition + batch" if crossed else "~ condition + sex + batch"
    null, found = figures(n, crossed, ["~ condition", design], 8, n_junctions=1200)
    print(n, "crossed" if crossed else "nested", null, found)
    assert 0.03 <= null[design] <= 0.06
    assert not crossed or found[design] >= found["~ condition"]  # a batch that goes with the condition costs power


def test_a_covariate_that_is_left_out_is_called_splicing():
    "All treated donors but one are of one batch: without it in the design its effect is that of the treatment."
    batch = [0] * 7 + [1] * 8 + [0]
    table = pd.DataFrame(dict(donor=range(16), condition=[0] * 8 + [1] * 8, batch=batch, sex=0, age=0.0))
    data = designed(0, table, dict(batch=2.5), scatter=0.3, n_junctions=400)
    without, held = (p_values(data, table, d) for d in ("~ condition", "~ condition + batch"))
    assert (without < 0.05).mean() > 0.3 and (held < 0.05).mean() < 0.1, ((without < 0.05).mean(), (held < 0.05).mean())


def test_effects_of_contrasts_are_differences_of_psi():
    "The effect of a number is that of one unit; half of it in other units; calls keep to the target."
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        dict(donor=range(12), condition=[0, 1] * 6, batch=[0, 0, 1] * 4, sex=0, age=rng.normal(0, 1, 12))
    )
    data = designed(3, table, dict(age=0.8), scatter=0.3)
    contrast = lambda t, **more: fitted(data, t, "~ condition + age", "age")
    once, twice = contrast(table), contrast(table.assign(age=table["age"] * 2))
    ratio = lambda r: (
        r.reads[0]
        / np.add.reduceat(r.reads[0], np.unique(data["event"], return_index=True)[1], axis=1)[:, data["event"]]
    )
    one, two = np.diff(ratio(once), axis=0)[0], np.diff(ratio(twice), axis=0)[0]
    np.testing.assert_allclose(one, 2 * two, atol=1e-6)
    np.testing.assert_allclose(event_p_values(once, data["event"]), event_p_values(twice, data["event"]), atol=0.05)
    effect, _ = effect_posterior(Contrast(once.reads, data["event"], chance=once.chance), n_draws=100)
    assert call_at_fdr(effect.proba, 0.05).mean() > 0.1


def test_compositions_keep_the_difference():
    "Whatever the level is; both are PSI."
    rng = np.random.default_rng(0)
    events = EventOrder(np.repeat(np.arange(50), 3))
    level = rng.dirichlet(np.full(3, 0.3), 50).ravel()
    d = (rng.dirichlet(np.ones(3), 50) - rng.dirichlet(np.ones(3), 50)).ravel()
    one, two = compositions(level, d, 0.3, events)
    np.testing.assert_allclose(two - one, d, atol=1e-12)
    np.testing.assert_allclose(events.sum(np.stack([one, two])), 1)
    assert min(one.min(), two.min()) >= -1e-12
    small = d * 1e-3
    one, two = compositions(np.maximum(level, 0.05), small, 0.3, events)
    assert (
        np.abs(0.7 * one + 0.3 * two - np.maximum(level, 0.05) / events.sum(np.maximum(level, 0.05))[events.code]).max()
        < 0.1
    )


def test_an_event_whose_samples_cannot_tell_has_no_p_value():
    "Read in one condition only; the others are as they were."
    table = samples(4, False, 0)
    data = designed(0, table, COVARIATES, n_junctions=60)
    cells = table.astype(str).iloc[data["sample"]].reset_index(drop=True)
    d = design_of(cells, "~ condition + sex", "donor", "condition")
    a = group_reads(data["store"], d.code, 8, 20.0, STRATUM_FIELDS["cells"]).weighted("cells")[0]
    group, of = d.table["condition"].cat.codes.to_numpy(), d.basis(d.group_contrast("condition", "0", "1"))
    lost = data["event"] == 2
    a[np.ix_(group == 1, lost)] = 0
    p = p_of_events(lambda a, event: designed_reads(a, of, event, group), a, data["event"])
    assert np.isnan(p[2]) and np.isfinite(np.delete(p, 2)).all()


# ---------------------------------------------------------------- genes
def p_of_genes(data, table, design):
    "P-value of each gene."
    cells = table.astype(dict.fromkeys(("donor", "condition", "sex", "batch"), str)).iloc[data["sample"]]
    d = design_of(cells.reset_index(drop=True), design, "donor", "condition")
    group, x = d.table["condition"].cat.codes.to_numpy(), data["x"]
    own = tuple(x[group[d.code] == g].sum(0) for g in (0, 1))
    basis = d.basis(d.group_contrast("condition", "0", "1"))
    found = as_groups(designed_counts(donor_counts(x, d.code, x.sum(0)), basis, group), x.sum(0), own)
    one, two = (donor_mean(found, g, own[g]) for g in (0, 1))
    lfc, variance = (two.mean - one.mean).T, (one.variance + two.variance).T
    return gene_p_values(lfc, variance, found.chance, fit_folds(lfc, variance, chance=found.chance).center)


def gene_figures(n, crossed, designs, seeds):
    "Share of p < 0.05 where nothing, and where genes change, by design."
    null, found, sizes = {d: [] for d in designs}, {d: [] for d in designs}, dict(sex=0.3, batch=0.4, age=0.2)
    for seed in range(seeds):
        table = samples(n, crossed, seed)
        alike = designed_counts_of(seed, table, sizes)
        differ = designed_counts_of(seed + 50, table, sizes, changed=0.2)
        for d in designs:
            null[d].append(p_of_genes(alike, table, d))
            found[d].append(p_of_genes(differ, table, d)[differ["is_de"]])
    share = lambda p: {d: float((np.concatenate(v) < 0.05).mean()) for d, v in p.items()}
    return share(null), share(found)


def test_errors_and_power_of_genes_with_covariates():
    "One in twenty errs; pairs tell more than strangers."
    full = "~ donor + condition + batch"
    null, found = gene_figures(4, True, ["~ condition", full], 2)
    assert 0.02 <= null[full] <= 0.08 and found[full] > found["~ condition"] + 0.05, (null, found)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("crossed", [False, True], ids=["nested", "crossed"])
def test_errors_of_genes_with_covariates_grid(n, crossed):
    design = "~ donor + condition + batch" if crossed else "~ condition + sex + batch"
    null, found = gene_figures(n, crossed, ["~ condition", design], 8)
    print(n, "crossed" if crossed else "nested", null, found)
    assert 0.03 <= null[design] <= 0.06
    assert not crossed or found[design] >= found["~ condition"]


# ---------------------------------------------------------------- the model's methods
@pytest.fixture(scope="module")
def model():
    "A model of 300 cells of six donors as numbers, in two conditions and three stages."
    out = simulate(n_cells=300, n_genes=20, n_junctions=80, n_cell_types=2, n_batches=6, observed=0.5, seed=0, **DONORS)
    donor = out.obs["batch"].cat.codes.to_numpy() + 1
    for part in (out, out["rna"], out["splicing"]):
        del part.obs["batch"]
    out.obs = out.obs.assign(
        donor=donor,
        condition=np.where(donor <= 3, "control", "treated"),
        sex=np.where(donor % 2, "f", "m"),
        age=np.array([0, 50, 60, 55, 70, 65, 44.0])[donor],
        stage=np.array(["", "a", "b", "c", "a", "b", "c"])[donor],
    )
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(out)
    model = SPLICEVI(out, n_latent=3)
    model.train(max_epochs=1, batch_size=100, enable_progress_bar=False, accelerator="cpu")
    return model


TYPES = dict(groupby="cell_type", group1="type_1", group2="type_2", sample_key="donor", silent=True)


def test_a_design_of_pairs_is_the_test_of_pairs(model):
    "Donors as numbers are categories; with donors in the design effects are those of paired donors."
    plain, paired = (
        model.differential_splicing(**TYPES),
        model.differential_splicing(**TYPES, design="~ donor + cell_type"),
    )
    assert list(plain) == list(paired) and paired["donors_paired"].all()
    same = plain["donors_paired"].to_numpy()
    assert same.mean() > 0.4 and np.corrcoef(plain["effect_size"], paired["effect_size"])[0, 1] > 0.97
    np.testing.assert_allclose(np.log(paired["p_value"][same]), np.log(plain["p_value"][same]), atol=0.6)
    with pytest.warns(tl.DonorWarning, match="takes their samples for those of strangers"):
        strangers = model.differential_splicing(**TYPES, design="~ cell_type")
    assert np.log(strangers["p_value"]).mean() > np.log(paired["p_value"]).mean()


def test_several_groups_and_named_contrasts(model):
    "Against one control, against the rest, a coefficient, an interaction; the model's tables have their columns."
    run = lambda **k: model.differential_splicing(sample_key="donor", silent=True, n_draws=100, **k)
    with warnings.catch_warnings():
        warnings.simplefilter("error", tl.DonorWarning)
        control = run(groupby="stage", group2="a", design="~ stage")
        rest = run(groupby="stage", design="~ stage + sex", level="event")
        age = run(design="~ sex + scale(age)", contrast="scale(age)")
        both = run(groupby="cell_type", design="~ donor + cell_type * sex", contrast="cell_type[T.type_2]:sex[T.m]")
        named = run(groupby="condition", design="~ condition + sex", contrast={"condition[T.treated]": 1})
        groups = run(groupby="condition", group1="control", group2="treated", design="~ condition + sex")
    assert list(pd.unique(control["comparison"])) == ["b vs a", "c vs a"] and "is_ds_fdr_all" in control
    assert list(pd.unique(rest["comparison"])) == ["a vs Rest", "b vs Rest", "c vs Rest"]
    assert set(age["higher_in"].dropna()) == {"low scale(age)", "high scale(age)"} and age["n_donors2"].max() == 3
    assert len(both) == 80 and both["p_value"].notna().mean() > 0.9
    np.testing.assert_allclose(named["effect_size"], groups["effect_size"], atol=1e-6)
    np.testing.assert_allclose(named["emp_effect"], groups["emp_effect"])


def test_cells_without_a_value_are_left_out(model):
    "With a warning; donors and groups as text or numbers are the same."
    obs = model.adata.obs
    obs["dose"] = np.where(np.arange(300) < 20, np.nan, (obs["condition"] == "treated").astype(float))
    ask = dict(groupby="dose", group1=0.0, group2=1.0, sample_key="donor", silent=True)
    with pytest.warns(tl.DonorWarning, match="20 cells lack a value"):
        one = model.differential_splicing(**ask, design="~ dose + sex")
    assert one["n_obs_group1"].max() < 300 and one["comparison"].iloc[0] == "0.0 vs 1.0"


def test_warnings_point_to_the_line_of_the_user(model):
    "Whatever is asked, and however deep it is noticed."
    for ask in (
        lambda: model.differential_splicing(**TYPES, design="~ cell_type"),
        lambda: model.differential_splicing(groupby="condition", group1="control", group2="treated", silent=True),
        lambda: model.differential_expression(groupby="condition", group1="control", group2="treated", silent=True),
        lambda: model.markers("condition", silent=True),
    ):
        with pytest.warns(tl.DonorWarning) as seen:
            ask()
        assert {w.filename for w in seen if w.category is tl.DonorWarning} == {__file__}


def test_a_design_of_genes_is_the_test_of_genes(model):
    "Pairs, one control, coefficients; the tables have the columns of the test without a design."
    run = lambda **k: model.differential_expression(**{**TYPES, **k})
    plain, paired = run(), run(design="~ donor + cell_type")
    assert list(plain) == list(paired) and paired["donors_paired"].all()
    assert np.corrcoef(plain["lfc_mean"], paired["lfc_mean"])[0, 1] > 0.9
    assert (np.sign(plain["lfc_mean"]) == np.sign(paired["lfc_mean"]))[plain["p_value"] < 0.01].all()
    stage = run(groupby="stage", group1=None, group2="a", design="~ stage")
    assert list(pd.unique(stage["comparison"])) == ["b vs a", "c vs a"] and "is_de_fdr_all" in stage
    named = dict(groupby="condition", group1=None, group2=None, design="~ condition + sex")
    coefficient = run(**named, contrast="condition[T.treated]")
    groups = run(**named | dict(group1="control", group2="treated"))
    np.testing.assert_allclose(coefficient["lfc_mean"], groups["lfc_mean"], atol=0.05)


def test_the_effect_of_a_number_does_not_depend_on_its_unit(model):
    "From low to high by name, in units by weights; also far from zero."
    model.adata.obs["days"] = model.adata.obs["age"] * 365 + 1e7
    run = lambda d, c: model.differential_splicing(design=d, contrast=c, sample_key="donor", silent=True, n_draws=200)
    years, days = run("~ age", "age"), run("~ days", "days")
    np.testing.assert_allclose(years["effect_size"], days["effect_size"], atol=0.02)
    np.testing.assert_allclose(years["p_value"], days["p_value"], atol=1e-4)
    step = (60 + 70 + 65) / 3 - (50 + 55 + 44) / 3
    weights = run("~ age", {"age": step})
    np.testing.assert_allclose(weights["effect_size"], years["effect_size"], atol=1e-6)
    assert run("~ age", {"age": 1})["effect_size"].abs().max() < 0.5 * years["effect_size"].abs().max()
    with pytest.raises(ValueError, match="the same in all samples"):
        run("~ age", "Intercept")
