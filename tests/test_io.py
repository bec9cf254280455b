"""What aligners wrote, read back: the same introns in every convention, broken files, files counted by other means."""

import gzip
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splicevi import io
from splicevi.data.checks import check_mudata
from splicevi.data.events import to_mudata

CODE = {"+": 1, "-": 2, "?": 0}
CELLS = ["c1", "c2"]


def put(path: Path, lines: list[str], packed: bool = False, crlf: bool = False) -> Path:
    "Write lines, on request gzipped or with the other kind of line end."
    text = "".join(line + ("\r\n" if crlf else "\n") for line in lines).encode()
    path = path.with_name(path.name + ".gz") if packed else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if packed else text)
    return path


def mtx(m: np.ndarray) -> list[str]:
    "Lines of a MatrixMarket file."
    i, j = np.nonzero(m)
    return [
        "%%MatrixMarket matrix coordinate integer general",
        "%",
        f"{m.shape[0]} {m.shape[1]} {len(i)}",
        *(f"{a + 1} {b + 1} {m[a, b]}" for a, b in zip(i, j)),
    ]


def star_line(c, s, e, strand, reads=1, multi=0, motif=None):
    return f"{c}\t{s}\t{e}\t{CODE[strand]}\t{CODE[strand] if motif is None else motif}\t1\t{reads}\t{multi}\t20"


# the same introns in every convention: a writer takes (chrom, start, end, strand) and counts (cells, introns)
def as_star(d, js, y, **kw):
    files = {
        c: put(d / f"{c}.SJ.out.tab", [star_line(*j, reads=n) for j, n in zip(js, row) if n], **kw)
        for c, row in zip(CELLS, y)
    }
    return io.read_star_junctions(files)


def bed(j, n, left=7, right=9):
    chrom, start, end, strand = j
    blocks = f"{left},{right}\t0,{end - start + 1 + left}"
    return f"{chrom}\t{start - 1 - left}\t{end + right}\tJ\t{n}\t{strand}\t0\t0\t255,0,0\t2\t{blocks}"


def as_regtools(d, js, y, **kw):
    return io.read_regtools(
        [put(d / f"{c}.bed", [bed(j, n) for j, n in zip(js, row) if n], **kw) for c, row in zip(CELLS, y)]
    )


def barcodes(column):
    seen = [f"{c}:{n}" for c, n in zip(CELLS, column) if n]
    return f"{len(seen)}\t{','.join(seen)}"


def as_pasted(d, js, y, **kw):
    return io.read_regtools(put(d / "all.bed", [f"{bed(j, sum(n))}\t{barcodes(n)}" for j, n in zip(js, y.T)], **kw))


def as_aligned(d, js, y, **kw):
    return io.read_regtools(
        put(d / "all.bed", [bed(j, sum(n)) for j, n in zip(js, y.T)], **kw),
        put(d / "codes.txt", [barcodes(n) for n in y.T], **kw),
    )


def as_junc(d, js, y, behind=0, fields=6, **kw):
    line = lambda j, n: "\t".join(
        [j[0], str(j[1] - 1), str(j[2] + behind), *(["."] if fields == 6 else []), str(n), j[3]]
    )
    files = [put(d / f"{c}.junc", [line(j, n) for j, n in zip(js, row) if n], **kw) for c, row in zip(CELLS, y)]
    return io.read_leafcutter(files, ends="leafcutter" if behind else "bed")


def as_junc_behind(d, js, y, **kw):
    return as_junc(d, js, y, behind=1, fields=5, **kw)


def as_perind(d, js, y, **kw):
    "Totals are those of the junctions on the same chromosome and strand, which are a cluster here."
    clusters = [(c, strand) for c, _, _, strand in js]
    total = lambda i, k: sum(n for n, of in zip(y[i], clusters) if of == k)
    rows = [
        f"{c}:{s - 1}:{e + 1}:clu_1_{strand} " + " ".join(f"{n}/{total(i, (c, strand))}" for i, n in enumerate(col))
        for (c, s, e, strand), col in zip(js, y.T)
    ]
    return io.read_leafcutter(put(d / "x_perind.counts", ["chrom " + " ".join(CELLS), *rows], **kw))


