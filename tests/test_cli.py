"""The command line from end to end: what it writes, what it refuses, and that a failed run loses nothing."""

import html
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest

from splicevi import cli
from splicevi.datasets import simulate

WRITTEN = ["history.csv", "mdata.h5mu", "model", "report.html"]
QUICK = ["--max_epochs", "2", "--quiet"]


@pytest.fixture(scope="module")
def small():
    "A MuData that trains in a moment."
    return simulate(n_cells=60, n_genes=30, n_junctions=40, n_cell_types=2, observed=0.4, seed=0)


@pytest.fixture
def file(small, tmp_path):
    "The same in a file."
    small.write(tmp_path / "small.h5mu")
    return tmp_path / "small.h5mu"


def figures(page: Path) -> list[dict]:
    "The Plotly figures of a report."
    return [
        json.loads(text.replace("<\\/", "</"))
        for text in re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(), re.S)
    ]


def test_installed_command(file, tmp_path):
    "The installed command trains, names its results on standard output and shows progress on the error stream."
    command = [Path(sys.executable).parent / "splicevi", "train", file, tmp_path / "out", "--max_epochs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == WRITTEN
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        f"{tmp_path}/out/{n}" for n in ("report.html", "model/", "mdata.h5mu", "history.csv")
    ]
    assert "3/3" in done.stderr and "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_ctrl_c_keeps_what_was_learnt(file, tmp_path):
    "Ctrl-C while training ends it early, and the results are written."
    command = [
        Path(sys.executable).parent / "splicevi",
        "train",
        file,
        tmp_path / "out",
        "--max_epochs",
        "100000",
        "--hold_out",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        said = b""
        while b"validation ELBO" not in said and run.poll() is None:
            said += run.stderr.read1(4096)
        run.send_signal(signal.SIGINT)
        said += run.stderr.read()
    assert run.returncode == 0, said.decode()
    assert 0 < len(pd.read_csv(tmp_path / "out" / "history.csv")) < 100000
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == WRITTEN


def test_ctrl_c_before_training_writes_nothing(file, tmp_path, monkeypatch, capsys):
    "Ctrl-C elsewhere aborts with a line and exit code 130, also where Lightning makes an exit of it."

    def interrupted(*args, **kwargs):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1) from None

    monkeypatch.setattr("splicevi.cli._fit", interrupted)
    assert cli.main(["train", str(file), str(tmp_path / "out"), *QUICK]) == 130
    assert "nothing was written" in capsys.readouterr().err and sorted(p.name for p in tmp_path.iterdir()) == [
        "small.h5mu"
    ]


def test_results_belong_together(file, tmp_path):
    "The saved model gives the saved latents, the curves have a row per epoch, and the report shows the held-out pairs."
    from splicevi import SPLICEVI

    assert cli.main(["train", str(file), str(tmp_path / "out"), *QUICK]) == 0
    out = mudata.read_h5mu(tmp_path / "out" / "mdata.h5mu")
    model = SPLICEVI.load(tmp_path / "out" / "model", adata=out)
    for modality, key in (
        ("joint", "X_splicevi"),
        ("expression", "X_splicevi_expression"),
        ("splicing", "X_splicevi_splicing"),
    ):
        np.testing.assert_array_equal(model.get_latent_representation(out, modality=modality), out.obsm[key])
        assert out.obsm[key + "_umap"].shape == (60, 2)
    assert len(pd.read_csv(tmp_path / "out" / "history.csv")) == 2
    page = tmp_path / "out" / "report.html"
    assert page.stat().st_size < 5e6 and len(figures(page)) == 5
    assert f'SPLICEVI.load("{tmp_path}/out/model"' in html.unescape(page.read_text())


def test_seed_decides(file, tmp_path):
    "The same seed gives the same latents, another one does not."
    latents = []
    for seed in ("1", "1", "2"):
        assert cli.main(["train", str(file), str(tmp_path / "out"), *QUICK, "--seed", seed]) == 0
        latents.append(mudata.read_h5mu(tmp_path / "out" / "mdata.h5mu").obsm["X_splicevi"])
    np.testing.assert_array_equal(latents[0], latents[1])
    assert np.abs(latents[0] - latents[2]).max() > 1e-3


