"""What a graphics card asks of the library, as far as a processor can tell; and tests that need a card (`cuda`)."""

import gc
import traceback
import warnings

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode

import splicevi as sv
from splicevi.nn import loader, plan
from splicevi.nn.loader import CellLoader
from splicevi.nn.on_device import MULTICHOOSE, ZERO_INFLATED, kernel, multichoose_terms
from splicevi.nn.resident import ResidentCells
from splicevi.nn.sums import SumsOfRuns, at_least_single, sums_by_index, sums_of_runs

LIKELIHOODS = ("dirichlet_multinomial", "beta_binomial", "binomial")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_consecutive")
CHECKS = ("_is_finite", "adam.py", "adamw.py")  # what only a processor looks at: it need not wait for itself


def new_model(**kwargs):
    "A model with two batches, and so with an adversary."
    scvi.settings.seed = 0
    data = sv.datasets.simulate(n_cells=160, n_genes=30, n_junctions=60, observed=0.4, seed=1)
    where = {"rna_layer": "rna", "junc_ratio_layer": "splicing"}
    sv.SPLICEVI.setup_mudata(data, batch_key="batch", modalities=where)
    return sv.SPLICEVI(data, n_latent=4, **kwargs)


def trained(epochs=8, kwargs=None, **train):
    model = new_model(**(kwargs or {}))
    usual = dict(lr=3e-3, enable_progress_bar=False, accelerator="cpu", batch_size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_epochs=epochs, **usual | train)
    return model


def curve(model):
    return model.history["elbo_validation"]["elbo_validation"].to_numpy(float)


class Waiting(TorchDispatchMode):
    "Notes operations whose result, or its size, the processor has to be told."

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name.split("::")[1], kwargs or {}
        waits = name in WAITS
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            waits = any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1] or ())
        if name == "repeat_interleave":
            waits = kwargs.get("output_size") is None
        if waits:
            lines = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name} {f.line}" for f in traceback.extract_stack()]
            if not any(check in line for line in lines for check in CHECKS):
                ours = [x for x in lines if "python_dispatch" not in x][-4:]
                self.found.add(f"{name} at {ours}")
        return func(*args, **kwargs)


class Watched(Callback):
    "A training whose steps are looked at."

    def __init__(self):
        self.mode, self.steps = Waiting(), 0

    def on_train_batch_start(self, *_):
        self.mode.__enter__()

    def on_train_batch_end(self, *_):
        self.mode.__exit__(None, None, None)
        self.steps += 1


def test_what_waits_is_found():
    "The test below can fail."
    with Waiting() as mode:
        x = torch.arange(3.0)
        x[x > 1].sum()
        x.sum().item()
    assert sorted(f.split(" at ")[0] for f in mode.found) == ["_local_scalar_dense", "index"]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("fusion", [{}, {"modality_weights": "cell"}, {"modality_penalty": "MMD"}])
def test_a_step_asks_the_device_for_nothing(likelihood, fusion, monkeypatch):
    "Loss, gradients, clipping and both optimisers, without a number that the processor has to wait for."
    look = Watched()
    one_hot = lambda x, n: torch.zeros(*x.shape, n, dtype=torch.long).scatter_(-1, x.unsqueeze(-1), 1)
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    trained(1, {"splicing_loss_type": likelihood, **fusion}, callbacks=look)
    assert look.steps == 3 and not look.mode.found


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_compact_mini_batches_train_the_same(likelihood):
    "What a device derives is what the processor would have sent, to the last bit; no step waits for it."
    look, kwargs = Watched(), {"splicing_loss_type": likelihood}
    sent = trained(4, kwargs)
    derived = trained(4, kwargs, datasplitter_kwargs={"compact": True})
    np.testing.assert_array_equal(curve(derived), curve(sent))
    trained(1, kwargs, datasplitter_kwargs={"compact": True}, callbacks=look)
    assert not [f for f in look.mode.found if "batch.py" in f]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_half_precision_of_the_networks(likelihood):
    "Networks in bfloat16, likelihoods in single precision: the curve is the same to a thousandth, weights are single."
    kwargs = {"splicing_loss_type": likelihood}
    full, half = (trained(8, kwargs, precision=p) for p in ("32-true", "bf16-mixed"))
    np.testing.assert_allclose(curve(half), curve(full), rtol=1e-3)
    assert not np.array_equal(curve(half), curve(full))
    assert {p.dtype for p in half.module.parameters()} == {torch.float32}
    r = np.corrcoef(full.get_latent_representation().ravel(), half.get_latent_representation().ravel())[0, 1]
    assert r > 0.99


