"""What one does with cells: predictions and comparisons on the command line, and splicing programs."""

import inspect

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from splicevi import SPLICEVI, cli, cli_compare
from splicevi.data import cell_file
from splicevi.datasets import simulate

QUICK = dict(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
CPU = ["--accelerator", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def data():
    "Cells of three types and two batches, with size factors, days as numbers and a label that some cells lack."
    mdata = simulate(n_cells=90, n_genes=20, n_junctions=30, n_cell_types=3, observed=0.5, seed=0)
    mdata.obsm["X_library_size"] = np.asarray(mdata["rna"].X.sum(1), np.float32) + 1
    mdata.obs["day"] = np.arange(90) % 3
    mdata.obs["label"] = pd.Categorical(np.where(mdata.obs["day"] == 2, None, mdata.obs["cell_type"].astype(object)))
    return mdata


@pytest.fixture(scope="module")
def place(data, tmp_path_factory):
    "A folder with the data and a model that was trained on two thirds of them."
    folder = tmp_path_factory.mktemp("cells")
    data.write(folder / "data.h5mu")
    part = data[data.obs["day"] < 2].copy()
    SPLICEVI.setup_mudata(part, batch_key="batch", continuous_covariate_keys="day")
    model = SPLICEVI(part, n_latent=3)
    model.train(**QUICK)
    model.save(folder / "results" / "model")
    return folder


@pytest.fixture(scope="module")
def model(place):
    "The model, as one who works in Python has it."
    return SPLICEVI.load(place / "results" / "model", mudata.read_h5mu(place / "data.h5mu"), accelerator="cpu")


def run(*words) -> int:
    "Exit code of `splicevi`."
    return cli.main([*map(str, words), *CPU])


def read(path):
    "A file of cells."
    readers = {".h5mu": mudata.read_h5mu, ".h5ad": anndata.read_h5ad, ".zarr": mudata.read_zarr}
    return readers[path.suffix](path)


def others(data) -> MuData:
    "The same cells as others would store them: modalities, cells and features in other orders, CSC, one gene more."
    rows = np.random.default_rng(0).permutation(data.n_obs)
    rna, splicing = (data[k][rows].copy()[:, np.arange(data[k].n_vars)[::-1]].copy() for k in ("rna", "splicing"))
    more = AnnData(sp.csr_matrix(np.ones((data.n_obs, 1), np.float32)), obs=rna.obs, var=pd.DataFrame(index=["MORE"]))
    rna = anndata.concat([more, rna], axis=1, merge="first")
    splicing.layers["cell_by_junction_matrix"] = sp.csc_matrix(splicing.layers["cell_by_junction_matrix"])
    out = MuData({"splicing": splicing, "rna": rna})
    out.obs = data.obs.iloc[rows]
    out.obsm["X_library_size"] = data.obsm["X_library_size"][rows]
    return out


# predict


def test_predictions_are_those_of_python(data, place, model, tmp_path, monkeypatch, capsys):
    "Any number of stretches, of a file with another order of everything: its cells in its order, numbers by name."
    given = others(data)
    given.write(tmp_path / "other.h5mu")
    monkeypatch.setattr(cell_file, "STEP", 16)
    monkeypatch.setattr(cell_file.stretches, "__defaults__", (1,))
    assert run("predict", place / "results", tmp_path / "other.h5mu", tmp_path / "out.h5mu") == 0
    out, now = read(tmp_path / "out.h5mu"), given.obs_names
    assert list(out.obs_names) == list(now) and list(out.obs["label"].dropna()) == list(given.obs["label"].dropna())
    for key, modality in (("X_splicevi", "joint"), ("X_splicevi_expression", "expression")):
        wanted = pd.DataFrame(model.get_latent_representation(modality=modality), data.obs_names).loc[now]
        np.testing.assert_allclose(out.obsm[key], wanted, atol=1e-5)
    psi, rho = model.get_normalized_splicing().loc[now], model.get_normalized_expression().loc[now]
    assert list(out["splicing"].var_names) == list(psi.columns) and out["splicing"].var["event_id"].notna().all()
    np.testing.assert_allclose(out["splicing"].layers["psi"], psi, atol=1e-5)
    np.testing.assert_allclose(out["rna"].layers["normalized_expression"], rho, atol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert f"{tmp_path}/out.h5mu   mod/splicing/layers/psi   90 cells × 30" in lines and len(lines) == 5


def test_what_is_chosen(data, place, model, tmp_path):
    "PSI with the cells' own reads, of some junctions, under another batch, from a zarr; and latents alone."
    pytest.importorskip("zarr")
    data.write_zarr(tmp_path / "data.zarr")
    some = list(data["splicing"].var_names[[7, 2]])
    (tmp_path / "some.txt").write_text("\n".join(some) + "\n")
    words = ("--what", "smoothed", "--junctions", tmp_path / "some.txt", "--transform-batch", "batch_2")
    assert run("predict", place / "results" / "model", tmp_path / "data.zarr", tmp_path / "out.h5ad", *words) == 0
    wanted = model.get_normalized_splicing_DM(junction_list=some, transform_batch="batch_2")
    np.testing.assert_allclose(read(tmp_path / "out.h5ad").to_df("psi_smoothed"), wanted, atol=1e-5)
    for name in ("z.h5ad", "z.h5mu"):
        assert run("predict", place / "results", place / "data.h5mu", tmp_path / name, "--what", "latent") == 0
        found = read(tmp_path / name)
        np.testing.assert_allclose(found.obsm["X_splicevi"], model.get_latent_representation(), atol=1e-5)
        assert list(found.obs_names) == list(data.obs_names) and found.n_vars == 0


def test_other_names_in_the_file(data, place, model, tmp_path):
    "Modalities and layers of other names; totals and PSI that lie beside other counts are not read."
    rna, splicing = data["rna"].copy(), data["splicing"].copy()
    rna.layers["raw"], rna.X = rna.X, rna.X * 0.5
    splicing.layers["unique"] = splicing.layers.pop("cell_by_junction_matrix")
    splicing.layers["cell_by_cluster_matrix"] = splicing.layers["cell_by_cluster_matrix"] * 3
    named = MuData({"gex": rna, "sj": splicing})
    named.obs, named.obsm["X_library_size"] = data.obs, data.obsm["X_library_size"]
    named.write(tmp_path / "named.h5mu")
    words = ("--rna", "gex", "--rna-layer", "raw", "--splicing", "sj", "--junc-counts-layer", "unique")
    assert run("predict", place / "results", tmp_path / "named.h5mu", tmp_path / "out.h5mu", *words) == 0
    out = read(tmp_path / "out.h5mu")
    np.testing.assert_allclose(out.obsm["X_splicevi"], model.get_latent_representation(), atol=1e-5)
    assert list(out.mod) == ["rna", "splicing"]


def test_anndata_of_genes_and_junctions(data, tmp_path):
    "A model of an AnnData; its file is an h5ad, and batches are numbers."
    counts = sp.hstack([sp.csr_matrix((90, 20)), data["splicing"].layers["cell_by_junction_matrix"]], format="csr")
    x = sp.hstack([data["rna"].X, sp.csr_matrix((90, 30))], format="csr", dtype=np.float32)
    var = pd.concat([data[k].var for k in ("rna", "splicing")])[["event_id"]].astype(object)
    adata = AnnData(x, obs=data.obs[["day"]], var=var, layers={"cell_by_junction_matrix": counts})
    adata.write_h5ad(tmp_path / "data.h5ad")
    SPLICEVI.setup_anndata(adata, batch_key="day")
    model = SPLICEVI(adata, n_latent=3, n_genes=20, n_junctions=30)
    model.train(**QUICK)
    model.save(tmp_path / "model")
    words = ("predict", tmp_path / "model", tmp_path / "data.h5ad", tmp_path / "out.h5mu", "--transform-batch", "0,2")
    assert run(*words) == 0
    out = read(tmp_path / "out.h5mu")
    np.testing.assert_allclose(
        out["splicing"].to_df("psi"), model.get_normalized_splicing(transform_batch=[0, 2]), atol=1e-5
    )
    assert out["rna"].shape == (90, 20) and list(out["rna"].var_names) == list(adata.var_names[:20])
    assert run("ds", tmp_path / "model", tmp_path / "data.h5ad", tmp_path / "ds.csv", "--groupby", "day") == 0
    assert list(pd.read_csv(tmp_path / "ds.csv")["group1"].unique()) == [0, 1, 2]


def test_one_modality(data, tmp_path):
    "A model of junctions alone says what it can; what it cannot is refused."
    part = MuData({"splicing": data["splicing"].copy()})
    part.write(tmp_path / "data.h5mu")
    SPLICEVI.setup_mudata(part, modalities={"junc_ratio_layer": "splicing"})
    model = SPLICEVI(part, n_latent=3)
    model.train(**QUICK)
    model.save(tmp_path / "model")
    assert run("predict", tmp_path / "model", tmp_path / "data.h5mu", tmp_path / "out.h5mu") == 0
    out = read(tmp_path / "out.h5mu")
    assert list(out.mod) == ["splicing"] and list(out["splicing"].layers) == ["psi"]
    assert [k for k in out.obsm if k not in out.mod] == ["X_splicevi"]
    assert run("de", tmp_path / "model", tmp_path / "data.h5mu", tmp_path / "de.csv", "--groupby", "cell_type") == 2


@pytest.mark.parametrize("ending", [".h5mu", ".zarr"])
def test_failure_on_the_way_keeps_the_old_file(place, model, tmp_path, monkeypatch, capsys, ending):
    "A run that is interrupted in its second stretch leaves what was there; one that ends replaces it as a whole."
    if ending == ".zarr":
        pytest.importorskip("zarr")
    out, ask = tmp_path / f"out{ending}", cell_file.CellFile.stretch
    words = ("predict", place / "results", place / "data.h5mu", out, "--overwrite")
    if ending == ".zarr":
        out.mkdir()
        (out / "zarr.json").write_text("{}")
    (out / "old" if ending == ".zarr" else out).write_text("old")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fails(self, rows=slice(None)):
        if rows.start:
            raise KeyboardInterrupt
        return ask(self, rows)

    monkeypatch.setattr(cell_file, "STEP", 16)
    monkeypatch.setattr(cell_file.stretches, "__defaults__", (1,))
    monkeypatch.setattr(cell_file.CellFile, "stretch", fails)
    assert run(*words) == 130 and "nothing was written" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    monkeypatch.setattr(cell_file.CellFile, "stretch", ask)
    assert run(*words, "--what", "psi") == 0
    found = read(out)["splicing"]
    assert list(found.layers) == ["psi"] and [p.name for p in tmp_path.iterdir()] == [out.name]
    np.testing.assert_allclose(found.to_df("psi"), model.get_normalized_splicing(), atol=1e-5)


def test_memory_does_not_grow_with_the_cells(data, place, monkeypatch, tmp_path):
    "No stretch that is read or decoded has more cells than it should."
    seen, ask = [], cell_file.CellFile.stretch

    def counted(self, rows=slice(None)):
        out = ask(self, rows)
        seen.append(out.n_obs if any(p.matrices for p in self.parts.values()) else 0)
        return out

    monkeypatch.setattr(cell_file, "STEP", 16)
    monkeypatch.setattr(cell_file.stretches, "__defaults__", (50 * 40,))
    monkeypatch.setattr(cell_file.CellFile, "stretch", counted)
    assert run("predict", place / "results", place / "data.h5mu", tmp_path / "out.h5mu") == 0
    assert seen == [0, 32, 32, 26]


# ds and de


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    "Tables with the same rows, columns and values, whatever their types are after a file."
    assert list(found.index) == list(wanted.index) and list(found.columns) == list(wanted.columns)
    for column in wanted:
        if wanted[column].dtype.kind == "f":
            np.testing.assert_allclose(found[column].astype(float), wanted[column], rtol=1e-6)
        else:
            values = [None if pd.isna(v) else str(v) for v in found[column]]
            assert values == [None if pd.isna(v) else str(v) for v in wanted[column]], column


@pytest.mark.parametrize("name, words, given", [
    ("a.csv", ["--groupby", "cell_type"], dict(groupby="cell_type", level="event")),
    ("b.tsv", ["--groupby", "cell_type", "--level", "junction"], dict(groupby="cell_type")),
    ("a.tsv", ["--groupby", "day", "--group1", "0,2", "--group2", "1", "--delta", "0.2", "--fdr", "0.2", "--sort"],
     dict(groupby="day", group1=[0, 2], group2=1, delta=0.2, fdr_target=0.2, sort=True, level="event")),
    ("a.csv.gz", ["--groupby", "label", "--group1", "type_2", "--level", "event", "--seed", "3", "--no-stats"],
     dict(groupby="label", group1="type_2", level="event", seed=3, all_stats=False)),
    ("a.tsv.gz", ["--idx1", "day == 0", "--idx2", "day == 2 and batch == 'batch_1'", "--mode", "vanilla"],
     dict(idx1="day == 0", idx2="day == 2 and batch == 'batch_1'", mode="vanilla")),
    ("b.csv", ["--groupby", "cell_type", "--group1", "type_1", "--batch-correction", "--batchid1", "batch_2"],
     dict(groupby="cell_type", group1="type_1", batch_correction=True, batchid1=["batch_2"], level="event")),
])  # fmt: skip
def test_ds_is_that_of_python(place, model, tmp_path, name, words, given):
    "The table of the method, a row for each event unless asked otherwise, in the format of the ending."
    assert run("ds", place / "results", place / "data.h5mu", tmp_path / name, *words) == 0
    found = pd.read_csv(tmp_path / name, sep="\t" if "tsv" in name else ",", index_col=0)
    same(found, model.differential_splicing(silent=True, **given))


def test_parquet(place, model, tmp_path):
    "Types survive."
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    assert run("ds", place / "results", place / "data.h5mu", tmp_path / "a.parquet", "--groupby", "day") == 0
    found = pd.read_parquet(tmp_path / "a.parquet")
    same(found, model.differential_splicing(groupby="day", level="event", silent=True))
    assert found["is_ds_fdr"].dtype == bool and found["proba_ds"].dtype == np.float64


def test_parquet_without_its_package(place, tmp_path, monkeypatch, capsys):
    "The extra is named before anything is computed."
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert run("ds", place / "results", place / "data.h5mu", tmp_path / "a.parquet", "--groupby", "day") == 2
    assert "splicevi[parquet]" in capsys.readouterr().err and not list(tmp_path.iterdir())


OTHERWISE = dict(
    groupby="cell_type", group1="type_1", group2="type_2", delta="0.3", fdr="0.2", level="junction", mode="vanilla",
    batch_correction=None, batchid1="batch_1", batchid2="batch_2", norm_splicing_function="decoder", junctions="chr1",
    no_change="0.01", n_draws="10", n_samples_overall="7", seed="5", sort=None, no_stats=None, batch_size="16",
    idx1="day == 0", idx2="day == 1", sample_key="batch", weights="reads", strata="batch",
    design="~ day", contrast="day", along="age", df="2", min_cells="7", groups="type_1,type_2", n_top="3", every=None,
)  # fmt: skip
NEEDS = dict(idx1=[], idx2=["--idx1", "day == 0"], batchid1=["--batch-correction"], batchid2=["--batch-correction"])
NEEDS |= dict(design=["--sample-key", "batch"], contrast=["--sample-key", "batch", "--design", "~ day"])


@pytest.mark.parametrize("command", ["ds", "de", "markers"])
def test_no_option_is_ignored(place, model, tmp_path, monkeypatch, command):
    "Every option about the test reaches the method."
    name = {"ds": "differential_splicing", "de": "differential_expression"}.get(command, command)
    method, seen, plain = getattr(SPLICEVI, name), {}, {}

    def recorded(self, adata, **given):
        seen.clear()
        seen.update(given)
        raise ValueError("enough")

    recorded.arguments = method.arguments
    monkeypatch.setattr(SPLICEVI, name, recorded)
    monkeypatch.setattr(cli_compare, "load_model", lambda *_: model)

    def asked(*words):
        cells = [] if {"--idx1", "--groupby", "--along"} & set(words) else ["--groupby", "day"]
        assert run(command, place / "results", place / "data.h5mu", tmp_path / "x.csv", *words, *cells) == 2
        return dict(seen)

    own = (
        "model",
        "data",
        "out",
        "rna",
        "rna_layer",
        "splicing",
        "junc_counts_layer",
        "accelerator",
        "overwrite",
        "quiet",
    )
    for option in inspect.signature(cli.COMMANDS[command]).parameters.keys() - set(own):
        needs = NEEDS.get(
            option, ["--groupby", "cell_type"] if option.startswith("group") and option != "groupby" else []
        )
        value = OTHERWISE[option]
        if (key := tuple(needs)) not in plain:
            plain[key] = asked(*needs)
        after = asked(*needs, f"--{option}", *([] if value is None else [value]))
        assert after != plain[key], option


def test_de_is_that_of_python(place, model, tmp_path):
    "The table of the method."
    words = ("--groupby", "day", "--group1", "1", "--delta", "0.4", "--batch-correction")
    assert run("de", place / "results", place / "data.h5mu", tmp_path / "de.csv", *words) == 0
    wanted = model.differential_expression(groupby="day", group1=1, delta=0.4, batch_correction=True, silent=True)
    same(pd.read_csv(tmp_path / "de.csv", index_col="gene"), wanted)


# programs


@pytest.fixture(scope="module")
def driven():
    "A small model of cells with programs, trained for a moment; columns as users have them."
    mdata = simulate(n_cells=150, n_genes=60, n_junctions=120, n_cell_types=2, observed=0.5, n_programs=2, seed=0)
    mdata.obs["donor"] = np.arange(150) % 6
    mdata.obs["age"] = pd.Categorical(np.where(np.arange(150) < 10, None, "old"))
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = SPLICEVI(mdata, n_latent=4, modality_penalty="None", splicing_encoder_architecture="vanilla")
    model.train(**QUICK | dict(max_epochs=10, lr=5e-3, n_epochs_kl_warmup=2))
    return mdata, model


def test_programs_are_slopes_and_correlations(driven):
    "Activities are uncorrelated within batches, loadings the slopes of decoded PSI, r those of cells within groups."
    mdata, model = driven
    found = model.programs(n_programs=2, within="cell_type", n_permutations=50)
    batch, group = mdata.obs["batch"].astype(str), mdata.obs["batch"].astype(str) + mdata.obs["cell_type"].astype(str)
    inside = lambda table, by: table - table.groupby(by.to_numpy()).transform("mean")
    activity = found.activity
    np.testing.assert_allclose(activity.groupby(batch.to_numpy()).mean(), 0, atol=1e-4)
    np.testing.assert_allclose(activity.T @ activity / len(activity), np.eye(2), atol=1e-3)
    slopes = inside(model.get_normalized_splicing(), batch).T @ activity / len(activity)
    np.testing.assert_allclose(found.junctions, slopes, atol=1e-4)
    genes = inside(np.log2(model.get_normalized_expression()), batch).T @ activity / len(activity)
    np.testing.assert_allclose(found.genes, genes, atol=1e-3)
    counts = mdata["rna"].to_df()
    log = np.log1p(1e4 * counts.div(counts.sum(1), axis=0))
    for row in found.regulators.groupby("program").head(3).itertuples():
        a, e = inside(activity[row.program], group), inside(log[row.gene], group)
        assert row.r == pytest.approx(np.corrcoef(a, e)[0, 1], abs=1e-3)
    assert (found.regulators["p_value"] >= 1 / 51).all() and (found.unit, found.n_units) == ("cells", 150)
    assert (found.regulators["p_adjusted"] >= found.regulators["p_value"] - 1e-9).all()


def test_programs_repeat_and_travel(driven, tmp_path):
    "The same numbers again, after saving and loading, for a copy in memory, and for part of the cells by name."
    mdata, model = driven
    first, again = (model.programs(n_permutations=20) for _ in range(2))
    pd.testing.assert_frame_equal(first.regulators, again.regulators)
    model.save(tmp_path / "model")
    loaded = SPLICEVI.load(tmp_path / "model", mdata.copy(), accelerator="cpu").programs(n_permutations=20)
    pd.testing.assert_frame_equal(loaded.activity, first.activity, atol=1e-4)
    part = model.programs(mdata[30:100].copy(), n_permutations=20)
    assert list(part.activity.index) == list(mdata.obs_names[30:100]) and part.n_units == 70


def test_what_users_say_of_programs(driven):
    "Samples by number, labels that are missing, regulators by symbol in another case, several columns."
    mdata, model = driven
    symbols = mdata["rna"].var.query("regulates != ''")["gene_name"].str.capitalize().tolist()
    found = model.programs(sample_key="donor", within=["cell_type", "age"], regulators=symbols, n_permutations=20)
    assert (found.unit, found.n_units) == ("samples", 6) and set(found.regulators["symbol"].str.capitalize()) == set(
        symbols
    )
    assert model.programs(within="age", n_permutations=5).n_units == 140
    assert set(model.programs(regulators=symbols[0], n_permutations=5).regulators["symbol"].str.capitalize()) == {
        symbols[0]
    }
    table = found.table(n=2)
    assert list(table.index) == list(found.activity) and table["share"].is_monotonic_decreasing
    assert table["regulators"].str.count(r"\(").eq(2).all()


def test_programs_of_other_models(driven, data):
    "Splicing alone has no regulators; unknown symbols and alignment are told of; without reads there is no activity."
    alone = MuData({"splicing": data["splicing"].copy()})
    SPLICEVI.setup_mudata(alone, modalities={"junc_ratio_layer": "splicing"})
    model = SPLICEVI(alone, n_latent=3)
    model.train(**QUICK)
    found = model.programs(min_share=0.01)
    assert found.regulators is None and found.genes is None and "regulators" not in found.table()
    with pytest.raises(ValueError, match="no expression"):
        model.programs(regulators=["QKI"])
    mdata = simulate(n_cells=80, n_genes=20, n_junctions=40, n_cell_types=2, observed=0.5, unpaired=0.2, seed=0)
    SPLICEVI.setup_mudata(mdata)
    model = SPLICEVI(mdata, n_latent=3)
    model.train(**QUICK)
    with pytest.warns(UserWarning) as said:
        found = model.programs(min_share=0.01)
    text = " ".join(str(w.message) for w in said)
    assert {w.filename for w in said if "rogram" in str(w.message)} == {__file__}
    assert "modality_penalty='Jeffreys'" in text and "Programs have no names. None of A1CF" in text
    assert found.activity.isna().all(axis=1).to_numpy().tolist() == (mdata.obs["measured"] == "expression").tolist()
    assert model.programs(regulators=list(mdata["rna"].var_names[:3]), min_share=0.01).n_units == 64


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_programs_are_the_true_ones(seed):
    "On simulated programs |r| is 0.9 or more, one to one, and the true regulator is among the first three."
    import scvi

    from splicevi.tl import matched

    scvi.settings.seed = 0
    mdata = simulate(1000, 150, 800, 3, observed=0.5, n_programs=3, seed=seed)
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    model = SPLICEVI(mdata, n_latent=8, modality_penalty="None", splicing_encoder_architecture="vanilla")
    model.train(**QUICK | dict(max_epochs=120, lr=5e-3, n_epochs_kl_warmup=10, early_stopping=False))
    found = model.programs(n_permutations=100)
    program, r = matched(found.activity.to_numpy(), mdata.obsm["program_true"].to_numpy())
    assert r.min() >= 0.9
    true = mdata["rna"].var.query("regulates != ''").sort_values("regulates")["gene_name"]
    for k, symbol in zip(program, true):
        of_program = found.regulators[found.regulators["program"] == f"program {k + 1}"]
        assert symbol in list(of_program["symbol"].head(3))
