"""Files under bad luck: killed at any step, a full disk, links, closed folders; and numbers that need 64 bits."""

import gzip
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest

from splicevi import cli, io
from splicevi.core import atomic_file, atomic_folder, write_file
from splicevi.data.gtf import read_gtf
from splicevi.datasets import simulate


def python(code: str, *words, check=None):
    "Run code in a process of its own."
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


def lay(folder: Path, **files) -> Path:
    "A folder of small files; two underscores stand for a slash, one for a dot."
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def texts(folder: Path) -> dict[str, str]:
    "The files below a folder."
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


# writes a folder of results, and is killed at its k-th step that changes the file system
WRITER = """
import os, signal, sys
from pathlib import Path
from splicevi import core
place, last, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
steps = 0

def counted(f):
    def step(*args, **kwargs):
        global steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return f(*args, **kwargs)
    return step

swap = core._exchange if exchange else lambda a, b: False
for name in ("rename", "replace", "link", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
core._exchange = counted(swap)
with core.atomic_folder(place) as part:
    (part / "model").mkdir()
    for name in ("history.csv", "model/weights", "model/registry", "report.html"):
        (part / name).write_text("new")
steps = -1000
"""
OLD = {"history_csv": "old", "model__weights": "old", "model__registry": "old", "report_html": "old"}
MINE = {"model__notes_txt": "mine", "model__runs__1_txt": "mine", "data_txt": "mine"}
NEW = ("history.csv", "model/registry", "model/weights", "report.html")


@pytest.mark.parametrize("exchange", [True, False])
def test_killed_at_any_step(tmp_path, exchange):
    "The old or the new results are there, each whole, and what is the user's; the next run leaves nothing else."
    for last in range(1, 40):
        place = lay(tmp_path / f"{last}" / "out", **OLD, **MINE)
        done = python(WRITER, place, last, exchange)
        found = texts(place)
        seen = {k: v for k, v in found.items() if not k.startswith(".")}
        assert {k: v for k, v in seen.items() if v == "mine"} == {
            "data.txt": "mine",
            "model/notes.txt": "mine",
            "model/runs/1.txt": "mine",
        } or (not exchange and not (place / "model").exists())
        assert len({seen.get(f"model/{name}") for name in ("weights", "registry")}) == 1, "a mixture"
        assert all(seen.get(k) in ("old", "new") for k in NEW) or (not exchange and not (place / "model").exists())
        if not done.returncode:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        again = python(WRITER, place, 0, exchange)
        assert not again.returncode, again.stderr
        assert {k: v for k, v in texts(place).items() if v != "mine"} == dict.fromkeys(NEW, "new"), last
        assert [p.name for p in place.parent.iterdir()] == ["out"]
        assert {k for k, v in texts(place).items() if v == "mine"} == {
            "data.txt",
            "model/notes.txt",
            "model/runs/1.txt",
        }
    assert 5 < last < 39 and seen["history.csv"] == "new"


def test_a_new_folder_comes_in_one_step(tmp_path):
    "Killed before the last step, there is no folder; the next run removes what was left."
    for last in (1, 2, 3):
        done = python(WRITER, tmp_path / "out", last, True)
        assert done.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    assert any(p.name.startswith(".splicevi-") for p in tmp_path.iterdir())
    assert python(WRITER, tmp_path / "out", 0, True).returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and texts(tmp_path / "out") == dict.fromkeys(NEW, "new")


def test_only_what_is_dead_and_ours_is_removed(tmp_path):
    "Temporary files of a process that runs, of another computer, and files of other names stay."
    with atomic_file(tmp_path / "a.txt") as part:
        others = [part.name, part.name.replace(part.name[10:18], "01234567"), ".splicevi-notes", ".a-xyz"]
        for name in others[1:]:
            (tmp_path / name).touch()
        write_file(tmp_path / "b.txt", "b")
        assert set(others) <= {p.name for p in tmp_path.iterdir()}
        part.write_text("a")
    assert texts(tmp_path) == {"a.txt": "a", "b.txt": "b"} | dict.fromkeys(others[1:], "")


