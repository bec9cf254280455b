"""Events against a plain search through junctions, annotation, lengths, and PSI of cassette exons worked by hand."""

import sys
import time
import tracemalloc
import warnings
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData

from splicevi import io
from splicevi.data.checks import check_mudata
from splicevi.data.events import find_events, length_normalize, to_mudata
from splicevi.data.genes import annotate

junction = st.tuples(st.sampled_from(["1", "2"]), st.integers(1, 12), st.integers(1, 6), st.sampled_from("+-"))


def table(rows):
    return pd.DataFrame(
        [(c, s, s + n, strand) for c, s, n, strand in rows], columns=["chrom", "start", "end", "strand"]
    )


def plain_events(t, shared):
    "Groups of rows by a search from neighbour to neighbour."
    sites = defaultdict(set)
    for i, (c, s, e, strand) in enumerate(t.itertuples(index=False)):
        if shared in ("either", "start"):
            sites["start", c, strand, s].add(i)
        if shared in ("either", "end"):
            sites["end", c, strand, e].add(i)
    groups, left = [], set(range(len(t)))
    while left:
        group, todo = set(), [left.pop()]
        while todo:
            i = todo.pop()
            group.add(i)
            new = set().union(*(rows for rows in sites.values() if i in rows)) & left
            left -= new
            todo += new
        groups.append(frozenset(group))
    return {g for g in groups if len(g) > 1}


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(junction, min_size=1, max_size=25, unique=True),
    shared=st.sampled_from(["either", "start", "end"]),
    seed=st.integers(0, 9),
)
def test_events_are_connected_junctions(rows, shared, seed):
    "The groups of a plain search, under different names, whatever the order of rows."
    t = table(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got, again = find_events(t, shared), find_events(t.sample(frac=1, random_state=seed), shared)
    assert {frozenset(g) for g in got.groupby("event_id").groups.values()} == plain_events(t, shared)
    assert got["event_id"].to_dict() == again["event_id"].to_dict()
    assert got.index.is_monotonic_increasing


def test_filters_in_their_order():
    "Reads, cells and length go before events are formed; sizes after."
    t = table([("1", 10, 10, "+"), ("1", 10, 20, "+"), ("1", 15, 15, "+"), ("1", 15, 40, "+")]).assign(
        reads=[9, 1, 9, 9], cells=[3, 1, 1, 3]
    )
    assert find_events(t)["event_id"].tolist() == ["1:10-55:+"] * 4
    assert (
        find_events(t, min_reads=2)["event_id"].tolist() == ["1:15-55:+"] * 2
    )  # without the tie the first junction is alone
    with pytest.warns(UserWarning, match="No event is left"):
        assert find_events(t, min_cells=2).empty
    assert find_events(t, max_intron=21)["end"].tolist() == [20, 30, 30]
    assert find_events(t, min_intron=16)["end"].tolist() == [30, 30, 55]
    with pytest.warns(UserWarning, match="max_size"):
        assert find_events(t, max_size=3).empty
    with pytest.warns(UserWarning, match="1 junctions have no strand"):
        assert len(find_events(t.assign(strand=["?", "+", "+", "+"]))) == 3


def many_junctions(n):
    "Junctions of n / 8 genes, a few junctions each."
    rng = np.random.default_rng(0)
    gene = rng.integers(0, n // 8, n)
    chrom = pd.Categorical.from_codes(gene % 24, [f"chr{i}" for i in range(24)])
    start = gene * 20_000 + rng.integers(0, 12, n) * 500 + 1
    end = start + rng.integers(1, 12, n) * 500 - 100
    return pd.DataFrame({"chrom": chrom, "start": start, "end": end, "strand": np.where(gene % 2, "+", "-")})


def work(function, *args) -> tuple[int, int]:
    "Calls that a function makes, and the bytes that it needs at most."
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    function(*args)
    sys.setprofile(None)
    tracemalloc.start()
    function(*args)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return calls, peak


def test_work_is_linear_in_junctions():
    "Ten times as many junctions need ten times the memory, and hardly more calls: none is made for each junction."
    few, many = (work(find_events, many_junctions(n)) for n in (20_000, 200_000))
    assert find_events(many_junctions(20_000))["event_id"].nunique() > 2000
    assert many[0] < 3 * few[0] and many[1] < 15 * few[1], (few, many)


@pytest.mark.timed
def test_time_is_linear_in_junctions():
    "Ten times as many junctions, a million, take not much more than ten times as long."
    seconds = {}
    for n in (100_000, 1_000_000):
        t = many_junctions(n)
        began = time.perf_counter()
        find_events(t)
        seconds[n] = time.perf_counter() - began
    assert seconds[1_000_000] < 30 * seconds[100_000]


def gtf_file(path, genes):
    "A GTF of genes (name, type, strand, transcripts with exons), without lines for genes, as Ensembl names types."
    lines = []
    for name, kind, strand, transcripts in genes:
        for k, exons in enumerate(transcripts):
            lines += [
                f'chr1\tx\texon\t{a}\t{b}\t.\t{strand}\t.\tgene_id "ID{name}.3"; transcript_id "{name}{k}"; '
                f'gene_name "{name}"; gene_biotype "{kind}";'
                for a, b in exons
            ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def gtf(tmp_path):
    return gtf_file(
        tmp_path / "a.gtf",
        [
            ("SPL1", "protein_coding", "+", [[(101, 200), (401, 500), (801, 1000)], [(101, 200), (801, 1000)]]),
            ("MIR1", "miRNA", "+", [[(600, 680)]]),
            ("ANTI", "protein_coding", "-", [[(150, 200), (401, 990)]]),
            ("READ", "lncRNA", "+", [[(101, 200), (401, 450)]]),
        ],
    )


def test_annotate(gtf):
    "Gene by intron, by splice site, by place; known and new; kinds of events; ties."
    t = pd.DataFrame(
        [
            (201, 400, "+"),
            (501, 800, "+"),
            (201, 800, "+"),
            (201, 400, "-"),
            (501, 790, "+"),
            (610, 650, "+"),
            (2000, 2100, "+"),
        ],
        columns=["start", "end", "strand"],
    ).assign(chrom="chr1")
    got = annotate(find_events(t.drop(index=6)), gtf)
    assert (
        got.loc[[0, 1, 2, 4], "gene_name"].tolist() == ["SPL1"] * 4 and (got["gene_ties"] == "").all()
    )  # READ has the first intron too, but is not coding
    whole = annotate(t, gtf)
    assert whole["gene_name"].tolist()[:6] == ["SPL1", "SPL1", "SPL1", "ANTI", "SPL1", "SPL1"] and pd.isna(
        whole.loc[6, "gene_name"]
    )
    assert whole["annotation"].tolist() == ["annotated"] * 4 + ["novel acceptor"] + ["novel donor and acceptor"] * 2
    assert "event_type" not in whole and "gene_name" not in t
    assert annotate(find_events(t[:3]), gtf)["event_type"].unique().tolist() == ["cassette exon"]


def test_other_chromosome_names(gtf):
    "Junctions of Ensembl's names with GENCODE's annotation."
    t = pd.DataFrame({"chrom": ["1"], "start": [201], "end": [400], "strand": ["+"]})
    with pytest.warns(UserWarning, match="chr1 where the junctions write 1"):
        got = annotate(t, gtf)
    assert got["gene_name"].tolist() == ["SPL1"] and got["chrom"].tolist() == ["1"]
    with pytest.warns(UserWarning, match="no chromosome in common"):
        assert annotate(t.assign(chrom="scaffold_9"), gtf)["gene_name"].isna().all()


def test_lengths(gtf):
    "By id with and without version, and by name; library sizes are sums."
    x = np.array([[4, 8, 2, 0], [1, 0, 0, 6]], np.float32)
    rna = AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=["IDSPL1.3", "IDMIR1", "ANTI", "IDREAD.7"]))
    got = length_normalize(rna, gtf)
    length = np.array([400, 81, 641, 150])
    assert got.var["length"].tolist() == length.tolist()
    np.testing.assert_allclose(got.layers["length_norm"].toarray(), x / length * np.median(length), rtol=1e-5)
    np.testing.assert_allclose(got.obsm["X_library_size"][:, 0], (x / length * np.median(length)).sum(1), rtol=1e-5)
    assert "length_norm" not in rna.layers
    with pytest.warns(UserWarning, match="1 of 4 genes have no length"):
        length_normalize(rna, {"IDSPL1": 10, "IDMIR1": 20, "ANTI": 30})
    with pytest.raises(ValueError, match="length of 0"):
        length_normalize(rna, {"IDSPL1": 0, "IDMIR1": 20, "ANTI": 30, "IDREAD": 1})


def test_to_mudata(gtf):
    "A MuData goes in and out, with annotation and lengths; cells are those of both."
    t = (
        pd.DataFrame(
            [(201, 400, "+"), (501, 800, "+"), (201, 800, "+"), (2000, 2100, "+")], columns=["start", "end", "strand"]
        )
        .assign(chrom="chr1")
        .set_axis([f"j{i}" for i in range(4)])
    )
    junctions = AnnData(
        sp.csr_matrix(np.array([[4, 3, 1, 9], [2, 2, 0, 1], [0, 0, 5, 1]], np.float32)),
        obs=pd.DataFrame(index=["c1", "c2", "c3"]),
        var=t,
    )
    rna = AnnData(
        np.array([[5, 1], [3, 3]], np.float32),
        obs=pd.DataFrame({"batch": ["a", "b"]}, index=["c2", "c1"]),
        var=pd.DataFrame(index=["SPL1", "MIR1"]),
    )
    out = to_mudata(rna, junctions, gtf=gtf, lengths=gtf)
    assert out.obs_names.tolist() == ["c2", "c1"] and out["splicing"].var_names.tolist() == ["j0", "j1", "j2"]
    assert out["splicing"].layers["cell_by_cluster_matrix"].toarray().tolist() == [[4] * 3, [8] * 3]
    assert out["splicing"].var["event_type"].tolist() == ["cassette exon"] * 3 and out.obsm["X_library_size"].shape == (
        2,
        1,
    )
    assert check_mudata(out).empty
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = MuData({"rna": rna, "splicing": junctions[["c2", "c1"]].copy()})
        with pytest.raises(ValueError, match="No event|No junction"):
            to_mudata(both, min_reads=7, min_cells=2)  # j2 has one cell of the two
    assert to_mudata(both)["splicing"].n_vars == 3
    with pytest.raises(ValueError, match="keep_events"):
        to_mudata(rna, junctions, keep_events=True)


# ---- cassette exons of cells: excerpts that come with the tests, and the real ones

CASSETTES = {  # cell, gene, junctions into, out of and over the exon, their reads a, b, c, PSI of the exon by hand
    "excerpt": [
        ("EX_cell_1-", "Exa1", "chr7", (5201, 5700), (5791, 6100), (5201, 6100), (30, 40, 10), 70 / 90),
        ("EX_cell_2-", "Exb1", "chr9", (20401, 20900), (20961, 21500), (20401, 21500), (12, 9, 30), 21 / 81),
    ],
    "real": [
        (
            "CAV_LP_Ipsi_tdTpos_cell_8-",
            "Tufm",
            "chr7",
            (126487783, 126488259),
            (126488427, 126488649),
            (126487783, 126488649),
            (25, 46, 9),
            71 / 89,
        ),
        (
            "CAV_LP_Ipsi_tdTpos_cell_37-",
            "Srsf7",
            "chr17",
            (80201603, 80202168),
            (80202205, 80202690),
            (80201603, 80202690),
            (177, 210, 56),
            387 / 499,
        ),
        (
            "CAV_LP_Ipsi_tdTpos_cell_29-",
            "Tpm1",
            "chr9",
            (67032027, 67032465),
            (67032542, 67032793),
            (67032027, 67032793),
            (3, 2, 7),
            5 / 19,
        ),
    ],
}

KNOWN = {"excerpt": 6, "real": 40}  # junctions that the annotation knows, at least


@pytest.fixture(scope="module", params=["excerpt", "real"])
def tasic(request, root):
    "Splicing of single cells, the folder of their files, and where they are from."
    if request.param == "excerpt":
        folder = root / "tests" / "data" / "outrigger_tasic"
    else:
        folder = request.getfixturevalue("real_data") / "inputs" / "outrigger_tasic"
    if not folder.is_dir():
        pytest.skip(f"the cells are not here ({folder})")
    gtf = folder / "gencode.vM10.annotation.subset.gtf"
    with pytest.warns(UserWarning, match="strand is unknown"):
        junctions = io.read_star_junctions(folder / "sj_out_tab", gtf=gtf)
    return to_mudata(None, junctions, gtf=gtf)["splicing"], folder / "sj_out_tab", request.param


def test_psi_of_cassette_exons(tasic):
    "(a + b) / (a + b + 2 c) of the file's reads is the same of the data set's PSI."
    adata, folder, source = tasic
    for cell, gene, chrom, into, out_of, over, (a, b, c), by_hand in CASSETTES[source]:
        (file,) = folder.glob(cell + "*")
        lines = [line.split("\t") for line in file.read_text().splitlines()]
        reads = {(int(line[1]), int(line[2])): int(line[6]) for line in lines if line[0] == chrom}
        assert (reads[into], reads[out_of], reads[over]) == (a, b, c)
        assert (a + b) / (a + b + 2 * c) == by_hand
        var = adata.var[(adata.var["chrom"] == chrom) & (adata.var["gene_name"] == gene)]
        names = [var.index[(var["start"] == s) & (var["end"] == e)].item() for s, e in (into, out_of, over)]
        assert var.loc[names, "event_id"].nunique() == 1 and var.loc[names, "event_type"].eq("cassette exon").all()
        row = [i for i, name in enumerate(adata.obs_names) if name.startswith(cell)]
        pa, pb, pc = adata[row, names].layers["junc_ratio"].toarray()[0]
        assert (pa + pb) / (pa + pb + 2 * pc) == pytest.approx(by_hand, rel=1e-5)


def test_annotation_agrees_with_star(tasic):
    "STAR's own word for known junctions agrees with the annotation where this covers the gene."
    adata, _, source = tasic
    known = adata.var["annotation"] == "annotated"
    assert known.sum() >= KNOWN[source] and adata.var.loc[known, "gene_name"].notna().all()
    assert adata.var.loc[known, "annotated"].mean() > 0.9
