"""What every test shares: two threads (before torch is loaded), the project's root, real data where they are."""

import os

for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(key, str(min(2, os.cpu_count() or 1)))
# on busy cores, threads that spin while they wait cost a factor of ten
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root():
    "Folder that holds settings.ini."
    return ROOT


@pytest.fixture(scope="session")
def real_data():
    "Folder of the real data sets, or a skip that says why."
    folder = Path(os.environ.get("SPLICEVI_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not here ({folder}); SPLICEVI_REAL_DATA says where they are")
    return folder