FULL = """
import resource, signal, sys
from splicevi.core import atomic_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
kind, path = sys.argv[1:]
with atomic_file(path) as part:
    if kind == "text":
        part.write_bytes(b"x" * 3_000_000)
    else:
        import numpy as np, h5py
        with h5py.File(part, "w") as f:
            f["x"] = np.random.default_rng(0).random(1_000_000)
"""


@pytest.mark.parametrize("kind", ["text", "h5"])
def test_full_disk(tmp_path, kind):
    "No room: the message names the file and how far it came; the older file is as it was and nothing is left."
    path = write_file(tmp_path / "x.h5", "old")
    said = python(FULL, kind, path).stderr.strip().splitlines()[-1]
    assert said.startswith(f"OSError: {path} was not written: no space left after ") and "MB free" in said, said
    assert texts(tmp_path) == {"x.h5": "old"}


def test_import_writes_through_a_link(tmp_path):
    "OUT may be a link to a larger disk, whether there is a file behind it or not yet."
    lay(tmp_path, x_counts=PERIND, disk__old_h5mu="old")
    for name in ("old", "new"):
        link = tmp_path / f"{name}.h5mu"
        link.symlink_to(f"disk/{name}.h5mu")
        assert cli.main(["import", "leafcutter", str(tmp_path / "x.counts"), str(link), "--quiet", "--overwrite"]) == 0
        assert link.is_symlink() and mudata.read_h5mu(tmp_path / f"disk/{name}.h5mu")["splicing"].shape == (2, 2)


def test_links_stay_links(tmp_path):
    "A result that is a link, to a file or a folder, is written where it points to; modes of files are kept."
    lay(tmp_path, disk__a_txt="old", disk__model__weights="old", disk__model__mine="mine", out__x="x")
    (tmp_path / "disk/a.txt").chmod(0o640)
    (tmp_path / "out/a.txt").symlink_to("../disk/a.txt")
    (tmp_path / "out/model").symlink_to("../disk/model")
    write_file(tmp_path / "out/a.txt", "new")
    assert (tmp_path / "out/a.txt").is_symlink() and (tmp_path / "disk/a.txt").stat().st_mode & 0o777 == 0o640
    (tmp_path / "to out").symlink_to("out")
    with atomic_folder(tmp_path / "to out") as part:
        lay(part, a_txt="newer", model__weights="new")
    assert (tmp_path / "out/model").is_symlink() and (tmp_path / "out/a.txt").is_symlink()
    assert texts(tmp_path / "disk") == {"a.txt": "newer", "model/weights": "new", "model/mine": "mine"}


@contextmanager
def unprivileged():
    "A folder that is open to all, and the rights of nobody for who is root."
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = os.geteuid() == 0
        try:
            yield Path(folder), lambda: os.seteuid(65534) if root else None
        finally:
            if root:
                os.seteuid(0)


def test_folders_that_take_nothing():
    "Without permission to write or to read, the message says which path and what to do."
    with unprivileged() as (folder, drop):
        lay(folder, closed__a_txt="old", c1_SJ_out_tab="chr1\t1\t9\t1\t1\t1\t3\t0\t20\n")
        for path, mode in ((folder / "closed/a.txt", 0o644), (folder / "closed", 0o555), (folder / "c1.SJ.out.tab", 0)):
            path.chmod(mode)
        drop()
        with pytest.raises(PermissionError, match=r"closed/b.txt cannot be written.*Choose another place"):
            write_file(folder / "closed/b.txt", "")
        with pytest.raises(PermissionError, match="closed/out cannot be written"), atomic_folder(folder / "closed/out"):
            pass
        with pytest.raises(PermissionError, match=r"c1.SJ.out.tab cannot be read: permission denied. Ask its owner"):
            io.read_star_junctions(folder / "c1.SJ.out.tab")
        with pytest.raises(PermissionError, match="write-protected|cannot be written"):
            write_file(folder / "closed/a.txt", "")


# the commands

KILLED = """
import os, signal, sys
from splicevi import cli
{patch}
cli.main(sys.argv[1:])
"""
KILL_IMPORT = """
from mudata import MuData
def half(self, path):
    open(path, "w").write("half")
    os.kill(os.getpid(), signal.SIGKILL)
MuData.write_h5mu = half
"""
KILL_TRAIN = """
cli._add_latents = cli._report_content = lambda *args: {}
cli._report = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
"""
PERIND = "c1 c2\nchr1:200:401:clu_1_+ 3 1\nchr1:200:801:clu_1_+ 1 5\n"


