"""BAM files against a recount that reads SAM text with a regular expression and keeps every molecule in a set."""

import gzip
import re
import tracemalloc
import warnings
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pysam = pytest.importorskip("pysam", reason='BAM files are read by pysam: pip install "splicevi[bam]"')

from splicevi import io  # noqa: E402
from splicevi.data.checks import check_mudata  # noqa: E402
from splicevi.data.events import to_mudata  # noqa: E402
from splicevi.data.gtf import Annotation  # noqa: E402
from splicevi.io import alignments, molecules  # noqa: E402
from splicevi.io.landmarks import Landmarks  # noqa: E402

CHROMS = {"chr1": 200_000, "chr2": 50_000}


# --- small files


def header(sort="coordinate", program="STAR", chroms=CHROMS):
    head = [f"@HD\tVN:1.6\tSO:{sort}", *(f"@SQ\tSN:{c}\tLN:{n}" for c, n in chroms.items())]
    return "\n".join([*head, f"@PG\tID:{program}\tPN:{program}"]) + "\n"


def sam(pos, cigar, *tags, cell="AA-1", umi="ACGTACGT", flag=0, chrom="chr1", mapq=60, name=None):
    "A line of SAM text."
    tags = [f"CB:Z:{cell}"] * bool(cell) + [f"UB:Z:{umi}"] * bool(umi) + list(tags)
    return "\t".join(
        [name or f"{cell}{umi}{pos}", f"{flag}", chrom, f"{pos}", f"{mapq}", cigar, "*\t0\t0\t*\t*", *tags]
    )


def by_place(lines):
    order = {c: i for i, c in enumerate(CHROMS)}
    return sorted(lines, key=lambda line: (order[line.split("\t")[2]], int(line.split("\t")[3])))


def write(path, lines, head=None, index=False, mode="wb", **kwargs):
    "A BAM file from SAM text."
    path.parent.mkdir(parents=True, exist_ok=True)
    text = pysam.AlignmentHeader.from_text(head or header())
    with pysam.AlignmentFile(str(path), mode, header=text, **kwargs) as out:
        for line in by_place(lines) if head is None else lines:
            out.write(pysam.AlignedSegment.fromstring(line, text))
    if index:
        pysam.index(str(path))
    return path


def annotation(*transcripts, gene="G1", strand="+", chrom="chr1"):
    "An annotation of one gene, each transcript a list of exons."
    place = lambda a, b: {"chrom": chrom, "start": a, "end": b, "strand": strand, "gene_id": gene}
    exons = [place(a, b) | {"transcript_id": f"{gene}.{i}"} for i, t in enumerate(transcripts) for a, b in t]
    introns = [place(x[1] + 1, y[0] - 1) for t in transcripts for x, y in pairwise(t)]
    ends = [p for t in transcripts for e in t for p in e]
    genes = [place(min(ends), max(ends)) | {"gene_name": gene.lower(), "gene_type": "protein_coding"}]
    return Annotation(*(pd.DataFrame(t).drop_duplicates(ignore_index=True) for t in (genes, exons, introns)))


def joined(*parts):
    return Annotation(*(pd.concat([getattr(p, k) for p in parts]) for k in ("genes", "exons", "introns")))


def counts(adata):
    "Reads by cell and junction name, without zeros."
    m = adata.X.tocoo()
    return {(adata.obs_names[i], adata.var_names[j]): int(n) for i, j, n in zip(m.row, m.col, m.data)}


# --- the recount: text in, sets of molecules


def parsed(path):
    "Fields and tags of every line of a file, as samtools writes it."
    for line in pysam.view(str(path)).splitlines():
        f = line.split("\t")
        yield f, {t[:2]: t[5:] for t in f[11:]}


def jumps(pos, cigar, anchor):
    "Introns of a CIGAR: the text is cut at each N, and the pieces on both sides are looked at."
    out, at = [], pos
    pieces = cigar.split("N")
    lengths = [int(re.search(r"\d+$", p)[0]) for p in pieces[:-1]]
    pieces = [re.sub(r"\d+$", "", p) for p in pieces[:-1]] + [pieces[-1]]
    size = lambda piece, ops: sum(int(n) for n, op in re.findall(r"(\d+)([A-Z=])", piece) if op in ops)
    for left, n, right in zip(pieces, lengths, pieces[1:]):
        at += size(left, "M=XD")
        if min(size(left, "M=X"), size(right, "M=X")) >= anchor and n:
            out.append((at, at + n - 1))
        at += n
    return out


def is_plain(f, tags, skip):
    "A mapped read of one place, by the text."
    several = int(tags["NH"]) > 1 and tags.get("MM") != "1" if "NH" in tags else f[4] == "0"
    return not int(f[1]) & skip and not several


def recount(path, anchor=8, barcodes=None, umis=True, cell=None):
    "(cell, chrom, start, end) to the molecules, or to the lines of the file."
    found = defaultdict(set)
    for i, (f, tags) in enumerate(parsed(path)):
        name = tags.get("CB", "-") if cell is None else cell
        if not is_plain(f, tags, 4 + 256 + 512 + 2048 + (0 if umis else 1024)) or name == "-":
            continue
        if (barcodes is not None and name not in barcodes) or (umis and tags.get("UB", "-") == "-"):
            continue
        for intron in jumps(int(f[3]), f[5], anchor):
            found[name, f[2], *intron].add(tags["UB"] if umis else i)
    return found


def same(adata, found):
    "Compare with a recount by place, in the places that kept a strand."
    v = adata.var
    places = list(zip(v["chrom"].astype(str), v["start"], v["end"]))
    assert len(set(places)) == len(places)
    want = {k: len(m) for k, m in found.items() if k[1:] in set(places)}
    m = adata.X.tocoo()
    got = {(adata.obs_names[i], *places[j]): int(n) for i, j, n in zip(m.row, m.col, m.data)}
    assert got == want
    return len(want), len({k[1:] for k in found} - set(places))


# --- CIGARs

