"Published data sets: fetched from their authors (here: small files of the kind, on this machine), kept, and read."

import gzip
import os
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from splicevi import SPLICEVI, datasets
from splicevi.data import check_mudata, make_mudata
from splicevi.data.published import MARKERS, lines_of_cells, lung_from_spliz, read_sicilian

FILES = Path(__file__).parent / "data" / "published"
PARQUET = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs pyarrow, of splicevi[datasets]")
BOTH = [pytest.param("scmixology", id="scmixology"), pytest.param("lung", id="lung", marks=PARQUET)]


class Counted(SimpleHTTPRequestHandler):
    "A server of files that keeps a list of what it was asked for."

    asked: list[str] = []

    def log_message(self, *args):
        self.asked.append(self.path)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    "An empty cache of the user, and no folder with real data."
    pytest.importorskip("pooch", reason="needs pooch, of splicevi[datasets]")
    monkeypatch.delenv("SPLICEVI_REAL_DATA", raising=False)
    monkeypatch.setattr(datasets, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def moved_to(monkeypatch, address, names=lambda name: name):
    "The authors' files are at another address."
    for key, known in datasets.PUBLISHED.items():
        there = {k: f"{address}/{names(a.rsplit('/', 1)[1])}" for k, a in known.addresses.items()}
        monkeypatch.setitem(datasets.PUBLISHED, key, replace(known, addresses=there))


@pytest.fixture
def server(monkeypatch, cache):
    Counted.asked = []
    at = ThreadingHTTPServer(("127.0.0.1", 0), partial(Counted, directory=FILES))
    threading.Thread(target=at.serve_forever, daemon=True).start()
    moved_to(monkeypatch, f"http://127.0.0.1:{at.server_port}")
    yield at
    at.shutdown()
    at.server_close()


def test_addresses_are_of_one_version():
    "Nothing that may change tomorrow: a commit, and files of a GEO sample."
    for known in datasets.PUBLISHED.values():
        for address in known.addresses.values():
            assert address.startswith("https://") and (
                "e0334243e8ea19217f8ac1bcb739111ba7bf7f14" in address or "GSM4681740" in address
            )


def test_cell_lines_are_fetched_once(server, cache):
    mdata = datasets.scmixology(progress=False)
    assert sorted(os.listdir(cache)) == sorted([*(f.name for f in FILES.glob("GSM*")), "scmixology.h5mu"])
    assert not (check_mudata(mdata, raise_errors=False)["level"] == "error").any()
    assert mdata.obs["cell_type"].value_counts().to_dict() == dict.fromkeys(MARKERS, 6)
    splicing = mdata["splicing"]
    assert sorted(splicing.var_names) == sorted(
        [
            "chr10:201:400:+",
            "chr10:451:800:+",
            "chr10:201:800:+",
            "chr12:1201:1500:-",
            "chr12:1601:1800:-",
            "chr12:1201:1800:-",
        ]
    )
    assert list(splicing.var["gene_id"].unique()) == ["ENSG00000138326", "ENSG00000092841"]
    reads = splicing.to_df("cell_by_junction_matrix")
    assert (reads["chr10:201:400:+"] == reads["chr10:451:800:+"]).all()  # of the same molecules
    skipped = splicing.to_df("junc_ratio")["chr10:201:800:+"].groupby(mdata.obs["cell_type"], observed=True).mean()
    assert skipped.idxmax() == "A549"
    Counted.asked.clear()
    again = datasets.scmixology(progress=False)
    assert Counted.asked == [] and again.shape == mdata.shape
    (cache / "scmixology.h5mu").unlink()  # the authors' files are still there
    assert datasets.scmixology(progress=False).shape == mdata.shape and Counted.asked == []


@PARQUET
def test_lung_is_fetched_into_a_folder_of_yours(server, cache, tmp_path):
    (tmp_path / "mine").mkdir()
    cells = datasets.lung(tmp_path / "mine", progress=False)
    assert sorted(os.listdir(tmp_path / "mine")) == ["lung_spliz.h5ad", "test.pq"] and not cache.exists()
    assert set(cells.obs["compartment"]) == {"epithelial", "immune", "stromal"}
    assert list(cells.obs["cell_type"][:2]) == ["Club", "B"]
    assert set(cells.var["gene_name"][cells.var["is_known"]]) == {"RPS24", "CD47"}
    assert "chr3:108047293:108049618:-" in cells.var_names  # the circle of the same ends is not counted with it
    psi = cells.to_df("junc_ratio")["chr10:78037305:78037438:+"].groupby(cells.obs["compartment"], observed=True).mean()
    assert psi["epithelial"] > 0.7 and psi["immune"] < 0.3


@PARQUET
@pytest.mark.parametrize("category", [False, True], ids=["text", "categories"])
def test_rows_that_say_less(server, tmp_path, category):
    "Rows without a name, a cell or reads are left out with a warning, genes that are unknown are looked for."
    table = pd.read_parquet(FILES / "test.pq")
    plain = read_sicilian(FILES / "test.pq")
    table["geneR1A_uniq"] = np.where(table.index % 3 == 0, "unknown", table["geneR1A_uniq"])
    table.loc[table.index % 5 == 0, "geneR1A_uniq"] = None
    more = table.iloc[:3].assign(
        numReads=[100.0, 100.0, np.nan], cell=[None, "new", "new"], refName_newR1=["a", None, "b"]
    )
    table = pd.concat([table, more], ignore_index=True)
    if category:
        table = table.astype(dict.fromkeys(["refName_newR1", "geneR1A_uniq", "cell", "compartment"], "category"))
    table.to_parquet(tmp_path / "more.pq")
    with pytest.warns(UserWarning, match="3 of .* rows have no refName_newR1, numReads or cell, and are left out"):
        found = read_sicilian(tmp_path / "more.pq")
    pd.testing.assert_frame_equal(found.to_df(), plain.to_df())
    assert list(found.var["gene_name"]) == list(plain.var["gene_name"]) and set(found.var["gene_name"]) == {
        "RPS24",
        "LMO7",
        "CD47",
    }


def test_molecules_without_their_exons(server, cache):
    "Counts and exons of two samples have no transcript in common."
    datasets.scmixology(progress=False)
    (cache / "scmixology.h5mu").unlink()
    file = cache / "GSM4681740_transcript_count.csv.gz"
    table = pd.read_csv(file).assign(transcript_id=lambda t: t["transcript_id"] + ".7")
    table.to_csv(file, index=False)
    with pytest.raises(ValueError, match="No transcript that was counted has an intron"):
        datasets.scmixology(progress=False)
    table.assign(transcript_id=lambda t: t["transcript_id"].str[:2]).drop(columns=table.columns[-1]).to_csv(
        file, index=False
    )
    assert datasets.scmixology(progress=False).n_obs == 29  # cells of both tables


def test_a_part_of_the_exons_is_told(server, cache):
    "A GFF3 file that ends too early has no exons for some molecules."
    datasets.scmixology(progress=False)
    (cache / "scmixology.h5mu").unlink()
    (file,) = cache.glob("*.gff3*")
    with gzip.open(file, "rt") as handle:
        lines = [k for k in handle if "\texon\t" in k]
    parents = {k.split("Parent=")[1].split(";")[0].strip() for k in lines}
    last = max(parents)
    with gzip.open(file, "wt") as handle:
        handle.writelines(k for k in lines if last not in k)
    name = last.removeprefix("transcript:")
    with pytest.warns(UserWarning, match=rf"1 of .* transcripts \({name}\), .* of the molecules, have no exons"):
        datasets.scmixology(progress=False)


@PARQUET
def test_a_model_trains_on_what_was_fetched(server):
    cells = datasets.lung(progress=False)
    mdata = make_mudata(None, cells)
    SPLICEVI.setup_mudata(mdata, modalities={"junc_ratio_layer": "splicing"})
    model = SPLICEVI(mdata, n_latent=2)
    model.train(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
    found = model.differential_splicing(groupby="compartment", group1="epithelial", group2="immune", silent=True)
    assert (
        found.loc["chr10:78037305:78037438:+", "is_ds_fdr"] and not found.loc["chr13:75804542:75809153:+", "is_ds_fdr"]
    )


@pytest.mark.parametrize("name", BOTH)
def test_without_a_network(name, monkeypatch, cache):
    "The error has the address, the name and the folder, and nothing is left that looks like data."
    moved_to(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        OSError, match=r"http://127.0.0.1:9/.* could not be fetched.*Without a network.*put it, as .*cache"
    ):
        getattr(datasets, name)(progress=False)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", BOTH)
def test_a_file_that_is_gone(name, server, monkeypatch, cache):
    moved_to(monkeypatch, f"http://127.0.0.1:{server.server_port}", lambda name: f"old-{name}")
    with pytest.raises(OSError, match="could not be fetched: 404"):
        getattr(datasets, name)(progress=False)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "name,file",
    [
        ("scmixology", "GSM4681740_transcript_count.csv.gz"),
        ("scmixology", "GSM4681740_isoform_annotated.filtered.gff3.gz"),
        pytest.param("lung", "test.pq", marks=PARQUET),
    ],
)
@pytest.mark.parametrize("content", ["half", "none", "text"])
def test_a_file_that_is_no_such_file(name, file, content, server, cache):
    "What lies there is taken as it is; if it cannot be read, the error says which to delete, and no table is made."
    cache.mkdir()
    whole = (FILES / file).read_bytes()
    (cache / file).write_bytes({"half": whole[: len(whole) // 2], "none": b"", "text": b"<html>log in</html>"}[content])
    with pytest.raises(ValueError, match=f"datasets.{name}: .* not as expected.*Delete .*{file}.* fetched again"):
        getattr(datasets, name)(progress=False)
    assert not any(f.suffix in (".h5ad", ".h5mu") for f in cache.iterdir())
    (cache / file).unlink()
    assert getattr(datasets, name)(progress=False).n_obs > 0


@pytest.mark.parametrize("name", BOTH)
def test_a_page_in_place_of_a_file(name, server, monkeypatch, cache, tmp_path):
    "A network that wants a login answers everything with a page."
    (tmp_path / "portal").mkdir()
    for file in FILES.iterdir():
        (tmp_path / "portal" / file.name).write_text("<!DOCTYPE html><html>Please log in</html>")
    server.RequestHandlerClass.keywords["directory"] = tmp_path / "portal"
    with pytest.raises(OSError, match="a web page came in its place"):
        getattr(datasets, name)(progress=False)
    assert list(cache.iterdir()) == []


def test_places(server, cache, tmp_path, monkeypatch):
    "A new folder is made, ~ is home, a folder of SPLICEVI_REAL_DATA without the table is passed over."
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.scmixology("~/new/folder", progress=False).n_obs == 30
    assert (tmp_path / "new" / "folder" / "scmixology.h5mu").is_file()
    monkeypatch.setenv("SPLICEVI_REAL_DATA", str(tmp_path / "nothing here"))
    assert datasets.scmixology(progress=False).n_obs == 30 and (cache / "scmixology.h5mu").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/new cannot be made.*Give another path"):
        datasets.scmixology(tmp_path / "file" / "new", progress=False)


@pytest.mark.parametrize("load,source", [(datasets.scmixology, "GEO GSE154869"), (datasets.lung, "SpliZ_pipeline")])
def test_no_download_is_no_download(load, source, server, tmp_path):
    with pytest.raises(FileNotFoundError, match="download=False.*" + source):
        load(download=False)
    with pytest.raises(FileNotFoundError, match="download=False.*" + source):
        load(tmp_path, download=False)
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere.h5.*Give a folder"):
        load(tmp_path / f"nowhere{'.h5mu' if load is datasets.scmixology else '.h5ad'}")
    with pytest.raises(TypeError, match="path=3"):
        load(3)
    assert Counted.asked == []


def test_without_pooch(cache, monkeypatch, tmp_path):
    "It is asked for where something has to be fetched, or where the cache is not known; not for files that are there."
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pip install "splicevi\[datasets\]"'):
        datasets.scmixology()
    for file in FILES.glob("GSM*"):
        (cache / file.name).write_bytes(file.read_bytes())
    assert datasets.scmixology().n_obs == 30
    monkeypatch.setattr(datasets, "user_cache", lambda: None)
    with pytest.raises(ImportError, match=r'pip install "splicevi\[datasets\]"'):
        datasets.scmixology()
    with pytest.raises(FileNotFoundError, match="there is no cache without pooch, and download=False"):
        datasets.scmixology(download=False)


def test_without_pyarrow(server, monkeypatch):
    "It is asked for before anything is fetched."
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'package pyarrow: pip install "splicevi\[datasets\]"'):
        datasets.lung(progress=False)
    assert Counted.asked == []


def test_another_file_is_told(cache, tmp_path):
    (tmp_path / "lung_spliz.h5ad").write_text("no table")
    with pytest.raises((ValueError, OSError), match="lung_spliz.h5ad"):
        datasets.lung(tmp_path)


def test_cell_lines(real_data, cache, monkeypatch, tmp_path):
    mdata = datasets.scmixology(real_data)
    assert mdata.shape == (470, 2514) and set(mdata.obs["cell_type"]) == set(MARKERS)
    assert not (check_mudata(mdata, raise_errors=False)["level"] == "error").any()
    (tmp_path / "mine.h5mu").write_bytes((real_data / "scmixology.h5mu").read_bytes())
    assert datasets.scmixology(str(tmp_path / "mine.h5mu")).shape == mdata.shape
    monkeypatch.setenv("SPLICEVI_REAL_DATA", str(real_data))
    assert datasets.scmixology().shape == mdata.shape


def test_few_genes_tell_the_lines(real_data):
    "Of 470 cells whose lines were found by clusters of all genes, 99 % are of the same line by four genes each."
    rna = datasets.scmixology(real_data)["rna"]
    rna.X = rna.layers["counts"] if "counts" in rna.layers else rna.X
    assert np.mean(lines_of_cells(rna) == rna.obs["cell_type"].astype(str)) > 0.98


def test_lung(real_data, cache):
    cells = datasets.lung(real_data)
    assert cells.shape == (28539, 53)
    assert set(cells.var["gene_name"][cells.var["is_known"]]) == set(datasets.KNOWN_IN_LUNG)


def test_a_table_of_the_lungs_reads_gives_the_lung(real_data, tmp_path):
    "The reads of the real lung written as SICILIAN writes them, and read back: the same junctions, events and reads."
    cells = datasets.lung(real_data)
    x = cells.layers["cell_by_junction_matrix"].tocoo()
    v = cells.var
    minus = (v["strand"] == "-").to_numpy()
    low, high = v["start"].to_numpy() - 1, v["end"].to_numpy() + 1
    exon = lambda at: (
        v["chrom"].astype(str) + ":" + v["gene_name"].astype(str) + ":" + at.astype(str) + ":" + v["strand"].astype(str)
    )
    names = (exon(np.where(minus, high, low)) + "|" + exon(np.where(minus, low, high)) + "|lin").to_numpy()
    table = {"refName_newR1": names[x.col], "numReads": x.data.astype(int), "cell": cells.obs_names.to_numpy()[x.row]}
    table |= {"geneR1A_uniq": v["gene_name"].astype(str).to_numpy()[x.col]}
    table |= {k: cells.obs[k].astype(str).to_numpy()[x.row] for k in ("compartment", "free_annotation")}
    pd.DataFrame(table).to_csv(tmp_path / "lung.tsv", sep="\t", index=False)
    found = lung_from_spliz({"reads": tmp_path / "lung.tsv"})
    assert set(found.var_names) == set(cells.var_names)
    same = found[:, cells.var_names].to_memory()
    theirs = cells[same.obs_names]
    assert (same.layers["cell_by_junction_matrix"] != theirs.layers["cell_by_junction_matrix"]).nnz == 0
    pairs = lambda e: {frozenset(g) for g in e.groupby(e, observed=True).groups.values()}
    assert pairs(same.var["event_id"]) == pairs(cells.var["event_id"])
    assert (same.var["gene_name"].astype(str) == cells.var["gene_name"].astype(str)).all()
    read = np.asarray(cells.layers["cell_by_junction_matrix"].sum(1)).ravel() > 0
    assert set(same.obs_names) == set(cells.obs_names[read])