@pytest.mark.parametrize("left_out, latents", [("rna", ["X_splicevi"]), ("splicing", ["X_splicevi"])])
def test_one_modality(file, tmp_path, left_out, latents):
    "Expression alone and splicing alone are legal."
    assert cli.main(["train", str(file), str(tmp_path / "out"), *QUICK, f"--{left_out}", "none"]) == 0
    out = mudata.read_h5mu(tmp_path / "out" / "mdata.h5mu")
    assert (
        left_out not in out.mod
        and [k for k in out.obsm if k.startswith("X_splicevi") and not k.endswith("umap")] == latents
    )


def test_other_names(small, tmp_path):
    "Modalities and layers of other names, batches and labels in the modality's obs, no held-out evaluation."
    from mudata import MuData

    rna, splicing = small["rna"].copy(), small["splicing"].copy()
    splicing.layers["reads"] = splicing.layers.pop("cell_by_junction_matrix")
    rna.layers["raw"], rna.X = rna.X, rna.X * 0.5
    rna.obs["donor"] = small.obs["batch"].astype(str).to_numpy()
    MuData({"gex": rna, "junctions": splicing}).write(tmp_path / "named.h5mu")
    options = [
        "--rna",
        "gex",
        "--rna_layer",
        "raw",
        "--splicing",
        "junctions",
        "--junc_counts_layer",
        "reads",
        "--batch-key",
        "donor",
        "--label-key",
        "donor",
        "--hold_out",
        "0",
    ]
    assert cli.main(["train", str(tmp_path / "named.h5mu"), str(tmp_path / "out"), *QUICK, *options]) == 0
    out = mudata.read_h5mu(tmp_path / "out" / "mdata.h5mu")
    assert (out["rna"].X != small["rna"].X).nnz == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "coloured by donor" in text and "Held-out PSI" not in text


def test_without_labels(small, tmp_path):
    "Clusters stand in for labels."
    bare = small.copy()
    for table in (bare, bare["rna"], bare["splicing"]):
        table.obs = table.obs[[]]
    bare.write(tmp_path / "bare.h5mu")
    assert cli.main(["train", str(tmp_path / "bare.h5mu"), str(tmp_path / "out"), *QUICK]) == 0
    assert "clusters of the joint space" in (tmp_path / "out" / "report.html").read_text()


def damage(mdata, kind: str):
    "Data with one fault, and words of the message that names it."
    broken = mdata.copy()
    if kind == "negative":
        broken["splicing"].layers["cell_by_junction_matrix"].data[0] = -1
    elif kind == "nan":
        broken["rna"].X.data[0] = np.nan
    elif kind == "event":
        del broken["splicing"].var["event_id"]
    elif kind == "modality":
        broken = type(mdata)({"rna": mdata["rna"].copy()})
    return broken, {"negative": "negative", "nan": "NaN", "event": "event_id", "modality": "no modality 'splicing'"}[
        kind
    ]