def test_killed_import(tmp_path):
    "The old file is as it was; the next import removes what was left, and replaces the old file if it is told to."
    lay(tmp_path, x_counts=PERIND, new_h5mu="old")
    words = ["import", "leafcutter", str(tmp_path / "x.counts"), str(tmp_path / "new.h5mu"), "--quiet", "--overwrite"]
    assert python(KILLED.format(patch=KILL_IMPORT), *words).returncode == -signal.SIGKILL
    assert (tmp_path / "new.h5mu").read_text() == "old" and len(list(tmp_path.glob(".splicevi-*.h5mu"))) == 1
    assert cli.main(words[:-1]) == 2 and (tmp_path / "new.h5mu").read_text() == "old"
    assert cli.main(words) == 0 and mudata.read_h5mu(tmp_path / "new.h5mu").n_obs == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.h5mu", "x.counts"]


def test_killed_training(tmp_path, monkeypatch):
    "Killed as it writes, a run leaves the older results alone; the next one replaces them, but no file of the user."
    simulate(n_cells=60, n_genes=20, n_junctions=30, n_cell_types=2, observed=0.4).write(tmp_path / "data.h5mu")
    out = lay(tmp_path / "out", history_csv="old", mdata_h5mu="old", report_html="old", model__weights="old", **MINE)
    before = texts(out)
    words = ["train", str(tmp_path / "data.h5mu"), str(out), "--quiet", "--max_epochs", "1"]
    assert python(KILLED.format(patch=KILL_TRAIN), *words).returncode == -signal.SIGKILL
    left = list(out.glob(".splicevi-*"))
    assert len(left) == 1 and (left[0] / "model").is_dir()
    assert texts_outside(out, left[0]) == before
    for name, quick in (("_add_latents", lambda *_: None), ("_report_content", lambda *_: {})):
        monkeypatch.setattr(cli, name, quick)
    monkeypatch.setattr(cli, "_report", lambda *given: write_file(given[-1] / "report.html", "new"))
    assert cli.main(words) == 0
    assert sorted(p.name for p in out.iterdir()) == ["data.txt", "history.csv", "mdata.h5mu", "model", "report.html"]
    assert (out / "model/notes.txt").read_text() == (out / "model/runs/1.txt").read_text() == "mine"
    assert mudata.read_h5mu(out / "mdata.h5mu").n_obs == 60


def texts_outside(folder: Path, left: Path) -> dict[str, str]:
    "The files below a folder, but not those below another."
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and left not in f.parents]
    return {str(f.relative_to(folder)): f.read_text() for f in files}


# numbers and encodings

FAR, MANY = 5_000_000_000, 10_000_000_000


def star(start, end, reads) -> str:
    return f"chr1\t{start}\t{end}\t1\t1\t1\t{reads}\t0\t20\n"


