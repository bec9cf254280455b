"""Training in several processes: two ranks on this machine do what one process does with doubled mini-batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import splicevi as sv

SCRIPT = Path(__file__).parent / "ranks.py"


def run_python(args, env, folder):
    "A process of its own."
    return subprocess.run(
        [sys.executable, *args], env=env, cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )


def run(folder, *more):
    "Run the script, which starts the second rank by itself."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))} | {"OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(SCRIPT.parents[1])
    done = run_python([str(SCRIPT), str(folder), *more], env, folder)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    "What each rank saw, and a process that trained alone."
    folder = tmp_path_factory.mktemp("ranks")
    run(folder)
    run(folder, "alone")
    assert not (folder / "lightning_logs").exists()  # nothing is left beside the user's script
    return [json.loads((folder / f"rank{name}.json").read_text()) for name in ("0", "1", "0alone")]


def test_ranks_have_the_same_weights_and_share_the_cells(seen):
    "Each epoch has every training cell; what fills up the last mini-batches is there twice."
    a, b, alone = seen
    assert a["weights"] == b["weights"] and a["trained"] and b["trained"] and a["train"] == b["train"] == alone["train"]
    for epoch in ("0", "11"):
        one, two = (sum(x["rows"][epoch], []) for x in (a, b))
        assert sorted({*one, *two}) == sorted(a["train"])
        assert len(one) == len(two) == -(-len(a["train"]) // 2) and len({*one} & {*two}) <= 1
    assert a["rows"]["0"] != a["rows"]["11"]  # shuffled anew


def test_the_curve_is_that_of_doubled_mini_batches(seen):
    "The validation ELBO follows that of one process with mini-batches of 64 cells, within the noise of the seed."
    a, _, alone = seen
    assert len(a["curve"]) == len(alone["curve"]) == 12
    np.testing.assert_allclose(a["curve"], alone["curve"], rtol=0.04)
    fall = [x[0] - min(x) for x in (a["curve"], alone["curve"])]
    assert min(fall) > 1 and max(fall) < 1.5 * min(fall)


def test_an_interrupt_of_one_rank_ends_all(seen):
    "Both ranks stop after the same mini-batch, and the one with the user says so."
    a, b, _ = seen
    assert a["interrupted"] == b["interrupted"] == [3, 2]
    assert len(a["said"]) == 1 and "after 2 epochs" in a["said"][0]


def test_early_stopping_dashboard_and_checkpoint(seen):
    "A training that is resumed by both ranks stops early in both."
    a, b, _ = seen
    assert a["resumed_weights"] == b["resumed_weights"] and 2 < a["resumed"] < 400


def test_all_ranks_stop_where_one_is_not_finite(seen):
    "The rank whose cells have the fault names them."
    a, b, _ = seen
    assert "Training stopped, as the gradient is not finite" in a["fault"]
    assert "Training stopped, as expression" in b["fault"]


@pytest.fixture(scope="module")
def model():
    data = sv.datasets.simulate(n_cells=40, n_genes=8, n_junctions=16, observed=0.5, seed=1)
    sv.SPLICEVI.setup_mudata(data, modalities={"rna_layer": "rna", "junc_ratio_layer": "splicing"})
    return sv.SPLICEVI(data, n_latent=2)


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"strategy": "ddp_spawn"}, "would pickle the model and its data"),
        ({"strategy": "ddp", "background": True}, "trains in a thread"),
    ],
)
def test_what_cannot_be_shared(model, wrong, message):
    "The model stays free for another training."
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.train(max_epochs=1, devices=2, accelerator="cpu", **wrong)
    assert all((before[k] == v).all() for k, v in model.module.state_dict().items())
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, train_size=0.8)
    assert model.is_trained


FORKED = """
import scvi, splicevi as sv, warnings
scvi.settings.seed = 0
data = sv.datasets.simulate(n_cells=60, n_genes=8, n_junctions=16, observed=0.5, seed=1)
sv.SPLICEVI.setup_mudata(data, modalities={"rna_layer": "rna", "junc_ratio_layer": "splicing"})
model = sv.SPLICEVI(data, n_latent=2)
before = model.module.px_r.detach().clone()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.train(max_epochs=3, batch_size=16, accelerator="cpu", devices=2, strategy="ddp_notebook", dashboard=True,
                enable_progress_bar=False)
assert [w for w in caught if "no dashboard" in str(w.message) and w.filename == "<string>"]
assert model.is_trained and len(model.history["elbo_validation"]) == 3 and (model.module.px_r != before).all()
model.get_latent_representation()
"""


def test_forked_ranks(tmp_path):
    "A notebook's process gets the weights and curves of its forked ranks."
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    done = run_python(["-c", FORKED], env, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.iterdir())