@pytest.mark.parametrize("kind", ["negative", "nan", "event", "modality"])
@pytest.mark.parametrize("command", ["train", "check"])
def test_wrong_data(small, tmp_path, capsys, kind, command):
    "Wrong data end with exit code 2 and a message that says what is wrong, and nothing is written."
    broken, words = damage(small, kind)
    broken.write(tmp_path / "broken.h5mu")
    extra = [str(tmp_path / "out"), *QUICK] if command == "train" else []
    assert cli.main([command, str(tmp_path / "broken.h5mu"), *extra]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.h5mu"]


@pytest.mark.parametrize("options, words", [
    (["nowhere.h5mu", "OUT"], "no file nowhere.h5mu"),
    ([__file__, "OUT"], "not a .h5mu file"),
    (["FILE", "OUT", "--label_key", "colour"], "label_key='colour' is no column of obs"),
    (["FILE", "OUT", "--batch_key", "day"], "batch_key='day' is no column of obs"),
    (["FILE", "OUT", "--modality_weights", "some"], "can be equal, cell"),
    (["FILE", "OUT", "--hold_out", "1"], "below 1"),
    (["FILE", "FILE"], "is a file"),
])  # fmt: skip
def test_mistakes(file, tmp_path, capsys, options, words):
    "Mistakes of the user are one line and exit code 2."
    given = [{"OUT": str(tmp_path / "out"), "FILE": str(file)}.get(o, o) for o in options]
    assert cli.main(["train", *given]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.h5mu"]


def test_failure_keeps_the_old_result(file, tmp_path, monkeypatch, capsys):
    "A run that fails at its last step, on a full disk, leaves the previous result as it was, and nothing of its own."
    assert cli.main(["train", str(file), str(tmp_path / "out"), *QUICK]) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splicevi.views.report.report", fail)
    capsys.readouterr()
    assert cli.main(["train", str(file), str(tmp_path / "out"), *QUICK, "--seed", "5"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/out was not written: no space left" in said and len(said.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "small.h5mu"]


def test_resume(file, tmp_path, monkeypatch):
    "A run with --resume that went down goes on where it was when the command is given again, to the same curve."
    from splicevi.nn.plan import SplicingTrainingPlan

    step, command = SplicingTrainingPlan.training_step, ["train", str(file), "--max_epochs", "3", "--quiet"]

    def down(self, *args):
        if self.current_epoch == 2:
            raise SystemExit("down")
        return step(self, *args)

    monkeypatch.setattr(SplicingTrainingPlan, "training_step", down)
    with pytest.raises(SystemExit):
        cli.main([*command, str(tmp_path / "out"), "--resume"])
    assert [p.name for p in (tmp_path / "out" / "checkpoint").glob("*.pt")] == ["checkpoint.pt"]
    (tmp_path / "out" / "checkpoint" / "mine.txt").touch()
    seen = []
    monkeypatch.setattr(
        SplicingTrainingPlan, "training_step", lambda s, *a: (seen.append(s.current_epoch), step(s, *a))[1]
    )
    assert cli.main([*command, str(tmp_path / "out"), "--resume"]) == 0
    assert set(seen) == {2} and sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*WRITTEN, "checkpoint"])
    assert [p.name for p in (tmp_path / "out" / "checkpoint").iterdir()] == ["mine.txt"]  # a file of the user
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("out", "whole"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("name, ari", [("scmixology", 0.9), ("brie_gastrulation", -1)])
def test_real_data(real_data, tmp_path, name, ari):
    "The main job on real data: held-out reads are likelier than under simpler predictions, and cell lines separate."
    from splicevi.tl.latent import latent_ari

    assert cli.main(["train", str(real_data / f"{name}.h5mu"), str(tmp_path / "out"), "--quiet"]) == 0
    out = mudata.read_h5mu(tmp_path / "out" / "mdata.h5mu")
    assert latent_ari(out.obsm["X_splicevi"], out.obs["cell_type"]) >= ari
    rows = re.findall(
        r"<tr><th>(SPLICEVI|neighbours|pooled PSI)</th>(.*?)</tr>", (tmp_path / "out" / "report.html").read_text()
    )
    likelihood = {name: float(re.sub(r"<.*?>", " ", cells).replace("−", "-").split()[-1]) for name, cells in rows}
    assert likelihood["SPLICEVI"] > max(likelihood["neighbours"], likelihood["pooled PSI"])


def test_import_says_which_filters_have_no_effect(tmp_path, capsys):
    "LeafCutter's clusters are kept as events, so filters for finding events are told to do nothing."
    table = tmp_path / "toy_perind_numers.counts"
    table.write_text("c1 c2\nchr1:200:401:clu_1_+ 3 1\nchr1:200:801:clu_1_+ 1 5\n")
    command = ["import", "leafcutter", str(table), str(tmp_path / "toy.h5mu")]
    assert cli.main([*command, "--min_reads", "100"]) == 0
    assert "--min_reads: no effect, as the input brings its events" in capsys.readouterr().err
    assert cli.main([*command[:3], str(tmp_path / "again.h5mu")]) == 0
    assert "no effect" not in capsys.readouterr().err
