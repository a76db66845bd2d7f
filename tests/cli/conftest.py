"""Options of a small training run."""

import pytest


@pytest.fixture(scope="module")
def arguments(golden, tmp_path_factory) -> list[str]:
    basedir = str(tmp_path_factory.mktemp("logs"))
    return [
        "--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"), "--basedir", basedir,
        "--netwidth", "16", "--N_samples", "8", "--N_rand", "33", "--num_extra_sample", "8", "--i_img", "0",
        "--device", "cpu", "--background_rays", "9",
    ]  # fmt: skip