def as_numers(d, js, y, **kw):
    rows = [f"{c}:{s - 1}:{e + 1}:clu_1_{strand} " + " ".join(map(str, col)) for (c, s, e, strand), col in zip(js, y.T)]
    return io.read_leafcutter(put(d / "x_perind_numers.counts", [" ".join(CELLS), *rows], **kw))


def solo(d, js, y, cells=CELLS, filtered=None, rna=None, lines=None, **kw):
    "A STARsolo run."
    rna = np.ones((2, len(cells)), int) if rna is None else rna
    filtered = cells if filtered is None else filtered
    put(d / "Solo.out/SJ/raw/matrix.mtx", mtx(y.T), **kw)
    put(d / "Solo.out/SJ/raw/features.tsv", [star_line(*j) for j in js] if lines is None else lines, **kw)
    put(d / "Solo.out/SJ/raw/barcodes.tsv", cells, **kw)
    for kind, names in (("raw", cells), ("filtered", filtered)):
        put(d / f"Solo.out/Gene/{kind}/matrix.mtx", mtx(rna[:, [cells.index(c) for c in names]]), **kw)
        put(d / f"Solo.out/Gene/{kind}/barcodes.tsv", names, **kw)
        put(
            d / f"Solo.out/Gene/{kind}/features.tsv", [f"g{i}\tname{i}\tGene Expression" for i in range(len(rna))], **kw
        )
    return d


def as_solo(d, js, y, **kw):
    return io.read_starsolo(solo(d, js, y, **kw))["splicing"]


WRITERS = [as_star, as_regtools, as_pasted, as_aligned, as_junc, as_junc_behind, as_perind, as_numers, as_solo]
place = st.tuples(
    st.sampled_from(["chr1", "chr10", "chrX", "scaffold_7"]),
    st.integers(50, 2**31 - 2**20),
    st.integers(1, 10**6),
    st.sampled_from("+-"),
)


@st.composite
def introns(draw):
    "Different introns and their reads in two cells, each read at least once."
    js = [(c, s, s + n - 1, strand) for c, s, n, strand in draw(st.lists(place, min_size=1, max_size=8, unique=True))]
    y = np.array(
        draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10**6)), min_size=len(js), max_size=len(js)))
    ).T
    return js, y


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=introns(), packed=st.booleans(), crlf=st.booleans(), seed=st.integers(0, 99))
def test_every_convention_reads_back(tmp_path_factory, data, packed, crlf, seed):
    "The same introns and reads, whatever the format, the packing, the line ends and the order of rows."
    js, y = data
    order = np.random.default_rng(seed).permutation(len(js))
    want = pd.DataFrame(y.astype(np.float32), CELLS, [":".join(map(str, j)) for j in js])
    for write in WRITERS:
        got = write(tmp_path_factory.mktemp("x"), [js[i] for i in order], y[:, order], packed=packed, crlf=crlf)
        assert got.var["junction_id"].tolist() == got.var_names.tolist()
        df = got.to_df().reindex(CELLS, fill_value=0)  # a barcode without reads is in no file
        assert sorted(df) == sorted(want), write.__name__
        pd.testing.assert_frame_equal(df[want.columns], want, check_dtype=False, obj=write.__name__)
        pd.testing.assert_series_equal(
            got.var["start"].sort_values(),
            pd.Series([j[1] for j in js], want.columns).sort_values(),
            check_names=False,
            check_index=False,
        )


