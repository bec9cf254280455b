"""What is wrong is refused at once, by an error that names the argument and the fix, and changes nothing of the user's.

A row is one line of a table: where it belongs, its name, how to call, what is raised (or warned), and the texts that
the message must have. A new row goes to one of the lists; `w` gives the data, models and folders it needs (see
`World`), and everything that `w` handed out must be byte for byte what it was.
"""

import hashlib
import time
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from splicevi import SPLICEVI
from splicevi.datasets import simulate

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


class World:
    "What a row needs; remembers what it handed out."

    def __init__(self, shared: dict, folder):
        self.shared, self.folder, self.given = shared, folder, []

    def keep(self, x):
        "Anything of the user that the call must leave as it is."
        self.given.append((x, digest(x)))
        return x

    def mdata(self, *edits):
        "The small MuData, after some edits."
        out = self.shared["mdata"].copy()
        for edit in edits:
            out = edit(out) or out
        return self.keep(out)

    def adata(self, *edits):
        "The small AnnData of concatenated features, after some edits."
        out = self.shared["adata"].copy()
        for edit in edits:
            out = edit(out) or out
        return self.keep(out)

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

    def changed(self):
        "Which of the objects handed out are not what they were."
        return [type(x).__name__ for x, before in self.given if digest(x) != before]


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
    if not issubclass(r.answer, Warning):  # a setup that succeeds registers
        assert not (bad := w.changed()), f"changed: {bad}"


# edits of the data


def obs(**columns):
    "Columns of obs."

    def edit(data):
        for name, values in columns.items():
            data.obs[name] = values(data.obs[name]) if callable(values) else values

    return edit


# the tables

setup = SPLICEVI.setup_mudata
SETUP = [
    row("setup", "not a MuData", lambda w: setup(w.adata()), TypeError, "setup_anndata"),
    row(
        "setup", "no such batch", lambda w: setup(w.mdata(), batch_key="bacth"), KeyError, "batch_key='bacth'", "batch"
    ),
]
CONSTRUCTOR = [
    row("constructor", "no latents", lambda w: SPLICEVI(w.ready, n_latent=0), ValueError, "n_latent=0", "at least 1"),
]
TRAIN = [
    row("train", "no epochs", lambda w: w.fresh.train(max_epochs=0), ValueError, "max_epochs=0", "at least 1"),
]
PREDICT = [
    row(
        "predict",
        "no rows",
        lambda w: w.model.get_latent_representation(indices=[]),
        ValueError,
        "indices",
        "at least one",
    ),
]
DIFFERENTIAL = [
    row(
        "differential",
        "no such mode",
        lambda w: w.model.differential_splicing(groupby="cell_type", mode="chance"),
        ValueError,
        "mode='chance'",
        "'change'",
    ),
]
FUNCTIONS = []

# rows of other parts: each list belongs to one of them

IO = []
CLI = []
VIEWS = []

ROWS = [*SETUP, *CONSTRUCTOR, *TRAIN, *PREDICT, *DIFFERENTIAL, *FUNCTIONS, *IO, *CLI, *VIEWS]


@pytest.mark.parametrize("r", ROWS, ids=str)
def test_bad_input(r, shared, tmp_path):
    answers(r, shared, tmp_path)


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
        assert w.changed() == ["MuData"]
