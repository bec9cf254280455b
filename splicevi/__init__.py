"""Joint latent space of gene expression and alternative splicing in single cells.

`import splicevi` loads nothing else: the model's dependencies take seconds to import, so the rooms
(`splicevi.data`, `splicevi.tl`, ...) and the names below are loaded on first use.
"""
from typing import TYPE_CHECKING as _TYPE_CHECKING

from .core import lazy_names as _lazy_names

__version__ = "0.1.0"

if _TYPE_CHECKING:
    from splicevi.model.splicevi import SPLICEVI
    from splicevi.nn.module import SPLICEVAE
    from splicevi.tl.columns import explain
    from splicevi.views.coverage import coverage_report
    from splicevi.views.dashboard.dashboard import TrainingDashboard
    from splicevi.views.explorer.explorer import PSIExplorer
    from splicevi.views.report import report

__getattr__, __dir__, __all__ = _lazy_names(
    __name__,
    {
        "model.splicevi": "SPLICEVI",
        "nn.module": "SPLICEVAE",
        "tl.columns": "explain",
        "views.coverage": "coverage_report",
        "views.dashboard.dashboard": "TrainingDashboard",
        "views.explorer.explorer": "PSIExplorer",
        "views.report": "report",
    },
)