def test_64_bits_all_the_way(tmp_path):
    "A position of 5·10⁹ and 10¹⁰ reads come back as they are, whatever the format."
    lay(
        tmp_path,
        a_SJ_out_tab=star(FAR, FAR + 99, MANY),
        a_bed=f"chr1\t{FAR - 31}\t{FAR + 129}\tJ\t{MANY}\t+\t0\t0\t0\t2\t30,30\t0,130\n",
        b_bed=f"chr1\t{FAR - 31}\t{FAR + 129}\tJ\t1\t+\t0\t0\t0\t2\t30,30\t0,130\t1\tAA:{MANY}\n",
        a_junc=f"chr1\t{FAR - 1}\t{FAR + 99}\t.\t{MANY}\t+\n",
        a_counts=f"c1\nchr1:{FAR - 1}:{FAR + 100}:clu_1_+ {MANY}\n",
        Solo_out__SJ__raw__features_tsv=star(FAR, FAR + 99, 1),
        a_gtf=f'chr1\tx\texon\t{FAR}\t{FAR + 99}\t.\t+\t.\tgene_id "G"; transcript_id "T";\n',
    )
    for part in ("SJ/raw", "Gene/raw", "Gene/filtered"):
        folder = tmp_path / "Solo.out" / part
        folder.mkdir(parents=True, exist_ok=True)
        head = "%%MatrixMarket matrix coordinate integer general\n1 1 1\n"
        (folder / "matrix.mtx").write_text(f"{head}1 1 {MANY}\n")
        (folder / "barcodes.tsv").write_text("AA\n")
        if part != "SJ/raw":
            (folder / "features.tsv").write_text("g1\tA\n")
    found = [
        io.read_star_junctions(tmp_path / "a.SJ.out.tab"),
        io.read_regtools(tmp_path / "a.bed"),
        io.read_regtools(tmp_path / "b.bed"),
        io.read_leafcutter(tmp_path / "a.junc"),
        io.read_leafcutter(tmp_path / "a.counts"),
        io.read_starsolo(tmp_path)["splicing"],
    ]
    for adata in found:
        assert adata.var_names.tolist() == [f"chr1:{FAR}:{FAR + 99}:+"] and adata.X.toarray().tolist() == [[MANY]]
        assert adata.var["start"].tolist() == [FAR]
    assert read_gtf(tmp_path / "a.gtf").exons[["start", "end"]].values.tolist() == [[FAR, FAR + 99]]


def test_far_positions_of_two_chromosomes(tmp_path):
    "Beyond 2³², junctions of different chromosomes keep apart."
    lines = star(2**32 + 5, 2**62, 3) + star(5, 2**62 - 2**32, 4).replace("chr1", "chr2") + star(5, 9, 7)
    got = io.read_star_junctions(lay(tmp_path, a_SJ_out_tab=lines) / "a.SJ.out.tab")
    assert sorted(got.X.toarray()[0].tolist()) == [3, 4, 7]


@pytest.mark.parametrize("packed", [False, True])
def test_marks_and_line_ends(tmp_path, packed):
    "The mark of UTF-8 and the line ends of Windows are no part of the data."
    text = (star(10, 20, 3) + star(10, 30, 4)).replace("\n", "\r\n").encode("utf-8-sig")
    (tmp_path / "a.SJ.out.tab").write_bytes(gzip.compress(text) if packed else text)
    got = io.read_star_junctions(tmp_path)
    assert got.var_names.tolist() == ["chr1:10:20:+", "chr1:10:30:+"] and got.X.toarray().tolist() == [[3, 4]]


def test_gtf_reads_signs_in_names(tmp_path):
    "A # within a line belongs to a name, and is no comment."
    line = 'chr1\tx\texon\t{}\t{}\t.\t+\t.\tgene_id "G#1"; gene_name "A#B"; transcript_id "T";\n'
    path = lay(tmp_path, a_gtf="#!x\n" + line.format(1, 9) + "###\n\n" + line.format(21, 30)) / "a.gtf"
    got = read_gtf(path)
    assert got.genes[["gene_id", "gene_name", "start", "end"]].values.tolist() == [["G#1", "A#B", 1, 30]]
    assert got.introns[["start", "end"]].values.tolist() == [[10, 20]]


def test_bed_keeps_its_columns():
    "Tabs, line breaks and quotes in names of junctions, groups, genes and events make no column and no line."
    from splicevi.datasets import example
    from splicevi.views.explorer.export import bed
    from splicevi.views.explorer.state import ExplorerState

    data = example()
    odd = data.obs["cell_type"].cat.rename_categories(lambda c: f'{c}\tof\r\nall "kinds"')
    data.obs["cell_type"] = odd
    data["splicing"].var["gene_name"] = 'A\t"B"\nC'
    state = ExplorerState(data, event="ATSE_00012", groupby="cell_type")
    head, *lines = bed(state, by_group=True).splitlines()
    assert head.startswith("track name=\"A 'B' C ATSE_00012\" description=") and head.count('"') == 4
    assert len(lines) >= len(state.junctions) * 2 and {len(line.split("\t")) for line in lines} == {6}
    place = pd.DataFrame([line.split("\t") for line in lines])
    assert place[1].str.isdecimal().all() and place[4].str.isdecimal().all() and place[5].isin(["+", "-", "."]).all()
    assert np.isin(place[0].unique(), state.junctions["chrom"].unique()).all()
