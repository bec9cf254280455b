"""The coverage report against plain counting, metacells, and `splicevi import` from end to end."""

import gzip
import json
import re
import subprocess
import sys

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from splicevi import cli
from splicevi.data.build import make_mudata
from splicevi.data.checks import check_mudata
from splicevi.data.metacells import aggregate_cells
from splicevi.datasets import simulate
from splicevi.views.coverage import (
    VERDICTS,
    coverage_of,
    coverage_report,
    filter_table,
    group_coverage,
    share_all_or_none,
    verdict,
)

Y = np.array([[3, 1, 0, 0, 2], [0, 1, 0, 0, 0], [4, 0, 5, 1, 0], [0, 0, 0, 0, 0]], np.float32)  # events a a b b b


@pytest.fixture
def toy():
    "Four cells, two events."
    splicing = AnnData(
        sp.csr_matrix(Y),
        obs=pd.DataFrame({"cell_type": ["x", "x", "y", "y"]}, index=list("abcd")),
        var=pd.DataFrame({"event_id": list("aabbb")}, index=[f"j{i}" for i in range(5)]),
    )
    rna = AnnData(
        sp.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3)),
        obs=splicing.obs.copy(),
        var=pd.DataFrame(index=["g1", "g2", "g3"]),
    )
    return make_mudata(rna, splicing)


def test_numbers_by_hand(toy):
    "Every number of a data set that can be counted on fingers."
    d = coverage_of(toy)
    assert d.reads.tolist() == [6, 1, 10, 0] and d.observed.tolist() == [0.75, 0.5]
    share = share_all_or_none(d)
    assert share["observed"].tolist() == [1, 1, 2, 1, 0, 0, 0]  # totals 4, 2 | 1 | 4, 6
    assert share["share"].tolist()[:4] == [1, 1, 0.5, 0] and share["share"][4:].isna().all()
    groups = group_coverage(d, toy.obs["cell_type"], min_reads=4, min_cells=1)
    assert (
        groups["cells"].tolist() == [2, 2]
        and groups["junction reads"].tolist() == [7, 10]
        and groups["usable events"].tolist() == [1, 2]
    )
    table = filter_table(d, cells=(1, 3))
    assert (
        table["events"].tolist() == [2, 1]
        and table["junctions"].tolist() == [5, 2]
        and table["share of reads"].tolist() == [1, 9 / 17]
    )