@pytest.mark.parametrize("write", WRITERS[:-1])
def test_empty_files(write, tmp_path):
    "Files without a line are cells without a junction."
    got = write(tmp_path, [], np.zeros((2, 0), int))
    assert got.n_vars == 0 and got.n_obs == (2 if write not in (as_pasted, as_aligned) else got.n_obs)


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)])
def test_nothing_at_all(content, tmp_path):
    "Also files of no bytes."
    (tmp_path / "a.SJ.out.tab").write_bytes(content)
    (tmp_path / "b.bed").write_bytes(content)
    (tmp_path / "c.junc").write_bytes(content)
    assert (
        io.read_star_junctions(tmp_path).shape
        == io.read_regtools(tmp_path / "b.bed").shape
        == io.read_leafcutter(tmp_path / "c.junc").shape
        == (1, 0)
    )


def test_one_empty_cell(tmp_path):
    "A cell without junctions beside one with some, in either order."
    js, y = [("chr1", 10, 20, "+")], np.array([[0], [3]])
    assert as_star(tmp_path, js, y).X.toarray().tolist() == [[0], [3]]
    assert as_regtools(tmp_path, js, y[::-1]).X.toarray().tolist() == [[3], [0]]


def test_headers_are_skipped(tmp_path):
    "A header, a comment and a browser line in front of the table."
    line = star_line("chr1", 10, 20, "+", 4)
    for head in ("chromosome\tstart\tend\tstrand\tmotif\tannotated\tunique\tmulti\toverhang", "# made by hand"):
        assert io.read_star_junctions({"c": put(tmp_path / "a", [head, line])}).X.toarray() == [[4]]
    assert io.read_regtools(
        put(tmp_path / "a.bed", ["track name=junctions", "", bed(("chr1", 10, 20, "+"), 4)])
    ).X.toarray() == [[4]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "cut",
    [
        "chr1\t10\t20\t1\t1\t1\t5\t0",
        "chr1\t10\t20\t1",
        "chr1\t10\t20\t1\t1\t1\t5\t0\t",
        "chr1\t10\tx\t1\t1\t1\t5\t0\t20",
        "chr1\t10\t20\t1\t1\t1\t5.5\t0\t20",
        "chr1\t10\t20\t1\t1\t1\t-5\t0\t20",
        "chr1\t10\t20\t1\t1\t1\t5\t0\t20\t9",
        "chr1",
    ],
)
def test_bad_line_is_named(cut, packed, tmp_path):
    "A line that was cut off, or holds no number, is an error with the file and the line."
    path = put(tmp_path / "a.SJ.out.tab", [star_line("chr1", i + 1, i + 90, "+") for i in range(4)] + [cut], packed)
    with pytest.raises(ValueError, match=rf"{path}, line 5"):
        io.read_star_junctions(path)


def test_bad_lines_of_other_formats(tmp_path):
    "The same for BED12, .junc and count tables."
    js = [("chr1", 100, 200, "+"), ("chr1", 100, 300, "+")]
    with pytest.raises(ValueError, match="line 2: 5 columns"):
        io.read_regtools(put(tmp_path / "a.bed", [bed(js[0], 3), bed(js[1], 3)[:14]]))
    with pytest.raises(ValueError, match="line 2: 11 columns"):
        io.read_regtools(put(tmp_path / "a.bed", [bed(js[0], 3), "\t".join(bed(js[1], 3).split("\t")[:11])]))
    with pytest.raises(ValueError, match="row 2: the second block"):
        io.read_regtools(put(tmp_path / "a.bed", [bed(js[0], 3), bed(js[1], 3)[:-1]]))
    with pytest.raises(ValueError, match="row 2: a junction has two blocks"):
        io.read_regtools(put(tmp_path / "a.bed", [bed(js[0], 3), bed(js[1], 3).replace("7,9", "7")]))
    with pytest.raises(ValueError, match="line 2: 3 columns"):
        io.read_leafcutter(put(tmp_path / "a.junc", ["chr1\t1\t9\t.\t3\t+", "chr1\t1\t9"]))
    with pytest.raises(ValueError, match="line 3: 2 columns"):
        io.read_leafcutter(put(tmp_path / "a.counts", ["c1 c2", "chr1:9:21:clu_1_+ 1 2", "chr1:9:31:clu_1_+ 1"]))
    with pytest.raises(ValueError, match="line 3: column 3 is 'x/2'"):
        io.read_leafcutter(
            put(tmp_path / "a.counts", ["chrom c1 c2", "chr1:9:21:clu_1_+ 1/2 2/2", "chr1:9:31:clu_1_+ 1/2 x/2"])
        )