operations = st.sampled_from("MIDNSHP=X")
cigars = st.lists(st.tuples(operations, st.integers(1, 40)), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(cigars, st.integers(1, 20), st.integers(1, 1000))
def test_introns_of_any_cigar(cigar, anchor, pos):
    "Blocks, anchors and introns are those that a walk over the single bases finds."
    codes = [("MIDNSHP=X".index(op), n) for op, n in cigar]
    blocks = alignments.exon_blocks(codes, pos - 1)
    bases = []  # of each base of the genome: what the read says of it
    for op, n in cigar:
        bases += [op] * (n if op in "MDN=X" else 0)
        bases += ["|"] if op == "N" else []
    runs, at = [], pos
    for piece in "".join(bases).split("|"):
        block = piece.rstrip("N")
        runs.append((at, at + len(block), sum(b in "M=X" for b in block), len(piece) - len(block)))
        at += len(piece)
    want = [(a[1], a[1] + a[3] - 1) for a, b in pairwise(runs) if a[2] >= anchor and b[2] >= anchor]
    assert alignments.introns_between(blocks, anchor) == want
    text = "".join(f"{n}{op}" for op, n in cigar)
    assert want == jumps(pos, text, anchor)


alignment = st.tuples(
    st.sampled_from(["AA-1", "CC-1", "-", ""]),
    st.sampled_from(["ACGT", "TTTT", "ACGN", "-", ""]),
    st.sampled_from([1001, 1011, 1101, 3001]),
    st.lists(
        st.sampled_from(["20M100N20M", "10M2D90N30M", "5M100N40M", "50M", "20M100N20M200N9M", "4I16M100N3S"]),
        min_size=1,
        max_size=1,
    ),
    st.sampled_from([0, 16, 256, 1024, 2048, 512]),
    st.sampled_from(["NH:i:1", "NH:i:2", "NH:i:3\tMM:i:1"]),
    st.sampled_from(["chr1", "chr2"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(alignment, min_size=1, max_size=40))
def test_any_file_is_counted_like_a_recount(tmp_path, reads):
    "Random reads of two chromosomes: whole, by chromosome, and unsorted give the same molecules as sets of text."
    lines = [
        sam(pos, cigar[0], "XS:A:+", *nh.split("\t"), cell=cell, umi=umi, flag=flag, chrom=chrom, name=f"r{i}")
        for i, (cell, umi, pos, cigar, flag, nh, chrom) in enumerate(reads)
    ]
    path = write(tmp_path / "any.bam", lines, index=True)
    want = {k: len(v) for k, v in recount(path).items()}
    jobs = [dict(chrom=None), dict(chrom="chr1"), dict(chrom="chr2")]
    found = [
        molecules.count_junctions(molecules.Job(str(path), alignments.ReadRules(), Landmarks(), True, **j))
        for j in jobs
    ]
    shuffled = write(tmp_path / "shuffled.bam", lines[::-1], header(sort="unsorted"))
    found.append(molecules.count_junctions(molecules.Job(str(shuffled), alignments.ReadRules(), Landmarks(), False)))

    def table(*parts):
        t = [
            p.reads.merge(p.junctions, left_on="row", right_index=True).assign(
                cell=[p.cells[c] for c in p.reads["cell"]]
            )
            for p in parts
        ]
        return {(r.cell, r.chrom, r.start, r.end): r.n for p in t for r in p.itertuples()}

    assert table(found[0]) == table(*found[1:3]) == table(found[3]) == want


# --- strands

STRANDED = [("XS:A:-", 0, "-"), ("TS:A:+", 16, "+"), ("ts:A:+", 0, "+"), ("ts:A:+", 16, "-"), ("ts:A:-", 16, "+")]


@pytest.mark.parametrize("tag, flag, strand", STRANDED)
def test_strand_tags(tmp_path, tag, flag, strand):
    "XS and TS name the strand of the chromosome, ts is relative to the read."
    path = write(tmp_path / "a.bam", [sam(101, "50M100N50M", tag, flag=flag)])
    assert io.read_bam(path, "all", genes=None)["splicing"].var_names.tolist() == [f"chr1:151:250:{strand}"]


def test_strand_from_library_motif_and_annotation(tmp_path):
    "Without a tag: the motif, then the library, then the annotation; what no one knows is dropped with a warning."
    bases = np.full(CHROMS["chr1"], "A")
    bases[[150, 151, 248, 249]] = list("CTAC")  # the intron 151-250 is on the minus strand
    fasta = tmp_path / "genome.fa"
    fasta.write_text(f">1\n{''.join(bases)}\n")  # the genome has other names, too
    pysam.faidx(str(fasta))
    path = write(tmp_path / "a.bam", [sam(101, "50M100N50M"), sam(1101, "50M100N50M", flag=16, umi="CC")])
    names = lambda **how: io.read_bam(path, "all", genes=None, **how)["splicing"].var_names.tolist()
    assert names(library="forward") == ["chr1:151:250:+", "chr1:1151:1250:-"]
    assert names(library="reverse") == ["chr1:151:250:-", "chr1:1151:1250:+"]
    assert names(library="forward", fasta=fasta) == ["chr1:151:250:-", "chr1:1151:1250:-"]
    gtf = annotation([(101, 150), (251, 300)], strand="-")
    with pytest.warns(UserWarning, match="1 of 2 junctions are dropped, because their strand is unknown"):
        assert names(gtf=gtf) == ["chr1:151:250:-"]


def test_the_genome_is_opened_once_for_all_chromosomes(tmp_path, monkeypatch):
    "A draft assembly has thousands of scaffolds, and a process may have a thousand open files."
    chroms, fasta = {f"s{i}": 400 for i in range(40)}, tmp_path / "genome.fa"
    fasta.write_text("".join(f">{c}\n{'A' * 150}GT{'A' * 96}AG{'A' * 150}\n" for c in chroms))
    pysam.faidx(str(fasta))
    lines, opened = [sam(101, "50M100N50M", chrom=c) for c in chroms], []
    path = write(tmp_path / "a.bam", lines, header(chroms=chroms))

    class Counted(pysam.FastaFile):
        def __init__(self, *args, **kwargs):
            opened.append(self)

    monkeypatch.setattr(pysam, "FastaFile", Counted)
    splicing = io.read_bam(path, "all", genes=None, fasta=fasta)["splicing"]
    assert sorted(splicing.var_names) == sorted(f"{c}:151:250:+" for c in chroms)
    assert len(opened) == 1 and opened[0].closed


def test_reads_that_do_not_know_their_strand_follow_the_others(tmp_path):
    "A molecule with one read of known and one of unknown strand is one molecule; a pair is one fragment."
    lines = [
        sam(101, "50M100N50M", "XS:A:-"),
        sam(102, "49M100N51M"),
        sam(103, "48M100N52M", umi="TTTT"),
    ]
    path = write(tmp_path / "a.bam", lines)
    assert counts(io.read_bam(path, "all", genes=None)["splicing"]) == {("AA-1", "chr1:151:250:-"): 2}
    pair = [sam(101, "50M100N50M", "XS:A:-", cell="", umi="", flag=f, name="p") for f in (99, 147)]
    pair += [sam(102, "49M100N50M", cell="", umi="", name="q")]
    cells = {"c1": write(tmp_path / "c1.bam", pair), "c2": write(tmp_path / "c2.bam", pair[:1])}
    found = counts(io.read_bam(cells, genes=None)["splicing"])
    assert found == {("c1", "chr1:151:250:-"): 2, ("c2", "chr1:151:250:-"): 1}


# --- reads by option


def test_options_for_reads(tmp_path):
    "Multi-mapping, secondary, supplementary and duplicate reads count when they are asked for; failed ones never."
    lines = [
        sam(101, "50M100N50M", "NH:i:1", umi="A"),
        sam(101, "50M100N50M", "NH:i:2", umi="C"),
        sam(101, "50M100N50M", "NH:i:2", "MM:i:1", umi="G"),
        sam(101, "50M100N50M", "NH:i:2", umi="T", flag=256),
        sam(101, "50M100N50M", umi="AA", flag=2048),
        sam(101, "50M100N50M", umi="AC", mapq=0),
        sam(101, "50M100N50M", umi="AG", flag=512),
        sam(101, "50M100N50M", umi="AT", flag=1024),
    ]
    path = write(tmp_path / "a.bam", [f"{line}\tXS:A:+" for line in lines])
    total = lambda **how: int(io.read_bam(path, "all", genes=None, **how)["splicing"].X.sum())
    assert total() == 3  # A, G and the duplicate, which its UMI tells apart
    assert total(multimapped=True) == 5
    assert total(multimapped=True, secondary=True) == 7
    assert total(umi_tag=None) == 2
    assert total(umi_tag=None, duplicates=True) == 3
    with pytest.raises(ValueError, match="it needs multimapped=True"):
        total(secondary=True)


@pytest.mark.parametrize("anchor, n", [(5, 3), (6, 2), (20, 2), (21, 1), (50, 1), (51, 0)])
def test_anchor(tmp_path, anchor, n):
    "Both sides have to reach, with insertions not counted."
    lines = [
        sam(101, c, "XS:A:+", umi=u) for c, u in (("50M100N50M", "A"), ("50M100N10M3I10M", "C"), ("5M100N50M", "G"))
    ]
    path = write(tmp_path / "a.bam", lines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert io.read_bam(path, "all", genes=None, anchor=anchor)["splicing"].X.sum() == n


# --- long reads


def test_long_reads_snap_to_annotated_sites(tmp_path):
    "Reads of minimap2 whose introns are a few bases off count for the annotated one; farther off, they are new."
    gtf = annotation([(101, 200), (301, 400), (501, 600)], [(101, 200), (501, 600)])
    exact = ["100M100N100M100N100M", "100M300N100M"]
    off = ["98M2D102N2D96M3I1M101N99M", "103M97N100M100N100M", "100M304N96M", "92M116N92M100N100M"]
    lines = [sam(101, c, "ts:A:+", umi="ACGT"[i] * 8) for i, c in enumerate(off)]
    path = write(tmp_path / "long.bam", lines, header(program="minimap2"))
    found = io.read_bam(path, "all", gtf, genes=None)["splicing"]
    want = {"chr1:193:308:+": 1, "chr1:201:300:+": 2, "chr1:201:500:+": 1, "chr1:401:500:+": 3}
    assert {k: int(n) for (_, k), n in counts(found).items()} == want
    loose = io.read_bam(path, "all", gtf, genes=None, snap=0)["splicing"]
    assert loose.n_vars > found.n_vars and loose.X.sum() == found.X.sum()
    right = write(tmp_path / "right.bam", [sam(101, c, "ts:A:+") for c in exact], header(program="minimap2"))
    assert io.read_bam(right, "all", gtf, genes=None)["splicing"].var["start"].tolist() == [201, 201, 401]


def test_a_molecule_whose_reads_are_off_differently_counts_once(tmp_path):
    "Snapping comes before molecules are told apart, on either strand."
    for strand in "+-":
        gtf = annotation([(101, 200), (301, 400)], strand=strand)
        lines = [sam(101, c, f"XS:A:{strand}") for c in ("99M101N100M", "100M100N100M", "100M103N97M")]
        path = write(tmp_path / f"{strand == '+'}.bam", lines)
        found = io.read_bam(path, "all", gtf, genes=None, snap=3)["splicing"]
        assert counts(found) == {("AA-1", f"chr1:201:300:{strand}"): 1}


@pytest.mark.parametrize("snap,bound", [(None, 0.95), (0, 0.90)])
def test_long_reads_that_minimap2_placed(snap, bound):
    "Noisy reads (3 of 100 bases wrong) of 240 molecules, as minimap2 places them; the rest is what it misplaces."
    folder = Path(__file__).parent / "data" / "minimap2"
    truth = pd.read_csv(folder / "truth.tsv", sep="\t")
    place = truth["chrom"] + ":" + truth["start"].astype(str) + ":" + truth["end"].astype(str) + ":" + truth["strand"]
    true = dict(zip(zip(truth["cell"], place), truth["molecules"]))
    found = counts(io.read_bam(folder / "reads.bam", "all", folder / "genes.gtf.gz", snap=snap)["splicing"])
    right = sum(min(n, true.get(k, 0)) for k, n in found.items())
    assert (right > bound * sum(true.values())) and (snap == 0) == (right < 0.95 * sum(true.values()))
    assert sum(found.values()) <= sum(true.values())
    new = {k for _, k in found} - {k for _, k in true}
    assert len(new) <= (6 if snap is None else 16)


# --- genes


def test_genes_from_tags_annotation_and_matrix(tmp_path):
    "The same molecules by tag and by the annotation; a read of two genes counts for none."
    gtf = joined(annotation([(101, 200), (301, 400)]), annotation([(381, 500)], gene="G2", strand="-"))
    lines = [
        sam(151, "50M100N50M", "GX:Z:G1", "GN:Z:g1"),
        sam(156, "45M100N55M", "GX:Z:G1", "GN:Z:g1"),
        sam(311, "60M", "GX:Z:G1", "GN:Z:g1", umi="CC"),
        sam(381, "15M", "GX:Z:G1;G2", "GN:Z:g1;g2", umi="GG"),
        sam(421, "60M", "GX:Z:G2", "GN:Z:g2", umi="GG"),
        sam(211, "60M", "GX:Z:-", umi="TT"),
        sam(421, "60M", "GX:Z:G2", "GN:Z:g2", umi="GG", cell="CC-1"),
    ]
    path = write(tmp_path / "outs" / "a.bam", lines)
    tags, by_gtf = (io.read_bam(path, "all", gtf, genes=g)["rna"] for g in ("tags", "gtf"))
    assert tags.to_df().to_dict() == {"G1": {"AA-1": 2, "CC-1": 0}, "G2": {"AA-1": 1, "CC-1": 1}}
    assert by_gtf.to_df().to_dict() == tags.to_df().to_dict()
    assert by_gtf.var["gene_name"].tolist() == tags.var["gene_name"].tolist() == ["g1", "g2"]
    stranded = io.read_bam(path, "all", gtf, genes="gtf", library="forward")["rna"]
    assert stranded.var_names.tolist() == ["G1"] and stranded["AA-1"].X.sum() == 3  # G2 is on the other strand
    matrix = path.parent / "filtered_feature_bc_matrix"
    matrix.mkdir()
    with gzip.open(matrix / "barcodes.tsv.gz", "wt") as f:
        f.write("CC-1\nAA-1\n")
    with gzip.open(matrix / "features.tsv.gz", "wt") as f:
        f.write("G1\tg1\tGene Expression\nADT\tADT\tAntibody Capture\n")
    with gzip.open(matrix / "matrix.mtx.gz", "wt") as f:
        f.write("%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 2 7\n2 1 9\n")
    beside = io.read_bam(path, gtf=gtf)
    assert beside["rna"].to_df().to_dict() == {"G1": {"CC-1": 0, "AA-1": 7}}
    assert beside["splicing"].obs_names.tolist() == ["CC-1", "AA-1"]


def test_tags_that_come_late_are_found(tmp_path):
    "The gene tag is looked for in other places than the start of the file, where reads may lie far from any gene."
    lines = [sam(101, "60M", umi="ACGT"[i % 4], name=f"r{i}") for i in range(200)]
    lines += [sam(150_001, "60M", "GX:Z:G1", umi=u) for u in ("A", "C")]
    path = write(tmp_path / "late.bam", lines, index=True)
    assert "GX" not in alignments.peek(write(tmp_path / "bare.bam", lines), reads=150).tags
    assert "GX" in alignments.peek(path, reads=150).tags
    with pytest.warns(UserWarning, match="No junction was found"):
        assert io.read_bam(path, "all")["rna"].X.sum() == 2


# --- intron retention


def retention_file(tmp_path):
    "A gene with a cassette exon, of whose first intron some molecules are kept."
    gtf = annotation([(101, 200), (301, 400), (501, 600)], [(101, 200), (501, 600)])
    lines = [sam(151, "50M100N50M", "XS:A:+", umi=u) for u in ("AA", "AC", "AG")]
    lines += [sam(351, "50M100N50M", "XS:A:+", umi=u) for u in ("AA", "AC", "CA")]
    lines += [sam(151, "50M300N50M", "XS:A:+", umi=u) for u in ("TA", "TC")]
    lines += [
        sam(171, "60M", umi="GA"),
        sam(281, "60M", umi="GA"),
        sam(171, "160M", umi="GC"),
        sam(171, "37M", umi="GG"),
    ]
    return write(tmp_path / "kept.bam", lines, index=True), gtf


def test_intron_retention_is_an_event(tmp_path):
    "Reads over a boundary become a row in the event of their intron, the short one where an exon is skipped."
    path, gtf = retention_file(tmp_path)
    mdata = io.read_bam(path, "all", gtf, genes=None, introns=True)
    found = {k: n for (_, k), n in counts(mdata["splicing"]).items()}
    plain = {"chr1:201:300:+": 3, "chr1:401:500:+": 3, "chr1:201:500:+": 2}
    assert found == plain | {"chr1:201:300:+:retention": 2}  # GA and GC cross both boundaries
    kinds = mdata["splicing"].var["kind"]
    assert kinds[kinds == "retention"].index.tolist() == ["chr1:201:300:+:retention"]
    full = to_mudata(None, mdata["splicing"], gtf)
    assert check_mudata(full, modalities={"junc_ratio_layer": "splicing"})["level"].ne("error").all()
    assert full["splicing"].var["event_id"].nunique() == 1 and full["splicing"].n_vars == 4
    assert full["splicing"].layers["junc_ratio"].max() == np.float32(0.3)
    alone = io.read_bam(path, "all", gtf, genes=None, introns=True, anchor=8)["splicing"]
    alone = alone[:, alone.var["start"].eq(201) & alone.var["end"].eq(300)]
    event = to_mudata(None, alone.copy(), gtf)["splicing"]
    assert event.var["event_type"].tolist() == ["intron retention"] * 2
    assert event.layers["junc_ratio"].toarray().tolist() == [[np.float32(0.6), np.float32(0.4)]]


def test_retention_is_the_mean_of_both_boundaries(tmp_path):
    "One boundary only: half the reads, rounded up. Files of cells, and chromosome names of two kinds, give the same."
    lines = [sam(151, "50M100N50M", "XS:A:+", cell="", umi="", name="s")]
    lines += [sam(171, "60M", cell="", umi="", name=f"k{i}") for i in range(5)]
    cells = {"c1": write(tmp_path / "c1.bam", lines), "c2": write(tmp_path / "c2.bam", lines[:2])}
    found = counts(io.read_bam(cells, genes=None, introns=True)["splicing"])
    name = "chr1:201:300:+"
    assert found == {("c1", name): 1, ("c2", name): 1, ("c1", f"{name}:retention"): 3, ("c2", f"{name}:retention"): 1}


# --- files and processes


def busy_file(path, n=400, **kwargs):
    rng = np.random.default_rng(0)
    lines = [
        sam(
            int(rng.choice([1001, 1031, 1051])), str(rng.choice(["50M100N50M", "50M300N50M"])), "XS:A:+", "NH:i:1",
            cell=str(rng.choice(["AA-1", "CC-1", "GG-1"])), umi="".join(rng.choice(list("ACGT"), 3)),
            chrom=str(rng.choice(list(CHROMS))), name=f"r{i}",
        )
        for i in range(n)
    ]  # fmt: skip
    return write(path, lines, **kwargs)


def test_processes_give_the_same(tmp_path, caplog):
    "By chromosome in two processes, in one, and without an index: the same table, also of retained introns."
    path = busy_file(tmp_path / "a.bam", index=True)
    bare = busy_file(tmp_path / "bare.bam")
    caplog.set_level("INFO", "splicevi")
    one, two, whole = (
        io.read_bam(p, "all", genes=None, n_jobs=n, introns=True)["splicing"]
        for p, n in ((path, 1), (path, 2), (bare, 2))
    )
    assert one.var["kind"].value_counts().to_dict() == {"junction": 12, "retention": 6}
    assert counts(one) == counts(two) == counts(whole)
    assert set(one.obs_names) == set(two.obs_names) == {"AA-1", "CC-1", "GG-1"}
    assert "bare.bam: no index (samtools index makes one), so one process reads all of it." in caplog.text
    assert "/a.bam: no index" not in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.bam",
        "a.bam.bai",
        "bare.bam",
    ]  # nothing beside a user's file


def test_cram(tmp_path, monkeypatch):
    "A CRAM file is the BAM file; without its genome the error names it."
    fasta = tmp_path / "genome.fa"
    fasta.write_text("".join(f">{c}\n{'ACGT' * (n // 4)}\n" for c, n in CHROMS.items()))
    pysam.faidx(str(fasta))
    lines = [sam(101, "50M100N50M", "XS:A:+").replace("*\t*", f"{('ACGT' * 25)}\t{'F' * 100}", 1)]
    bam = write(tmp_path / "a.bam", lines)
    cram = write(tmp_path / "a.cram", lines, mode="wc", reference_filename=str(fasta))
    read = lambda p, **how: counts(io.read_bam(p, "all", genes=None, **how)["splicing"])
    assert read(bam) == read(cram, fasta=fasta) == {("AA-1", "chr1:151:250:+"): 1}
    fasta.rename(tmp_path / "moved.fa")
    monkeypatch.setenv("REF_PATH", str(tmp_path / "none"))
    fails(cram, r"a.cram needs the genome that it was made with \(fasta=...\)")
    fails(cram, "There is no file .*genome.fa", FileNotFoundError, fasta=fasta)
    fails(cram, "samtools faidx", fasta=bam)


def test_memory_does_not_grow_with_reads(tmp_path):
    "Ten times the reads of the same molecules need no more memory; and junctions that lie behind are closed."

    def peak(copies):
        lines = [
            sam(1000 + 300 * j, "50M100N50M", "XS:A:+", umi="ACGT"[m % 4] * (3 + m % 5), name=f"{j}.{m}.{k}")
            for j in range(60) for m in range(10) for k in range(copies)
        ]  # fmt: skip
        path = write(tmp_path / f"{copies}.bam", lines)
        job = molecules.Job(str(path), alignments.ReadRules(), Landmarks(), True)
        tracemalloc.start()
        found = molecules.count_junctions(job)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.reads["n"].sum() == 60 * 10
        return size

    peak(1)
    assert peak(40) < 1.3 * peak(4)


def test_junctions_are_closed_on_the_way(tmp_path):
    "When reads start behind a junction, its molecules are gone."
    rules, seen = alignments.ReadRules(), []
    lines = [sam(1000 + 10 * j, "50M100N50M", "XS:A:+", name=f"{j}") for j in range(18_000)]
    path = write(tmp_path / "a.bam", lines)

    class Watched(molecules.ChromCounter):
        def add(self, *args):
            seen.append(len(self.tally.open))
            super().add(*args)

    with alignments.open_bam(path) as f:
        make = lambda chrom: Watched(chrom, rules, Landmarks(), {})
        (found,) = molecules.count_stream(f, rules, molecules.Cells(), make)
    assert len(found.tally.features) == 18_000 and max(seen) <= 8192 + 10


# --- what goes wrong


def fails(path, message, error=ValueError, **how):
    with pytest.raises(error, match=message) as e:
        io.read_bam(path, **({"cells": "all", "genes": None} | how))
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_one_sentence_for_each_fault(tmp_path):
    "Missing, cut off, no BAM, no tags, another genome, no cells, not sorted as it says."
    good = busy_file(tmp_path / "good.bam")
    fails(tmp_path / "none.bam", "There is no file", FileNotFoundError)
    (tmp_path / "cut.bam").write_bytes(good.read_bytes()[:-40])
    fails(tmp_path / "cut.bam", "cut.bam was cut off")
    (tmp_path / "blocks.bam").write_bytes(good.read_bytes()[:-28])  # all blocks are whole, the last one is missing
    fails(tmp_path / "blocks.bam", "blocks.bam was cut off")
    middle = bytearray(good.read_bytes())
    middle[len(middle) // 2 : len(middle) // 2 + 200] = b"\0" * 200
    (tmp_path / "middle.bam").write_bytes(middle)
    fails(tmp_path / "middle.bam", "middle.bam (was cut off|cannot be read)")
    (tmp_path / "text.bam").write_text("not a BAM\n")
    fails(tmp_path / "text.bam", "text.bam")
    fails(write(tmp_path / "plain.bam", [sam(101, "50M100N50M", cell="", umi="")]), r"no barcodes \(tag CB\); cell_tag")
    fails(write(tmp_path / "noumi.bam", [sam(101, "50M100N50M", umi="")]), r"no UMIs \(tag UB\); umi_tag=None")
    other = annotation([(101, 200), (301, 400)], chrom="scaffold_1")
    fails(good, "no chromosome in common: .* names them chr1, chr2, the annotation scaffold_1", gtf=other)
    fails(good, r"no read of the 1 cells \(TT-1\) counts; it has", cells=["TT-1"])
    fails(good, "is no file with barcodes", FileNotFoundError, cells="TT")
    fails(good, "cells lists no barcode", cells=[])
    fails(good, "cells lists AA-1 twice", cells=["AA-1", "CC-1", "AA-1"])
    fails(good, "cells=5 is no list of barcodes", TypeError, cells=5)
    fails(good, "fasta=3 is none of these", TypeError, fasta=3)
    fails([], "No file was given")
    lines = by_place([sam(p, "50M100N50M", "XS:A:+") for p in (101, 1101, 2101)])[::-1]
    fails(
        write(tmp_path / "lies.bam", lines, header()),
        "lies.bam: its header says that it is sorted by position, but it is not",
    )
    fails(good, "genes='tags': the first reads have no tag GX", genes="tags")
    fails(good, "genes='matrix': no filtered matrix", genes="matrix")
    fails({"A": good, "B": good}, "cells has no entry for B", cells={"A": "all"})
    fails([good, busy_file(tmp_path / "two" / "other.bam")], "Give the files as a dict")


def test_names_of_chromosomes_are_matched(tmp_path):
    "chr1 and 1 are one chromosome, with a warning."
    gtf = annotation([(101, 150), (251, 300)], chrom="1", strand="-")
    path = write(tmp_path / "a.bam", [sam(101, "50M100N50M")])
    with pytest.warns(UserWarning, match="annotation writes 1 where the junctions write chr1"):
        assert io.read_bam(path, "all", gtf)["splicing"].var_names.tolist() == ["chr1:151:250:-"]


def test_without_pysam_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    path = busy_file(tmp_path / "a.bam")
    monkeypatch.setitem(sys.modules, "pysam", None)
    fails(path, r'pip install "splicevi\[bam\]"', ImportError)


# --- runs of Cell Ranger


def cellranger_run(folder, samples=("",)):
    "What Cell Ranger leaves, with its reference."
    genes = folder / "refdata" / "genes"
    genes.mkdir(parents=True)
    attributes = 'gene_id "G1"; transcript_id "T1"; gene_name "g1";'
    rows = "".join(f"chr1\tx\texon\t{a}\t{a + 99}\t.\t+\t.\t{attributes}\n" for a in (101, 301, 501))
    with gzip.open(genes / "genes.gtf.gz", "wt") as f:
        f.write(rows)
    run = folder / "run"
    for s in samples:
        outs = run / "outs" / "per_sample_outs" / s / "count" if s else run / "outs"
        name, prefix = ("sample_alignments.bam", "sample_") if s else ("possorted_genome_bam.bam", "")
        lines = [sam(151, "50M100N50M"), sam(151, "50M300N50M", umi="CC"), sam(161, "40M100N50M", cell="TT-1")]
        write(outs / name, lines, index=True)
        with h5py.File(outs / f"{prefix}filtered_feature_bc_matrix.h5", "w") as f:
            for key, value in dict(data=[5], indices=[0], indptr=[0, 1], shape=[1, 1]).items():
                f[f"matrix/{key}"] = value
            f["matrix/barcodes"] = np.array(["AA-1"], "S")
            for key, value in dict(id="G1", name="g1", feature_type="Gene Expression").items():
                f[f"matrix/features/{key}"] = np.array([value], "S")
    (run / "_invocation").write_text(f'call SC_RNA_COUNTER_CS(\n    reference_path = "{folder / "refdata"}",\n)\n')
    return run


@pytest.mark.parametrize("samples", [("",), ("S1", "S2")])
def test_cellranger_run(tmp_path, samples):
    "BAM, matrix and reference are found by themselves, of one sample and of several."
    run = cellranger_run(tmp_path, samples)
    mdata = io.read_cellranger(run)
    names = [f"AA-1-{s}" if s else "AA-1" for s in samples]
    assert mdata.obs_names.tolist() == names
    assert counts(mdata["splicing"]) == {(n, f"chr1:201:{e}:+"): 1 for n in names for e in (300, 500)}
    assert mdata["rna"].X.toarray().tolist() == [[5]] * len(names)
    assert counts(io.read_cellranger(run / "outs")["splicing"]) == counts(mdata["splicing"])
    with pytest.raises(TypeError, match="did you mean 'library'"):
        io.read_cellranger(run, libary="forward")


# --- real files


@pytest.fixture(scope="module")
def exon_skips(real_data):
    "The 50 cassette exons, as an annotation: genes with two transcripts of three and two exons."
    t = pd.read_csv(
        real_data / "inputs/bam_10x/mouse_SE.lenient_50events.gff3", sep="\t", comment="#", header=None, dtype={0: str}
    )
    t["id"] = t[8].str.extract(r"ID=([^;]*)")
    exons = t[t[2] == "exon"].assign(transcript=t[8].str.extract(r"Parent=([^;]*)"))
    parts = []
    for gene, e in exons.groupby(exons["transcript"].str.rsplit(".", n=1).str[0]):
        transcripts = [sorted(zip(x[3], x[4])) for _, x in e.groupby("transcript")]
        parts.append(annotation(*transcripts, gene=gene, strand=e[6].iloc[0], chrom=e[0].iloc[0]))
    return joined(*parts)


def skipped(exons, gene):
    "Of a cassette exon: the two introns beside it and the one that skips it."
    i = exons.introns[exons.introns["gene_id"] == gene].sort_values(["start", "end"])
    (a, b), (_, c), (d, _) = ((int(r.start), int(r.end)) for r in i.itertuples())
    return (a, b), (d, c), (a, c)


@pytest.mark.filterwarnings("ignore:.*(strand is unknown|matched by name)")
def test_recount_of_10x(real_data, exon_skips):
    "51,079 reads of neuron_1k: every junction of every cell is that of the recount."
    folder = real_data / "inputs/bam_10x"
    path = folder / "neuron_1k_v3_possorted_genome_bam.50events.bam"
    mdata = io.read_bam(path, folder / "barcodes.tsv.gz", exon_skips)
    assert mdata.n_obs == 1301 and set(mdata.mod) == {"rna", "splicing"}
    barcodes = set(mdata.obs_names)
    found = recount(path, barcodes=barcodes)
    pairs, _ = same(mdata["splicing"], found)
    stranded = io.read_bam(path, folder / "barcodes.tsv.gz", genes=None, anchor=1, library="forward")["splicing"]
    everywhere = {k: len(v) for k, v in recount(path, anchor=1, barcodes=barcodes).items()}
    assert pairs > 1000 and len(everywhere) > pairs
    got = defaultdict(int)
    for (cell, name), n in counts(stranded).items():
        chrom, start, end, _ = name.split(":")
        got[cell, chrom, int(start), int(end)] += n
    twice = {
        k for k in got if got[k] != everywhere[k]
    }  # a molecule with reads in both directions counts on both strands
    assert got.keys() == everywhere.keys() and len(twice) < 10 and all(got[k] > everywhere[k] for k in twice)
    genes = defaultdict(set)
    for f, tags in parsed(path):
        if (
            is_plain(f, tags, 4 + 256 + 512 + 2048)
            and tags.get("CB") in barcodes
            and "UB" in tags
            and ";" not in tags.get("GX", ";")
        ):
            genes[tags["CB"], tags["GX"]].add(tags["UB"])
    assert counts(mdata["rna"]) == {k: len(v) for k, v in genes.items()}


@pytest.mark.filterwarnings("ignore:.*(strand is unknown|matched by name)")
def test_recount_of_smartseq2(real_data, exon_skips):
    "40 cells, one file each: every junction is that of the recount, and PSI of known exons are those of direct counts."
    folder = real_data / "inputs/bam_smartseq2"
    adata = io.read_bam(folder, gtf=exon_skips, genes=None)["splicing"]
    assert adata.n_obs == 40 and "E6.5_c21" in adata.obs_names
    found = {}
    for path in sorted(folder.glob("*.bam")):
        found |= recount(path, umis=False, cell=path.name.removesuffix(".sorted.bam"))
    pairs, _ = same(adata, found)
    assert pairs > 3000
    check_psi(adata, found, exon_skips, at_least=30)


def crossing(path, anchor=8):
    "(chrom, position) to the strands that the reads over a boundary say; positions counted by hand from the text."
    found = defaultdict(list)
    for f, tags in parsed(path):
        if not is_plain(f, tags, 4 + 256 + 512 + 1024 + 2048):
            continue
        at = int(f[3])
        for piece in re.findall(r"(?:\d+[MIDSHP=X])+|\d+N", f[5]):
            n = sum(int(n) for n, op in re.findall(r"(\d+)([A-Z=])", piece) if op in "MDN=X")
            if not piece.endswith("N"):
                for position in range(at + anchor - 1, at + n - anchor):
                    found[f[2], position].append(tags.get("XS", "?"))
            at += n
    return found


@pytest.mark.filterwarnings("ignore:.*(strand is unknown|matched by name)")
def test_recount_of_retained_introns(real_data, exon_skips):
    "Reads over the boundaries of introns in 40 cells, against the text; all introns that hold no other are asked."
    folder = real_data / "inputs/bam_smartseq2"
    adata = io.read_bam(folder, gtf=exon_skips, genes=None, introns=True)["splicing"]
    rows = adata.var[adata.var["kind"] == "retention"]
    assert len(rows) > 100
    got = adata[:, rows.index].to_df()
    for cell in adata.obs_names[::4]:
        found = crossing(folder / f"{cell}.sorted.bam")
        ends = [[found[r.chrom, r.start - 1], found[r.chrom, r.end]] for r in rows.itertuples()]
        both = [sum(s in ("?", strand) for end in e for s in end) for strand, e in zip(rows["strand"], ends)]
        assert got.loc[cell].tolist() == np.ceil(np.array(both) / 2).tolist()


@pytest.mark.filterwarnings("ignore:.*(strand is unknown|matched by name)")
def test_psi_of_known_exons_in_10x(real_data, exon_skips):
    "PSI of the known cassette exons, over all cells, from junctions by way of a MuData and from the text."
    folder = real_data / "inputs/bam_10x"
    path = folder / "neuron_1k_v3_possorted_genome_bam.50events.bam"
    adata = io.read_bam(path, folder / "barcodes.tsv.gz", exon_skips, genes=None)["splicing"]
    found = recount(path, barcodes=set(adata.obs_names))
    chrom = lambda k: (k[0], f"chr{k[1]}", *k[2:])
    adata.var["chrom"] = "chr" + adata.var["chrom"].astype(str)
    check_psi(adata, {chrom(k): v for k, v in found.items()}, exon_skips, at_least=15)


def check_psi(adata, found, exon_skips, at_least):
    "Mean of the two inclusion junctions over all reads of the exon, on both ways."
    total = defaultdict(int)
    for (_, *place), molecules_ in found.items():
        total[tuple(place)] += len(molecules_)
    v = adata.var
    sums = pd.Series(
        np.asarray(adata.X.sum(0)).ravel(), pd.MultiIndex.from_arrays([v["chrom"].astype(str), v["start"], v["end"]])
    )
    psi = lambda n: (n[0] + n[1]) / 2 / ((n[0] + n[1]) / 2 + n[2])
    seen = 0
    for gene, one in exon_skips.introns.groupby("gene_id"):
        places = [(one["chrom"].iloc[0], *p) for p in skipped(exon_skips, gene)]
        direct = [total.get(p, 0) for p in places]
        assert [sums.get(p, 0) for p in places] == direct
        if sum(direct):
            seen += 1
            assert psi([sums.get(p, 0) for p in places]) == pytest.approx(psi(direct))
    assert seen >= at_least


def test_files_of_the_tests_are_small(tmp_path):
    "Nothing but pysam and text makes the files of these tests, so that they run where the real data are absent."
    path = busy_file(tmp_path / "a.bam")
    assert path.stat().st_size < 50_000 and Path(path).suffix == ".bam"


# --- the command line


def test_command_line(tmp_path, capsys):
    "`splicevi import bam` and `import cellranger` write the MuData of the readers, with events and genes."
    import mudata

    from splicevi.cli import main

    path, _ = retention_file(tmp_path)
    gtf = tmp_path / "genes.gtf"
    exons = [
        (t, a, b)
        for t, e in (("T1", [(101, 200), (301, 400), (501, 600)]), ("T2", [(101, 200), (501, 600)]))
        for a, b in e
    ]
    text = 'chr1\tx\texon\t{}\t{}\t.\t+\t.\tgene_id "G1"; gene_name "Snap25"; transcript_id "{}";\n'
    gtf.write_text("".join(text.format(a, b, t) for t, a, b in exons))
    main(
        [
            "import",
            "bam",
            str(path),
            str(tmp_path / "out.h5mu"),
            "--gtf",
            str(gtf),
            "--introns",
            "--cells",
            "raw",
            "--quiet",
        ]
    )
    assert "splicing 1 cells × 4, 1 events" in capsys.readouterr().out
    mdata = mudata.read_h5mu(tmp_path / "out.h5mu")
    var = mdata["splicing"].var
    assert var["kind"].tolist().count("retention") == 1 and set(var["gene_name"]) == {"Snap25"}
    assert mdata["rna"].var_names.tolist() == ["G1"] and mdata["rna"].X.sum() == 9  # different UMIs
    run = cellranger_run(tmp_path)
    main(["import", "cellranger", str(run), str(tmp_path / "run.h5mu"), "--quiet"])
    mdata = mudata.read_h5mu(tmp_path / "run.h5mu")
    assert mdata.obs_names.tolist() == ["AA-1"] and set(mdata["splicing"].var["gene_name"]) == {"g1"}
    assert main(["import", "bam", str(tmp_path / "none.bam"), str(tmp_path / "x.h5mu"), "--quiet"]) == 2
    assert "There is no file" in capsys.readouterr().err
    assert not (tmp_path / "x.h5mu").exists()


# --- coverage of a region


def depth_by_base(path, region, groups=None):
    "Molecules over each base and junction, base after base, in sets."
    chrom, lo, hi = region
    bases, introns = defaultdict(set), defaultdict(set)
    for k, (f, tags) in enumerate(parsed(path)):
        name, umi = tags.get("CB", "-"), tags.get("UB", "-")
        if f[2] != chrom or not is_plain(f, tags, 4 + 256 + 512 + 2048 + (0 if groups is not None else 1024)):
            continue
        if groups is not None and (name not in groups or umi == "-"):
            continue
        group, molecule = ("all reads", k) if groups is None else (groups[name], (name, umi))
        at = int(f[3])
        for n, op in re.findall(r"(\d+)([MIDNSHP=X])", f[5]):
            if op in "M=XD":
                for base in range(max(at, lo), min(at + int(n) - 1, hi) + 1):
                    bases[group, base].add(molecule)
            at += int(n) if op in "M=XDN" else 0
        for a, b in jumps(int(f[3]), f[5], 8):
            if lo <= a and b <= hi:
                introns[group, a, b].add(molecule)
    return bases, introns


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_depth_against_a_count_of_every_base(tmp_path, index, grouped):
    "With and without an index, by molecule in groups of cells and read by read."
    rng = np.random.default_rng(3)
    cigars = ["60M", "20M150N40M", "20M350N40M", "10M5D30M100N20M", "5S25M2I30M", "7M100N50M"]
    lines = [
        sam(int(rng.integers(80, 900)), cigars[k % 6], cell=f"C{k % 5}-1", umi="ACGT"[k % 4] * 8, name=f"r{k}")
        for k in range(150)
    ]
    lines += [
        sam(300, "60M", flag=1024, name="dup"),
        sam(300, "60M", flag=4, name="no"),
        sam(300, "60M", mapq=0, name="low"),
    ]
    path = write(tmp_path / "few.bam", by_place(lines), head=None, index=index)
    groups = {"C0-1": "a", "C1-1": "b", "C2-1": "a", "C4-1": "b"} if grouped else None
    found = io.read_depth(path, "1:150-1,000", groups)
    bases, introns = depth_by_base(path, ("chr1", 150, 1000), groups)
    for g in found.depth:
        want = [len(bases[g, p]) for p in range(150, 1001)]
        np.testing.assert_array_equal(found.depth[g], want)
        got = {(r.start, r.end): n for r, n in zip(found.junctions.itertuples(), found.junctions[g]) if n}
        assert got == {k[1:]: len(m) for k, m in introns.items() if k[0] == g}
    assert found.unit == ("molecules" if grouped else "reads") and found.depth.index[0] == 150
    if grouped:
        assert found.n_cells.to_dict() == {"a": 2, "b": 2}
        nobody = io.read_depth(path, "chr1:150-1000", {"none-1": "a"})
        assert not nobody.depth.to_numpy().any() and nobody.n_cells.to_dict() == {"a": 0}


def test_depth_of_10x_has_the_junctions_of_the_matrix(real_data):
    "The molecules over junctions are those that read_bam counts, in groups whose sum they are."
    path = real_data / "inputs/bam_10x/neuron_1k_v3_possorted_genome_bam.50events.bam"
    with gzip.open(path.parent / "barcodes.tsv.gz", "rt") as text:
        cells = [line.strip() for line in text]
    splicing = io.read_bam(path, cells=cells, genes=None, library="forward")["splicing"]
    groups = pd.Series(np.where(np.arange(len(cells)) % 3, "a", "b"), cells)
    chrom = splicing.var["chrom"].astype(str) == "7"
    lo, hi = splicing.var["start"][chrom].min(), splicing.var["end"][chrom].max()
    found = io.read_depth(path, ("7", int(lo), min(int(hi), int(lo) + 4_000_000)), groups)
    table = found.junctions.set_index(["start", "end"])[["a", "b"]]
    inside = splicing.var[chrom & (splicing.var["end"] <= found.depth.index[-1]).to_numpy()]
    x = pd.DataFrame(splicing[:, inside.index].X.toarray(), splicing.obs_names).groupby(groups).sum().T
    want = x.set_index(pd.MultiIndex.from_frame(inside[["start", "end"]])).groupby(level=[0, 1]).sum()
    pd.testing.assert_frame_equal(table.loc[want.index], want, check_dtype=False, check_names=False)
    assert want.to_numpy().sum() > 1000
