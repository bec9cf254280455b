"""How tests/data/golden_model was made; it is run once for each format and what it wrote is never written again."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import scvi
from anndata import AnnData

from splicevi import SPLICEVI
from splicevi.data import make_mudata


def cells(n_cells: int = 40, n_genes: int = 12, n_events: int = 6):
    "A data set of whole numbers that need no random numbers: 40 cells, 12 genes, 6 events of 3 junctions."
    cell, gene, junction = np.arange(n_cells)[:, None], np.arange(n_genes), np.arange(3 * n_events)
    x = (cell * 7 + gene * 3) % 11 * (1 + cell % 2 * (gene % 3))
    y = (cell * 5 + junction * (2 + cell % 2)) % 9
    y[(cell + junction // 3) % 5 == 0] = 0  # events that a cell did not show
    rna = AnnData(sp.csr_matrix(x.astype(np.float32)), var=pd.DataFrame(index=[f"g{i}" for i in gene]))
    var = pd.DataFrame({"event_id": [f"e{i // 3}" for i in junction]}, index=[f"j{i}" for i in junction])
    reads = sp.csr_matrix(y.astype(np.float32))
    splicing = AnnData(reads, var=var, layers={"cell_by_junction_matrix": reads})
    for part in (rna, splicing):
        part.obs_names = [f"c{i}" for i in range(n_cells)]
    out = make_mudata(rna, splicing)
    out.obs["batch"] = pd.Categorical(np.where(np.arange(n_cells) % 4 < 2, "a", "b"))
    out.obs["run"] = np.arange(n_cells) % 3  # whole numbers as categories
    out.obs["age"] = np.linspace(-1, 1, n_cells)
    return out


def made(folder: Path) -> None:
    "Train a small model of the cells, save it, and note what it says."
    data = cells()
    scvi.settings.seed = 0
    SPLICEVI.setup_mudata(
        data, batch_key="batch", categorical_covariate_keys=["run"], continuous_covariate_keys=["age"]
    )
    model = SPLICEVI(data, n_hidden=8, n_latent=3, encoder_hidden_dim=8, code_dim=4, h_hidden_dim=8)
    model.train(max_epochs=5, batch_size=16, lr=1e-3, accelerator="cpu", enable_progress_bar=False)
    model.save(folder)
    said = {
        "latent": model.get_latent_representation(),
        "psi": model.get_normalized_splicing(return_numpy=True),
        "expression": model.get_normalized_expression(return_numpy=True),
        "elbo_train": model.history["elbo_train"].to_numpy(float).ravel(),
        "train_indices": model.train_indices,
    }
    np.savez(folder / "said.npz", **said)


if __name__ == "__main__":
    made(Path(sys.argv[1]))