def test_report(toy, tmp_path):
    "One file with all sections, drawn without a net."
    report = coverage_report(toy, tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert report.verdict in VERDICTS and VERDICTS[report.verdict][0] in page
    assert (
        report.table.loc["cells without any event", "value"] == "25.0%"
        and report.table.loc["PSI exactly 0 or 1", "value"] == "60.0%"
    )
    figures = [
        json.loads(t.replace("<\\/", "</"))
        for t in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    ]
    assert len(figures) == 4 and not re.search(r'(src|href)="?https?://', page)
    assert [p.name for p in tmp_path.iterdir()] == ["c.html"]
    assert len(coverage_report(toy, label_key="cell_type").groups) == 2


@pytest.mark.parametrize("observed,want", [(0.5, "deep"), (0.08, "sparse"), (0.01, "too sparse")])
def test_verdicts(observed, want):
    "Three depths of simulated cells."
    mdata = simulate(n_cells=80, n_genes=30, n_junctions=900, n_cell_types=2, observed=observed, seed=0)
    assert verdict(coverage_of(mdata)) == want


def test_no_cell_type_and_no_event(toy):
    "Without groups the report has none; without events it says what is missing."
    del toy.obs["cell_type"], toy["rna"].obs["cell_type"], toy["splicing"].obs["cell_type"]
    assert coverage_report(toy).groups is None
    del toy["splicing"].var["event_id"]
    with pytest.raises(KeyError, match="find events first"):
        coverage_report(toy)


def test_metacells_are_sums(toy):
    "Counts add up, totals are derived anew, columns that agree stay."
    got = aggregate_cells(toy, by="cell_type")
    assert (
        got.obs_names.tolist() == ["x", "y"]
        and got.obs["n_cells"].tolist() == [2, 2]
        and got.obs["cell_type"].tolist() == ["x", "y"]
    )
    assert (got["splicing"].layers["cell_by_junction_matrix"].toarray() == [Y[:2].sum(0), Y[2:].sum(0)]).all()
    assert got["splicing"].layers["cell_by_cluster_matrix"].toarray().tolist() == [[5, 5, 2, 2, 2], [4, 4, 6, 6, 6]]
    assert got["rna"].X.toarray().tolist() == [[3, 5, 7], [15, 17, 19]]
    assert check_mudata(got).query("level == 'error'").empty


def test_metacells_of_a_size():
    "Pieces of about the size, of one group each; near cells stay together; the seed decides."
    mdata = simulate(n_cells=200, n_genes=30, n_junctions=60, n_cell_types=2, seed=0)
    got = aggregate_cells(mdata, by="cell_type", size=10)
    assert (
        got.obs["n_cells"].between(7, 15).all()
        and got.obs["n_cells"].sum() == 200
        and got.obs.groupby("cell_type", observed=True)["n_cells"].sum().tolist()
        == mdata.obs["cell_type"].value_counts().sort_index().tolist()
    )
    same, other = (
        aggregate_cells(mdata, by="cell_type", size=10),
        aggregate_cells(mdata, by="cell_type", size=10, seed=1),
    )
    assert (same["rna"].X != got["rna"].X).nnz == 0 and (other["rna"].X != got["rna"].X).nnz > 0
    mdata.obsm["line"] = np.random.default_rng(0).permutation(200)[:, None].astype(float)
    groups = pd.Series("all", mdata.obs_names).where(mdata.obsm["line"][:, 0] < 100)
    mdata.obs["place"] = (mdata.obsm["line"][:, 0] // 25).astype(int).astype(str)
    near = aggregate_cells(mdata, by=groups, size=25, use_rep="line")
    assert near.n_obs == 4 and sorted(near.obs["place"]) == ["0", "1", "2", "3"]


# ---- splicevi import


def star(folder, packed=False):
    "Two cells with a skipped exon."
    for cell, reads in {"c1": (5, 4, 1), "c2": (2, 3, 8)}.items():
        text = "".join(
            f"1\t{s}\t{e}\t1\t1\t1\t{n}\t0\t20\n" for (s, e), n in zip([(201, 400), (501, 800), (201, 800)], reads)
        ).encode()
        (folder / f"{cell}.SJ.out.tab{'.gz' * packed}").write_bytes(gzip.compress(text) if packed else text)
    return folder


def test_import_star(tmp_path, capsys):
    "A folder of cells and an h5ad with genes become a file that passes the check, with a coverage page."
    folder = tmp_path / "cells"
    folder.mkdir()
    rna = AnnData(
        np.ones((2, 3), np.float32), obs=pd.DataFrame(index=["c1", "c2"]), var=pd.DataFrame(index=["g1", "g2", "g3"])
    )
    rna.write(tmp_path / "genes.h5ad")
    out = tmp_path / "out" / "data.h5mu"
    assert (
        cli.main(
            [
                "import",
                "star",
                str(star(folder)),
                str(out),
                "--rna",
                str(tmp_path / "genes.h5ad"),
                "--report",
                str(tmp_path / "c.html"),
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert "rna 2 cells × 3, splicing 2 cells × 3, 1 events" in said.out and "2/2" in said.err
    mdata = mudata.read_h5mu(out)
    assert mdata["splicing"].layers["cell_by_junction_matrix"].toarray().tolist() == [[5, 1, 4], [2, 8, 3]]
    assert check_mudata(mdata).query("level == 'error'").empty and (tmp_path / "c.html").stat().st_size > 10**5
    assert [p.name for p in out.parent.iterdir()] == ["data.h5mu"]
    assert cli.main(["check", str(out)]) == 0


def test_import_refuses_and_keeps(tmp_path, capsys):
    "Mistakes are one message and code 2; an older file stays as it was."
    out = tmp_path / "old.h5mu"
    out.write_text("old")
    bad = tmp_path / "c1.SJ.out.tab"
    bad.write_text("1\t201\t400\t1\t1\n")
    gtf = tmp_path / "none.gtf"
    for arguments, message in [
        (["star", str(bad), str(out)], "line 1: 5 columns"),
        (["star", str(tmp_path / "no"), str(out)], "There is no file"),
        (["starsolo", str(tmp_path), str(out)], "--soloFeatures Gene SJ"),
        (["kallisto", "x", str(out)], "FORMAT is 'kallisto'"),
        (["star", str(bad), str(tmp_path / "x.h5ad")], "end in .h5mu"),
        (["star", str(bad), str(out), "--lengths"], "give --gtf"),
        (["starsolo", str(tmp_path), str(out), "--cells", "best"], "filtered, raw, or a file"),
        (["star", str(bad), str(out), "--shared", "donor"], "--shared is"),
        (["star", str(star(tmp_path, packed=True) / "c2.SJ.out.tab.gz"), str(out), "--gtf", str(gtf)], "none.gtf"),
    ]:
        assert cli.main(["import", *arguments, "--quiet", "--overwrite"]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
    assert out.read_text() == "old" and not list(tmp_path.glob(".old*"))


def test_import_without_the_extra(tmp_path):
    "Without bioframe everything but the annotation works, and the message names the extra."
    star(tmp_path)
    code = "import sys; sys.modules['bioframe'] = None; from splicevi.cli import main; sys.exit(main(sys.argv[1:]))"
    run = lambda *more: subprocess.run(
        [sys.executable, "-c", code, "import", "star", str(tmp_path), str(tmp_path / "o.h5mu"), "--quiet", *more],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run().returncode == 0
    exon = '1\tx\texon\t{}\t{}\t.\t+\t.\tgene_id "G"; transcript_id "T";\n'
    (tmp_path / "a.gtf").write_text(exon.format(901, 1000) + exon.format(1101, 1200))
    done = run("--overwrite", "--gtf", str(tmp_path / "a.gtf"))
    assert done.returncode == 2 and "splicevi[io]" in done.stderr


def test_import_real(real_data, tmp_path, capsys):
    "The aligners' real files by the command line."
    inputs = real_data / "inputs"
    if not inputs.is_dir():
        pytest.skip(f"the aligners' files are not here ({inputs})")
    solo, tasic = inputs / "starsolo_sim", inputs / "outrigger_tasic"
    for arguments in (
        ["starsolo", f"ss={solo}/ss,drop={solo}/drop", "--gtf", f"{solo}/annotation.gtf", "--lengths"],
        ["star", f"{tasic}/sj_out_tab", "--gtf", f"{tasic}/gencode.vM10.annotation.subset.gtf"],
        ["regtools", f"{inputs}/regtools_barcodes"],
        ["leafcutter", f"{inputs}/leafcutter_junc"],
        ["star", f"{inputs}/star_sj_out_tab"],
        ["h5ad", str(real_data / "lung_spliz.h5ad")],
    ):
        assert (
            cli.main(["import", *arguments[:2], str(tmp_path / "o.h5mu"), *arguments[2:], "--quiet", "--overwrite"])
            == 0
        ), capsys.readouterr().err
        mdata = mudata.read_h5mu(tmp_path / "o.h5mu")
        keys = {k: m for k, m in {"rna_layer": "rna", "junc_ratio_layer": "splicing"}.items() if m in mdata.mod}
        assert check_mudata(mdata, modalities=keys).query("level == 'error'").empty