def test_codes_of_pairs_in_half_precision():
    "A network that is run on every pair, and its values added up in single precision."
    full, half = (trained(8, {"partial_interaction": "mlp"}, precision=p) for p in ("32-true", "bf16-mixed"))
    np.testing.assert_allclose(curve(half), curve(full), rtol=1e-3)
    many, at = torch.full((3000,), 0.05, dtype=torch.bfloat16), torch.zeros(3000, dtype=torch.long)
    found = [SumsOfRuns.apply(at_least_single(many), at, 1), sums_of_runs(many, at, 1), sums_by_index(many, at, 1)]
    assert all(t.dtype == torch.float32 and abs(t.item() - 150) < 1 for t in found)


class Norms(Callback):
    "The norm of the autoencoder's gradients in each step that is taken."

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, plan, *_):
        grads = [p.grad.norm() for p in plan.module.parameters() if p.grad is not None]
        if grads:
            self.seen.append(float(torch.stack(grads).norm()))


@pytest.mark.parametrize("start", [2.0**10, 2.0**40])
def test_scaled_gradients_are_clipped_at_their_size(start):
    "16-mixed: gradients are clipped after they are scaled down, and steps that overflow are left out."
    norms, scaler = Norms(), torch.amp.GradScaler("cpu", init_scale=start)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    model = trained(8, plugins=plugins, callbacks=norms, gradient_clipping_max_norm=0.5)
    assert np.isfinite(curve(model)).all() and curve(model)[-1] < curve(model)[0]
    taken = [x for x in norms.seen if np.isfinite(x)]
    assert max(taken) <= 0.5 * (1 + 1e-4) and max(taken) > 0.49
    assert (len(taken) < len(norms.seen)) == (start > 2**20) and scaler.get_scale() <= start


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_mini_batches_that_are_cut_where_they_are_used_train_the_same(likelihood):
    "Cells that lie on the device give the mini-batches that would have been sent, in the same order."
    look, kwargs = Watched(), {"splicing_loss_type": likelihood}
    sent = trained(4, kwargs, datasplitter_kwargs={"compact": True})
    for resident in ("all", "windows"):
        cut = trained(4, kwargs, datasplitter_kwargs={"resident": resident})
        np.testing.assert_array_equal(curve(cut), curve(sent))
    trained(1, kwargs, datasplitter_kwargs={"resident": "all"}, callbacks=look)
    found = [f for f in look.mode.found if "hit=" not in f]  # what the kernels of a card do not ask for
    assert not [f for f in found if "batch.py" in f or "resident.py" in f]


@pytest.mark.parametrize("resident", ["all", "windows"])
def test_cells_on_a_device_are_let_go_of(resident):
    "Nothing of a training's cells stays behind, whichever way it ends."
    alive = lambda: [o for o in gc.get_objects() if type(o) is ResidentCells]

    class Fails(Callback):
        def on_train_batch_end(self, *_):
            assert len(alive()) == 1  # of training and validation cells together
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        trained(1, datasplitter_kwargs={"resident": resident}, callbacks=Fails())
    gc.collect()
    assert not alive()


def test_cells_on_disk_are_cut_on_the_device(tmp_path, monkeypatch):
    "A window of the cells at a time, with the curve of mini-batches that are sent."
    monkeypatch.setattr(loader, "WINDOW", 1500)  # four windows or more
    data = sv.datasets.simulate(n_cells=160, n_genes=30, n_junctions=60, observed=0.4, seed=1)
    store = sv.data.write_store(data, tmp_path / "store.h5mu")

    def trained_on_disk(**split):
        scvi.settings.seed = 0
        cells = sv.data.open_mudata(store)
        sv.SPLICEVI.setup_mudata(cells, batch_key="batch")
        model = sv.SPLICEVI(cells, n_latent=4)
        usual = dict(accelerator="cpu", batch_size=32, lr=3e-3, enable_progress_bar=False)
        model.train(max_epochs=3, datasplitter_kwargs=split, **usual)
        return curve(model)

    np.testing.assert_array_equal(trained_on_disk(resident="windows"), trained_on_disk(compact=True))


