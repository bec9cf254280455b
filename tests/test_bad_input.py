"""What is wrong is refused at once, by an error that names the argument and the fix, and changes nothing of the user's.

A row is one line of a table: where it belongs, its name, how to call, what is raised (or warned), and the texts that
the message must have. A new row goes to one of the lists; `w` gives the data, models and folders it needs (see
`World`), and everything that `w` handed out must be byte for byte what it was.
"""

import gzip
import hashlib
import importlib
import inspect
import re
import time
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import splicevi as sv
from splicevi import SPLICEVI, cli, io
from splicevi.core import Limits
from splicevi.data.arguments import TABLES, AnyOf, Entries, Flag, Is, ListOf, Names, OneOf, Rows, Text, check_arguments
from splicevi.data.gtf import read_gtf
from splicevi.datasets import simulate
from splicevi.views.explorer.panels import group_matrix
from splicevi.views.report import report

ZARR = "x.zarr cannot be read as a zarr store" if find_spec("zarr") else ""  # of an extra
QUIET = dict(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
SECONDS = 5.0  # of the processor, for each row


# the harness


class Row(NamedTuple):
    "Something that a user does wrong, and the answer."

    area: str
    name: str
    call: object  # function of a `World`
    answer: type  # exception, or category of a warning
    texts: tuple = ()  # parts of the message

    def __str__(self):
        return f"{self.area}: {self.name}"


def row(area, name, call, answer, *texts):
    "A row of the table."
    return Row(area, name, call, answer, texts)


def digest(x) -> str:
    "A checksum of anything a user may hand over: values, types, storage, names and their order."
    h = hashlib.sha256()
    for part in content(x):
        h.update(part if isinstance(part, bytes) else repr(part).encode())
        h.update(b"\0")
    return h.hexdigest()


def content(x):
    "The parts of an object, one after the other."
    kind = next((f for t, f in CONTENT.items() if isinstance(x, t)), None)
    yield type(x).__name__
    if kind is None:
        yield repr(x)
    else:
        yield from kind(x)


def of_array(x):
    yield x.shape, str(x.dtype)
    yield repr(x.tolist()) if x.dtype == object else np.ascontiguousarray(x).tobytes()


def of_sparse(x):
    yield x.format, x.shape
    for part in (x.data, x.indices, x.indptr) if x.format in ("csr", "csc") else (x.tocoo().data, x.tocoo().coords):
        yield from content(part)


def of_index(x):
    yield x.name, str(x.dtype), repr(list(x))


def of_series(x):
    yield from of_index(x.index)
    yield x.name, str(x.dtype)
    if isinstance(x.dtype, pd.CategoricalDtype):
        yield repr(list(x.cat.categories)), x.cat.codes.to_numpy().tobytes()
    else:
        yield from of_array(x.to_numpy())


def of_frame(x):
    yield from of_index(x.index)
    for name in x.columns:
        yield repr(name)
        yield from of_series(x[name])


def of_mapping(x):
    for k in x:
        yield repr(k)
        yield from content(x[k])


def of_anndata(x):
    yield x.is_view
    yield from content(x.X)
    for name in ("obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns"):
        yield name
        yield from content(getattr(x, name))


def of_mudata(x):
    for name in ("obs", "var", "obsm", "varm", "obsp", "uns", "mod"):
        yield name
        yield from content(getattr(x, name))


def of_list(x):
    for item in x:
        yield from content(item)


def of_model(x):
    yield x.is_trained_, x.history_ is None
    for name, value in x.module.state_dict().items():
        yield name
        yield from content(value.cpu().numpy())


def of_path(x):
    for f in sorted(x.rglob("*")):
        yield str(f.relative_to(x)), f.lstat().st_mode
        yield str(f.readlink()) if f.is_symlink() else f.read_bytes() if f.is_file() else ""


CONTENT = {
    np.ndarray: of_array,
    sp.spmatrix: of_sparse,
    sp.sparray: of_sparse,
    pd.DataFrame: of_frame,
    pd.Series: of_series,
    pd.Index: of_index,
    AnnData: of_anndata,
    mudata.MuData: of_mudata,
    SPLICEVI: of_model,
    list: of_list,
    tuple: of_list,
    Mapping: of_mapping,
    Path: of_path,
}


def small():
    "60 cells of three types in two batches, 20 genes and 30 junctions, with sizes and covariates."
    out = simulate(n_cells=60, n_genes=20, n_junctions=30, n_cell_types=3, n_batches=2, observed=0.5, seed=0)
    rng = np.random.default_rng(0)
    out.obsm["X_library_size"] = rng.lognormal(0, 0.3, (60, 1)).astype(np.float32)
    out.obs["age"] = rng.normal(size=60)
    out.obs["site"] = pd.Categorical(rng.choice(["a", "b", "c"], 60))
    return out


def side_by_side(mdata):
    "The same cells as an AnnData of genes followed by junctions."
    rna, junctions = mdata["rna"], mdata["splicing"]
    empty, zeros = (sp.csr_matrix(part.shape, dtype=np.float32) for part in (rna, junctions))
    both = lambda x, y: sp.hstack([x, y]).tocsr()
    layers = {k: both(empty, v) for k, v in junctions.layers.items() if k is not None}
    var = pd.concat([rna.var[[]], junctions.var[["event_id"]]])
    out = AnnData(both(rna.X, zeros), obs=mdata.obs.copy(), var=var, layers=layers)
    out.obsm["X_library_size"] = mdata.obsm["X_library_size"]
    return out


def edited(data, edits):
    "A copy after some edits; an edit changes it, or returns another one."
    out = data.copy()
    for edit in edits:
        other = edit(out)
        out = out if other is None else other
    return out


def unregistered(x):
    "Without what scvi-tools' setup writes to the user's data: columns, arrays and entries named _scvi…."
    if not isinstance(x, (AnnData, mudata.MuData)):
        return x
    out = x.copy()
    for part in (out, *getattr(out, "mod", {}).values()):
        for place in (part.obs, part.obsm, part.uns):
            for name in [n for n in place if str(n).startswith("_scvi")]:
                del place[name]
    return out


class World:
    "What a row needs; remembers what it handed out."

    def __init__(self, shared: dict, folder):
        self.shared, self.folder, self.given = shared, folder, []

    def keep(self, x):
        "Anything of the user that the call must leave as it is."
        self.given.append((x, digest(x), digest(unregistered(x))))
        return x

    def mdata(self, *edits):
        "The small MuData, after some edits."
        return self.keep(edited(self.shared["mdata"], edits))

    def adata(self, *edits):
        "The small AnnData of concatenated features, after some edits."
        return self.keep(edited(self.shared["adata"], edits))

    @property
    def ready(self):
        "The small MuData, registered."
        return self.keep(self.shared["model"].adata)

    @property
    def model(self):
        "A trained model with batches; its data are `ready`."
        return self.keep(self.shared["model"])

    @property
    def fresh(self):
        "A model that was never trained."
        return self.keep(self.shared["fresh"])

    def changed(self, registered=False):
        "Which of the objects handed out are not what they were, beyond what registering writes."
        if registered:
            return [type(x).__name__ for x, _, before in self.given if digest(unregistered(x)) != before]
        return [type(x).__name__ for x, before, _ in self.given if digest(x) != before]


@pytest.fixture(scope="module")
def shared():
    "Data and models that no row may change."
    out = {"mdata": small()}
    out["adata"] = side_by_side(out["mdata"])
    ready = out["mdata"].copy()
    SPLICEVI.setup_mudata(ready, batch_key="batch")
    out["fresh"] = SPLICEVI(ready, n_latent=3)
    out["model"] = SPLICEVI(ready, n_latent=3)
    out["model"].train(**QUIET)
    return out


def answer_of(r: Row, w: World) -> str:
    "The message of a row's call."
    if issubclass(r.answer, Warning):
        with pytest.warns(r.answer) as seen:
            r.call(w)
        return "\n".join(str(s.message) for s in seen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(r.answer) as seen:
            r.call(w)
    assert type(seen.value) is r.answer or r.answer is Exception, f"{type(seen.value).__name__}: {seen.value}"
    return str(seen.value)


def answers(r: Row, shared: dict, folder) -> None:
    "The row's answer is what it should be, comes soon, and leaves what was handed over alone."
    w = World(shared, folder)
    start = time.process_time()
    message = answer_of(r, w)
    spent = time.process_time() - start
    for text in r.texts:
        assert text in message, f"{text!r} is not in: {message}"
    assert spent < SECONDS, f"{spent:.1f} s"
    registered = issubclass(r.answer, Warning)  # what is only warned about goes on, and a setup registers
    assert not (bad := w.changed(registered)), f"changed: {bad}"


# edits of the data: each takes a copy, and changes it or gives another one


def obs(**columns):
    "Columns of obs: values, or a function of the column that is there."

    def edit(data):
        for name, values in columns.items():
            data.obs[name] = values(data.obs[name]) if callable(values) else values

    return edit


def layer(name, change, modality="splicing"):
    "Another layer (None: X) in the place of one, or None to take it away."

    def edit(data):
        part = data[modality] if modality else data
        if change is None:
            del part.layers[name]
        elif name is None:
            part.X = change(part.X)
        else:
            part.layers[name] = change(part.layers[name])

    return edit


def entry(value, at=0):
    "The matrix with one other stored value."

    def change(matrix):
        out = matrix.astype(np.float64) if np.isinf(value) or np.isnan(value) else matrix.copy()
        out.data[at] = value
        return out

    return change


def var(column, change, modality="splicing"):
    "Another column of var."

    def edit(data):
        part = data[modality] if modality else data
        part.var[column] = change(part.var[column].astype(object))

    return edit


def sizes(change):
    "Other size factors."

    def edit(data):
        data.obsm["X_library_size"] = change(data.obsm["X_library_size"].copy())

    return edit


def at(i, value):
    "The array or column with one other value."

    def change(x):
        x = x.copy()
        if isinstance(x, pd.Series):
            x.iloc[i] = value
        else:
            x[i] = value
        return x

    return change


def names(what, again, modality="splicing"):
    "The first name of cells or features once more in the second place."

    def edit(data):
        part = data[modality] if modality else data
        index = list(getattr(part, what))
        index[1] = again or index[0]
        setattr(part, what, index)

    return edit


def cells(rows):
    "Some of the cells."
    return lambda data: data[rows].copy()


def features(columns, modality):
    "Some of the features of a modality."

    def edit(data):
        parts = {k: (a[:, columns] if k == modality else a).copy() for k, a in data.mod.items()}
        out = mudata.MuData(parts)
        out.obs["batch"] = data.obs["batch"]
        return out

    return edit


zero = lambda m: m * 0
logs = lambda m: m.log1p()
LAYER = "cell_by_junction_matrix"
TOTALS = "cell_by_cluster_matrix"


def normalised(data):
    "Logarithms of counts scaled to one total, and no counts."
    x = data["rna"].X
    data["rna"].X = (sp.diags(1e4 / np.maximum(x.sum(1).A1, 1)) @ x).log1p().tocsr()


def logs_beside_counts(data):
    "Logarithms in X, counts in a layer."
    data["rna"].layers["counts"] = data["rna"].X.copy()
    data["rna"].X = data["rna"].X.log1p()


def without_a_junction(data):
    "A junction was filtered out after the totals had been computed."
    junctions = data["splicing"]
    largest = junctions.var["event_id"].value_counts().index[0]
    gone = np.flatnonzero(junctions.var["event_id"] == largest)[0]
    return features(np.setdiff1d(np.arange(junctions.n_vars), gone), "splicing")(data)


# the tables: a row a line
# fmt: off

setup, anndata = SPLICEVI.setup_mudata, SPLICEVI.setup_anndata
N = np.nan
SETUP = [
    row("setup", "an AnnData", lambda w: setup(w.adata()), TypeError, "mdata=", "it must be a MuData", "setup_anndata"),
    row("setup", "a path", lambda w: setup("data.h5mu"), TypeError, "mdata='data.h5mu'", "mudata.read_h5mu(path)"),
    row("setup", "None", lambda w: setup(None), TypeError, "mdata=None", "it must be a MuData"),
    row("setup", "no such batch", lambda w: setup(w.mdata(), batch_key="bacth"), KeyError, "batch_key='bacth'", "batch"),
    row("setup", "batch is a number", lambda w: setup(w.mdata(), batch_key=3), TypeError, "batch_key=3", "a column of obs"),
    row("setup", "batch is a list", lambda w: setup(w.mdata(), batch_key=["batch"]), TypeError, "batch_key=['batch']", "text"),
    row("setup", "batch is empty", lambda w: setup(w.mdata(), batch_key=""), ValueError, "batch_key=''", "is empty"),
    row("setup", "batch has gaps", lambda w: setup(w.mdata(obs(batch=lambda c: c.where(c.index != c.index[3]))), batch_key="batch"), ValueError, "batch_key='batch'", "1 cells", "fill them in"),
    row("setup", "labels missing", lambda w: setup(w.mdata(), labels_key="celltype"), KeyError, "labels_key='celltype'", "cell_type"),
    row("setup", "labels have gaps", lambda w: setup(w.mdata(obs(cell_type=at(0, N))), labels_key="cell_type"), ValueError, "labels_key='cell_type'", "no value"),
    row("setup", "misspelt argument", lambda w: setup(w.mdata(), batchkey="batch"), TypeError, "no argument 'batchkey'", "did you mean 'batch_key'?"),
    row("setup", "argument of scvi-tools", lambda w: setup(w.mdata(), layer="counts"), TypeError, "setup_mudata() has no argument 'layer'"),
    row("setup", "categories named twice", lambda w: setup(w.mdata(), categorical_covariate_keys=["site", "site"]), ValueError, "categorical_covariate_keys", "names site twice"),
    row("setup", "categories of a number", lambda w: setup(w.mdata(), categorical_covariate_keys=3), TypeError, "categorical_covariate_keys=3", "list of columns of obs"),
    row("setup", "categories misspelt", lambda w: setup(w.mdata(), categorical_covariate_keys="sites"), KeyError, "categorical_covariate_keys='sites'", "site"),
    row("setup", "categories have gaps", lambda w: setup(w.mdata(obs(site=at(5, N))), categorical_covariate_keys=["site"]), ValueError, "categorical_covariate_keys='site'", "1 cells"),
    row("setup", "text as a number", lambda w: setup(w.mdata(), continuous_covariate_keys=["site"]), TypeError, "continuous_covariate_keys='site'", "pass it in categorical_covariate_keys"),
    row("setup", "NaN in a covariate", lambda w: setup(w.mdata(obs(age=at(5, N))), continuous_covariate_keys=["age"]), ValueError, "continuous_covariate_keys='age'", "1 cells"),
    row("setup", "inf in a covariate", lambda w: setup(w.mdata(obs(age=at(5, np.inf))), continuous_covariate_keys=["age"]), ValueError, "continuous_covariate_keys='age'", "not finite"),
    row("setup", "numbers misspelt", lambda w: setup(w.mdata(), continuous_covariate_keys=["aeg"]), KeyError, "continuous_covariate_keys='aeg'", "age"),
    row("setup", "numbers in a dict", lambda w: setup(w.mdata(), continuous_covariate_keys={"age": 1}), TypeError, "continuous_covariate_keys", "list of columns"),
    row("setup", "index of text", lambda w: setup(w.mdata(), idx_layer="site"), TypeError, "idx_layer='site'", "numbers are needed"),
    row("setup", "no such sizes", lambda w: setup(w.mdata(), size_factor_key="size"), KeyError, "size_factor_key='size'", "X_library_size"),
    row("setup", "sizes are text", lambda w: setup(w.mdata(), size_factor_key="site"), TypeError, "size_factor_key='site'", "one positive number per cell"),
    row("setup", "sizes are text in obsm", lambda w: setup(w.mdata(sizes(lambda x: x.astype(str)))), TypeError, "size_factor_key='X_library_size'", "one positive number per cell"),
    row("setup", "a size is 0", lambda w: setup(w.mdata(sizes(at(2, 0)))), ValueError, "size_factor_key='X_library_size'", "1 cells", "positive"),
    row("setup", "a size is negative", lambda w: setup(w.mdata(sizes(at(2, -1)))), ValueError, "X_library_size", "positive"),
    row("setup", "a size is NaN", lambda w: setup(w.mdata(sizes(at(2, N)))), ValueError, "X_library_size", "positive finite"),
    row("setup", "two sizes a cell", lambda w: setup(w.mdata(sizes(lambda x: np.hstack([x, x])))), ValueError, "X_library_size", "(60, 2)", "(cells, 1)"),
    row("setup", "sizes without genes", lambda w: setup(w.mdata(), modalities={"junc_ratio_layer": "splicing"}, size_factor_key="X_library_size"), ValueError, "size_factor_key", "no expression modality"),
    row("setup", "modalities is text", lambda w: setup(w.mdata(), modalities="rna"), TypeError, "modalities='rna'", "rna_layer"),
    row("setup", "modality missing", lambda w: setup(w.mdata(), modalities={"rna_layer": "gex"}), ValueError, "gex", "rna, splicing"),
    row("setup", "modalities misspelt", lambda w: setup(w.mdata(), modalities={"rna": "rna"}), ValueError, "modalities", "unknown keys rna"),
    row("setup", "modalities empty", lambda w: setup(w.mdata(), modalities={}), ValueError, "rna, splicing"),
    row("setup", "no modality of ours", lambda w: setup(w.keep(mudata.MuData({"a": AnnData(np.ones((3, 2)))}))), ValueError, "neither 'rna' nor 'splicing'", "modalities="),
    row("setup", "genes' layer missing", lambda w: setup(w.mdata(), rna_layer="counts"), KeyError, "rna_layer='counts'", "it has"),
    row("setup", "genes' layer a number", lambda w: setup(w.mdata(), rna_layer=1), TypeError, "rna_layer=1", "name of a layer"),
    row("setup", "reads' layer missing", lambda w: setup(w.mdata(), junc_counts_layer="reads"), KeyError, "junc_counts_layer='reads'", LAYER),
    row("setup", "reads missing", lambda w: setup(w.mdata(layer(LAYER, None))), KeyError, LAYER, "it has"),
    row("setup", "totals' layer missing", lambda w: setup(w.mdata(), atse_counts_layer="totals"), KeyError, "atse_counts_layer='totals'", TOTALS),
    row("setup", "PSI's layer missing", lambda w: setup(w.mdata(), junc_ratio_layer="psi"), KeyError, "junc_ratio_layer='psi'", "junc_ratio"),
    row("setup", "mask's layer missing", lambda w: setup(w.mdata(), psi_mask_layer="mask"), KeyError, "psi_mask_layer='mask'", "psi_mask"),
    row("setup", "totals are not sums", lambda w: setup(w.mdata(without_a_junction)), ValueError, TOTALS, "not the sum", "rederive_totals", "rest=True"),
    row("setup", "totals below reads", lambda w: setup(w.mdata(layer(TOTALS, lambda m: m * 0.5))), ValueError, TOTALS, "y > n", "delete the layer"),
    row("setup", "PSI above 1", lambda w: setup(w.mdata(layer("junc_ratio", entry(1.5)))), ValueError, "junc_ratio", "no ratio", "delete the layer"),
    row("setup", "reads negative", lambda w: setup(w.mdata(layer(LAYER, entry(-1)))), ValueError, LAYER, "negative", "first: cell"),
    row("setup", "reads NaN", lambda w: setup(w.mdata(layer(LAYER, entry(N)))), ValueError, LAYER, "NaN"),
    row("setup", "reads infinite", lambda w: setup(w.mdata(layer(LAYER, entry(np.inf)))), ValueError, LAYER, "infinite"),
    row("setup", "genes negative", lambda w: setup(w.mdata(layer(None, entry(-1), "rna"))), ValueError, "mdata['rna']", "negative"),
    row("setup", "genes NaN", lambda w: setup(w.mdata(layer(None, entry(N), "rna"))), ValueError, "mdata['rna']", "NaN"),
    row("setup", "reads all 0", lambda w: setup(w.mdata(layer(LAYER, zero), layer(TOTALS, zero), layer("psi_mask", None))), ValueError, LAYER, "all junction reads are 0"),
    row("setup", "genes all 0", lambda w: setup(w.mdata(layer(None, zero, "rna"))), ValueError, "all gene counts are 0"),
    row("setup", "mask hides all", lambda w: setup(w.mdata(layer("psi_mask", zero))), ValueError, "mask 'psi_mask' hides all", "1 means"),
    row("setup", "mask shows the unread", lambda w: setup(w.mdata(layer("psi_mask", lambda m: sp.csr_matrix(np.ones(m.shape))))), ValueError, "psi_mask", "no reads"),
    row("setup", "events of one junction", lambda w: setup(w.mdata(var("event_id", lambda c: c.index), layer(TOTALS, None), layer("junc_ratio", None), layer("psi_mask", None))), ValueError, "event_id", "one junction", "find_events"),
    row("setup", "event is empty text", lambda w: setup(w.mdata(var("event_id", at(0, "")))), ValueError, "event_id", "1 junctions have no event"),
    row("setup", "event is 'nan'", lambda w: setup(w.mdata(var("event_id", at(0, "nan")))), ValueError, "event_id", "1 junctions have no event"),
    row("setup", "event is missing", lambda w: setup(w.mdata(var("event_id", at(0, None)))), ValueError, "event_id", "1 junctions have no event"),
    row("setup", "no cells", lambda w: setup(w.mdata(cells(np.zeros(60, bool)))), ValueError, "there are no gene counts", "(0, 20)"),
    row("setup", "no genes", lambda w: setup(w.mdata(features(slice(0), "rna"))), ValueError, "there are no gene counts"),
    row("setup", "no junctions", lambda w: setup(w.mdata(features(slice(0), "splicing"))), ValueError, "no junction reads"),
    row("setup", "junction named twice", lambda w: setup(w.mdata(names("var_names", None))), ValueError, "var_names", "var_names_make_unique()"),
    row("setup", "gene named twice", lambda w: setup(w.mdata(names("var_names", None, "rna"))), ValueError, "mdata['rna']", "var_names_make_unique()"),
    row("setup", "PSI as reads", lambda w: setup(w.mdata(), junc_counts_layer="junc_ratio", atse_counts_layer=TOTALS), ValueError, "not the sum"),
    row("setup", "PSI as only reads", lambda w: setup(w.mdata(layer(TOTALS, None)), junc_counts_layer="junc_ratio"), UserWarning, "junction reads", f"pass junc_counts_layer='{LAYER}'"),
    row("setup", "logs beside counts", lambda w: setup(w.mdata(logs_beside_counts)), UserWarning, "logarithms", "pass rna_layer='counts'"),
    row("setup", "logs without counts", lambda w: setup(w.mdata(normalised)), UserWarning, "gene counts", "logarithms of counts scaled to one total", "rna_layer"),
    row("setup", "AnnData: a MuData", lambda w: anndata(w.mdata()), TypeError, "adata=", "it must be an AnnData", "setup_mudata"),
    row("setup", "AnnData: a path", lambda w: anndata("a.h5ad"), TypeError, "adata='a.h5ad'", "anndata.read_h5ad(path)"),
    row("setup", "AnnData: layer missing", lambda w: anndata(w.adata(), layer="counts"), KeyError, "layer='counts'", LAYER),
    row("setup", "AnnData: reads missing", lambda w: anndata(w.adata(), cell_by_junction_matrix="reads"), KeyError, "cell_by_junction_matrix='reads'", LAYER),
    row("setup", "AnnData: totals missing", lambda w: anndata(w.adata(), cell_by_cluster_matrix="n"), KeyError, "cell_by_cluster_matrix='n'"),
    row("setup", "AnnData: PSI missing", lambda w: anndata(w.adata(), junc_ratio="psi"), KeyError, "junc_ratio='psi'"),
    row("setup", "AnnData: mask missing", lambda w: anndata(w.adata(), psi_mask_layer="m"), KeyError, "psi_mask_layer='m'"),
    row("setup", "AnnData: batch missing", lambda w: anndata(w.adata(), batch_key="b"), KeyError, "batch_key='b'", "batch"),
    row("setup", "AnnData: misspelt", lambda w: anndata(w.adata(), psi_mask="psi_mask"), TypeError, "setup_anndata() has no argument 'psi_mask'", "psi_mask_layer"),
    row("setup", "AnnData: a size is 0", lambda w: anndata(w.adata(sizes(at(0, 0)))), ValueError, "X_library_size", "1 cells", "positive"),
    row("setup", "AnnData: a size is negative", lambda w: anndata(w.adata(sizes(at(0, -1)))), ValueError, "X_library_size", "positive"),
    row("setup", "AnnData: sizes are text", lambda w: anndata(w.adata(), size_factor_key="site"), TypeError, "size_factor_key='site'"),
    row("setup", "AnnData: NaN in a covariate", lambda w: anndata(w.adata(obs(age=at(5, N))), continuous_covariate_keys="age"), ValueError, "continuous_covariate_keys='age'"),
    row("setup", "AnnData: features named twice", lambda w: anndata(w.adata(names("var_names", None, None))), ValueError, "var_names", "var_names_make_unique()"),
    row("setup", "AnnData: cells named twice", lambda w: anndata(w.adata(names("obs_names", None, None))), ValueError, "obs_names", "obs_names_make_unique()"),
    row("setup", "AnnData: no cells", lambda w: anndata(w.adata(cells(np.zeros(60, bool)))), ValueError, "no cells"),
    row("setup", "AnnData: genes all 0", lambda w: anndata(w.adata(layer(None, zero, None))), ValueError, "all gene counts in X are 0", "layer="),
    row("setup", "AnnData: reads all 0", lambda w: anndata(w.adata(layer(LAYER, zero, None))), ValueError, "all junction reads", "cell_by_junction_matrix"),
    row("setup", "AnnData: mask hides all", lambda w: anndata(w.adata(layer("psi_mask", zero, None))), ValueError, "psi_mask", "hides all junction reads"),
    row("setup", "AnnData: events of one junction", lambda w: anndata(w.adata(var("event_id", lambda c: c.where(c.isna(), c.index), None))), ValueError, "one junction", "find_events"),
]


def anndata_model(w, *edits, genes=20, junctions=30, **kwargs):
    "A model of an AnnData."
    data = edited(w.shared["adata"], edits)
    anndata(data)
    return SPLICEVI(w.keep(data), n_genes=genes, n_junctions=junctions, **kwargs)


CONSTRUCTOR = [
    row("constructor", "a path", lambda w: SPLICEVI("data.h5mu"), TypeError, "adata='data.h5mu'", "setup_mudata", "SPLICEVI.load"),
    row("constructor", "a table", lambda w: SPLICEVI(pd.DataFrame()), TypeError, "adata=", "it must be a MuData or an AnnData"),
    row("constructor", "no setup", lambda w: SPLICEVI(w.mdata()), ValueError, "setup"),
    row("constructor", "misspelt", lambda w: SPLICEVI(w.ready, n_latents=4), TypeError, "no argument 'n_latents'", "did you mean 'n_latent'?"),
    row("constructor", "of another model", lambda w: SPLICEVI(w.ready, n_layers=2), TypeError, "no argument 'n_layers'", "n_layers_"),
    row("constructor", "choice misspelt", lambda w: SPLICEVI(w.ready, gene_likelihood="zimb"), ValueError, "gene_likelihood='zimb'", "did you mean 'zinb'?"),
    row("constructor", "choice of None", lambda w: SPLICEVI(w.ready, modality_penalty=None), ValueError, "modality_penalty=None", "'None'"),
    row("constructor", "choice of another type", lambda w: SPLICEVI(w.ready, pool_mode=1), ValueError, "pool_mode=1", "'mean', 'sum'"),
    row("constructor", "flag of text", lambda w: SPLICEVI(w.ready, encode_covariates="no"), TypeError, "encode_covariates='no'", "True or False"),
    row("constructor", "flag of a number", lambda w: SPLICEVI(w.ready, fully_paired=1), TypeError, "fully_paired=1", "True or False"),
    row("constructor", "no latents", lambda w: SPLICEVI(w.ready, n_latent=0), ValueError, "n_latent=0", "at least 1"),
    row("constructor", "latents of text", lambda w: SPLICEVI(w.ready, n_latent="ten"), TypeError, "n_latent='ten'", "is no number"),
    row("constructor", "latents of a float", lambda w: SPLICEVI(w.ready, n_latent=10.0), TypeError, "n_latent=10.0", "Write 10"),
    row("constructor", "no width", lambda w: SPLICEVI(w.ready, n_hidden=0), ValueError, "n_hidden=0", "at least 1"),
    row("constructor", "layers below none", lambda w: SPLICEVI(w.ready, n_layers_encoder=-1), ValueError, "n_layers_encoder=-1"),
    row("constructor", "dropout negative", lambda w: SPLICEVI(w.ready, dropout_rate=-0.1), ValueError, "dropout_rate=-0.1", "below 1"),
    row("constructor", "dropout NaN", lambda w: SPLICEVI(w.ready, dropout_rate=N), ValueError, "dropout_rate=nan", "finite"),
    row("constructor", "all dropped out", lambda w: SPLICEVI(w.ready, dropout_rate=1), ValueError, "dropout_rate=1", "below 1"),
    row("constructor", "no code", lambda w: SPLICEVI(w.ready, code_dim=0), ValueError, "code_dim=0"),
    row("constructor", "no pairs", lambda w: SPLICEVI(w.ready, max_nobs=0), ValueError, "max_nobs=0", "-1"),
    row("constructor", "concentration infinite", lambda w: SPLICEVI(w.ready, splicing_loss_type="beta_binomial", splicing_concentration=np.inf), ValueError, "splicing_concentration=inf", "finite"),
    row("constructor", "genes differ", lambda w: SPLICEVI(w.ready, n_genes=21), ValueError, "n_genes=21", "have 20"),
    row("constructor", "junctions differ", lambda w: SPLICEVI(w.ready, n_junctions=3), ValueError, "n_junctions=3", "have 30"),
    row("constructor", "genes negative", lambda w: SPLICEVI(w.ready, n_genes=-1), ValueError, "n_genes=-1", "at least 0"),
    row("constructor", "PCA without embeddings", lambda w: SPLICEVI(w.ready, initialize_embeddings_from_pca=True, splicing_encoder_architecture="vanilla"), ValueError, "initialize_embeddings_from_pca=True", "'partial'"),
    row("constructor", "AnnData: sizes missing", lambda w: anndata_model(w, genes=None), ValueError, "n_genes and n_junctions are required"),
    row("constructor", "AnnData: sizes do not add up", lambda w: anndata_model(w, genes=25), ValueError, "n_genes + n_junctions = 55", "50 features"),
    row("constructor", "AnnData: border too late", lambda w: anndata_model(w, genes=30, junctions=20), ValueError, "n_genes=30, n_junctions=20", "pass n_genes=20, n_junctions=30"),
    row("constructor", "AnnData: border too early", lambda w: anndata_model(w, genes=10, junctions=40), ValueError, "n_genes=10, n_junctions=40", "pass n_genes=20, n_junctions=30"),
    row("constructor", "AnnData: genes with reads", lambda w: anndata_model(w, lambda d: d.var.drop(columns="event_id", inplace=True), genes=30, junctions=20, splicing_loss_type="binomial"), ValueError, "n_genes=30", "10 of the features", "have junction reads"),
    row("constructor", "no effect", lambda w: SPLICEVI(w.ready, splicing_concentration=5.0), UserWarning, "splicing_concentration", "no effect"),
]

train = lambda w, **kwargs: w.fresh.train(**kwargs)
TRAIN = [
    row("train", "no epochs", lambda w: train(w, max_epochs=0), ValueError, "max_epochs=0", "at least 1"),
    row("train", "epochs of text", lambda w: train(w, max_epochs="10"), TypeError, "max_epochs='10'", "is no number"),
    row("train", "rate 0", lambda w: train(w, lr=0), ValueError, "lr=0", "above 0"),
    row("train", "rate infinite", lambda w: train(w, lr=np.inf), ValueError, "lr=inf", "finite"),
    row("train", "rate of text", lambda w: train(w, lr="1e-3"), TypeError, "lr='1e-3'", "number"),
    row("train", "no training cells", lambda w: train(w, train_size=0), ValueError, "train_size=0", "above 0"),
    row("train", "more than all cells", lambda w: train(w, train_size=1.5), ValueError, "train_size=1.5", "at most 1"),
    row("train", "validation negative", lambda w: train(w, validation_size=-0.1), ValueError, "validation_size=-0.1"),
    row("train", "shares above 1", lambda w: train(w, **QUIET | dict(train_size=0.9, validation_size=0.9)), ValueError, "train_size", "validation_size"),
    row("train", "no cells in a batch", lambda w: train(w, batch_size=0), ValueError, "batch_size=0", "at least 1"),
    row("train", "decay negative", lambda w: train(w, weight_decay=-1), ValueError, "weight_decay=-1"),
    row("train", "eps NaN", lambda w: train(w, eps=N), ValueError, "eps=nan"),
    row("train", "patience negative", lambda w: train(w, early_stopping_patience=-1), ValueError, "early_stopping_patience=-1"),
    row("train", "validation every 0", lambda w: train(w, check_val_every_n_epoch=0), ValueError, "check_val_every_n_epoch=0"),
    row("train", "warm-up negative", lambda w: train(w, n_epochs_kl_warmup=-5), ValueError, "n_epochs_kl_warmup=-5", "at least 0"),
    row("train", "warm-up of steps negative", lambda w: train(w, n_steps_kl_warmup=-5), ValueError, "n_steps_kl_warmup=-5"),
    row("train", "factor negative", lambda w: train(w, lr_factor=-1), ValueError, "lr_factor=-1", "above 0"),
    row("train", "step 0", lambda w: train(w, step_size=0), ValueError, "step_size=0"),
    row("train", "clipping at NaN", lambda w: train(w, gradient_clipping_max_norm=N), ValueError, "gradient_clipping_max_norm=nan"),
    row("train", "no such schedule", lambda w: train(w, lr_scheduler_type="stairs"), ValueError, "lr_scheduler_type='stairs'", "'step'"),
    row("train", "no such metric", lambda w: train(w, lr_scheduler_metric="nope"), ValueError, "lr_scheduler_metric='nope'", "'elbo_validation'"),
    row("train", "metric misspelt", lambda w: train(w, lr_scheduler_metric="elbo_valid"), ValueError, "did you mean 'elbo_validation'?"),
    row("train", "no such monitor", lambda w: train(w, early_stopping_monitor="elbo"), ValueError, "early_stopping_monitor='elbo'"),
    row("train", "flag of text", lambda w: train(w, early_stopping="yes"), TypeError, "early_stopping='yes'", "True or False"),
    row("train", "misspelt", lambda w: train(w, max_epoch=3), TypeError, "no argument 'max_epoch'", "did you mean 'max_epochs'?"),
    row("train", "of another library", lambda w: train(w, learning_rate=1e-3), TypeError, "train() has no argument 'learning_rate'"),
    row("train", "use_gpu of old", lambda w: train(w, use_gpu=True), TypeError, "train() has no argument 'use_gpu'"),
    row("train", "callbacks of text", lambda w: train(w, callbacks="me"), TypeError, "callbacks='me'", "Callback"),
    row("train", "a callback that is none", lambda w: train(w, callbacks=[print]), TypeError, "callbacks[0]", "lightning.pytorch.callbacks.Callback"),
    row("train", "plan options misspelt", lambda w: train(w, plan_kwargs={"weight_deacy": 0}), TypeError, "plan_kwargs has no argument 'weight_deacy'", "did you mean 'weight_decay'?"),
    row("train", "plan options out of range", lambda w: train(w, plan_kwargs={"lr": -1}), ValueError, "plan_kwargs['lr']=-1", "above 0"),
    row("train", "plan options of text", lambda w: train(w, plan_kwargs="fast"), TypeError, "plan_kwargs='fast'", "dictionary"),
    row("train", "splitter options misspelt", lambda w: train(w, datasplitter_kwargs={"droplast": True}), TypeError, "datasplitter_kwargs has no argument 'droplast'", "'drop_last'"),
    row("train", "splitter options out of range", lambda w: train(w, datasplitter_kwargs={"train_size": 2}), ValueError, "datasplitter_kwargs['train_size']=2"),
    row("train", "accelerator misspelt", lambda w: train(w, max_epochs=1, accelerator="gpuu"), ValueError, "accelerator='gpuu'", "'cpu', 'gpu'"),
    row("train", "devices of nothing", lambda w: train(w, max_epochs=1, accelerator="cpu", devices=0), ValueError, "devices=0"),
    row("train", "schedule without validation", lambda w: train(w, **QUIET | dict(train_size=1.0, reduce_lr_on_plateau=True)), ValueError, "lr_scheduler_metric='elbo_validation'", "validation cells"),
]

latent = lambda w, **kwargs: w.model.get_latent_representation(**kwargs)


def alone(w):
    "The model as it is loaded without its data."
    w.shared["model"].save(w.folder / "alone")
    return SPLICEVI.load(w.folder / "alone", False, accelerator="cpu")


expression = lambda w, **kwargs: w.model.get_normalized_expression(**kwargs)
psi = lambda w, **kwargs: w.model.get_normalized_splicing(**kwargs)
smoothed = lambda w, **kwargs: w.model.get_normalized_splicing_DM(**kwargs)
PREDICT = [
    row("predict", "untrained", lambda w: w.fresh.get_latent_representation(), RuntimeError, "untrained", "train the model first"),
    row("predict", "no rows", lambda w: latent(w, indices=[]), ValueError, "indices=[]", "at least one"),
    row("predict", "mask of no cell", lambda w: latent(w, indices=np.zeros(60, bool)), ValueError, "indices", "mask of no cell"),
    row("predict", "mask of another length", lambda w: latent(w, indices=np.ones(3, bool)), ValueError, "mask of shape (3,)", "60 cells"),
    row("predict", "rows beyond", lambda w: psi(w, indices=[60]), IndexError, "60 cells"),
    row("predict", "rows of names", lambda w: psi(w, indices=["cell_1"]), TypeError, "indices=['cell_1']", "get_indexer"),
    row("predict", "rows of floats", lambda w: expression(w, indices=[0.5]), TypeError, "indices=[0.5]"),
    row("predict", "rows of text", lambda w: expression(w, indices="all"), TypeError, "indices='all'"),
    row("predict", "no such space", lambda w: latent(w, modality="protein"), ValueError, "modality='protein'", "'joint'"),
    row("predict", "space misspelt", lambda w: latent(w, modality="spliceing"), ValueError, "did you mean 'splicing'?"),
    row("predict", "flag of text", lambda w: latent(w, give_mean="yes"), TypeError, "give_mean='yes'", "True or False"),
    row("predict", "batches of no cell", lambda w: latent(w, batch_size=0), ValueError, "batch_size=0"),
    row("predict", "batches of text", lambda w: latent(w, batch_size="32"), TypeError, "batch_size='32'"),
    row("store", "of no known ending", lambda w: sv.data.write_store(w.mdata(), w.folder / "x.zarr"), ValueError, "x.zarr", "is an .h5mu"),
    row("store", "of an AnnData", lambda w: sv.data.write_store(w.adata(), w.folder / "x.h5mu"), TypeError, "data=", "a MuData"),
    row("store", "of no file", lambda w: sv.data.write_store(w.folder / "no.h5mu", w.folder / "x.h5mu"), FileNotFoundError, "no.h5mu"),
    row("store", "of nothing", lambda w: sv.data.write_store([], w.folder / "x.h5mu"), ValueError, "data=[]", "no MuData"),
    row("store", "of no counts", lambda w: sv.data.write_store(w.mdata(), w.folder / "x.h5mu", junc_counts_layer="reads"), ValueError, "'reads'"),
    row("store", "without splicing", lambda w: sv.data.write_store(w.mdata(), w.folder / "x.h5mu", modalities={"rna_layer": "rna"}), ValueError, "no splicing modality"),
    row("store", "opened: no such file", lambda w: sv.data.open_mudata(w.folder / "no.h5mu"), FileNotFoundError, "no.h5mu"),
    row("store", "opened: a table", lambda w: sv.data.open_mudata(w.folder / "x.csv"), ValueError, "x.csv", ".h5mu"),
    row("store", "held out of", lambda w: sv.data.hold_out(sv.data.open_mudata(sv.data.write_store(w.mdata(), w.folder / "x.h5mu"))), ValueError, "hold_out", "stay in their file", "mudata.read_h5mu"),
    row("predict", "file of no known kind", lambda w: psi(w, out=w.folder / "psi.csv"), ValueError, "psi.csv", "has to end in .zarr or .h5ad"),
    row("predict", "file in no folder", lambda w: latent(w, out=str(w.folder / "no" / "z.h5ad")), FileNotFoundError, "there is no folder"),
    row("predict", "file of a number", lambda w: expression(w, out=3), TypeError, "out=3", "a path"),
    row("predict", "file and groups", lambda w: psi(w, out=w.folder / "psi.h5ad", groupby="batch"), ValueError, "give one of them"),
    row("predict", "file of several samples", lambda w: smoothed(w, out=w.folder / "p.h5ad", n_samples=2, return_mean=False), ValueError, "out=", "return_mean=False"),
    row("predict", "groups as numbers", lambda w: psi(w, groupby="batch", return_numpy=True), ValueError, "return_numpy=True has no meaning with groupby="),
    row("predict", "groups of no column", lambda w: expression(w, groupby="tissue"), KeyError, "groupby", "tissue"),
    row("predict", "a model without data", lambda w: alone(w).get_latent_representation(), ValueError, "loaded without data", "adata="),
    row("programs", "a model without data", lambda w: alone(w).programs(), ValueError, "loaded without data", "adata="),
    row("programs", "untrained", lambda w: w.fresh.programs(), RuntimeError, "untrained"),
    row("programs", "no such column", lambda w: w.model.programs(within="tissue"), KeyError, "within='tissue' is no column of obs", "cell_type"),
    row("programs", "too few samples", lambda w: w.model.programs(sample_key="batch", regulators=list(w.model.gene_names[:2])), ValueError, "Samples: 2", "at least 4"),
    row("programs", "groups but no regulator", lambda w: w.model.programs(within="cell_type"), ValueError, "None of A1CF, ACIN1, AKAP17A and 184 more"),
    row("programs", "regulators that are no genes", lambda w: w.model.programs(regulators=["QKI"]), ValueError, "None of QKI is among the genes"),
    row("programs", "no such space", lambda w: w.model.programs(modality="rna"), ValueError, "modality='rna'", "'splicing'"),
    row("programs", "more than there are", lambda w: w.model.programs(n_programs=99), ValueError, "n_programs=99", "directions only"),
    row("programs", "none explains so much", lambda w: w.model.programs(min_share=0.999), ValueError, "min_share=0.999"),
    row("programs", "figure of a table", lambda w: sv.pl.programs(pd.DataFrame()), TypeError, "model.programs()"),
    row("predict", "misspelt", lambda w: latent(w, batchsize=3), TypeError, "get_latent_representation() has no argument 'batchsize'", "'batch_size'"),
    row("predict", "sizes: rows beyond", lambda w: w.model.get_library_size_factors(indices=[99]), IndexError, "60 cells"),
    row("predict", "sizes: batches negative", lambda w: w.model.get_library_size_factors(batch_size=-1), ValueError, "batch_size=-1"),
    row("predict", "no such gene", lambda w: expression(w, gene_list=["ACTB"]), KeyError, "1 genes are not in the model: ACTB"),
    row("predict", "gene of a number", lambda w: expression(w, gene_list=[1]), TypeError, "gene_list=[1]", "list of genes"),
    row("predict", "no gene", lambda w: expression(w, gene_list=[]), ValueError, "gene_list=[]", "is empty"),
    row("predict", "gene named twice", lambda w: expression(w, gene_list=["gene_1", "gene_1"]), ValueError, "gene_list", "gene_1 twice"),
    row("predict", "no such junction", lambda w: psi(w, junction_list="chr1:1:2:+"), KeyError, "1 junctions are not in the model"),
    row("predict", "no such batch", lambda w: psi(w, transform_batch="Tuesday"), ValueError, "transform_batch", "Tuesday", "batch_1"),
    row("predict", "no batch", lambda w: psi(w, transform_batch=[]), ValueError, "transform_batch is empty", "batch_1"),
    row("predict", "batch of True", lambda w: expression(w, transform_batch=True), ValueError, "transform_batch", "True"),
    row("predict", "batch of an object", lambda w: expression(w, transform_batch=print), ValueError, "transform_batch", "batch_1"),
    row("predict", "no samples", lambda w: psi(w, n_samples=0), ValueError, "n_samples=0", "at least 1"),
    row("predict", "half a sample", lambda w: psi(w, n_samples=1.5), ValueError, "n_samples=1.5", "whole"),
    row("predict", "none of the cells", lambda w: psi(w, n_samples_overall=0), ValueError, "n_samples_overall=0"),
    row("predict", "DM: no samples", lambda w: smoothed(w, n_samples=-1), ValueError, "n_samples=-1"),
    row("predict", "DM: flag of None", lambda w: smoothed(w, return_mean=None), TypeError, "return_mean=None"),
    row("predict", "DM: misspelt", lambda w: smoothed(w, junctions=["a"]), TypeError, "no argument 'junctions'", "'junction_list'"),
    row("predict", "ELBO of no rows", lambda w: w.model.get_elbo(indices=[]), ValueError, "indices=[]", "at least one"),
    row("predict", "ELBO of batches of 0", lambda w: w.model.get_elbo(batch_size=0), ValueError, "batch_size=0"),
    row("predict", "errors of a mask of no cell", lambda w: w.model.get_reconstruction_error(indices=np.zeros(60, bool)), ValueError, "indices", "mask of no cell"),
    row("predict", "likelihood of no sample", lambda w: w.model.get_marginal_ll(n_mc_samples=0), ValueError, "n_mc_samples=0"),
    row("predict", "ELBO of an unseen batch", lambda w: w.model.get_elbo(w.mdata(obs(batch="Tuesday"))), ValueError, "obs['batch']", "Tuesday"),
    row("predict", "of a path", lambda w: latent(w, adata="data.h5mu"), TypeError, "adata='data.h5mu'", "mudata.read_h5mu"),
    row("predict", "of an unseen batch", lambda w: latent(w, adata=w.mdata(obs(batch="Tuesday"))), ValueError, "obs['batch']", "Tuesday", "load_query_data"),
    row("predict", "of no batch", lambda w: latent(w, adata=w.mdata(lambda d: d.obs.drop(columns="batch", inplace=True))), KeyError, "obs['batch']", "batch_key"),
    row("predict", "of a batch with gaps", lambda w: latent(w, adata=w.mdata(obs(batch=at(3, N)))), ValueError, "obs['batch']", "1 cells have no value"),
    row("predict", "of no sizes", lambda w: latent(w, adata=w.mdata(lambda d: d.obsm.__delitem__("X_library_size"))), KeyError, "X_library_size", "size_factor_key"),
    row("predict", "of a NaN size", lambda w: latent(w, adata=w.mdata(sizes(at(0, N)))), ValueError, "X_library_size", "finite"),
    row("predict", "of other genes", lambda w: latent(w, adata=w.mdata(features(slice(5), "rna"))), ValueError, "15 of the model's 20", "missing"),
    row("predict", "of one modality", lambda w: latent(w, adata=w.keep(mudata.MuData({"rna": w.shared["mdata"]["rna"].copy()}))), ValueError, "splicing", "lack"),
]

expressed = lambda w, **kwargs: w.model.differential_expression(**{"groupby": "cell_type", "silent": True} | kwargs)
DONORS = {"design": "~ site + cell_type", "sample_key": "site"}
designed = lambda w, **kwargs: spliced(w, **(DONORS | kwargs))
spliced = lambda w, **kwargs: w.model.differential_splicing(**{"groupby": "cell_type", "silent": True} | kwargs)


def both_tests(name, kwargs, answer, *texts):
    "The same mistake in both tests."
    calls = {"expression": expressed, "splicing": spliced}
    return [row("differential", f"{what}: {name}", lambda w, f=f: f(w, **kwargs), answer, *texts) for what, f in calls.items()]


DIFFERENTIAL = [
    *both_tests("no such mode", {"mode": "chance"}, ValueError, "mode='chance'", "did you mean 'change'?"),
    *both_tests("delta negative", {"delta": -1}, ValueError, "delta=-1", "at least 0"),
    *both_tests("delta of text", {"delta": "0.1"}, TypeError, "delta='0.1'", "is no number"),
    *both_tests("delta NaN", {"delta": N}, ValueError, "delta=nan"),
    *both_tests("target 0", {"fdr_target": 0}, ValueError, "fdr_target=0", "above 0"),
    *both_tests("target 5", {"fdr_target": 5}, ValueError, "fdr_target=5", "below 1"),
    *both_tests("no groups", {"groupby": None}, ValueError, "groupby", "cell_type", "idx1"),
    *both_tests("no such column", {"groupby": "celltype"}, KeyError, "groupby='celltype'", "cell_type"),
    *both_tests("column of a number", {"groupby": 3}, TypeError, "groupby=3", "column of obs"),
    *both_tests("no such group", {"group1": "T cell"}, ValueError, "group1: T cell", "type_1, type_2, type_3"),
    *both_tests("no group", {"group1": []}, ValueError, "group1 names no group"),
    *both_tests("group named twice", {"group1": ["type_1", "type_1"]}, ValueError, "group1 names type_1 twice"),
    *both_tests("group against itself", {"group1": "type_1", "group2": "type_1"}, ValueError, "type_1 and type_1 share"),
    *both_tests("two second groups", {"group1": "type_1", "group2": ["type_2", "type_3"]}, ValueError, "group2 is one group", "idx2"),
    *both_tests("idx2 alone", {"idx2": [1, 2]}, ValueError, "idx2 needs idx1"),
    *both_tests("mask of another length", {"idx1": [True, False]}, ValueError, "idx1 is a mask of 2 values for 60 cells"),
    *both_tests("mask of no cell", {"idx1": np.zeros(60, bool)}, ValueError, "idx1 holds no cell"),
    *both_tests("rows beyond", {"idx1": [0, 99]}, ValueError, "idx1 has row 99", "60 cells"),
    *both_tests("rows of names", {"idx1": ["cell_1", "cell_2"]}, TypeError, "idx1", "mask, row numbers or a query"),
    *both_tests("query of no column", {"idx1": "tissue == 'a'"}, ValueError, "idx1=", "no valid query", "cell_type"),
    *both_tests("cells in both", {"idx1": [0, 1], "idx2": [1, 2]}, ValueError, "idx1 and idx2 share 1 cells"),
    *both_tests("one cell", {"idx1": [3]}, ValueError, "idx1 holds one cell", "at least two"),
    *both_tests("batches without correction", {"batchid1": ["batch_1"]}, ValueError, "batchid1", "batch_correction=True"),
    *both_tests("no such batch", {"batch_correction": True, "batchid1": ["x"]}, ValueError, "batchid1: x is no batch", "batch_1, batch_2"),
    *both_tests("groups are batches", {"groupby": "batch", "batch_correction": True}, ValueError, "groups and batches are the same thing", "batch_correction=False"),
    *both_tests("flag of text", {"batch_correction": "yes"}, TypeError, "batch_correction='yes'", "True or False"),
    *both_tests("batches of no cell", {"batch_size": 0}, ValueError, "batch_size=0"),
    *both_tests("no samples", {"n_samples_overall": 0}, ValueError, "n_samples_overall=0", "at least 1"),
    *both_tests("misspelt", {"fdr_traget": 0.1}, TypeError, "no argument 'fdr_traget'", "did you mean 'fdr_target'?"),
    row("differential", "expression: pseudocounts negative", lambda w: expressed(w, pseudocounts=-1), ValueError, "pseudocounts=-1"),
    row("differential", "expression: no such test", lambda w: expressed(w, test_mode="four"), ValueError, "test_mode='four'", "'three'"),
    row("differential", "splicing: delta above 1", lambda w: spliced(w, delta=2), ValueError, "delta=2", "difference of PSI"),
    row("differential", "splicing: delta None", lambda w: spliced(w, delta=None), TypeError, "delta=None", "difference of PSI"),
    row("differential", "splicing: no_change negative", lambda w: spliced(w, no_change=-1), ValueError, "no_change=-1"),
    row("differential", "splicing: no draws", lambda w: spliced(w, n_draws=0), ValueError, "n_draws=0"),
    row("differential", "splicing: seed negative", lambda w: spliced(w, seed=-1), ValueError, "seed=-1"),
    row("differential", "splicing: grid of 0", lambda w: spliced(w, grid=[0.1, 0]), ValueError, "grid[1]=0", "above 0"),
    row("differential", "splicing: grid of a number", lambda w: spliced(w, grid=0.1), TypeError, "grid=0.1", "list"),
    row("differential", "splicing: no such level", lambda w: spliced(w, level="gene"), ValueError, "level='gene'", "'junction', 'event'"),
    row("differential", "splicing: events have no sign", lambda w: spliced(w, level="event", mode="vanilla"), ValueError, "mode='vanilla'", "level='event'"),
    row("differential", "splicing: no such PSI", lambda w: spliced(w, norm_splicing_function="raw"), ValueError, "norm_splicing_function='raw'", "'decoder'"),
    row("differential", "splicing: no such junction", lambda w: spliced(w, junction_list=["x"]), KeyError, "1 junctions are not in the model: x"),
    row("differential", "markers of no column", lambda w: w.model.markers("celltype"), KeyError, "groupby='celltype'", "cell_type"),
    row("differential", "markers of one group", lambda w: w.model.markers("cell_type", groups="type_1"), ValueError, "markers need two groups"),
    row("differential", "markers of no such group", lambda w: w.model.markers("cell_type", groups=["T cell"]), ValueError, "groups: T cell", "type_1"),
    row("differential", "markers misspelt", lambda w: w.model.markers("cell_type", fdr=0.1), TypeError, "no argument 'fdr'"),
    row("differential", "markers of no cell", lambda w: w.model.markers("cell_type", min_cells=0), ValueError, "min_cells=0", "at least 1"),
    row("differential", "design of no formula", lambda w: designed(w, design="~ site + ("), ValueError, "design='~ site + ('", "is no formula"),
    row("differential", "design with a left side", lambda w: designed(w, design="psi ~ cell_type"), ValueError, "Begin with ~"),
    row("differential", "design without donors", lambda w: designed(w, sample_key=None), ValueError, "design needs sample_key"),
    row("differential", "design of no column", lambda w: designed(w, design="~ cell_type + dose"), KeyError, "'dose' is no column of obs", "cell_type"),
    row("differential", "design without the groups", lambda w: designed(w, design="~ site"), ValueError, "does not have groupby='cell_type'"),
    row("differential", "design of a column that varies", lambda w: designed(w, design="~ cell_type + age"), ValueError, "'age' varies within the sample"),
    row("differential", "design of donors and sites", lambda w: designed(w, groupby="batch", design="~ batch", sample_key="batch"), ValueError, "nothing is left to say how much donors differ"),
    row("differential", "design with rows", lambda w: designed(w, groupby=None, idx1=[1, 2]), ValueError, "use groupby"),
    row("differential", "design with batches to decode under", lambda w: designed(w, batch_correction=True, batchid1=["batch_1"]), ValueError, "leave out batchid1"),
    row("differential", "expression: design with corrected batches", lambda w: expressed(w, **DONORS, batch_correction=True), ValueError, "leave out batch_correction"),
    row("differential", "design with strata of no column", lambda w: designed(w, strata="kind"), KeyError, "strata='kind' is no column of obs"),
    row("differential", "strata that no two groups share", lambda w: w.model.differential_splicing(groupby="cell_type", group1="type_1", strata="cell_type"), ValueError, "strata='cell_type'", "no value of the column is found in cells of both groups"),
    row("differential", "design with the model's opinion", lambda w: designed(w, prior="model"), ValueError, "prior='model' needs the cells' own reads", "prior='variation' goes with all"),
    row("differential", "along groups", lambda w: w.model.differential_splicing(groupby="cell_type", along="age"), ValueError, "groupby='cell_type' does not go with along='age'"),
    row("differential", "along a design", lambda w: w.model.differential_splicing(along="age", design="~ age", sample_key="site"), ValueError, "design='~ age' does not go with along='age'", "contrast='age'"),
    row("differential", "along with a sign", lambda w: w.model.differential_splicing(along="age", mode="vanilla"), ValueError, "mode='vanilla' does not go with along='age'"),
    row("differential", "along of no column", lambda w: w.model.differential_splicing(along="pseudotime"), KeyError, "along='pseudotime' is no column of obs"),
    row("differential", "along texts", lambda w: w.model.differential_splicing(along="cell_type"), TypeError, "along='cell_type' holds", "compare groups instead"),
    row("differential", "along with nothing to bend", lambda w: w.model.differential_splicing(along="age", df=0), ValueError, "df=0", "at least 1"),
    row("differential", "along with too many cells", lambda w: w.model.differential_splicing(along="age", min_cells=10**6), ValueError, "min_cells=1000000"),
    row("differential", "along what donors have one of", lambda w: w.model.differential_splicing(along="age", sample_key="age", df=1), ValueError, "has one value in each 'age'", "contrast='age'"),
    row("differential", "a spline without along", lambda w: spliced(w, df=2), ValueError, "df=2 is of a curve", "give along"),
    row("differential", "design that asks nothing", lambda w: designed(w, groupby=None), ValueError, "groupby (a column of the design) or contrast"),
    row("differential", "design asked twice", lambda w: designed(w, contrast="cell_type[T.type_2]", group1="type_1"), ValueError, "leave out group1"),
    row("differential", "contrast of no coefficient", lambda w: designed(w, contrast="cell_type"), ValueError, "contrast: cell_type is no coefficient", "cell_type[T.type_2]"),
    row("differential", "contrast of text", lambda w: designed(w, contrast={"cell_type[T.type_2]": "1"}), ValueError, "weights that are no numbers"),
    row("differential", "contrast of nothing", lambda w: designed(w, contrast={}), ValueError, "the contrast is 0"),
    row("differential", "expression: design of a column that varies", lambda w: expressed(w, **DONORS | {"design": "~ cell_type + age"}), ValueError, "'age' varies within the sample"),
    row("differential", "expression: design without outliers", lambda w: expressed(w, **DONORS, filter_outlier_cells=True), ValueError, "design needs all cells"),
    row("differential", "expression: design without donors", lambda w: expressed(w, design="~ cell_type"), ValueError, "design needs sample_key"),
    row("differential", "contrast without a design", lambda w: spliced(w, contrast="age"), ValueError, "give design, too"),
    row("differential", "splicing: of scvi-tools", lambda w: spliced(w, pseudocounts=1), TypeError, "no argument 'pseudocounts'"),
]

FUNCTIONS = [
    row("functions", "hold out all", lambda w: sv.data.hold_out(w.mdata(), 1), ValueError, "fraction=1", "below 1"),
    row("functions", "hold out nothing", lambda w: sv.data.hold_out(w.mdata(), fraction=0), ValueError, "fraction=0", "above 0"),
    row("functions", "hold out of a path", lambda w: sv.data.hold_out("data.h5mu"), TypeError, "mdata='data.h5mu'", "read_h5mu"),
    row("functions", "hold out of a modality", lambda w: sv.data.hold_out(w.mdata(), modality="atse"), ValueError, "no modality 'atse'", "rna, splicing"),
    row("functions", "hold out of another layer", lambda w: sv.data.hold_out(w.mdata(), junc_counts_layer="y"), ValueError, "layers['y']", "check_mudata"),
    row("functions", "hold out misspelt", lambda w: sv.data.hold_out(w.mdata(), frac=0.5), TypeError, "no argument 'frac'", "did you mean 'fraction'?"),
    row("functions", "check a path", lambda w: sv.data.check_mudata("data.h5mu"), TypeError, "mdata='data.h5mu'"),
    row("functions", "check: a flag of text", lambda w: sv.data.check_mudata(w.mdata(), "no"), TypeError, "raise_errors='no'"),
    row("functions", "check: PSI as reads", lambda w: sv.data.check_mudata(w.mdata(layer(TOTALS, None)), junc_counts_layer="junc_ratio"), UserWarning, "junction reads", LAYER),
    row("functions", "make of paths", lambda w: sv.data.make_mudata("a.h5ad", None), TypeError, "rna='a.h5ad'", "anndata.read_h5ad"),
    row("functions", "make of nothing", lambda w: sv.data.make_mudata(None, None), ValueError, "rna and splicing"),
    row("functions", "make of other cells", lambda w: sv.data.make_mudata(None, w.adata(), cells="inner"), ValueError, "cells='inner'", "'intersection', 'union'"),
    row("functions", "make without events", lambda w: sv.data.make_mudata(None, w.adata(lambda d: d.var.drop(columns="event_id", inplace=True))), ValueError, 'var["event_id"]'),
    row("functions", "events sharing nothing", lambda w: sv.data.find_events(w.keep(pd.DataFrame()), shared="both"), ValueError, "shared='both'", "'either'"),
    row("functions", "events of reads below 0", lambda w: sv.data.find_events(w.keep(pd.DataFrame()), min_reads=-1), ValueError, "min_reads=-1"),
    row("functions", "events of one junction", lambda w: sv.data.find_events(w.keep(pd.DataFrame()), max_size=1), ValueError, "max_size=1", "at least 2"),
    row("functions", "filters misspelt", lambda w: sv.data.to_mudata(w.mdata(), min_read=3), TypeError, "to_mudata() has no argument 'min_read'", "did you mean 'min_reads'?"),
    row("functions", "metacells of no cell", lambda w: sv.data.aggregate_cells(w.mdata(), "cell_type", size=0), ValueError, "size=0", "at least 1"),
    row("functions", "metacells of no column", lambda w: sv.data.aggregate_cells(w.mdata(), "celltype"), KeyError, "by='celltype'", "cell_type"),
    row("functions", "metacells: seed of text", lambda w: sv.data.aggregate_cells(w.mdata(), "cell_type", seed="x"), TypeError, "seed='x'"),
    row("functions", "metacells: layer missing", lambda w: sv.data.aggregate_cells(w.mdata(), "cell_type", rna_layer="counts"), KeyError, "rna_layer='counts'"),
    row("functions", "totals of a path", lambda w: sv.data.rederive_totals("data.h5mu"), TypeError, "mdata='data.h5mu'", "a MuData or an AnnData"),
    row("functions", "totals of no modality", lambda w: sv.data.rederive_totals(w.mdata(), modality="atse"), ValueError, "no modality 'atse'", "rna, splicing"),
    row("functions", "totals of no layer", lambda w: sv.data.rederive_totals(w.mdata(), junc_counts_layer="y"), KeyError, "junc_counts_layer='y'", LAYER),
    row("functions", "totals of negative reads", lambda w: sv.data.rederive_totals(w.mdata(layer(LAYER, entry(-1)))), ValueError, LAYER, "negative"),
    row("functions", "totals with genes", lambda w: sv.data.rederive_totals(w.adata()), ValueError, "20 features have no event", "junctions alone"),
    row("functions", "no rest below the sum", lambda w: sv.data.rederive_totals(w.mdata(layer(TOTALS, lambda m: m * 0.5)), rest=True), ValueError, "smaller than the sum", "rest=False"),
    row("functions", "simulate no cells", lambda w: sv.datasets.simulate(n_cells=0), ValueError, "n_cells=0", "at least 1"),
    row("functions", "simulate all observed", lambda w: sv.datasets.simulate(observed=1), ValueError, "observed=1", "below 1"),
    row("functions", "simulate one junction", lambda w: sv.datasets.simulate(n_junctions=1), ValueError, "n_junctions=1", "at least 2"),
    row("functions", "simulate half a batch", lambda w: sv.datasets.simulate(n_batches=1.5), ValueError, "n_batches=1.5", "whole"),
    row("functions", "call at 1", lambda w: sv.tl.call_at_fdr(w.keep(np.array([0.5])), 1), ValueError, "target=1", "below 1"),
    row("functions", "called of no table", lambda w: sv.tl.called("ds.csv"), TypeError, "ds='ds.csv'", "DataFrame"),
    row("functions", "called at 2", lambda w: sv.tl.called(w.keep(pd.DataFrame()), delta=2), ValueError, "delta=2", "at most 1"),
    row("functions", "by event of no table", lambda w: sv.tl.by_event("ds.csv"), TypeError, "ds='ds.csv'", "DataFrame"),
    row("functions", "by event of no events", lambda w: sv.tl.by_event(w.keep(pd.DataFrame({"proba_ds": [1.0]}))), KeyError, "no column 'event_id'"),
    row("functions", "along a path", lambda w: sv.tl.splicing_along("data.h5mu", "age"), TypeError, "data='data.h5mu'", "read_h5mu"),
    row("functions", "along no column", lambda w: sv.tl.splicing_along(w.mdata(), "pseudotime"), KeyError, "along='pseudotime' is no column of obs", "age"),
    row("functions", "along groups", lambda w: sv.tl.splicing_along(w.mdata(), "cell_type"), TypeError, "along='cell_type'", "no numbers"),
    row("functions", "along two values", lambda w: sv.tl.splicing_along(w.mdata(obs(age=np.arange(60) % 2)), "age"), ValueError, "has 2 different values", "compare groups"),
    row("functions", "along of no donors", lambda w: sv.tl.splicing_along(w.mdata(), "age", "donor"), KeyError, "sample_key='donor'"),
    row("functions", "along read nowhere", lambda w: sv.tl.splicing_along(w.mdata(), "age", min_cells=61), ValueError, "min_cells=61: no event"),
    row("functions", "along no layer", lambda w: sv.tl.splicing_along(w.mdata(), "age", junc_counts_layer="y"), KeyError, "junc_counts_layer='y'", LAYER),
    row("functions", "along no modality", lambda w: sv.tl.splicing_along(w.mdata(), "age", splicing="atse"), KeyError, "no modality 'atse'", "rna, splicing"),
    row("functions", "along by gene", lambda w: sv.tl.splicing_along(w.mdata(), "age", level="gene"), ValueError, "level='gene'", "'junction'"),
    row("functions", "along misspelt", lambda w: sv.tl.splicing_along(w.mdata(), "age", donor="x"), TypeError, "no argument 'donor'"),
    row("functions", "curve of no junction", lambda w: sv.pl.psi_along(w.mdata(), "age", "x"), KeyError, "junction='x' is neither a junction nor an event"),
    row("functions", "curve of no bins", lambda w: sv.pl.psi_along(w.mdata(), "age", "x", bins=0), ValueError, "bins=0", "at least 1"),
    row("functions", "bulk of a number", lambda w: sv.tl.pseudobulk(w.mdata(), 3, "batch"), TypeError, "groupby=3", "column of obs"),
    row("functions", "pooled with a prior below 0", lambda w: sv.tl.pooled_psi(w.mdata(), prior=-1), ValueError, "prior=-1"),
    row("functions", "inclusion of no data", lambda w: sv.tl.inclusion("data.h5mu"), TypeError, "data='data.h5mu'", "MuData"),
    row("functions", "inclusion of an unknown event", lambda w: sv.tl.inclusion(w.mdata(), events=["nope"]), KeyError, "nope is no event"),
    row("functions", "inclusion of PSI of other junctions", lambda w: sv.tl.inclusion(w.mdata(), w.keep(pd.DataFrame({"a": [1.0]}))), KeyError, "no junction of the data"),
    row("functions", "inclusion without events", lambda w: sv.tl.inclusion(AnnData(np.ones((2, 2)))), KeyError, "no event_id", "find_events"),
    row("functions", "events of no data", lambda w: sv.data.describe_events(3), TypeError, "junctions=3"),
    row("functions", "events without places", lambda w: sv.data.describe_events(AnnData(np.ones((2, 2)))), KeyError, "lack chrom", "splicevi.io"),
    row("functions", "events and no annotation", lambda w: sv.data.describe_events(w.mdata(), "nope.gtf"), FileNotFoundError, "nope.gtf"),
    row("functions", "explain nothing", lambda w: sv.explain(None), TypeError, "explain takes a table"),
    row("functions", "junctions: none", lambda w: sv.tl.variable_junctions(w.keep(pd.DataFrame()), "e", n=0), ValueError, "n=0"),
    row("functions", "neighbours: none", lambda w: sv.tl.neighbor_psi(w.mdata(), None, n_neighbors=0), ValueError, "n_neighbors=0"),
    row("functions", "components: none", lambda w: sv.tl.neighbor_psi(w.mdata(), None, n_pcs=0), ValueError, "n_pcs=0"),
    row("functions", "concentration from 0", lambda w: sv.tl.best_concentration(None, None, bounds=(0, 1)), ValueError, "bounds[0]=0", "above 0"),
    row("functions", "one cluster", lambda w: sv.tl.clusters(w.keep(np.ones((3, 2))), n_max=1), ValueError, "n_max=1", "at least 2"),
    row("functions", "latents: seed below 0", lambda w: sv.tl.latent_ari(w.keep(np.ones((3, 2))), ["a"] * 3, seed=-1), ValueError, "seed=-1"),
    row("functions", "colours below 0", lambda w: sv.pl.palette(-1), ValueError, "n=-1"),
    row("functions", "map of no cell", lambda w: sv.pl.latent(w.keep(np.ones((3, 2))), ["a"] * 3, n_cells=0), ValueError, "n_cells=0"),
    row("functions", "volcano below 0", lambda w: sv.pl.volcano(w.keep(pd.DataFrame()), delta=-0.1), ValueError, "delta=-0.1"),
    row("functions", "volcano: labels of text", lambda w: sv.pl.volcano(w.keep(pd.DataFrame()), n_labels="all"), TypeError, "n_labels='all'"),
    row("functions", "bins: none", lambda w: sv.pl.probability_bins([0.5], [True], bins=0), ValueError, "bins=0"),
    row("functions", "calibration at 1", lambda w: sv.pl.calibration([0.5], [True], targets=[1]), ValueError, "targets[0]=1", "below 1"),
    row("functions", "figure misspelt", lambda w: sv.pl.volcano(w.keep(pd.DataFrame()), nlabels=3), TypeError, "volcano() has no argument 'nlabels'", "did you mean 'n_labels'?"),
    row("functions", "PSI of a chunk of 0", lambda w: w.model.decode_splicing(w.model.latent_points(), ["x"], chunk=0), ValueError, "chunk=0"),
]

# fmt: on
# rows of other parts: each list belongs to one of them


# files: each row lays some, and nothing of them may change when they are read


def lay(path: Path, content) -> None:
    "Text, bytes, the target of a link (a Path), a folder (None), or what a function writes to the path."
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir()
    elif isinstance(content, Path):
        path.symlink_to(content)
    elif callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def reading(read, files: dict, path: str = ".", **kwargs):
    "A call of a reader on files, name to content."

    def call(w):
        for name, content in files.items():
            lay(w.folder / name, content)
        w.keep(w.folder)
        return read(w.folder / path, **kwargs)

    return call


BANNER = "%%MatrixMarket matrix coordinate integer general\n%\n"
SJ = "chr1\t201\t400\t1\t1\t1\t3\t0\t20\nchr1\t201\t800\t1\t1\t1\t3\t0\t20\n"
GENES = "g1\tA\tGene Expression\ng2\tB\tGene Expression\n"
BED = "chr1\t170\t430\tJ\t3\t+\t170\t430\t0\t2\t30,30\t0,230\n"
EXON = 'chr1\tx\texon\t{}\t{}\t.\t+\t.\tgene_id "G"; transcript_id "T";\n'


def solo(changes: dict | None = None, **kwargs):
    "Reading of a run of two cells, two genes and two junctions, of which some files are others (None: absent)."
    files = {}
    for part, features in (("SJ/raw", SJ), ("Gene/raw", GENES), ("Gene/filtered", GENES)):
        files[f"Solo.out/{part}/matrix.mtx"] = BANNER + "2 2 2\n1 1 3\n2 2 1\n"
        files[f"Solo.out/{part}/barcodes.tsv"] = "AAA\nCCC\n"
        files[f"Solo.out/{part}/features.tsv"] = features
    for name, content in (changes or {}).items():
        files[f"Solo.out/{name}"] = content
    return reading(io.read_starsolo, {k: v for k, v in files.items() if v is not None}, **kwargs)


def matrix(text, **kwargs):
    "The same with another matrix of junctions."
    return solo({"SJ/raw/matrix.mtx": text}, **kwargs)


def star(content, name="c1.SJ.out.tab", **more):
    return reading(io.read_star_junctions, {name: content} | more, name)


def regtools(content, **kwargs):
    return reading(io.read_regtools, {"c1.bed": content}, "c1.bed", **kwargs)


def junc(content):
    return reading(io.read_leafcutter, {"c1.junc": content}, "c1.junc")


def perind(content, name="x_perind.counts"):
    return reading(io.read_leafcutter, {name: content}, name)


def gtf(content):
    return reading(read_gtf, {"a.gtf": content}, "a.gtf")


def h5ad(edit):
    "Reading of a splicing data set after an edit of the AnnData, which may also write the file itself."

    def write(path):
        var = pd.DataFrame({"event_id": ["a", "a", "b"]}, ["chr1:201:400:+", "chr1:201:800:+", "chr2:5:9:-"])
        y = sp.csr_matrix(np.array([[3.0, 1, 0], [0, 2, 5]], np.float32))
        adata = AnnData(y.copy(), var=var, layers={"cell_by_junction_matrix": y})
        if edit(adata) is not False:
            adata.write_h5ad(path)

    return reading(io.read_splicing_dataset, {"x.h5ad": write}, "x.h5ad")


def in_file(edit):
    "The same after an edit of the file."

    def call(w):
        h5ad(lambda adata: None)(w)
        with h5py.File(w.folder / "x.h5ad", "a") as f:
            edit(f)
        w.given.clear()
        w.keep(w.folder)
        io.read_splicing_dataset(w.folder / "x.h5ad")

    return call


def replace(f, name, **kwargs):
    "Another dataset of the same name, with its attributes."
    kept = dict(f[name].attrs)
    del f[name]
    f.create_dataset(name, **kwargs).attrs.update(kept)


def events(*names):
    return lambda a: a.var.__setitem__("event_id", list(names))


utf16 = lambda text: text.encode("utf-16")
packed = lambda text: gzip.compress(text.encode())
RUBBISH = bytes(range(256)) * 9
STAR_LINE = "chr1\t{}\t{}\t1\t1\t1\t{}\t0\t20\n"
SJ_MTX = "SJ/raw/matrix.mtx"

IO = [
    row("solo", "entries that no file has room for", matrix(BANNER + "2 2 1000000000000\n1 1 1\n"), ValueError,
        SJ_MTX, "promises 1,000,000,000,000 entries", "copy the file again"),
    row("solo", "10^30 entries", matrix(BANNER + f"2 2 1{'0' * 30}\n1 1 1\n"), ValueError, SJ_MTX, "line 3", "entries"),
    row("solo", "10^12 rows", matrix(BANNER + "1000000000000 2 1\n1 1 1\n"), ValueError, SJ_MTX,
        "1,000,000,000,000 rows",
        "lists 2 junctions"),
    row("solo", "10^12 columns", matrix(BANNER + "2 1000000000000 1\n1 1 1\n"), ValueError, SJ_MTX, "lists 2 barcodes"),
    row("solo", "negative size", matrix(BANNER + "-2 2 1\n1 1 1\n"), ValueError, SJ_MTX, "line 3: '-2 2 1'"),
    row("solo", "size in words", matrix(BANNER + "two by two\n1 1 1\n"), ValueError, SJ_MTX, "line 3: 'two by two'"),
    row("solo", "no banner", matrix("2 2 1\n1 1 1\n"), ValueError, SJ_MTX, "line 1 is '2 2 1'", "%%MatrixMarket"),
    row("solo", "array", matrix("%%MatrixMarket matrix array integer general\n2 2\n1\n0\n0\n1\n"), ValueError, SJ_MTX,
        "array integer", "should be"),
    row("solo", "pattern", matrix(BANNER.replace("integer", "pattern") + "2 2 1\n1 1\n"), ValueError, SJ_MTX,
        "holds no counts", "pattern"),
    row("solo", "symmetric", matrix(BANNER.replace("general", "symmetric") + "2 2 1\n1 1 1\n"), ValueError,
        "symmetric"),
    row("solo", "complex", matrix(BANNER.replace("integer", "complex") + "2 2 1\n1 1 1 1\n"), ValueError, "complex"),
    row("solo", "fewer entries than promised", matrix(BANNER + "2 2 2\n1 1 10000000\n"), ValueError, SJ_MTX,
        "is damaged"),
    row("solo", "more entries than promised", matrix(BANNER + "2 2 1\n1 1 1\n2 2 1\n"), ValueError, SJ_MTX, "too long"),
    row("solo", "entry outside", matrix(BANNER + "2 2 1\n3 1 1\n"), ValueError, SJ_MTX,
        "line 4: Row index out of bounds"),
    row("solo", "entry 0", matrix(BANNER + "2 2 1\n0 1 1\n"), ValueError, SJ_MTX, "out of bounds"),
    row("solo", "half a read", matrix(BANNER + "2 2 1\n1 1 1.5\n"), ValueError, SJ_MTX, "line 4: '1 1 1.5'",
        "whole number"),
    row("solo", "exponent", matrix(BANNER + "2 2 1\n1 1 1e3\n"), ValueError, SJ_MTX, "line 4: '1 1 1e3'"),
    row("solo", "NaN", matrix(BANNER.replace("integer", "real") + "2 2 1\n1 1 nan\n"), ValueError, SJ_MTX, "holds nan"),
    row("solo", "minus", matrix(BANNER.replace("integer", "real") + "2 2 1\n1 1 -3\n"), ValueError, SJ_MTX,
        "holds -3.0"),
    row("solo", "too many reads to be true", matrix(BANNER + f"2 2 1\n1 1 {'9' * 25}\n"), ValueError, "out of range"),
    row("solo", "rubbish in the matrix", matrix(RUBBISH), ValueError, SJ_MTX, "bytes of zero"),
    row("solo", "rubbish behind the header", matrix(BANNER.encode() + b"2 2 1\n" + RUBBISH[9:]), ValueError, SJ_MTX),
    row("solo", "UTF-16", matrix(utf16(BANNER + "2 2 1\n1 1 1\n")), ValueError, SJ_MTX, "UTF-16", "iconv"),
    row("solo", "matrix.mtx.gz cut off", solo({SJ_MTX: None, SJ_MTX + ".gz": packed(BANNER + "2 2 1\n1 1 1\n")[:-9]}),
        ValueError, "matrix.mtx.gz", "cut off", "Copy it again"),
    row("solo", "gzipped claim", solo({SJ_MTX: None, SJ_MTX + ".gz": packed(BANNER + "2 2 999999999\n1 1 1\n")}),
        ValueError, "promises 999,999,999 entries"),
    row("solo", "no matrix", matrix(None), FileNotFoundError, "SJ/raw", "lacks matrix.mtx"),
    row("solo", "no barcodes", solo({"SJ/raw/barcodes.tsv": None}), FileNotFoundError, "lacks barcodes.tsv"),
    row("solo", "empty barcodes", solo({"SJ/raw/barcodes.tsv": ""}), FileNotFoundError, "lacks barcodes.tsv"),
    row("solo", "no junctions", solo({"SJ/raw/features.tsv": None}), FileNotFoundError, "is missing", "Copy the run's"),
    row("solo", "junctions in a circle", solo({"SJ/raw/features.tsv": Path("features.tsv")}), FileNotFoundError,
        "is a link to features.tsv", "Copy the run's"),
    row("solo", "a folder for junctions", solo({"SJ/raw/features.tsv": None, "SJ/raw/features.tsv/x": ""}),
        FileNotFoundError, "features.tsv"),
    row("solo", "barcodes of another run", solo({"SJ/raw/barcodes.tsv": "AAA\nCCC\nGGG\n"}), ValueError,
        "2 columns", "lists 3 barcodes", "different runs"),
    row("solo", "a barcode twice", solo({"SJ/raw/barcodes.tsv": "AAA\nAAA\n"}), ValueError, "barcodes twice: AAA"),
    row("solo", "junctions of another run", solo({"SJ/raw/features.tsv": SJ * 2}), ValueError, "lists 4 junctions"),
    row("solo", "genes of another run", solo({"Gene/filtered/features.tsv": GENES + "g3\tC\n"}), ValueError,
        "lists 3 genes"),
    row("solo", "no genes", solo({"Gene/filtered/features.tsv": None}), FileNotFoundError, "lacks features.tsv"),
    row("solo", "no SJ", reading(io.read_starsolo, {"Solo.out/Gene/raw/x": ""}), FileNotFoundError,
        "--soloFeatures Gene SJ"),
    row("solo", "a file", reading(io.read_starsolo, {"x": ""}, "x"), FileNotFoundError,
        "is a file; give the run's folder"),
    row("solo", "nothing", reading(io.read_starsolo, {}, "none"), FileNotFoundError, "There is no folder"),
    row("solo", "a gene twice", solo({"Gene/filtered/features.tsv": "g1\tA\ng1\tB\n"}), ValueError, "genes twice: g1"),
    row("solo", "no cells chosen", solo(cells=[]), ValueError, "cells is empty"),
    row("solo", "a cell that is not there", solo(cells=["TTT"]), ValueError, "1 of 1 cells", "TTT", "it has AAA, CCC"),
    row("solo", "no samples", lambda w: io.read_starsolo({}), ValueError, "No run was given"),
    row("star", "no files", lambda w: io.read_star_junctions([]), ValueError, "No file was given"),
    row("solo", "cells in another word", solo(cells="best"), ValueError, "filtered", "raw"),
    row("star", "position of 20 digits", star(STAR_LINE.format(1, "9" * 20, 3)), ValueError, "c1.SJ.out.tab, line 1",
        "too large"),
    row("star", "ends before it starts", star(STAR_LINE.format(400, 201, 3)), ValueError, "end before they start"),
    row("star", "strand 7", star("chr1\t1\t9\t7\t1\t1\t3\t0\t20\n"), ValueError, "line 1", "strand 7"),
    row("star", "no chromosome", star(STAR_LINE.format(1, 9, 3).replace("chr1", "")), ValueError, "no chromosome"),
    row("star", "UTF-16", star(utf16(STAR_LINE.format(1, 9, 3))), ValueError, "UTF-16", "iconv"),
    row("star", "Latin letters", star(b"chr\xe9\t1\t9\t1\t1\t1\t3\t0\t20\n"), ValueError, "c1.SJ.out.tab", "UTF-8"),
    row("star", "zip", star(b"PK\x03\x04" + RUBBISH), ValueError, "zip archive; unpack"),
    row("star", "BAM", star(gzip.compress(b"BAM\x01" + RUBBISH)), ValueError, "BAM file", "read_bam"),
    row("star", "gzip cut off", star(packed(STAR_LINE.format(1, 9, 3) * 999)[:-20]), ValueError, "cut off",
        "Copy it again"),
    row("star", "gzip rubbish", star(b"\x1f\x8b" + RUBBISH), ValueError, "gzipped file is damaged"),
    row("star", "link in a circle", star(Path("c1.SJ.out.tab")), FileNotFoundError, "is a link to c1.SJ.out.tab"),
    row("star", "a folder of this name", reading(lambda p: io.read_star_junctions([p]), {"c1.SJ.out.tab": None},
        "c1.SJ.out.tab"), IsADirectoryError, "is a folder, not a file"),
    row("regtools", "blocks in words", regtools(BED.replace("30,30", "30,x")), ValueError, "c1.bed, row 1",
        "two blocks"),
    row("regtools", "second block elsewhere", regtools(BED.replace("0,230", "0,x")), ValueError, "row 1", "cut off"),
    row("regtools", "reads of a barcode", regtools(BED[:-1] + "\t1\tAA:2.5\n"), ValueError, "row 1", "'AA:2.5'"),
    row("regtools", "reads of 30 digits", regtools(BED[:-1] + f"\t1\tAA:{'9' * 30}\n"), ValueError, "row 1",
        "no number of reads"),
    row("regtools", "barcodes of others", regtools(BED, barcodes={"c2": "x"}), ValueError,
        "barcodes names no file for c1", "c2"),
    row("junc", "reads of 30 digits", junc(f"chr1\t200\t400\t.\t{'9' * 30}\t+\n"), ValueError, "row 1",
        "no number of reads"),
    row("leafcutter", "no header", perind("chr1:200:401:clu_1_+ 3 1\nchr1:200:801:clu_1_+ 1 5\n"), ValueError, "line 1",
        "Put a header in front"),
    row("leafcutter", "one line, no header", perind("chr1:200:401:clu_1_+ 3 1\n", "x"), ValueError, "line 1", "header"),
    row("leafcutter", "reads above the total", perind("chrom c1\nchr1:200:401:clu_1_+ 5/4\n"), ValueError, "line 2",
        "'5/4' has more reads than its cluster"),
    row("leafcutter", "totals that are no sums",
        perind("chrom c1\nchr1:200:401:clu_1_+ 3/9\nchr1:200:801:clu_1_+ 1/9\n"),
        UserWarning, "totals of 2", "derived anew"),
    row("leafcutter", "NaN", perind("c1\nchr1:200:401:clu_1_+ nan\n"), ValueError, "line 2", "'nan'"),
    row("leafcutter", "position of 20 digits", perind(f"c1\nchr1:200:{'9' * 20}:clu_1_+ 3\n"), ValueError, "row 1"),
    row("leafcutter", "ends before it starts", perind("c1\nchr1:401:200:clu_1_+ 3\n"), ValueError,
        "end before they start"),
    row("h5ad", "junctions without event", h5ad(events("a", np.nan, "b")), ValueError, "1 junctions have no event",
        "event_key"),
    row("h5ad", "empty event", h5ad(events("a", "", "b")), ValueError, "1 junctions have no event", "chr1:201:800:+"),
    row("h5ad", "NaN", h5ad(lambda a: a.layers["cell_by_junction_matrix"].data.__setitem__(0, np.nan)), ValueError,
        "x.h5ad",
        "NaN"),
    row("h5ad", "ends before it starts", h5ad(lambda a: a.var.__setitem__("start", [9000, 1, 1]) or a.var.__setitem__(
        "end", [9, 9, 9])), ValueError, "end before they start", "9000 to 9"),
    row("h5ad", "not HDF5", reading(io.read_splicing_dataset, {"x.h5ad": RUBBISH}, "x.h5ad"), ValueError, "x.h5ad",
        "no HDF5 file"),
    row("h5ad", "missing", reading(io.read_splicing_dataset, {}, "x.h5ad"), FileNotFoundError, "There is no file"),
    row("h5ad", "a folder", reading(io.read_splicing_dataset, {"x.h5ad": None}, "x.h5ad"), IsADirectoryError,
        "is a folder"),
    row("h5ad", "entries outside", in_file(lambda f: replace(f, "layers/cell_by_junction_matrix/indices",
        data=np.array([0, 1, 1, 999_999], np.int32))), ValueError, "x.h5ad", "cell_by_junction_matrix is damaged"),
    row("h5ad", "array of petabytes", in_file(lambda f: replace(f, "X/data", shape=(10**14,), dtype="f4",
        chunks=(1000,))),
        ValueError, "X/data claims", "damaged"),
    row("gtf", "ends before it starts", gtf(EXON.format(1, 9) + EXON.format(400, 201)), ValueError, "a.gtf, line 2",
        "chr1 exon 400 201 +", "Correct or remove"),
    row("gtf", "starts at 0", gtf(EXON.format(0, 201)), ValueError, "line 1", "from 1 on"),
    row("gtf", "position in words", gtf("#!x\n" + EXON.format("4e2", 500)), ValueError, "line 2", "whole numbers"),
    row("gtf", "position of 20 digits", gtf(EXON.format(1, "9" * 20)), ValueError, "line 1"),
    row("gtf", "cut off", gtf(packed(EXON.format(1, 9) * 999)[:-20]), ValueError, "a.gtf", "cut off"),
    row("gtf", "empty", gtf(""), ValueError, "a.gtf has no exons", "Is it a GTF file"),
    row("gtf", "a BED", gtf("chr1\t1\t9\n"), ValueError, "a.gtf", "Is it a GTF file"),
    row("gtf", "rubbish", gtf(RUBBISH), ValueError, "a.gtf", "bytes of zero"),
]  # fmt: skip


# the command line: a line on the error stream, an exit code that is not 0, and no file changed, lost or left


class Refused(Exception):
    "What `splicevi` said as it refused, in one line."


def command(*words, files: dict | None = None):
    "A call of `splicevi` in a folder with good.h5mu and other files; `DIR/` in a word is that folder."

    def call(w):
        w.shared["mdata"].write(w.folder / "good.h5mu")
        for name, content in (files or {}).items():
            lay(w.folder / name, content)
        w.keep(w.folder)
        said, results = StringIO(), StringIO()
        with redirect_stderr(said), redirect_stdout(results):
            code = cli.main([word.replace("DIR/", f"{w.folder}/") for word in words])
        lines = said.getvalue().strip().splitlines()
        assert code in (1, 2) and not results.getvalue() and len(lines) == 1, (code, lines)
        raise Refused(lines[0])

    return call


def training(*options, data="DIR/good.h5mu", out="DIR/out", files=None):
    return command("train", data, out, "--quiet", *options, files=files)


def importing(*words, files=None, out="DIR/new.h5mu"):
    return command("import", *words[:2], out, "--quiet", *words[2:], files=files)


PERIND = "c1 c2\nchr1:200:401:clu_1_+ 3 1\nchr1:200:801:clu_1_+ 1 5\n"
PERIND_FILE = {"x.counts": PERIND}
leafcutter = ("leafcutter", "DIR/x.counts")
RESULTS = {"out/history.csv": "", "out/mdata.h5mu": "", "out/model/model.pt": "", "out/report.html": ""}
mine = {"out/mdata.h5mu": "the only copy"}


def asking(*words, out="DIR/new.h5mu", data="DIR/good.h5mu", files=None, command_name="predict", model="DIR/m"):
    "A call of a command that asks a saved model; DIR/m is one with batches."

    def call(w):
        w.shared["model"].save(w.folder / "m")
        given = (command_name, model, data, out, "--accelerator", "cpu", "--quiet", *words)
        return command(*given, files=files)(w)

    return call


def testing(*words, out="DIR/new.csv", name="ds", **more):
    "The same of a command that compares groups of cells."
    return asking(*words, out=out, command_name=name, **more)


def unknown_batch(path):
    "Cells of which one has a batch that the model never saw."
    mdata = small()
    mdata.obs["batch"] = mdata.obs["batch"].astype(object)
    mdata.obs.iloc[-1, mdata.obs.columns.get_loc("batch")] = "batch_9"
    mdata.write(path)


def fewer_genes(path):
    "Cells without some of the model's genes."
    mdata = small()
    mudata.MuData({"rna": mdata["rna"][:, 2:].copy(), "splicing": mdata["splicing"].copy()}).write(path)


BY_TYPE = ("--groupby", "cell_type")
ASKING = [
    ("no model", asking(model="DIR/none"), "MODEL: there is no folder", "splicevi train"),
    ("a model that is none", asking(model="DIR/x", files={"x": None}), "There is no saved model"),
    ("a model that is rubbish", asking(model="DIR/x", files={"x/model.pt": RUBBISH}), "model.pt"),
    ("no cells", asking(data="DIR/none.h5mu"), "There is no file"),
    ("cells of another kind", asking(data="DIR/x.csv", files={"x.csv": "a,b\n"}), "x.csv is none of .h5mu, .h5ad"),
    ("cells that are rubbish", asking(data="DIR/x.h5mu", files={"x.h5mu": RUBBISH}), "no HDF5 file"),
    ("an AnnData for a model of a MuData", asking(data="DIR/x.h5ad", files={"x.h5ad": lambda p: AnnData(np.eye(3)).write_h5ad(p)}), "holds an AnnData; a MuData is needed"),
    ("a zarr that is none", asking(data="DIR/x.zarr", files={"x.zarr": None}), ZARR or 'pip install "splicevi[zarr]"'),
    ("a batch that the model never saw", asking(data="DIR/x.h5mu", files={"x.h5mu": unknown_batch}), "was not trained on batch_9", "load_query_data"),
    ("genes that are not there", asking(data="DIR/x.h5mu", files={"x.h5mu": fewer_genes}), "2 of the model's", "are missing from the data"),
    ("OUT of another kind", asking(out="DIR/new.csv"), "its name has to end in .h5mu, .h5ad, .zarr"),
    ("OUT is there, predict", asking(out="DIR/x.h5mu", files={"x.h5mu": "mine"}), "is there already", "--overwrite"),
    ("OUT is DATA", asking("--overwrite", out="DIR/good.h5mu"), "OUT is DATA"),
    ("OUT is a folder of the user", asking("--overwrite", out="DIR/x.zarr", files={"x.zarr/notes": "mine"}), "is a folder, and no zarr store"),
    ("OUT in a folder that takes no file", asking(out="/proc/splicevi.h5mu"), "/proc"),
    ("two tables in an h5ad", asking(out="DIR/new.h5ad"), "an .h5ad has either junctions or genes"),
    ("nothing wanted", asking("--what", ","), "--what is ','"),
    ("something unknown wanted", asking("--what", "umap"), "it can be latent, psi, smoothed, expression"),
    ("genes of no expression", asking("--what", "psi", "--genes", "GENE1"), "--genes chooses columns of expression"),
    ("an unknown junction", asking("--junctions", "chr1:1:2:+"), "junctions are not in the model: chr1:1:2:+"),
    ("an empty list of genes", asking("--genes", "DIR/x", files={"x": "\n"}), "lists no name"),
    ("to an unknown batch", asking("--transform-batch", "Tuesday"), "Tuesday is not there; there are batch_1"),
    ("no such modality, predict", asking("--rna", "gex"), "no modality 'gex'", "rna, splicing"),
    ("no such layer, predict", asking("--junc-counts-layer", "raw"), "no layer 'raw' in splicing"),
    ("mini-batch of none", asking("--batch-size", "0"), "--batch_size is 0"),
    ("another accelerator", asking("--accelerator", "abacus"), "'abacus'", "auto, cpu, gpu"),
    ("no groups", testing(), "say which cells to compare", "--groupby"),
    ("no such column", testing("--groupby", "colour"), "--groupby='colour' is no column of obs"),
    ("no such group", testing(*BY_TYPE, "--group1", "type_9"), "--group1: type_9 is not there", "type_1"),
    ("groups by two ways", testing(*BY_TYPE, "--idx1", "batch == 'batch_1'"), "two ways to choose cells"),
    ("a query that is none", testing("--idx1", "batch =="), "idx1", "no valid query"),
    ("a query of no cell", testing("--idx1", "batch == 'x'"), "idx1 holds no cell"),
    ("delta too large", testing(*BY_TYPE, "--delta", "2"), "--delta=2.0 is out of range", "difference of PSI"),
    ("false discovery rate of 1", testing(*BY_TYPE, "--fdr", "1"), "--fdr=1.0 is out of range"),
    ("no draws", testing(*BY_TYPE, "--n-draws", "0"), "--n_draws=0 is out of range"),
    ("level of genes", testing(*BY_TYPE, "--level", "gene"), "--level='gene' is not one of"),
    ("batches without correction", testing(*BY_TYPE, "--batchid1", "batch_1"), "needs --batch-correction"),
    ("unknown batch to decode under", testing(*BY_TYPE, "--batch-correction", "--batchid2", "b"), "--batchid2: b is not there"),
    ("a table of another kind", testing(*BY_TYPE, out="DIR/new.xlsx"), "has to end in .csv, .tsv"),
    ("a table that is there", testing(*BY_TYPE, out="DIR/x.csv", files={"x.csv": "mine"}), "is there already"),
    ("no cells decoded, expression", testing(*BY_TYPE, "--n-samples-overall", "0", name="de"), "--n_samples_overall=0"),
    ("level of expression", testing(*BY_TYPE, "--level", "event", name="de"), "unrecognized arguments: --level"),
    ("a design without donors", testing(*BY_TYPE, "--design", "~ cell_type"), "--design needs --sample-key"),
    ("a contrast without a design", testing("--contrast", "age", name="de"), "--contrast is a coefficient of a design"),
    ("along and groups", testing(*BY_TYPE, "--along", "age"), "leave out --groupby"),
    ("along no column", testing("--along", "pseudotime"), "along='pseudotime' is no column of obs"),
    ("along with strata", testing("--along", "cell_type", "--strata", "batch"), "strata='batch' does not go with along='cell_type'"),
    ("a curve without along", testing(*BY_TYPE, "--df", "2"), "df=2 is of a curve"),
    ("markers of nothing", testing(name="markers"), "say whose markers are wanted", "--groupby"),
    ("markers of no column", testing("--groupby", "colour", name="markers"), "groupby='colour' is no column of obs"),
    ("markers of one group", testing(*BY_TYPE, "--groups", "type_1", name="markers"), "markers need two groups"),
    ("markers of no cell", testing(*BY_TYPE, "--min-cells", "0", name="markers"), "--min_cells=0 is out of range"),
]  # fmt: skip

CLI = [
    row("cli", name, call, Refused, "splicevi: ", *texts) for name, call, *texts in [
        ("no such command", command("tarin", "DIR/good.h5mu"), "there is no command 'tarin'", "train, check, import"),
        ("no arguments", command("train"), "required: data, out", "--help"),
        ("no OUT", command("train", "DIR/good.h5mu"), "required: out", "splicevi train --help"),
        ("unknown option", training("--epochs", "3"), "unrecognized arguments: --epochs 3"),
        ("an argument too many", training("more"), "unrecognized arguments: more"),
        ("epochs in words", training("--max_epochs", "few"), "--max_epochs", "invalid int value: 'few'"),
        ("half an epoch", training("--max_epochs", "1.5"), "invalid int value: '1.5'"),
        ("negative epochs", training("--max_epochs", "-1"), "--max_epochs is -1", "0 or more"),
        ("learning rate nan", training("--lr", "nan"), "--lr is nan", "above 0"),
        ("learning rate inf", training("--lr", "inf"), "--lr is inf", "finite"),
        ("no mini-batch", training("--batch_size", "0"), "--batch_size is 0"),
        ("no latents", training("--n_latent", "0"), "--n_latent is 0"),
        ("all held out", training("--hold_out", "1"), "--hold_out is 1.0", "below 1"),
        ("negative seed", training("--seed", "-3"), "--seed is -3", "at least 0"),
        ("unknown likelihood", training("--gene_likelihood", "gauss"), "'gauss'", "zinb, nb, poisson"),
        ("unknown accelerator", training("--accelerator", "abacus"), "'abacus'", "auto, cpu, gpu"),
        ("no such data", training(data="DIR/none.h5mu"), "there is no file", "example"),
        ("data of another kind", training(data="DIR/x.csv", files={"x.csv": "a,b\n"}), "is not a .h5mu file",
         "make_mudata"),
        ("data are a folder", training(data="DIR/x.h5mu", files={"x.h5mu": None}), "is a folder, not a file"),
        ("data are a link in a circle", training(data="DIR/x.h5mu", files={"x.h5mu": Path("x.h5mu")}),
         "is a link to x.h5mu"),
        ("empty data", training(data="DIR/x.h5mu", files={"x.h5mu": ""}), "cannot be read as a MuData file", "cut off"),
        ("rubbish as data", training(data="DIR/x.h5mu", files={"x.h5mu": RUBBISH}), "no HDF5 file"),
        ("AnnData as data", training(data="DIR/x.h5mu", files={"x.h5mu": lambda p: AnnData(np.eye(3)).write_h5ad(p)}),
         "it is an AnnData file"),
        ("HDF5 of others", training(data="DIR/x.h5mu", files={"x.h5mu": lambda p: h5py.File(p, "w").close()}),
         "HDF5 file of another program"),
        ("no such modality", training("--rna", "gex"), "no modality 'gex'", "rna, splicing", "--rna none"),
        ("no such layer", training("--rna_layer", "raw"), "no layer 'raw'"),
        ("no modality at all", training("--rna", "none", "--splicing", "none"), "nothing to train on"),
        ("no such label", training("--label_key", "colour"), "--label_key='colour'", "cell_type"),
        ("no such batch", training("--batch_key", "day"), "--batch_key='day'", "batch"),
        ("OUT is a file", training(out="DIR/good.h5mu"), "is a file"),
        ("OUT below a file", training(out="DIR/good.h5mu/out"), "cannot be written"),
        ("OUT takes no file", training(out="/proc/splicevi/out"), "/proc/splicevi/out cannot be written"),
        ("OUT is a link in a circle", training(out="DIR/out", files={"out": Path("out")}), "is not a folder"),
        ("DATA is what OUT replaces", training(data="DIR/out/mdata.h5mu", files=RESULTS), "DATA is", "give another OUT"),
        ("OUT has a file of the user", training(files=mine), "mdata.h5mu", "not from an earlier run", "--overwrite"),
        ("OUT has a folder for a file", training(files={"out/report.html": None}), "report.html is a folder"),
        ("OUT has a file for a folder", training(files={"out/model": "my notes"}), "model is a file"),
        ("check of nothing", command("check", "DIR/none.h5mu"), "there is no file"),
        ("check of rubbish", command("check", "DIR/x.h5mu", files={"x.h5mu": RUBBISH}), "no HDF5 file"),
        ("import of nothing", importing("star", "DIR/none"), "There is no file"),
        ("import of an empty folder", importing("star", "DIR/x", files={"x": None}), "no file is called"),
        ("import of another format", importing("kallisto", "DIR/x.bus"), "'kallisto'", "starsolo, star"),
        ("OUT is there", importing(*leafcutter, files=PERIND_FILE, out="DIR/good.h5mu"), "is there already",
         "--overwrite"),
        ("OUT is a folder .h5mu", importing(*leafcutter, "--overwrite", files=PERIND_FILE | {"new.h5mu": None}),
         "is a folder"),
        ("OUT of another name", importing(*leafcutter, files=PERIND_FILE, out="DIR/x.h5ad"), "has to end in .h5mu"),
        ("OUT below a file, import", importing(*leafcutter, files=PERIND_FILE, out="DIR/x.counts/new.h5mu"),
         "x.counts"),
        ("report is there", importing(*leafcutter, "--report", "DIR/r.html", files=PERIND_FILE | {"r.html": "mine"}),
         "r.html is there already", "--overwrite"),
        ("report over the input", importing(*leafcutter, "--report", "DIR/x.counts", "--overwrite", files=PERIND_FILE),
         "has to end in .html"),
        ("lengths without annotation", importing(*leafcutter, "--lengths", files=PERIND_FILE), "give --gtf"),
        ("no such genes", importing(*leafcutter, "--rna", "DIR/none.h5ad", files=PERIND_FILE), "There is no file"),
        ("genes that are none", importing(*leafcutter, "--rna", "DIR/x.counts", files=PERIND_FILE),
         "as an AnnData file"),
        ("no such annotation", importing(*leafcutter, "--gtf", "DIR/none.gtf", files=PERIND_FILE), "There is no file"),
        ("annotation that is none", importing(*leafcutter, "--gtf", "DIR/x.counts", files=PERIND_FILE), "x.counts"),
        ("negative filter", importing(*leafcutter, "--min_reads", "-1", files=PERIND_FILE), "--min_reads is -1",
         "0 or more"),
        ("sharing both", importing(*leafcutter, "--shared", "both", files=PERIND_FILE), "either, start or end"),
        ("other ends", importing("leafcutter", "DIR/x.junc", "--ends", "open",
         files={"x.junc": "chr1\t1\t9\t.\t3\t+\n"}),
         'ends must be "bed" or "leafcutter"'),
        ("barcodes in UTF-16", importing("starsolo", "DIR/", "--cells", "DIR/cells.txt",
         files={"cells.txt": utf16("AAA\n")}),
         "cells.txt", "UTF-16"),
        ("an empty list of cells", importing("starsolo", "DIR/", "--cells", "DIR/cells.txt", files={"cells.txt": "\n"}),
         "lists no barcode"),
        *ASKING,
        ("table without header", importing("leafcutter", "DIR/x", files={"x": PERIND.split("\n", 1)[1]}), "line 1",
         "header"),
    ]
]  # fmt: skip
# rows of figures and views


def ds_of(w):
    "The table of a test of the trained model."
    if "ds" not in w.shared:
        one = str(w.shared["model"].adata.obs["cell_type"].iloc[0])
        w.shared["ds"] = w.shared["model"].differential_splicing(groupby="cell_type", group1=one, silent=True)
    return w.keep(w.shared["ds"].copy())


def shown_by(w):
    "Junctions, PSI by group, cells and groups of the event that an explorer shows first."
    if "state" not in w.shared:
        w.shared["state"] = sv.PSIExplorer(w.shared["model"]).state
    s = w.shared["state"]
    return [w.keep(t.copy()) for t in (s.junctions, group_matrix(s, "psi", "decoded"), s.cells(), s.groups())]


def explorer(w, **more):
    "An explorer of the trained model."
    return sv.PSIExplorer(w.model, **more)


def cell_map(w, source=None, **more):
    "A map of the cells of a MuData."
    source = w.mdata() if source is None else source
    return sv.views.LatentMap(source, **(dict(latent=np.arange(120.0).reshape(60, 2)) | more))


def selecting(w):
    "An explorer in which cells are selected."
    ex = explorer(w)
    ex.selected = [0, 1, 2]
    return ex


def arcs(w, change=lambda j: j, psi=lambda p: p, **more):
    "Arcs of an event, after changes of its tables."
    j, p, *_ = shown_by(w)
    return sv.pl.event_arcs(w.keep(change(j)), w.keep(psi(p)), **more)


def held_out(w, **change):
    "Three held-out pairs."
    return w.keep(pd.DataFrame({"counts": [1.0, 2, 3], "total": [3.0, 4, 5]} | change))


def dashboard(w, **given):
    "Training with such a dashboard."
    return w.fresh.train(dashboard=sv.TrainingDashboard("console", **given), **QUIET)


def page_of(w, mdata=None, labels=None, **more):
    "A report of the small data."
    mdata = w.mdata() if mdata is None else mdata
    labels = mdata.obs["cell_type"] if labels is None else labels
    return report(w.folder / "report.html", mdata, {}, labels, **more)


xy, third = np.zeros((60, 2)), np.full(60, 1 / 3)
# fmt: off
VIEWS = [
    row("figures", "volcano of a list", lambda w: sv.pl.volcano([1]), TypeError, "ds must be a pandas DataFrame, not list"),
    row("figures", "volcano of nothing", lambda w: sv.pl.volcano(None), TypeError, "ds must be a pandas DataFrame, not NoneType"),
    row("figures", "volcano: a column is missing", lambda w: sv.pl.volcano(ds_of(w).drop(columns="proba_ds")), KeyError, "ds has no column proba_ds", "effect_size"),
    row("figures", "volcano of texts", lambda w: sv.pl.volcano(ds_of(w).assign(effect_size="a")), TypeError, "ds['effect_size'] must be numbers"),
    row("figures", "volcano: probability of 2", lambda w: sv.pl.volcano(ds_of(w), proba=2), ValueError, "proba=2", "at most 1"),
    row("figures", "volcano: a number is selected", lambda w: sv.pl.volcano(ds_of(w), selected=5), TypeError, "selected=5", "label of ds"),
    row("figures", "volcano: template of another library", lambda w: sv.pl.volcano(ds_of(w), template="ggplot2"), ValueError, "template='ggplot2'", "'light', 'dark' or None"),
    row("figures", "arcs of a list", lambda w: sv.pl.event_arcs([1], None), TypeError, "junctions must be a pandas DataFrame"),
    row("figures", "arcs without PSI", lambda w: arcs(w, psi=lambda p: None), TypeError, "psi must be a pandas DataFrame, not NoneType"),
    row("figures", "arcs: no start", lambda w: arcs(w, lambda j: j.drop(columns="start")), KeyError, "junctions has no column start"),
    row("figures", "arcs: no place", lambda w: arcs(w, lambda j: j.assign(start=np.nan)), ValueError, "Junction", "start must be below end"),
    row("figures", "arcs: end before start", lambda w: arcs(w, lambda j: j.assign(end=1)), ValueError, "to 1; start must be below end"),
    row("figures", "arcs: start of text", lambda w: arcs(w, lambda j: j.assign(start="x")), TypeError, "junctions['start'] must be numbers"),
    row("figures", "arcs: junctions without PSI", lambda w: arcs(w, psi=lambda p: p.iloc[:1]), KeyError, "psi has no row", "index must hold the junctions"),
    row("figures", "arcs: PSI in percent", lambda w: arcs(w, psi=lambda p: 100 * p), ValueError, "PSI are from 0 to 1"),
    row("figures", "arcs: no such group", lambda w: arcs(w, groups=["B cell"]), KeyError, "psi has no column B cell", "type_1"),
    row("figures", "arcs: groups as text", lambda w: arcs(w, groups="type_1"), TypeError, "groups='type_1'", "['type_1']"),
    row("figures", "arcs: no such junction selected", lambda w: arcs(w, selected="nope"), KeyError, "selected='nope'"),
    row("figures", "arcs: width of text", lambda w: arcs(w, width="700"), TypeError, "width='700'"),
    row("figures", "arcs: exons without places", lambda w: arcs(w, exons=w.keep(pd.DataFrame({"chrom": ["1"]}))), KeyError, "exons has no column start, end"),
    row("figures", "held-out pairs of a list", lambda w: sv.pl.imputation([1], {"m": [1]}), TypeError, "held must be a pandas DataFrame"),
    row("figures", "held-out pairs without totals", lambda w: sv.pl.imputation(held_out(w).drop(columns="total"), {"m": [1]}), KeyError, "held has no column total"),
    row("figures", "predictions without a name", lambda w: sv.pl.imputation(held_out(w), [0.1, 0.2, 0.3]), TypeError, "predictions must be a mapping", "{'model': psi}"),
    row("figures", "a prediction too few", lambda w: sv.pl.imputation(held_out(w), {"m": [0.1, 0.2]}), ValueError, "held has 3 pairs and predictions has 2"),
    row("figures", "predictions of text", lambda w: sv.pl.psi_calibration(held_out(w), {"m": ["a", "b", "c"]}), TypeError, "predictions must be numbers"),
    row("figures", "grid of one event", lambda w: sv.pl.event_grid({"psi": 1}), TypeError, "a list with a dictionary for each event"),
    row("figures", "grid: no PSI", lambda w: sv.pl.event_grid([{"junctions": shown_by(w)[0]}]), KeyError, "events[0] has no psi"),
    row("figures", "grid: too narrow", lambda w: sv.pl.event_grid([dict(zip(("junctions", "psi"), shown_by(w)))] * 9, columns=9), ValueError, "columns=9 leaves"),
    row("figures", "sashimi of a file", lambda w: sv.pl.sashimi("a.bam"), TypeError, "depth='a.bam'", "read_depth"),
    row("figures", "samples without a name", lambda w: sv.pl.psi_violin(*shown_by(w)[2:], samples=shown_by(w)[3]), KeyError, "samples has no column sample"),
    row("functions", "selection of a name", lambda w: sv.tl.rank_selection(w.mdata(), "cell_1"), TypeError, "cells='cell_1'"),
    row("functions", "selection of no cell", lambda w: sv.tl.rank_selection(w.mdata(), []), ValueError, "none of 60 cells are selected"),
    row("functions", "selection of all cells", lambda w: sv.tl.rank_selection(w.mdata(), np.arange(60)), ValueError, "all of 60 cells are selected"),
    row("functions", "selection: no such row", lambda w: sv.tl.rank_selection(w.mdata(), [60]), IndexError, "there is no row 60"),
    row("functions", "selection of an AnnData", lambda w: sv.tl.rank_selection(w.adata(), [1]), TypeError, "not AnnData"),
    row("functions", "depth of no region", lambda w: sv.io.read_depth("a.bam", "RPS24"), ValueError, "region='RPS24'", "chr10:78,035,721-78,040,610"),
    row("functions", "depth: a group's name", lambda w: sv.io.read_depth("a.bam", "chr1:1-9", "cell_type"), TypeError, "group of each barcode"),
    row("functions", "depth of twice named cells", lambda w: sv.io.read_depth("a.bam", "chr1:1-9", pd.Series("a", ["x", "x"])), ValueError, "groups names x twice"),
    row("figures", "latent map of a name", lambda w: sv.pl.latent("X_umap", ["a"] * 60), TypeError, "coords", "mdata.obsm['X_umap']", "not str"),
    row("figures", "latent map of a MuData", lambda w: sv.pl.latent(w.mdata(), "cell_type"), TypeError, "coords", "not MuData"),
    row("figures", "latent map of one dimension", lambda w: sv.pl.latent(third, ["a"] * 60), ValueError, "coords has shape (60,)"),
    row("figures", "latent map: name of a column", lambda w: sv.pl.latent(xy, "cell_type"), TypeError, "labels needs one label for each cell", "mdata.obs['cell_type']"),
    row("figures", "latent map: labels of other cells", lambda w: sv.pl.latent(xy, ["a"] * 5), ValueError, "coords has 60 cells and labels has 5"),
    row("figures", "latent map: colours in a list", lambda w: sv.pl.latent(xy, ["a"] * 60, hue=["red"]), TypeError, "hue must be a mapping"),
    row("figures", "PSI map: other cells", lambda w: sv.pl.latent_psi(xy, third[:4]), ValueError, "coords has 60 cells and psi has 4"),
    row("figures", "PSI map: reads of other cells", lambda w: sv.pl.latent_psi(xy, third, reads=[1]), ValueError, "reads has 1"),
    row("figures", "PSI map of text", lambda w: sv.pl.latent_psi(xy, ["a"] * 60), TypeError, "psi must be numbers"),
    row("figures", "UMAP of NaN", lambda w: sv.pl.umap(w.keep(np.full((60, 3), np.nan))), ValueError, "latent has values that are not finite"),
    row("figures", "violins: no such kind", lambda w: sv.pl.psi_violin(shown_by(w)[2], kind="true"), ValueError, "kind='true'", "observed, decoded, smoothed"),
    row("figures", "violins without groups of cells", lambda w: sv.pl.psi_violin(shown_by(w)[2].drop(columns="group")), KeyError, "cells has no column group"),
    row("figures", "violins: no such junction", lambda w: sv.pl.psi_violin(shown_by(w)[2], junctions="nope"), KeyError, "cells has no junction 'nope'"),
    row("figures", "violins: means without ends", lambda w: sv.pl.psi_violin(*(t.drop(columns="lower", errors="ignore") for t in shown_by(w)[2:])), KeyError, "groups has no column lower"),
    row("figures", "heatmap of a list", lambda w: sv.pl.psi_heatmap([1]), TypeError, "psi must be a mapping", "not list"),
    row("figures", "heatmap of arrays", lambda w: sv.pl.psi_heatmap({"a": np.zeros((2, 2))}), TypeError, "psi['a'] must be a pandas DataFrame"),
    row("figures", "heatmap of different junctions", lambda w: sv.pl.psi_heatmap({"a": shown_by(w)[1], "b": shown_by(w)[1].iloc[:1]}), ValueError, "psi['b'] has other junctions", "reindex"),
    row("figures", "heatmap: a name too few", lambda w: sv.pl.psi_heatmap({"a": shown_by(w)[1]}, labels=["x"]), ValueError, "labels has 1"),
    row("figures", "expression of other cells", lambda w: sv.pl.expression_violin([1.0], ["a"] * 60, "g"), ValueError, "values has 1 cells and groups has 60"),
    row("figures", "expression of text", lambda w: sv.pl.expression_violin(["a"] * 60, ["a"] * 60, "g"), TypeError, "values must be numbers"),
    row("figures", "power of a name", lambda w: sv.pl.power("table"), TypeError, "table must be a pandas DataFrame"),
    row("figures", "power of another table", lambda w: sv.pl.power(pd.DataFrame({"effect": [0.2]})), KeyError, "table has no column comparison"),
    row("figures", "power: no such column", lambda w: sv.tl.power(w.mdata(), "celltype"), KeyError, "groupby='celltype'", "cell_type"),
    row("figures", "power: no effects", lambda w: sv.tl.power(w.mdata(), effects=[]), ValueError, "effects is empty"),
    row("figures", "power: donors that are the groups", lambda w: sv.tl.power(w.mdata(), "batch", sample_key="batch"), ValueError, "sample_key='batch' is groupby too"),
    row("figures", "power of three cells", lambda w: sv.tl.power(w.mdata()[:3].copy()), ValueError, "There are 3 cells"),
    row("figures", "words of no table", lambda w: sv.tl.power_words([0.2]), TypeError, "it must be a DataFrame"),
    row("pages", "protocol: no such modality", lambda w: sv.data.sequencing_protocol(w.mdata(), splicing="psi"), ValueError, "no modality 'psi'"),
    row("pages", "protocol: no such annotation", lambda w: sv.data.sequencing_protocol(w.mdata(), "no.gtf"), FileNotFoundError, "no.gtf"),
    row("pages", "benchmark in no folder", lambda w: sv.bench.truth_page(w.folder / "a" / "b.html"), FileNotFoundError, "make it first"),
    row("pages", "benchmark: full of what", lambda w: sv.bench.speed_page(full="very"), TypeError, "full='very'", "True or False"),
    row("pages", "benchmark: no such peer", lambda w: sv.bench.compare_peer("no_such_model"), ImportError, "peer='no_such_model' cannot be imported"),
    row("pages", "benchmark: a peer that is no model", lambda w: sv.bench.compare_peer("json:JSONDecoder"), TypeError, "lacks setup_mudata"),
    row("pages", "benchmark: no repeats", lambda w: sv.bench.measure(repeats=0), ValueError, "repeats=0"),
    row("pages", "coverage: no such donors", lambda w: sv.coverage_report(w.mdata(), sample_key="people"), KeyError, "sample_key='people'"),
    row("figures", "coverage of a file's name", lambda w: sv.pl.coverage("data.h5mu"), TypeError, "mdata must be a MuData, not str", "make_mudata"),
    row("figures", "coverage of an AnnData", lambda w: sv.pl.coverage(w.adata()), TypeError, "mdata must be a MuData, not AnnData"),
    row("figures", "coverage: no such layer", lambda w: sv.pl.coverage(w.mdata(), rna_layer="raw"), KeyError, "rna_layer='raw'", "mdata['rna']"),
    row("figures", "history of a model", lambda w: sv.pl.history(w.model), TypeError, "history must be a mapping, such as model.history, not SPLICEVI"),
    row("figures", "calibration of no probabilities", lambda w: sv.pl.calibration([5.0, 0.2], [True, False]), ValueError, "proba has values from 0.2 to 5"),
    row("figures", "calibration: truth of another test", lambda w: sv.pl.calibration({"a": [0.5]}, {"b": [True]}), KeyError, "truth has no 'a'", "b"),
    row("figures", "calibration: no targets", lambda w: sv.pl.calibration([0.5], [True], targets=()), ValueError, "targets is empty"),
    row("figures", "calibration: lengths differ", lambda w: sv.pl.fdr_curve([0.5], [True, True]), ValueError, "proba has 1 features and truth has 2"),
    row("dashboard", "no such view", lambda w: sv.TrainingDashboard("tensorboard"), ValueError, "view='tensorboard'", "'widget'"),
    row("dashboard", "maps every -1", lambda w: sv.TrainingDashboard(map_every=-1), ValueError, "map_every=-1", "0 for no map"),
    row("dashboard", "maps every NaN", lambda w: sv.TrainingDashboard(map_every=np.nan), ValueError, "map_every=nan"),
    row("dashboard", "cells of text", lambda w: sv.TrainingDashboard(n_cells="all"), TypeError, "n_cells='all'", "at least 3"),
    row("dashboard", "an interval below 0", lambda w: sv.TrainingDashboard(interval=-1), ValueError, "interval=-1", "seconds"),
    row("dashboard", "colours in a list", lambda w: sv.TrainingDashboard(hue=["red"]), TypeError, "hue must be a mapping"),
    row("dashboard", "no such column", lambda w: dashboard(w, color_by="celltype", map_every=1), KeyError, "color_by='celltype'", "cell_type"),
    row("dashboard", "held-out pairs in a list", lambda w: dashboard(w, held_out=[1]), ValueError, "held_out lacks the columns", "hold_out"),
    row("dashboard", "held-out pairs of other data", lambda w: dashboard(w, held_out=held_out(w, cell_index=99, junction_index=1)), ValueError, "held_out is of other data"),
    row("dashboard", "a view's name in its place", lambda w: w.fresh.train(dashboard="html", **QUIET), TypeError, "dashboard='html'", "TrainingDashboard"),
    row("map", "of a file's name", lambda w: cell_map(w, "data.h5mu"), TypeError, "an AnnData is needed, not str"),
    row("map", "without coordinates", lambda w: cell_map(w, latent=None), ValueError, "no map of the cells", "obsm['X_umap']"),
    row("map", "coordinates of other cells", lambda w: cell_map(w, latent=np.zeros((5, 2))), ValueError, "latent has shape (5, 2)", "(60, 2)"),
    row("map", "no such coordinates", lambda w: cell_map(w, latent="X_tsne"), KeyError, "latent='X_tsne'", "obsm"),
    row("map", "no such colour", lambda w: cell_map(w, color="celltype"), KeyError, "color='celltype'", "did you mean 'cell_type'"),
    row("map", "no such colour of an AnnData", lambda w: cell_map(w, w.adata(), color="TP53"), KeyError, "color='TP53'", "column of obs"),
    row("map", "a colour of other cells", lambda w: cell_map(w, color=[1.0, 2.0]), ValueError, "color has shape (2,)", "60 cells"),
    row("map", "a colour of two columns", lambda w: cell_map(w, color=np.zeros((60, 2))), ValueError, "color has shape (60, 2)"),
    row("map", "colours in a list", lambda w: cell_map(w, color="cell_type", hue=["red"]), TypeError, "hue must be a mapping"),
    row("map", "PSI of no model", lambda w: cell_map(w, color=w.mdata()["splicing"].var_names[0], show="decoded"), ValueError, "show='decoded'", "trained model"),
    row("map", "other data beside a MuData", lambda w: cell_map(w, mdata=w.mdata()), ValueError, "mdata is for a model"),
    row("map", "rows that are none", lambda w: setattr(cell_map(w), "selected", [60]), ValueError, "from 0 to 59"),
    row("map", "a mask of other cells", lambda w: setattr(cell_map(w), "selected", [True]), ValueError, "does not fit 60 cells"),
    row("map", "cells of other names", lambda w: setattr(cell_map(w), "selected", ["nobody"]), KeyError, "no cell nobody"),
    row("explorer", "of a file's name", lambda w: sv.PSIExplorer("model"), TypeError, "SPLICEVI model or a MuData", "not str"),
    row("explorer", "of an AnnData", lambda w: sv.PSIExplorer(w.adata()), TypeError, "not AnnData", "make_mudata"),
    row("explorer", "level misspelt", lambda w: explorer(w, level="events"), ValueError, "level='events'", "event, junction"),
    row("explorer", "donors: no such column", lambda w: explorer(w, sample_key="donr"), KeyError, "sample_key='donr' is no column of obs"),
    row("explorer", "curves: no such column", lambda w: explorer(w, along="pseudotme"), KeyError, "along='pseudotme' is no column of obs"),
    row("explorer", "curves along words", lambda w: explorer(w, along="cell_type"), TypeError, "along='cell_type' holds", "no numbers"),
    row("explorer", "curves along an array", lambda w: explorer(w, along=7), TypeError, "along=7 must be the name of a column"),
    row("explorer", "curves along two, one of words", lambda w: sv.PSIExplorer(w.mdata(obs(day=np.arange(60))), along=["day", "cell_type"]), TypeError, "along='cell_type' holds"),
    row("explorer", "a ranking along nothing", lambda w: explorer(w).trends(), ValueError, "No curves", "along="),
    row("explorer", "level of a frame", lambda w: explorer(w).frame("curves"), ValueError, "level='curves'", "along"),
    row("explorer", "power of one group", lambda w: explorer(w, groupby=None).power(), ValueError, "Nothing is compared", "groupby"),
    row("explorer", "programs of text", lambda w: explorer(w, programs="all"), TypeError, "programs is what model.programs() returns", "str"),
    row("explorer", "selected: a name", lambda w: setattr(explorer(w), "selected", "cell_1"), TypeError, "cells='cell_1'", "list of names"),
    row("explorer", "selected: no such cell", lambda w: setattr(explorer(w), "selected", ["nobody"]), KeyError, "nobody are no cells"),
    row("explorer", "selected: another mask", lambda w: setattr(explorer(w), "selected", [True, False]), ValueError, "mask of 2 cells"),
    row("explorer", "saved: nothing is selected", lambda w: explorer(w).save_selection("mine"), ValueError, "No cells are selected"),
    row("explorer", "saved over a column", lambda w: selecting(w).save_selection("cell_type"), ValueError, "'cell_type' already", "overwrite=True"),
    row("explorer", "saved without a name", lambda w: selecting(w).save_selection(3), TypeError, "name=3"),
    row("explorer", "pinned: no such event", lambda w: setattr(explorer(w), "pinned", ["nope"]), KeyError, "no event 'nope'"),
    row("explorer", "grid: no such event", lambda w: explorer(w).event_grid(["nope"]), KeyError, "no event 'nope'"),
    row("explorer", "no such column", lambda w: explorer(w, groupby="celltype"), KeyError, "groupby='celltype'", "cell_type"),
    row("explorer", "columns in a list", lambda w: explorer(w, groupby=["cell_type"]), TypeError, "groupby=['cell_type']", "one column"),
    row("explorer", "a column without values", lambda w: sv.PSIExplorer(w.mdata(obs(none=np.nan)), groupby="none"), ValueError, "groupby='none'", "has no value"),
    row("explorer", "tests in a list", lambda w: explorer(w, ds=[1]), TypeError, "ds is the table of model.differential_splicing"),
    row("explorer", "tests without probabilities", lambda w: explorer(w, ds=ds_of(w).drop(columns="proba_ds")), KeyError, "ds has no column proba_ds"),
    row("explorer", "tests of other junctions", lambda w: explorer(w, ds=ds_of(w).add_prefix("x", axis=0)), KeyError, "No row of ds is a junction"),
    row("explorer", "tests that occur twice", lambda w: explorer(w, ds=pd.concat([ds_of(w)] * 2)), ValueError, "occur twice"),
    row("explorer", "tests of text", lambda w: explorer(w, ds=ds_of(w).assign(proba_ds="high")), TypeError, "ds['proba_ds'] must be numbers"),
    row("explorer", "no such event", lambda w: explorer(w, event="nope"), KeyError, "There is no event 'nope'"),
    row("explorer", "no such kind of PSI", lambda w: explorer(w, show="true"), ValueError, "show='true'", "observed, decoded, smoothed"),
    row("explorer", "PSI of an untrained model", lambda w: sv.PSIExplorer(w.fresh, show="decoded"), ValueError, "show='decoded'", "model.train()"),
    row("explorer", "no such map", lambda w: explorer(w, latent="X_nope"), KeyError, "latent='X_nope'", "obsm"),
    row("explorer", "a map of other cells", lambda w: explorer(w, latent=np.zeros((5, 2))), ValueError, "latent has shape (5, 2)", "(60, 2)"),
    row("explorer", "a map of text", lambda w: explorer(w, latent=np.full((60, 2), "a")), TypeError, "latent must be numbers"),
    row("explorer", "no such GTF", lambda w: explorer(w, gtf="nowhere.gtf"), FileNotFoundError, "nowhere.gtf"),
    row("explorer", "exons without places", lambda w: explorer(w, gtf=w.keep(pd.DataFrame({"x": [1]}))), KeyError, "gtf", "chrom"),
    row("explorer", "a file's name as data", lambda w: explorer(w, mdata="data.h5mu"), TypeError, "mdata must be a MuData", "not str"),
    row("explorer", "data of other genes", lambda w: explorer(w, mdata=w.mdata(lambda d: d[:, :25].copy())), ValueError, "missing from the data"),
    row("explorer", "a modality of a model", lambda w: explorer(w, splicing="psi"), ValueError, "splicing", "a model knows"),
    row("explorer", "no such modality", lambda w: sv.PSIExplorer(w.mdata(), splicing="psi"), KeyError, "no modality 'psi'", "splicing="),
    row("explorer", "no such layer", lambda w: sv.PSIExplorer(w.mdata(), rna_layer="raw"), KeyError, "no layer 'raw'"),
    row("explorer", "data without events", lambda w: sv.PSIExplorer(w.mdata(lambda d: d["splicing"].var.drop(columns="event_id", inplace=True))), KeyError, "event_id", "make_mudata"),
    row("explorer", "set to no gene", lambda w: setattr(explorer(w), "gene", "TP53"), KeyError, "There is no gene 'TP53'"),
    row("explorer", "set to no junction", lambda w: setattr(explorer(w), "junction", "chr1"), KeyError, "There is no junction 'chr1'"),
    row("explorer", "set to no comparison", lambda w: setattr(explorer(w), "comparison", "a"), KeyError, "comparison='a'"),
    row("explorer", "answers below 1", lambda w: explorer(w).search("a", limit=0), ValueError, "limit=0", "at least 1"),
    row("explorer", "no such frame", lambda w: explorer(w).frame("genes"), ValueError, "level='genes'", "groups, cells, events"),
    row("explorer", "no such panel", lambda w: explorer(w).figures("umap"), KeyError, "no panel umap", "latent"),
    row("explorer", "no such group to compare", lambda w: explorer(w).compare("B cell"), KeyError, "B cell", "type_1"),
    row("explorer", "a comparison without a model", lambda w: sv.PSIExplorer(w.mdata()).compare("type_1"), ValueError, "trained model"),
    row("explorer", "a picture of text", lambda w: explorer(w).to_image(w.folder / "a.txt"), ValueError, ".png", "'.txt'"),
    row("explorer", "a table over a folder", lambda w: explorer(w).to_csv(w.folder), IsADirectoryError, "is a folder"),
    row("explorer", "a page in no folder", lambda w: explorer(w).to_html(w.folder / "a" / "b.html"), FileNotFoundError, "There is no folder", "make it first"),
    row("explorer", "a page of no name", lambda w: explorer(w).to_html(None), TypeError, "path=None"),
    row("pages", "coverage of a file's name", lambda w: sv.coverage_report("data.h5mu"), TypeError, "mdata='data.h5mu' is a str; it must be a MuData"),
    row("pages", "coverage of an AnnData", lambda w: sv.coverage_report(w.adata()), TypeError, "is a AnnData; it must be a MuData"),
    row("pages", "coverage: no such column", lambda w: sv.coverage_report(w.mdata(), label_key="celltype"), KeyError, "label_key='celltype'", "cell_type"),
    row("pages", "coverage: no such modality", lambda w: sv.coverage_report(w.mdata(), splicing="psi"), ValueError, "no modality 'psi'", "splicing"),
    row("pages", "coverage in no folder", lambda w: sv.coverage_report(w.mdata(), w.folder / "a" / "b.html"), FileNotFoundError, "make it first"),
    row("pages", "coverage over a folder", lambda w: sv.coverage_report(w.mdata(), w.folder), IsADirectoryError, "is a folder"),
    row("pages", "report of nothing", lambda w: page_of(w, mdata="data.h5mu", labels=w.keep(pd.Series(["a"]))), TypeError, "mdata must be a MuData, not str"),
    row("pages", "report: name of a column", lambda w: page_of(w, labels="cell_type"), TypeError, "labels must be a Series", "mdata.obs['cell_type']"),
    row("pages", "report: labels of other cells", lambda w: page_of(w, labels=w.keep(pd.Series(["a"]))), ValueError, "labels has 1 cells and mdata has 60"),
    row("pages", "report: predictions without scores", lambda w: page_of(w, held=held_out(w), predictions={"m": third[:3]}), ValueError, "scores is None", "splicevi.tl.imputation"),
]
# fmt: on

ROWS = [*SETUP, *CONSTRUCTOR, *TRAIN, *PREDICT, *DIFFERENTIAL, *FUNCTIONS, *IO, *CLI, *VIEWS]


@pytest.mark.parametrize("r", ROWS, ids=str)
def test_bad_input(r, shared, tmp_path):
    answers(r, shared, tmp_path)


# every argument of every table


def numbers(limits):
    "Numbers within limits, and beyond them: below, at and above."
    good, bad = [None] * limits.optional, [N, np.inf, -np.inf, "1", True, [1], 10**400] + [None] * (not limits.optional)
    for end, excluded, step in ((limits.least, limits.above, -1), (limits.most, limits.below, 1)):
        if np.isfinite(end):
            (bad if excluded else good).append(end)
            bad.append(end + step)
            good.append(
                end - step if limits.whole or limits.most - limits.least > 2 else (limits.least + limits.most) / 2
            )
    whole = [int(v) if limits.whole and v is not None else v for v in good]
    return whole, bad + [max(limits.least, 0) + 0.5] * limits.whole + [3.0] * (limits.whole and not limits.parsed)


def tries(kind):
    "Values that a kind takes, and values that it does not."
    if isinstance(kind, Limits):
        return numbers(kind)
    none, some = ([None], []) if kind.optional else ([], [None])
    if isinstance(kind, ListOf):
        good, bad = tries(kind.kind)
        wrong = [[v] for v in bad] + ["text"] + ([] if kind.alone else [3])
        return none + [[v] for v in good] + good[-1:] * kind.alone, some + wrong
    if isinstance(kind, AnyOf):
        parts = [tries(k) for k in kind.kinds]
        return none + [v for good, _ in parts for v in good if v is not None], [*some, object()]
    values = {
        OneOf: (list(getattr(kind, "allowed", ())), ["nope", 0.123, ["a"], object()]),
        Flag: ([True, False, np.True_], [0, 1, "yes", "False", [True]]),
        Text: (["key"], ["", "  ", 3, ["key"], b"key"]),
        Names: (
            [["a", "b"], "a", ("a",)],
            ["", ["a", "a"], [1], 3, {"a": 1}] + [[]] * (not getattr(kind, "empty", True)),
        ),
        Rows: ([[0, 1], [True, False], np.arange(3)], [[], [False], "all", ["a"], [0.5], np.ones((2, 2), int)]),
        Is: ([], ["data.h5mu", 3, {}, object()]),
        Entries: ([{}], ["text", 3, [1]]),
    }
    good, bad = values[type(kind)]
    return none + good, some + bad


def arguments():
    "Every function with a table, and each of its arguments."
    for module in (
        "model.splicevi",
        "views.explorer.explorer",
        "views.latent_map",
        "views.coverage",
        "views.report",
        "bench.speed",
        "bench.truth",
        "io.formats",
        "io.star",
    ):
        importlib.import_module(f"splicevi.{module}")
    for room in (sv.data, sv.tl, sv.pl):
        for name in room.__all__:
            getattr(room, name)
    for where, f in TABLES.items():
        if where.startswith("splicevi."):
            for name, kind in f.arguments.items():
                yield where, f, name, kind


def test_every_argument_is_checked():
    "Each argument of each table is tried below, at and above its limits; the error names it and says what it may be."
    tried = 0
    for where, f, name, kind in arguments():
        good, bad = tries(kind)
        for value in good:
            check_arguments({name: value}, f.arguments)
        for value in bad:
            if isinstance(kind, OneOf) and any(value == v for v in kind.allowed):
                continue
            with pytest.raises((TypeError, ValueError)) as seen:
                check_arguments({name: value}, f.arguments)
            text = str(seen.value)
            inner = kind.kind if isinstance(kind, ListOf) else kind
            assert text.startswith(name), f"{where}: {text}"
            assert str(kind) in text or str(inner) in text, f"{where}: {text}"
            tried += 1
    assert tried > 1000


def test_tables_stand_before_their_functions():
    "A wrong value of any argument is answered by the table before the function begins, beside arguments that are missing."
    reached = 0
    for _, f, name, kind in arguments():
        takes = inspect.signature(f)
        if name not in takes.parameters and not any(p.kind is p.VAR_KEYWORD for p in takes.parameters.values()):
            continue  # a table that two functions share
        bad = tries(kind)[1][-1]
        first = [None] * (next(iter(takes.parameters)) in ("self", "cls"))
        with pytest.raises((TypeError, ValueError), match=rf"^{re.escape(name)}"):
            f(*first, **{name: bad})
        reached += 1
    assert reached > 150


def test_names_are_unique():
    "Each row has a name of its own."
    names = [str(r) for r in ROWS]
    assert len(names) == len(set(names))


def test_the_harness_sees_changes(shared, tmp_path):
    "A changed value, type, category, order or key of an object is a change."
    for edit in (
        lambda d: d.obs.__setitem__("age", d.obs["age"] + 1),
        lambda d: d["rna"].X.data.__setitem__(0, 99),
        lambda d: d["splicing"].layers.pop("psi_mask"),
        lambda d: d.obs.__setitem__("site", d.obs["site"].cat.add_categories(["d"])),
        lambda d: d.obsm["X_library_size"].__setitem__(3, 0),
        lambda d: d.uns.__setitem__("new", 1),
        lambda d: d["splicing"].var.__setitem__("event_id", "e"),
    ):
        w = World(shared, tmp_path)
        data = w.mdata()
        assert not w.changed()
        edit(data)
        assert w.changed() == w.changed(registered=True) == ["MuData"]
        assert not (w := World(shared, tmp_path)).given
        SPLICEVI.setup_mudata(w.mdata(), batch_key="batch")
        assert w.changed() == ["MuData"] and not w.changed(registered=True)
