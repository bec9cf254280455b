"""Small files as the authors of published data write them, with invented reads: published.py FOLDER"""

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from splicevi.data.published import MARKERS

LINES = np.repeat(list(MARKERS), 6)
GENES = {  # exons of a gene; transcripts: the exons that each has
    "ENSG00000138326.20": ("chr10", "+", [(101, 200), (401, 450), (801, 900)], {"T1": (0, 1, 2), "T2": (0, 2)}),
    "ENSG00000092841.18": ("chr12", "-", [(1101, 1200), (1501, 1600), (1801, 1900)], {"T3": (0, 1, 2), "T4": (0, 2)}),
    "ENSG00000000001.1": ("chr1", "+", [(51, 90), (201, 300)], {"T5": (0, 1)}),
}


def zipped(path: Path, text: str) -> None:
    "Without the time of day, so that the file is the same each time."
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as out:
        out.write(text.encode())
    path.write_bytes(packed.getvalue())


def flames(folder: Path, rng) -> None:
    "Four files; lines with an E in their name skip the exons more often."
    lines, counts = ["##gff-version 3"], []
    for gene, (chrom, strand, exons, transcripts) in GENES.items():
        lines.append(
            f"{chrom}\tnew\tgene\t{exons[0][0]}\t{exons[-1][1]}\t.\t{strand}\t.\tID=gene:{gene};gene_id={gene}"
        )
        for name, parts in transcripts.items():
            ends = exons[parts[0]][0], exons[parts[-1]][1]
            tail = f"ID=transcript:{name};transcript_id={name};Parent=gene:{gene}"
            lines.append(f"{chrom}\tnew\ttranscript\t{ends[0]}\t{ends[1]}\t.\t{strand}\t.\t{tail}")
            for rank, k in enumerate(parts):
                where = f"{chrom}\tnew\texon\t{exons[k][0]}\t{exons[k][1]}\t.\t{strand}\t."
                ends_of = f"exon_id=exon:{exons[k][0]}_{exons[k][1]}"
                lines.append(f"{where}\t{ends_of};Parent=transcript:{name};rank={rank}")
            rate = np.where((LINES == "A549") == (name in ("T2", "T4")), 8, 2)
            counts.append([name, gene, *rng.poisson(rate)])
    zipped(folder / "GSM4681740_isoform_annotated.filtered.gff3.gz", "\n".join(lines) + "\n")
    barcodes = ["".join(rng.choice(list("ACGT"), 16)) for _ in LINES]
    cells = [f"CELL_{k:06d}" for k in range(len(LINES))]
    table = pd.DataFrame(counts, columns=["transcript_id", "gene_id", *barcodes])
    zipped(folder / "GSM4681740_transcript_count.csv.gz", table.to_csv(index=False))
    genes = [*sum(MARKERS.values(), []), *(f"ENSG{k:011d}" for k in range(1, 31))]
    high = np.array([[g in MARKERS[line] for line in LINES] for g in genes])
    rna = pd.DataFrame(rng.poisson(3 + 25 * high), [f"{g}.3" for g in genes], cells).rename_axis("gene_id")
    zipped(folder / "GSM4681740_gene_count_Lib10.csv.gz", rna.to_csv())
    named = pd.DataFrame({"cell_name": cells, "barcode_sequence": barcodes})
    zipped(folder / "GSM4681740_Lib10.csv.gz", named.to_csv(index=False))


def spliz(folder: Path, rng) -> None:
    "RPS24 differs between compartments, LMO7 does not."
    kinds, rows = {"epithelial": "Club", "immune": "B", "stromal": "Fibroblast"}, []
    first = {  # name: reads in epithelial cells, in others
        "chr10:RPS24:78037304:+|chr10:RPS24:78037439:+|lin": (6, 1),
        "chr10:RPS24:78037304:+|chr10:RPS24:78040204:+|lin": (1, 5),
        "chr13:LMO7:75804541:+|chr13:LMO7:75809154:+|lin": (2, 2),
        "chr13:LMO7:75804541:+|chr13:LMO7:75817161:+|lin": (2, 2),
        "chr3:CD47:108049619:-|chr3:CD47:108047292:-|lin": (3, 1),
        "chr3:CD47:108051939:-|chr3:CD47:108047292:-|lin": (1, 3),
        "chr3:CD47:108047292:-|chr3:CD47:108049619:-|rev": (1, 1),
    }
    for k in range(180):
        compartment = list(kinds)[k % 3]
        cell = f"P2_1_S1_L00_{''.join(rng.choice(list('ACGT'), 16))}"
        for name, rate in first.items():
            if n := rng.poisson(rate[compartment != "epithelial"]):
                chrom, gene, a, _ = name.split("|")[0].split(":")
                b = name.split("|")[1].split(":")[2]
                about = "lung", compartment, kinds[compartment], "P2_1_S1"
                rows.append((name, chrom, gene, int(a), int(b), n, cell, 1, *about))
    names = "refName_newR1 chrR1A geneR1A_uniq juncPosR1A juncPosR1B numReads cell called tissue compartment"
    table = pd.DataFrame(rows, columns=[*names.split(), "free_annotation", "channel"])
    table.to_parquet(folder / "test.pq", index=False)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    flames(target, np.random.default_rng(0))
    spliz(target, np.random.default_rng(1))