def test_cut_gzip(tmp_path):
    "A gzip stream that ends early."
    whole = gzip.compress("".join(star_line("chr1", i + 1, i + 90, "+") + "\n" for i in range(5000)).encode())
    (tmp_path / "a.SJ.out.tab.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="a.SJ.out.tab.gz.*cut off"):
        io.read_star_junctions(tmp_path)


def test_unknown_strands(tmp_path):
    "From the motif, from the annotation, or dropped with a count."
    lines = [
        star_line("1", 201, 400, "?", 3, motif=0),
        star_line("1", 300, 320, "?", 5, motif=4),
        star_line("1", 201, 400, "+", 1),
        star_line("1", 9000, 9100, "?", 1, motif=0),
    ]
    path = put(tmp_path / "a.SJ.out.tab", lines)
    with pytest.warns(UserWarning, match="2 of 4 junctions are dropped"):
        got = io.read_star_junctions(path)
    assert got.to_df().to_dict("list") == {"1:201:400:+": [1], "1:300:320:-": [5]}
    exon = lambda a, b, strand: f'chr1\tx\texon\t{a}\t{b}\t.\t{strand}\t.\tgene_id "G"; transcript_id "T";'
    gtf = put(tmp_path / "a.gtf", [exon(101, 200, "+"), exon(401, 500, "+")], packed=True)
    with pytest.warns(UserWarning) as said:
        got = io.read_star_junctions(path, gtf=gtf)
    assert got.to_df().to_dict("list") == {
        "1:201:400:+": [4],
        "1:300:320:-": [5],
    }  # joined with the row that had a strand
    assert ["chr1 where the junctions write 1" in str(w.message) for w in said].count(True) == 1
    assert any("1 of 4 junctions are dropped" in str(w.message) for w in said)
    with pytest.warns(UserWarning, match="4 of 4"):
        assert (
            as_regtools(
                tmp_path, [("1", 10 * i, 10 * i + 5, "?") for i in (10, 11, 12, 13)], np.ones((2, 4), int)
            ).n_vars
            == 0
        )


def test_multimapped_and_names(tmp_path):
    "Multi-mapped reads on request; names of files; two of one name."
    put(tmp_path / "A1.SJ.out.tab", [star_line("chr1", 10, 20, "+", 2, 5)])
    put(tmp_path / "B1_SJ.out.tab", [star_line("chr1", 10, 20, "+", 1, 1)], packed=True)
    put(tmp_path / "C1/SJ.out.tab", [star_line("chr1", 10, 20, "+", 0, 9)])
    got = io.read_star_junctions(tmp_path, multimapped=True)
    assert got.to_df().iloc[:, 0].to_dict() == {"A1": 7, "B1": 2, "C1": 9}
    assert io.read_star_junctions(tmp_path).to_df().iloc[:, 0].to_dict() == {"A1": 2, "B1": 1, "C1": 0}
    with pytest.raises(ValueError, match="called A1"):
        io.read_star_junctions([tmp_path / "A1.SJ.out.tab"] * 2)
    with pytest.raises(FileNotFoundError, match="no file"):
        io.read_star_junctions(tmp_path / "none.SJ.out.tab")
    with pytest.raises(FileNotFoundError, match="SJ.out.tab"):
        io.read_star_junctions(put(tmp_path / "empty/x", []).parent)


def test_progress_bar(tmp_path, capsys):
    "A bar on the error stream, if asked for."
    put(tmp_path / "A1.SJ.out.tab", [star_line("chr1", 10, 20, "+", 2, 5)])
    io.read_star_junctions(tmp_path)
    assert not capsys.readouterr().err
    io.read_star_junctions(tmp_path, progress=True)
    assert "1/1" in capsys.readouterr().err


def test_barcodes(tmp_path):
    "Reads without a barcode are no cell; rows that do not line up are an error with both numbers."
    b = put(tmp_path / "a.bed", [bed(("chr1", 10, 20, "+"), 9)])
    got = io.read_regtools(b, put(tmp_path / "b", ["3\tAA-1:2,?:6,CC-1:1"]))
    assert got.to_df().iloc[:, 0].to_dict() == {"AA-1": 2, "CC-1": 1}
    with pytest.raises(ValueError, match="has 3 rows, but .* lists 1 junctions"):
        io.read_regtools(b, put(tmp_path / "b", ["1\tA:2"] * 3))
    two = io.read_regtools(
        {"x": b, "y": b}, {"y": put(tmp_path / "y", ["1\tAA:2"]), "x": put(tmp_path / "x", ["1\tAA:7"])}
    )
    assert two.to_df().iloc[:, 0].to_dict() == {"AA-x": 7, "AA-y": 2} and two.obs["sample"].tolist() == ["x", "y"]


def test_solo_link_and_counts(tmp_path):
    "A list that is gone is found beside the folder, or the error says where it should be."
    js, y = [("chr1", 10, 20, "+"), ("chr1", 10, 30, "+")], np.array([[1, 2], [3, 0]])
    run = solo(tmp_path / "run", js, y, lines=[])
    link = run / "Solo.out/SJ/raw/features.tsv"
    with pytest.raises(FileNotFoundError, match="is empty"):
        io.read_starsolo(run)
    link.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        io.read_starsolo(run)
    link.symlink_to("../../../../elsewhere/SJ.out.tab")
    with pytest.raises(FileNotFoundError, match="link to .*elsewhere/SJ.out.tab, which is not there"):
        io.read_starsolo(run)
    put(run / "SJ.out.tab", [star_line(*j) for j in js], packed=True)
    assert io.read_starsolo(run)["splicing"].X.toarray().tolist() == y.tolist()
    put(run / "SJ.out.tab", [star_line(*j) for j in js * 3])
    with pytest.raises(ValueError, match="has 2 rows, but .* lists 6 junctions"):
        io.read_starsolo(run)
    run.joinpath("Solo.out").rename(run / "sampleA_Solo.out")
    run.joinpath("SJ.out.tab").rename(run / "sampleA_SJ.out.tab")
    put(run / "sampleA_SJ.out.tab", [star_line(*j) for j in js])
    assert io.read_starsolo(run)["splicing"].n_vars == 2


def test_solo_samples_and_cells(tmp_path):
    "Several runs with lists of their own; filtered, raw and chosen cells."
    a = solo(
        tmp_path / "a",
        [("chr1", 10, 20, "+"), ("chr1", 10, 30, "+")],
        np.array([[1, 2], [3, 0]]),
        filtered=["c2"],
        rna=np.array([[5, 6], [7, 8]]),
    )
    b = solo(
        tmp_path / "b",
        [("chr1", 10, 30, "+"), ("chr2", 1, 5, "-")],
        np.array([[4, 4], [0, 9]]),
        rna=np.array([[1, 1], [1, 1], [2, 2]]),
    )
    both = io.read_starsolo({"A": a, "B": b})
    assert both.obs_names.tolist() == ["c2-A", "c1-B", "c2-B"] and both.obs["sample"].tolist() == ["A", "B", "B"]
    assert both["splicing"].to_df().to_dict("list") == {
        "chr1:10:20:+": [3, 0, 0],
        "chr1:10:30:+": [0, 4, 0],
        "chr2:1:5:-": [0, 4, 9],
    }
    assert both["rna"].X.toarray().tolist() == [[6, 8, 0], [1, 1, 2], [1, 1, 2]]
    assert io.read_starsolo(a, cells="raw").n_obs == 2 and io.read_starsolo(a, cells=["c1"])[
        "rna"
    ].X.toarray().tolist() == [[5, 7]]
    with pytest.raises(ValueError, match="1 of 2 cells are not among"):
        io.read_starsolo(a, cells=["c1", "c9"])
    with pytest.raises(FileNotFoundError, match="no folder 'GeneFull'; there are Gene, SJ"):
        io.read_starsolo(a, gene="GeneFull")
    with pytest.raises(ValueError, match="several runs"):
        shutil.copytree(a / "Solo.out", a / "x_Solo.out"), io.read_starsolo(a)


def test_solo_damage(tmp_path):
    "A matrix that was cut off, and barcodes of another run."
    run = solo(tmp_path / "a", [("chr1", 10, 20, "+"), ("chr1", 10, 30, "+")], np.array([[1, 2], [3, 5]]))
    put(run / "Solo.out/SJ/raw/barcodes.tsv", ["c1", "c2", "c3"])
    with pytest.raises(ValueError, match="2 columns, but .* lists 3 barcodes"):
        io.read_starsolo(run)
    put(run / "Solo.out/SJ/raw/barcodes.tsv", ["c1", "c2"])
    matrix = run / "Solo.out/SJ/raw/matrix.mtx"
    matrix.write_text(matrix.read_text()[:-6])
    with pytest.raises(ValueError, match="matrix.mtx is damaged"):
        io.read_starsolo(run)


def test_leafcutter_strands(tmp_path):
    "Clusters of old versions, and NA."
    rows = ["c1", "chr1:9:21:clu_1_+ 1", "chr1:99:121:clu_2_NA 2", "chr1:199:221:clu_3 3"]
    with pytest.warns(UserWarning, match="2 of 3"):
        got = io.read_leafcutter(put(tmp_path / "x.counts", rows))
    assert got.var["event_id"].tolist() == ["chr1:clu_1_+"] and got.X.toarray() == [[1]]


# ---- files as aligners write them, counted by other means: excerpts that come with the tests, and the real ones


@pytest.fixture(params=["excerpt", "real"])
def inputs(request, root):
    "Folder with the files of every aligner."
    if request.param == "excerpt":
        return root / "tests" / "data"
    folder = request.getfixturevalue("real_data") / "inputs"
    if not folder.is_dir():
        pytest.skip(f"the aligners' files are not here ({folder})")
    return folder


def table(path: Path) -> list[list[str]]:
    "The fields of each line."
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [line.split("\t") for line in text.decode().splitlines()]


def recount(files: list[Path], ending: str, intron) -> Counter:
    "Reads of each (cell, junction) that has some; `intron` gives name and reads of the junction of a line."
    total = Counter()
    for path in files:
        cell = path.name.removesuffix(".gz").removesuffix(ending).rstrip("._")
        for line in table(path):
            name, n = intron(line)
            total[f"{cell} {name}"] += int(n)
    return Counter({k: n for k, n in total.items() if n})


def counts(adata: AnnData) -> dict:
    "Reads of each (cell, junction) that has some."
    m = adata.X.tocoo()
    return {f"{adata.obs_names[i]} {adata.var_names[j]}": int(v) for i, j, v in zip(m.row, m.col, m.data)}


@pytest.mark.parametrize("folder", ["star_sj_out_tab", "outrigger_tasic/sj_out_tab"])
def test_star_files(inputs, folder):
    "Every read of the STAR files; junctions without a strand are dropped."
    files = sorted((inputs / folder).glob("*SJ.out.tab*"))
    with pytest.warns(UserWarning, match="their strand is unknown"):
        got = io.read_star_junctions(inputs / folder)
    strand = {"0": "?", "1": "+", "2": "-"}
    place = lambda t: f"{t[0]}:{t[1]}:{t[2]}:{strand[t[3]]}"
    want = recount(files, "SJ.out.tab", lambda t: (place(t), t[6] if t[3] != "0" else 0))
    assert got.n_obs == len(files) and counts(got) == dict(want) and len(want) >= 10
    assert got.n_vars == len({place(t) for path in files for t in table(path) if t[3] != "0"})
    mdata = to_mudata(None, got)
    assert check_mudata(mdata, modalities={"junc_ratio_layer": "splicing"}).query("level == 'error'").empty


@pytest.mark.parametrize("mode", ["ss", "drop"])
def test_starsolo_files(inputs, mode):
    "Both modes, with strands from the annotation that came with the files: each junction's reads, by pandas."
    gtf, folder = inputs / "starsolo_sim/annotation.gtf", inputs / "starsolo_sim" / mode
    raw = folder / "Solo.out/SJ/raw"
    mdata = io.read_starsolo(folder, gtf=gtf)
    splicing = mdata["splicing"]
    reads = pd.read_csv(raw / "matrix.mtx", sep=" ", skiprows=3, names=["row", "cell", "n"])
    features = pd.read_csv(raw / "features.tsv", sep="\t", header=None).astype({0: str})
    name = lambda d, a, b, c: d[a].astype(str) + ":" + d[b].astype(str) + "-" + d[c].astype(str)
    column = pd.Series(range(splicing.n_vars), name(splicing.var, "chrom", "start", "end"))
    column = column.reindex(name(features, 0, 1, 2)).to_numpy()
    dropped = np.isnan(column)
    assert dropped.sum() < 3 and not (dropped & (features[3] > 0)).any()  # only rows without a strand
    row = splicing.obs_names.get_indexer(np.array((raw / "barcodes.tsv").read_text().split())[reads["cell"] - 1])
    at = ~dropped[reads["row"] - 1] & (row >= 0)  # a barcode that is no cell is not read
    want = np.zeros(splicing.shape)
    np.add.at(want, (row[at], column[reads["row"][at] - 1].astype(int)), reads["n"][at])
    assert (splicing.X.toarray() == want).all() and want.sum() > 40
    genes = raw.parents[1] / "Gene/filtered"
    assert mdata.obs_names.tolist() == (genes / "barcodes.tsv").read_text().split()
    n = pd.read_csv(genes / "matrix.mtx", sep=" ", skiprows=3, names=["row", "cell", "n"])["n"]
    assert mdata["rna"].X.sum() == n.sum() and mdata["rna"].n_vars == len(table(genes / "features.tsv"))
    out = to_mudata(mdata, gtf=gtf)
    assert out["splicing"].var["gene_name"].notna().all() and check_mudata(out).query("level == 'error'").empty
    with pytest.warns(UserWarning, match="dropped, because their strand"):
        assert io.read_starsolo(folder)["splicing"].n_vars == (features[3] > 0).sum()


def test_starsolo_samples_of_files(inputs):
    "Both runs at once."
    gtf, runs = inputs / "starsolo_sim/annotation.gtf", {m: inputs / "starsolo_sim" / m for m in ("ss", "drop")}
    both = io.read_starsolo(runs, gtf=gtf)
    each = {m: io.read_starsolo(run, gtf=gtf)["splicing"] for m, run in runs.items()}
    assert both.obs["sample"].value_counts().to_dict() == {m: e.n_obs for m, e in each.items()}
    assert both["splicing"].X.sum() == sum(e.X.sum() for e in each.values())
    assert set(both["splicing"].var_names) == set().union(*(e.var_names for e in each.values()))


def test_regtools_files(inputs):
    "Cells with pasted barcodes."
    files = sorted((inputs / "regtools_barcodes").iterdir())

    def line(t):
        (left, right), (cell, n) = t[10].split(","), t[13].split(":")
        return f"{cell} {t[0]}:{int(t[1]) + int(left) + 1}:{int(t[2]) - int(right)}:{t[5]}", n

    want = Counter()
    for path in files:
        want.update({name: int(n) for name, n in map(line, table(path))})
    got = io.read_regtools(files)
    assert got.n_obs == len(files) and counts(got) == dict(want)
    assert to_mudata(None, got)["splicing"].n_vars > 0


def test_leafcutter_files(inputs):
    "Cells in BED's positions; most of their introns are those of STAR's files of the same study."
    files = sorted((inputs / "leafcutter_junc").glob("*.junc"))
    got = io.read_leafcutter(files)
    want = recount(files, ".junc", lambda t: (f"{t[0]}:{int(t[1]) + 1}:{t[2]}:{t[5]}", t[4]))
    assert counts(got) == dict(want)
    with pytest.warns(UserWarning, match="their strand is unknown"):
        star = io.read_star_junctions(inputs / "star_sj_out_tab")
    assert np.isin(got.var_names, star.var_names).mean() > 0.3
    assert np.isin(io.read_leafcutter(files, ends="leafcutter").var_names, star.var_names).mean() < 0.01


def test_leafcutter_tables(root):
    "Fractions and numerators are the same reads; clusters are events, and one of unknown strand is dropped."
    files = [root / "tests/data/leafcutter_counts" / f"EX_{kind}.counts.gz" for kind in ("perind", "perind_numers")]
    with pytest.warns(UserWarning, match="1 of 5 junctions are dropped"):
        fractions, numerators = map(io.read_leafcutter, files)
    want = {}
    for line in table(files[1])[1:]:
        name, *reads = line[0].split()
        chrom, start, end, _cluster = name.split(":")
        if not name.endswith("NA"):
            want[f"{chrom}:{int(start) + 1}:{int(end) - 1}:{name[-1]}"] = [float(n) for n in reads]
    assert fractions.to_df().to_dict("list") == numerators.to_df().to_dict("list") == want
    assert fractions.obs_names.tolist() == numerators.obs_names.tolist() == ["EX11", "EX12", "EX13"]
    assert to_mudata(None, fractions, keep_events=True)["splicing"].var["event_id"].nunique() == 2


def test_regtools_with_barcodes(root):
    "The file that -b writes belongs to the junctions line by line; `?` is neither a cell nor a strand."
    folder = root / "tests/data/regtools_b"
    with pytest.warns(UserWarning, match="1 of 3 junctions are dropped"):
        got = io.read_regtools(folder / "EX.bed", folder / "EX.barcodes.txt")
    want = {"AACC-1 chr3:50001:50400:+": 3, "GGTT-1 chr3:50001:50400:+": 1, "GGTT-1 chr3:50001:50900:+": 3}
    assert counts(got) == want


@pytest.mark.timed
def test_many_cells(tmp_path):
    "A cell takes as long among 300 cells as among 50, each of 150,000 rows."
    rng, names = np.random.default_rng(0), [f"{i}.SJ.out.tab" for i in range(20)]
    for name in names:
        start = np.sort(rng.choice(2 * 10**8, 150_000, replace=False)) // 500 * 500 + 1
        end, n = start + 100 * rng.integers(1, 9, len(start)), rng.poisson(2, len(start))
        columns = {0: "chr1", 1: start, 2: end, 3: 1, 4: 1, 5: 1, 6: n, 7: 0, 8: 20}
        pd.DataFrame(columns).to_csv(tmp_path / name, sep="\t", header=False, index=False)
    seconds = {}
    for n in (50, 300):
        began = time.perf_counter()
        assert io.read_star_junctions({f"c{i}": tmp_path / names[i % 20] for i in range(n)}).n_obs == n
        seconds[n] = (time.perf_counter() - began) / n
    assert seconds[300] < 2 * seconds[50]
