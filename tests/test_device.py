"""What a graphics card asks of the library, as far as a processor can tell; and tests that need a card (`cuda`)."""

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


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_synchronises_with_a_graphics_card(precision):
    "PyTorch raises where a step makes the processor wait for the device."

    class Strict(Callback):
        def on_train_batch_start(self, *_):
            torch.cuda.set_sync_debug_mode("error")

        def on_train_batch_end(self, *_):
            torch.cuda.set_sync_debug_mode("default")

    try:
        model = trained(2, accelerator="cuda", precision=precision, callbacks=Strict())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(curve(model)).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_graphics_card_trains_as_a_processor_does():
    "The first epochs have the same curve, but for the noise of other random numbers."
    cpu, cuda = trained(8), trained(8, accelerator="cuda")
    np.testing.assert_allclose(curve(cuda), curve(cpu), rtol=0.02)
