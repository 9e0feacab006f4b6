from __future__ import annotations

from pathlib import Path

import pytest

from mulm.native.build import NoKernelsError, build


@pytest.fixture(scope="session")
def kernels(request) -> Path:
    """The folder with the compiled kernels, shared by all tests and kept for the next time."""
    folder = Path(request.config.cache.mkdir("kernels"))
    try:
        build(folder)
    except NoKernelsError as error:
        pytest.skip(f"no kernels: {error.message}")
    return folder
