"""What the ranks of tests/test_ranks.py do: `python tests/ranks.py FOLDER`; each writes what it saw into the folder."""

import json
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import scvi
from lightning.pytorch.callbacks import Callback

import splicevi as sv
from splicevi.nn.loader import ROWS
from splicevi.nn.ranks import this_rank

USUAL = dict(lr=3e-3, early_stopping=False, check_val_every_n_epoch=1, enable_progress_bar=False)
RANKS = dict(accelerator="cpu", devices=2, strategy="ddp")


def new_model(batch_key="batch"):
    "The same model in every process."
    scvi.settings.seed = 0
    data = sv.datasets.simulate(n_cells=203, n_genes=20, n_junctions=40, observed=0.5, seed=1)
    where = {"rna_layer": "rna", "junc_ratio_layer": "splicing"}
    sv.SPLICEVI.setup_mudata(data, batch_key=batch_key, modalities=where)
    return sv.SPLICEVI(data, n_latent=4)


def weights(model) -> float:
    return sum(float(p.detach().double().abs().sum()) for p in model.module.parameters())


def curve(model, name="elbo_validation") -> list[float]:
    return model.history[name][name].astype(float).tolist()


class Look(Callback):
    "The cells of each mini-batch; on request, an interrupt of the first process."

    def __init__(self, interrupt_in=None):
        self.rows, self.interrupt_in = {}, interrupt_in

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
        self.rows.setdefault(trainer.current_epoch, []).append(batch[ROWS].tolist())
        if trainer.current_epoch == self.interrupt_in and trainer.global_rank == 0 and batch_idx == 1:
            signal.raise_signal(signal.SIGINT)


def main(folder: Path) -> None:
    out, rank = {}, this_rank()
    model, look = new_model(), Look()
    ranks = RANKS if "alone" not in sys.argv else {}
    batch = 32 if ranks else 64
    model.train(max_epochs=12, batch_size=batch, callbacks=look, **USUAL | ranks)
    out |= {"weights": weights(model), "rows": look.rows, "trained": model.is_trained, "rank": rank}
    out["train"] = model.train_indices.tolist()
    out["curve"] = curve(model) if rank == 0 else None
    if ranks:
        model, look = new_model(), Look(interrupt_in=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.train(max_epochs=50, batch_size=32, callbacks=look, **USUAL | ranks)
        out["interrupted"] = [len(v) for v in look.rows.values()]
        out["said"] = [str(w.message) for w in caught if "interrupted" in str(w.message)]
        keep = dict(checkpoint=folder / "checkpoint", **USUAL | ranks | {"early_stopping": True, "dashboard": True})
        keep["early_stopping_patience"] = 2
        model = new_model(None)
        model.train(max_epochs=2, **keep)
        model = new_model(None)
        model.train(max_epochs=400, resume=True, **keep)
        out["resumed"], out["resumed_weights"] = (len(curve(model)) if rank == 0 else None), weights(model)
        model = new_model()
        try:
            model.train(max_epochs=2, callbacks=Spoil(), **USUAL | ranks)
        except FloatingPointError as e:
            out["fault"] = str(e)
    (folder / f"rank{rank}{'alone' if not ranks else ''}.json").write_text(json.dumps(out))


class Spoil(Callback):
    "One rank has weights that are not finite."

    def on_train_start(self, trainer, plan):
        if trainer.global_rank == 1:
            plan.module.px_r.data[0] = np.nan


if __name__ == "__main__":
    main(Path(sys.argv[1]))
