"""Machines go down, disks fill up, and people press Ctrl-C: what is left is a usable model, or a run that can go on."""

import errno
import gc
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import warnings
from pathlib import Path

import mudata
import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from splicevi import SPLICEVI
from splicevi.datasets import simulate
from splicevi.model import checkpoint as checkpoints
from splicevi.model import save as saving
from splicevi.model.checkpoint import FILE, FolderLock

QUIET = dict(enable_progress_bar=False, accelerator="cpu", batch_size=32)


@pytest.fixture(scope="module")
def mdata():
    "90 cells in two batches, so that there is a classifier of the batch."
    return simulate(n_cells=90, n_genes=20, n_junctions=30, n_cell_types=2, n_batches=2, seed=0)


def build(mdata, **options):
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    return SPLICEVI(mdata, n_latent=4, **options)


def weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def same_weights(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def usable(model, mdata, folder) -> None:
    "A model can be asked, saved, loaded and trained."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isfinite(model.get_latent_representation()).all() and not model.module.training
        model.save(folder / "usable", overwrite=True)
        assert np.array_equal(
            SPLICEVI.load(folder / "usable", mdata).get_latent_representation(), model.get_latent_representation()
        )
        model.train(max_epochs=1, **QUIET)
    assert model.is_trained and np.isfinite(model.get_normalized_splicing(return_numpy=True)).all()


# ---------------------------------------------------------------- going on


class Crash(Callback):
    "Ends training in the middle of an epoch."

    def __init__(self, epoch, error=None):
        self.epoch, self.error = epoch, error or RuntimeError("down")

    def on_train_batch_end(self, trainer, plan, out, batch, at):
        if trainer.current_epoch == self.epoch and at == 1:
            raise self.error


OPTIONS = {
    "plain": {},
    "step": dict(lr_scheduler_type="step", step_size=2, n_epochs_kl_warmup=None, n_steps_kl_warmup=9),
    "plateau": dict(reduce_lr_on_plateau=True, lr_patience=0, lr_threshold=10.0),
    "early stopping": dict(early_stopping_patience=2, early_stopping_min_delta=1e9, early_stopping_warmup_epochs=2),
    "every third": dict(checkpoint_every=3, check_val_every_n_epoch=2, early_stopping=False),
    "workers": dict(datasplitter_kwargs={"num_workers": 1}),
}


def assert_same_run(one, two):
    "Two runs have the same curves, bit for bit, the same weights and the same cells."
    assert one.history.keys() == two.history.keys()
    for k in one.history:
        assert one.history[k].equals(two.history[k]), k
        assert one.history[k].index.tolist() == two.history[k].index.tolist()
    assert same_weights(weights(one), weights(two))
    assert np.array_equal(one.train_indices, two.train_indices) and two.is_trained


def quick(names, *often):
    "Parameters of a test, of which only some run each time."
    return [n if n in often else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", quick(OPTIONS, "plain", "step", "early stopping"))
def test_a_resumed_run_is_the_uninterrupted_one(mdata, tmp_path, name):
    "Curves, weights and cells of a run that went down in mid-epoch and went on, under another seed, are the same."
    options = dict(max_epochs=7, lr=1e-3, **OPTIONS[name], **QUIET)
    whole = build(mdata)
    whole.train(**options)
    with pytest.raises(RuntimeError, match="down"):
        build(mdata).train(checkpoint=tmp_path, callbacks=[Crash(3)], **options)
    resumed = build(mdata)
    scvi.settings.seed = 99
    resumed.train(checkpoint=tmp_path, resume=True, **options)
    assert_same_run(whole, resumed)
    if name == "early stopping":
        assert len(whole.history["elbo_train"]) == 5
    ended = build(mdata)
    ended.train(checkpoint=tmp_path, resume=True, **options)  # there is nothing left to do
    assert_same_run(whole, ended)


def test_an_ended_run_is_trained_further(mdata, tmp_path):
    whole, part = build(mdata), build(mdata)
    whole.train(max_epochs=5, **QUIET)
    build(mdata).train(max_epochs=3, checkpoint=tmp_path, **QUIET)
    part.train(max_epochs=5, checkpoint=tmp_path, resume=True, **QUIET)
    assert_same_run(whole, part)
    with pytest.raises(ValueError, match="has 5 epochs, more than max_epochs=4"):
        part.train(max_epochs=4, checkpoint=tmp_path, resume=True, **QUIET)


def test_a_second_training_is_resumed_with_the_history_of_the_first(mdata, tmp_path):
    def twice(**second):
        model = build(mdata)
        model.train(max_epochs=2, **QUIET)
        scvi.settings.seed = 5
        model.train(max_epochs=4, **second, **QUIET)
        return model

    whole = twice()
    with pytest.raises(RuntimeError, match="down"):
        twice(checkpoint=tmp_path, callbacks=[Crash(2)])
    resumed = build(mdata)
    resumed.train(max_epochs=4, checkpoint=tmp_path, resume=True, **QUIET)
    assert_same_run(whole, resumed)
    assert len(resumed.history["elbo_train"]) == 6


def test_the_record_of_a_resumed_run_goes_on(mdata, tmp_path):
    from splicevi.model.record import RecordingCallback

    with pytest.raises(RuntimeError, match="down"):
        build(mdata).train(max_epochs=4, checkpoint=tmp_path, callbacks=[RecordingCallback(), Crash(2)], **QUIET)
    watcher, model = RecordingCallback(), build(mdata)
    model.train(max_epochs=4, checkpoint=tmp_path, resume=True, callbacks=[watcher], **QUIET)
    curve = watcher.recorder.to_frame()["elbo_validation"]
    assert np.array_equal(curve.to_numpy(), model.history["elbo_validation"].to_numpy(float).ravel())
    assert len(watcher.recorder.seconds) == 4


def test_what_cannot_be_resumed_is_told(mdata, tmp_path, monkeypatch):
    monkeypatch.setattr(scvi.settings, "logging_dir", str(tmp_path / "logs"))
    run = dict(max_epochs=2, **QUIET)
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*splicevi-checkpoint.*checkpoint=.*resume='auto'"):
        build(mdata).train(resume=True, **run)
    build(mdata).train(resume="auto", **run)
    build(mdata).train(resume=True, **run)
    resume = dict(checkpoint=True, resume=True, **run)
    with pytest.raises(ValueError, match="another run: lr was 0.0001 and is 0.01.*same data and options"):
        build(mdata).train(lr=1e-2, **resume)
    with pytest.raises(ValueError, match="n_hidden was null and is 7"):
        build(mdata, n_hidden=7).train(**resume)
    other = mdata.copy()
    other["splicing"].layers["cell_by_junction_matrix"].data[0] += 1
    del other["splicing"].layers["cell_by_cluster_matrix"]
    with pytest.raises(ValueError, match="the data have other reads"):
        build(other).train(**resume)
    other = mdata.copy()
    other.obs["batch"] = other.obs["batch"].to_numpy()[::-1]
    with pytest.raises(ValueError, match="the data have other covariates"):
        build(other).train(**resume)
    for wrong in (dict(resume="yes"), dict(checkpoint=False, resume=True), dict(checkpoint=True, checkpoint_every=0)):
        with pytest.raises(ValueError, match="resume|checkpoint_every"):
            build(mdata).train(**run, **wrong)
    file = tmp_path / "logs" / "splicevi-checkpoint" / FILE
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged or was cut short"):
        build(mdata).train(**resume)


def test_a_checkpoint_that_would_be_lost_is_told(mdata, tmp_path):
    with pytest.raises(RuntimeError, match="down"):
        build(mdata).train(max_epochs=4, checkpoint=tmp_path, callbacks=[Crash(1)], **QUIET)
    with pytest.warns(UserWarning, match=r"had not ended left its checkpoint \(epoch 1\).*resume=True would go on"):
        build(mdata).train(max_epochs=1, checkpoint=tmp_path, **QUIET)


# ---------------------------------------------------------------- kill -9

SETUP = """
import os, signal, sys, warnings, logging
warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
from pathlib import Path
import scvi
from lightning.pytorch.callbacks import Callback
from splicevi import SPLICEVI
from splicevi.datasets import simulate
scvi.settings.seed = 0
mdata = simulate(n_cells=90, n_genes=20, n_junctions=30, n_cell_types=2, n_batches=2, seed=0)
SPLICEVI.setup_mudata(mdata, batch_key="batch")
model = SPLICEVI(mdata, n_latent=4)
quiet = dict(enable_progress_bar=False, accelerator="cpu", batch_size=32)
folder = Path(sys.argv[1])

class Kill(Callback):
    def on_train_batch_end(self, trainer, plan, out, batch, at):
        if trainer.current_epoch == 2 and at == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def script(text: str, folder, **kwargs):
    "A process that has the data and an untrained model."
    code = SETUP + textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, **kwargs)


def test_a_killed_run_goes_on(mdata, tmp_path):
    "kill -9 in mid-epoch, then resume in another process: the curve and the weights of an uninterrupted run."
    killed = script("model.train(max_epochs=4, checkpoint=folder, callbacks=[Kill()], **quiet)", tmp_path)
    assert killed.wait(120) == -signal.SIGKILL and (tmp_path / FILE).exists()
    resumed, whole = build(mdata), build(mdata)
    whole.train(max_epochs=4, **QUIET)
    resumed.train(max_epochs=4, checkpoint=tmp_path, resume=True, **QUIET)
    assert_same_run(whole, resumed)


def forked(work) -> int:
    "A child of this process that does something and ends: 0, or 1 after an error."
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def end_of(child: int, seconds: float = 60) -> int:
    "How a child ended; a negative signal if it was killed."
    for _ in range(int(seconds * 50)):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("a child did not end")


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_file(patch):
    patch.setattr(Path, "write_bytes", lambda self, raw: (open(self, "wb").write(raw[:999]), die()))


def before_it_is_put_in_place(patch):
    patch.setattr(saving, "publish", die)


def between_two_files(patch):
    patch.setattr(os, "replace", die)


def after_the_first_of_two(patch):
    move = os.replace
    patch.setattr(os, "replace", lambda *a: (move(*a), die()))


STAGES = {half_a_file: "old", before_it_is_put_in_place: "old", between_two_files: "new", after_the_first_of_two: "new"}


@pytest.fixture(scope="module")
def trained(mdata):
    "A model of one epoch, one of two epochs, both in memory."
    out = []
    for n in (1, 2):
        out.append(build(mdata))
        out[-1].train(max_epochs=n, **QUIET)
    return out


@pytest.mark.parametrize("stage", STAGES, ids=lambda f: f.__name__)
def test_a_killed_save_leaves_a_whole_model(trained, tmp_path, monkeypatch, stage):
    "kill -9 at each step of a save: the folder holds the old model or the new one with its data, and is tidied later."
    old, new = trained
    old.save(tmp_path / "m", save_anndata=True)

    def killed():
        stage(monkeypatch)
        new.save(tmp_path / "m", overwrite=True, save_anndata=True)

    assert end_of(forked(killed)) == -signal.SIGKILL
    back = SPLICEVI.load(tmp_path / "m")
    wanted = {"old": old, "new": new}[STAGES[stage]]
    assert np.array_equal(back.get_latent_representation(), wanted.get_latent_representation())
    new.save(tmp_path / "m", overwrite=True)
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"model.pt", "mdata.h5mu"}
    assert len(SPLICEVI.load(tmp_path / "m").history["elbo_train"]) == 2


# ---------------------------------------------------------------- disks


def assert_old_model(folder, old):
    assert np.array_equal(SPLICEVI.load(folder, False).history["elbo_train"], old.history["elbo_train"])
    assert [p.name for p in folder.iterdir()] == ["model.pt"]


def test_a_full_disk_leaves_the_old_model(mdata, tmp_path):
    "The system's limit on the size of a file stands for a full disk: what is said, and what is left."
    import resource

    model = build(mdata)
    model.train(max_epochs=1, **QUIET)
    model.save(tmp_path / "m")
    before = (tmp_path / "m" / "model.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        for data in (False, True):
            with pytest.raises(OSError, match=r"The model was not saved to .*m\..*as it was"):
                model.save(tmp_path / "m", overwrite=True, save_anndata=data)
        with pytest.raises(OSError, match="larger than the system allows"):
            model.save(tmp_path / "new")
        with pytest.raises(OSError, match="The checkpoint was not saved"):
            build(mdata).train(max_epochs=1, checkpoint=tmp_path / "c", **QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "m" / "model.pt").read_bytes() == before and not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["model.pt"]


def test_a_disk_that_fills_up_in_training(mdata, tmp_path, monkeypatch):
    "A checkpoint that can't be written is told, training goes on, and the last one that could is still there."
    write, model = Path.write_bytes, build(mdata)

    def full(self, raw):
        if model.history is None and trainer_epoch() >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, raw)

    class Watch(Callback):
        def on_train_start(self, trainer, plan):
            Watch.trainer = trainer

    trainer_epoch = lambda: Watch.trainer.current_epoch
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match=r"The checkpoint was not saved.*The disk is full.*Training goes on"):
        model.train(max_epochs=4, checkpoint=tmp_path, callbacks=[Watch()], **QUIET)
    assert len(model.history["elbo_train"]) == 4
    monkeypatch.undo()
    assert checkpoints.read_checkpoint(tmp_path)["counts"]["epoch"] == 1


def test_a_read_only_folder(mdata, trained):
    "A model loads from a folder that can't be written; saving and checkpoints there say so, at once."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained[0].save(folder / "m")
        for place in (folder, folder / "m"):
            place.chmod(0o555)

        def denied(do):
            with pytest.raises(OSError, match="was not saved to .*You may not write there"):
                do()

        def work():
            if os.geteuid() == 0:  # root may write anywhere
                os.setgid(65534)
                os.setuid(65534)
            SPLICEVI.load(folder / "m", mdata, accelerator="cpu")
            denied(lambda: trained[0].save(folder / "new"))
            denied(lambda: trained[0].save(folder / "m", overwrite=True))
            denied(lambda: build(mdata).train(max_epochs=1, checkpoint=folder / "c", **QUIET))

        assert end_of(forked(work)) == 0
        assert [p.name for p in folder.iterdir()] == ["m"] and [p.name for p in (folder / "m").iterdir()] == [
            "model.pt"
        ]
        for place in (folder, folder / "m"):
            place.chmod(0o755)


# ---------------------------------------------------------------- two at once


def test_two_processes_save_to_one_folder(trained, tmp_path):
    "Whoever is last wins; at every moment the folder holds a model that loads, with data."
    folder, one = tmp_path / "m", trained[0]
    one.save(folder, save_anndata=True)
    children = [
        forked(lambda m=m: [m.save(folder, overwrite=True, save_anndata=i % 2 == 0) for i in range(12)])
        for m in trained
    ]
    seen, ends = [], {}
    while len(ends) < 2:
        seen.append(len(SPLICEVI.load(folder).history["elbo_train"]))
        for child in children:
            if child not in ends and (found := os.waitpid(child, os.WNOHANG))[0]:
                ends[child] = os.waitstatus_to_exitcode(found[1])
    assert set(ends.values()) == {0} and set(seen) <= {1, 2} and len(seen) > 1
    assert {p.name for p in folder.iterdir()} == {"model.pt", "mdata.h5mu"}


def test_two_runs_do_not_share_checkpoints(mdata, tmp_path):
    "The second one is refused, in this process and in another; the lock goes with its holder, even a killed one."
    ready = tmp_path / "ready"

    def hold():
        held = FolderLock(tmp_path / "c")
        held.take()
        ready.touch()
        time.sleep(60)

    holder, run = forked(hold), dict(max_epochs=1, checkpoint=tmp_path / "c", **QUIET)
    while not ready.exists():
        time.sleep(0.01)
    for resume in (False, True):
        with pytest.raises(RuntimeError, match=rf"Another run \(process {holder}\) is training with the checkpoints"):
            build(mdata).train(resume=resume, **run)
    os.kill(holder, signal.SIGKILL)
    assert end_of(holder) == -signal.SIGKILL
    first, second = build(mdata), build(mdata)

    def both_refused():
        "A refusal in this process does not free the folder for others."
        refused(second, run)
        with pytest.raises(RuntimeError, match=f"process {os.getpid()}"):
            in_another_process(FolderLock(tmp_path / "c").take)

    first.train(callbacks=[Meanwhile(both_refused)], **run)
    second.train(resume=True, **run)
    assert_same_run(first, second)


class Meanwhile(Callback):
    "Does something in the middle of a training."

    def __init__(self, work):
        self.work = work

    def on_train_start(self, *args):
        self.work()


def refused(model, run) -> None:
    with pytest.raises(RuntimeError, match="Another run"):
        model.train(**run)


def in_another_process(work) -> None:
    "Do something in a child that knows of no lock of its parent; its RuntimeError is raised here."
    told, tell = os.pipe()

    def child():
        checkpoints._HELD.clear()
        try:
            work()
        except RuntimeError as e:
            os.write(tell, str(e).encode())

    end_of(forked(child))
    os.close(tell)
    with open(told) as text:
        if said := text.read():
            raise RuntimeError(said)


def test_a_second_training_leaves_the_first_alone(mdata):
    "It is refused before it gives the weights their start again."
    model, seen = build(mdata), []

    def again():
        before = weights(model)
        with pytest.raises(RuntimeError, match="being trained already"):
            model.train(max_epochs=1, **QUIET)
        seen.append(same_weights(before, weights(model)))

    model.train(max_epochs=2, callbacks=[Later(again)], **QUIET)
    assert seen == [True]


class Later(Meanwhile):
    "Does something after the first epoch."

    def on_train_start(self, *args):
        pass

    def on_train_epoch_end(self, trainer, *args):
        if trainer.current_epoch == 0:
            self.work()


# ---------------------------------------------------------------- workers


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on disk"])
def test_forked_workers_train_to_the_same_curve(mdata, tmp_path, on_disk):
    "Two workers that read the data, also from one file, give the mini-batches that the process itself would."
    data = mdata
    if on_disk:
        dense = mdata.copy()
        dense["rna"].X = dense["rna"].X.toarray()
        dense.write(tmp_path / "d.h5mu")
        data = mudata.read_h5mu(tmp_path / "d.h5mu", backed="r")
    curves = []
    for workers in (0, 2):
        model = build(data)
        how = dict(num_workers=workers) | (dict(multiprocessing_context="fork") if workers else {})
        model.train(max_epochs=2, datasplitter_kwargs=how, **QUIET)
        curves.append(model.history["elbo_train"].to_numpy(float))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-6)
    try:
        scvi.settings.dl_num_workers = 2
        np.testing.assert_allclose(
            model.get_latent_representation(), model.get_latent_representation(mdata.copy()), atol=1e-5
        )
    finally:
        scvi.settings.dl_num_workers = 0


# ---------------------------------------------------------------- interrupts


def interrupts(name: str, error=KeyboardInterrupt):
    "A callback that is interrupted when a hook is called for the second time."
    seen = []

    def hook(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 2 or name in ("on_train_start", "on_train_end", "setup"):
            raise error

    return type("Interrupted", (Callback,), {name: hook})()


def once(patch, owner, name: str, at: int = 1):
    "A function that is interrupted at its n-th call, and works afterwards."
    real, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    patch.setattr(owner, name, interrupted)


HOOKS = [
    "setup", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end",
    "on_validation_start", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_end",
]  # fmt: skip


@pytest.mark.parametrize("hook", quick(HOOKS, "setup", "on_train_batch_end", "on_validation_end", "on_train_end"))
def test_an_interrupt_in_a_callback_leaves_a_usable_model(mdata, tmp_path, hook):
    model = build(mdata)
    with pytest.raises(KeyboardInterrupt):
        model.train(max_epochs=3, callbacks=[interrupts(hook)], **QUIET)
    learnt = hook not in ("setup", "on_train_start")
    assert model.is_trained == learnt and not model.module.training
    if learnt:
        assert len(model.train_indices) == 81 and model.history is not None
    else:
        model.train(max_epochs=1, **QUIET)
    usable(model, mdata, tmp_path)


MOMENTS = {
    "the start from data": ("splicevi.nn.module", "SPLICEVAE", "start", 1),
    "the split": ("splicevi.nn.loader", "CellSplitter", "setup", 1),
    "the optimisers": ("splicevi.nn.plan", "SplicingTrainingPlan", "configure_optimizers", 1),
    "a step": ("splicevi.nn.plan", "SplicingTrainingPlan", "_update", 4),
    "validation": ("splicevi.nn.plan", "SplicingTrainingPlan", "validation_step", 2),
    "a checkpoint": ("splicevi.model.checkpoint", "CheckpointCallback", "_content", 2),
    "reading cells": ("splicevi.nn.loader", "CellDataset", "__getitem__", 3),
}


@pytest.mark.parametrize("moment", quick(MOMENTS, "the start from data", "a step", "a checkpoint"))
def test_an_interrupt_anywhere_leaves_a_usable_model(mdata, tmp_path, monkeypatch, moment):
    "The handler of interrupts is put back, the model is unlocked, and what was learnt is kept."
    import importlib

    before, model = signal.getsignal(signal.SIGINT), build(mdata)
    module, owner, name, at = MOMENTS[moment]
    with monkeypatch.context() as patch:
        once(patch, getattr(importlib.import_module(module), owner), name, at)
        with pytest.raises(KeyboardInterrupt):
            model.train(max_epochs=3, checkpoint=tmp_path / "c", **QUIET)
    assert signal.getsignal(signal.SIGINT) == before
    if not model.is_trained:
        assert moment in ("the start from data", "the split", "the optimisers")
        model.train(max_epochs=1, **QUIET)
    usable(model, mdata, tmp_path)


def test_one_interrupt_in_validation_ends_training_in_order(mdata, tmp_path):
    "A signal that arrives in validation: the epoch ends, and the model is trained, with its history."

    class Signal(Callback):
        def on_validation_batch_end(self, *args):
            os.kill(os.getpid(), signal.SIGINT)

    model = build(mdata)
    with pytest.warns(UserWarning, match="interrupted and ended after 1 epochs"):
        model.train(max_epochs=5, callbacks=[Signal()], **QUIET)
    assert model.is_trained and len(model.history["elbo_validation"]) == 1
    usable(model, mdata, tmp_path)


# ---------------------------------------------------------------- memory


def too_large() -> MemoryError:
    "What numpy raises for an array that fits in no memory."
    try:
        np.empty((10**9, 10**9))
    except MemoryError as e:
        return e
    raise AssertionError("a billion billion numbers were reserved")


ERRORS = {
    "of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "of torch on the CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
    ),
    "of numpy": too_large(),
}
ASK = {
    "get_latent_representation": (dict(), ["batch_size", "indices"]),
    "get_normalized_splicing": (dict(), ["batch_size", "indices", "junction_list", "n_samples"]),
    "get_normalized_expression": (dict(), ["batch_size", "indices", "gene_list"]),
    "get_elbo": (dict(), ["batch_size", "indices"]),
    "train": (dict(max_epochs=1, accelerator="cpu", enable_progress_bar=False), ["batch_size", "max_nobs"]),
}


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("kind", ERRORS)
def test_memory_that_runs_out_comes_with_advice(trained, monkeypatch, ask, kind):
    "The error is of its kind, has the original as its cause, and names arguments that ask for less."
    model, error = trained[0], ERRORS[kind]
    given, advice = ASK[ask]

    def raises(*args, **kwargs):
        raise error

    gc.collect()  # trainings that the tests before interrupted
    monkeypatch.setattr(type(model.module), "inference", raises)
    wanted = MemoryError if isinstance(error, MemoryError) else type(error)
    with pytest.raises(wanted, match="Memory ran out; try .*") as caught:
        getattr(model, ask)(**given)
    assert caught.value.__cause__ is error and type(caught.value) is wanted
    assert all(a in str(caught.value) for a in advice) and str(error) in str(caught.value)
    assert not [t for t in threading.enumerate() if t.name.startswith(("splicevi-loader", "splicevi-encoder"))]


def test_other_errors_are_left_alone(trained, monkeypatch):
    def raises(*args, **kwargs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(type(trained[0].module), "inference", raises)
    with pytest.raises(RuntimeError, match="^shapes do not fit$"):
        trained[0].get_latent_representation()
