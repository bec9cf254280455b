"""What is wrong is refused at once, by an error that names the argument and the fix, and changes nothing of the user's.

A row is one line of a table: where it belongs, its name, how to call, what is raised (or warned), and the texts that
the message must have. A new row goes to one of the lists; `w` gives the data, models and folders it needs (see
`World`), and everything that `w` handed out must be byte for byte what it was.
"""

import gzip
import hashlib
import time
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
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

from splicevi import SPLICEVI, cli, io
from splicevi.data.gtf import read_gtf
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
    row("star", "BAM", star(gzip.compress(b"BAM\x01" + RUBBISH)), ValueError, "BAM file", "extracted"),
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


def train(*options, data="DIR/good.h5mu", out="DIR/out", files=None):
    return command("train", data, out, "--quiet", *options, files=files)


def importing(*words, files=None, out="DIR/new.h5mu"):
    return command("import", *words[:2], out, "--quiet", *words[2:], files=files)


PERIND = "c1 c2\nchr1:200:401:clu_1_+ 3 1\nchr1:200:801:clu_1_+ 1 5\n"
PERIND_FILE = {"x.counts": PERIND}
leafcutter = ("leafcutter", "DIR/x.counts")
RESULTS = {"out/history.csv": "", "out/mdata.h5mu": "", "out/model/model.pt": "", "out/report.html": ""}
mine = {"out/mdata.h5mu": "the only copy"}

CLI = [
    row("cli", name, call, Refused, "splicevi: ", *texts) for name, call, *texts in [
        ("no such command", command("tarin", "DIR/good.h5mu"), "there is no command 'tarin'", "train, check, import"),
        ("no arguments", command("train"), "required: data, out", "--help"),
        ("no OUT", command("train", "DIR/good.h5mu"), "required: out", "splicevi train --help"),
        ("unknown option", train("--epochs", "3"), "unrecognized arguments: --epochs 3"),
        ("an argument too many", train("more"), "unrecognized arguments: more"),
        ("epochs in words", train("--max_epochs", "few"), "--max_epochs", "invalid int value: 'few'"),
        ("half an epoch", train("--max_epochs", "1.5"), "invalid int value: '1.5'"),
        ("negative epochs", train("--max_epochs", "-1"), "--max_epochs is -1", "0 or more"),
        ("learning rate nan", train("--lr", "nan"), "--lr is nan", "above 0"),
        ("learning rate inf", train("--lr", "inf"), "--lr is inf", "finite"),
        ("no mini-batch", train("--batch_size", "0"), "--batch_size is 0"),
        ("no latents", train("--n_latent", "0"), "--n_latent is 0"),
        ("all held out", train("--hold_out", "1"), "--hold_out is 1.0", "below 1"),
        ("negative seed", train("--seed", "-3"), "--seed is -3", "at least 0"),
        ("unknown likelihood", train("--gene_likelihood", "gauss"), "'gauss'", "zinb, nb, poisson"),
        ("unknown accelerator", train("--accelerator", "abacus"), "'abacus'", "auto, cpu, gpu"),
        ("no such data", train(data="DIR/none.h5mu"), "there is no file", "example"),
        ("data of another kind", train(data="DIR/x.csv", files={"x.csv": "a,b\n"}), "is not a .h5mu file",
         "make_mudata"),
        ("data are a folder", train(data="DIR/x.h5mu", files={"x.h5mu": None}), "is a folder, not a file"),
        ("data are a link in a circle", train(data="DIR/x.h5mu", files={"x.h5mu": Path("x.h5mu")}),
         "is a link to x.h5mu"),
        ("empty data", train(data="DIR/x.h5mu", files={"x.h5mu": ""}), "cannot be read as a MuData file", "cut off"),
        ("rubbish as data", train(data="DIR/x.h5mu", files={"x.h5mu": RUBBISH}), "no HDF5 file"),
        ("AnnData as data", train(data="DIR/x.h5mu", files={"x.h5mu": lambda p: AnnData(np.eye(3)).write_h5ad(p)}),
         "it is an AnnData file"),
        ("HDF5 of others", train(data="DIR/x.h5mu", files={"x.h5mu": lambda p: h5py.File(p, "w").close()}),
         "HDF5 file of another program"),
        ("no such modality", train("--rna", "gex"), "no modality 'gex'", "rna, splicing", "--rna none"),
        ("no such layer", train("--rna_layer", "raw"), "no layer 'raw'"),
        ("no modality at all", train("--rna", "none", "--splicing", "none"), "nothing to train on"),
        ("no such label", train("--label_key", "colour"), "--label_key='colour'", "cell_type"),
        ("no such batch", train("--batch_key", "day"), "--batch_key='day'", "batch"),
        ("OUT is a file", train(out="DIR/good.h5mu"), "is a file"),
        ("OUT below a file", train(out="DIR/good.h5mu/out"), "cannot be written"),
        ("OUT takes no file", train(out="/proc/splicevi/out"), "/proc/splicevi/out cannot be written"),
        ("OUT is a link in a circle", train(out="DIR/out", files={"out": Path("out")}), "is not a folder"),
        ("DATA is what OUT replaces", train(data="DIR/out/mdata.h5mu", files=RESULTS), "DATA is", "give another OUT"),
        ("OUT has a file of the user", train(files=mine), "mdata.h5mu", "not from an earlier run", "--overwrite"),
        ("OUT has a folder for a file", train(files={"out/report.html": None}), "report.html is a folder"),
        ("OUT has a file for a folder", train(files={"out/model": "my notes"}), "model is a file"),
        ("check of nothing", command("check", "DIR/none.h5mu"), "there is no file"),
        ("check of rubbish", command("check", "DIR/x.h5mu", files={"x.h5mu": RUBBISH}), "no HDF5 file"),
        ("import of nothing", importing("star", "DIR/none"), "There is no file"),
        ("import of an empty folder", importing("star", "DIR/x", files={"x": None}), "no file is called"),
        ("import of another format", importing("bam", "DIR/x.bam"), "'bam'", "starsolo, star"),
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
        ("table without header", importing("leafcutter", "DIR/x", files={"x": PERIND.split("\n", 1)[1]}), "line 1",
         "header"),
    ]
]  # fmt: skip
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
