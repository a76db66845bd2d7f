"""Tests of what only a GPU runs; everywhere else they are skipped, and the CPU twins of the same code are tested."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        reason = pytest.mark.skip(reason="no CUDA device is available to this torch")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(reason)


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    from nsff import cuda

    assert cuda.available(), "CUDA kernels do not run here; the warning above says why"
    return torch.device("cuda", 0)