@pytest.mark.parametrize("optimizer", ["AdamW", "Adam", "Custom"])
def test_steps_that_are_not_finite_are_left_out_and_named_later(optimizer, monkeypatch):
    "A device that is not asked in each step: weights stay those before the step; cells are named that are to blame."
    monkeypatch.setattr(plan, "answers_at_once", lambda t: False)
    look, seen = Watched(), []

    class Poisoned(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step and batch_idx == 1:
                self.rows = batch[loader.ROWS].tolist()
                self.before = {k: v.clone() for k, v in module.module.named_parameters()}
                key = next(k for k in (loader.LOG_COUNTS, "x_count", "X") if k in batch)
                batch[key][:5] = float("nan")

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 1:
                seen.append({k: torch.equal(v, self.before[k]) for k, v in module.module.named_parameters()})

    poisoned, how = Poisoned(), {"optimizer": optimizer}
    if optimizer == "Custom":
        how["optimizer_creator"] = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    with pytest.raises(FloatingPointError, match="expression .5 of 64 cells.*mini-batch 1") as error:
        trained(1, plan_kwargs=how, batch_size=64, callbacks=[poisoned, look], adversarial_mixing=False)
    assert all(seen[0].values()), [k for k, same in seen[0].items() if not same]
    assert ", ".join(map(str, poisoned.rows[:5])) in str(error.value)


@pytest.mark.parametrize("waits", [True, False])
def test_a_gradient_that_is_not_finite_is_said_of_its_own_mini_batch(waits, monkeypatch):
    "Where all terms of the loss are finite, and others went before or came after."
    monkeypatch.setattr(plan, "answers_at_once", lambda t: waits)

    class Poisoned(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 1:
                self.rows, weight = batch[loader.ROWS].tolist(), module.module.px_r
                self.hook = weight.register_hook(lambda grad: grad * float("nan"))

        def on_train_batch_end(self, *_):
            if hasattr(self, "hook"):
                self.hook.remove()

    poisoned = Poisoned()
    with pytest.raises(FloatingPointError, match="the gradient is not finite in epoch 0, mini-batch 1 ") as error:
        trained(1, batch_size=32, callbacks=poisoned)
    assert ", ".join(map(str, poisoned.rows[:5])) in str(error.value)


def test_steps_that_are_asked_for_are_logged():
    "Each step's numbers, where a plan is to log them; the epochs' means are those of a training that does not."
    usual = trained(3, early_stopping=False).history
    by_step = trained(3, early_stopping=False, plan_kwargs={"on_step": True}, log_every_n_steps=1).history
    for name in ("elbo_train", "kl_z_train", "reconstruction_splicing_train"):
        np.testing.assert_allclose(by_step[name + "_epoch"].astype(float), usual[name].astype(float), rtol=1e-5)
    assert len(by_step["kl_z_train_step"]) and "kl_z_train_step" not in usual


# what follows needs a card

card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.cuda
@card
@pytest.mark.parametrize("resident", ["all", None])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_synchronises_with_a_graphics_card(precision, resident):
    "PyTorch raises where a step, or the mini-batch after it, makes the processor wait; an epoch may end with a look."

    class Strict(Callback):
        def on_train_batch_start(self, trainer, *_):
            torch.cuda.set_sync_debug_mode("default" if trainer.is_last_batch else "error")

        def on_train_batch_end(self, trainer, *_):
            if trainer.is_last_batch:
                torch.cuda.set_sync_debug_mode("default")

    try:
        split = {"resident": resident}
        model = trained(2, accelerator="cuda", precision=precision, callbacks=Strict(), datasplitter_kwargs=split)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(curve(model)).all()


@pytest.mark.cuda
@card
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_graphics_card_trains_as_a_processor_does(likelihood, monkeypatch):
    "With the same random numbers the curves are the same, but for rounding."
    normal = lambda shape, dtype, device: torch.randn(shape, dtype=dtype).to(device)
    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", normal)
    kwargs = {"splicing_loss_type": likelihood, "dropout_rate": 0.0}
    alone = {"adversarial_mixing": False}  # the classifier drops out values by random numbers of its device
    curves = [curve(trained(8, kwargs, accelerator=device, **alone)) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(*curves, rtol=1e-3)


@pytest.mark.cuda
@card
@pytest.mark.parametrize("gene_likelihood", ["zinb", "nb"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_graphics_card_repeats_itself(likelihood, gene_likelihood, tmp_path):
    "To the last bit, however mini-batches come to it: two trainings, two looks at a model, a model that was saved."
    kwargs = {"splicing_loss_type": likelihood, "gene_likelihood": gene_likelihood}
    how = [{"resident": r} for r in ("all", "all", "windows", None)]
    one, *others = (trained(3, kwargs, accelerator="cuda", datasplitter_kwargs=split) for split in how)
    one.save(tmp_path / "model")
    for name, values in one.history.items():
        assert all(other.history[name].equals(values) for other in others), name
    for look in ("get_latent_representation", "get_normalized_splicing", "get_normalized_expression"):
        found = np.asarray(getattr(one, look)())
        for other in (one, sv.SPLICEVI.load(tmp_path / "model", one.adata), *others):
            np.testing.assert_array_equal(np.asarray(getattr(other, look)()), found, err_msg=look)


@pytest.mark.cuda
@card
def test_kernels_are_compiled_for_a_graphics_card():
    "And are right, in single precision, where double precision is the judge."
    assert kernel(MULTICHOOSE, 2, 2) is not None and kernel(ZERO_INFLATED, 5, 4) is not None
    k = torch.tensor([0.0, 1.0, 2.0, 12.0, 2.5, 1e4]).repeat(5)
    log_a = torch.log(torch.tensor([1e-6, 0.3, 40.0, 1e3, 1e6])).repeat_interleave(6)
    a = log_a.double().exp()
    value, slope = (t.cpu().double() for t in multichoose_terms(log_a.cuda(), k.cuda()))
    truth = torch.lgamma(a + k) - torch.lgamma(a) - torch.lgamma(k.double() + 1)
    torch.testing.assert_close(value, truth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope, a * (torch.digamma(a + k) - torch.digamma(a)), rtol=1e-6, atol=1e-6)


def loss_and_gradients(model, device: str, dtype: torch.dtype):
    "Of one mini-batch, at the mean of the posterior, in double precision."
    module = model.module.to(device, dtype).train()
    tensors = next(iter(CellLoader(model.adata_manager, batch_size=160, shuffle=False, resident="all"))).to(device)
    tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    q = module.inference(**module._get_inference_input(tensors)) | {"n_obs": 160}
    q["z"] = q["qz_m"]
    p = module.generative(**module._get_generative_input(tensors, q))
    module.zero_grad()
    loss = module.loss(tensors, q, p, kl_weight=1.0, n_obs=160).loss
    loss.backward()
    return loss.item(), {n: t.grad.double().cpu().clone() for n, t in module.named_parameters() if t.grad is not None}


@pytest.mark.cuda
@card
@pytest.mark.parametrize("gene_likelihood", ["zinb", "nb", "poisson"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradients_on_a_graphics_card(likelihood, gene_likelihood):
    "Every gradient, against double precision on a processor."
    model = new_model(splicing_loss_type=likelihood, gene_likelihood=gene_likelihood, dropout_rate=0.0)
    loss, gradients = loss_and_gradients(model, "cpu", torch.float64)
    scale = torch.stack([g.norm() for g in gradients.values()]).norm()
    for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        there, found = loss_and_gradients(model, "cuda", dtype)
        assert there == pytest.approx(loss, rel=allowed / 10)
        assert found.keys() == gradients.keys()
        for name, g in gradients.items():
            # junctions' shared code has no gradient (residuals of an event sum to zero): it is held to the whole
            assert (found[name] - g).norm() <= allowed * max(g.norm(), 1e-2 * scale), (dtype, name)
