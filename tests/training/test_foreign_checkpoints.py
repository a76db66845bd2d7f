"""Checkpoints of other programs are told from damaged ones."""

import numpy as np
import pytest
import torch
from nsff.errors import reason_of
from nsff.training.checkpoint import BrokenCheckpoint, read_checkpoint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"epoch": 3, "global_step": 9, "state_dict": {}},
            "has no network_fn_state_dict and no network_rigid: not a checkpoint of NSFF, but one of PyTorch Lightning "
            "(as nsff_pl writes) (it holds epoch, global_step, state_dict)",
        ),
        ({"step": 1, "pipeline": {}, "optimizers": {}}, "but one of nerfstudio"),
        ({"global_step": 1, "network_fn_state_dict": {}, "network_fine_state_dict": {}}, "has no network_rigid: not a"),
        ({"global_step": 1, "network_fn_d_state_dict": {}}, "but one of DynamicNeRF"),
        ([torch.zeros(2)], "(it holds list)"),
        ({}, "(it holds dict)"),
        (
            {"global_step": np.float64(3.0), "network_rigid": {}, "network_fn_state_dict": {}},
            "holds a numpy._core.multiarray.scalar; only tensors, numbers and texts are read",
        ),
    ],
)
def test_checkpoint_of_another_program_says_what_it_is_not(tmp_path, content, message):
    torch.save(content, tmp_path / "a.tar")
    with pytest.raises(BrokenCheckpoint) as caught:
        read_checkpoint(tmp_path / "a.tar")
    assert message in str(caught.value)
    assert "cut off" not in str(caught.value)


def test_damaged_checkpoint_is_called_damaged(tmp_path):
    torch.save({"global_step": 1, "weights": torch.zeros(1000)}, tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1500])
    with pytest.raises(BrokenCheckpoint, match="cannot be read, it may be cut off or damaged"):
        read_checkpoint(tmp_path / "a.tar")


def test_reason_is_one_line_without_colours_cut_after_a_word():
    error = ValueError("\x1b[1mfirst\x1b[0m  line\nsecond line, which is long")
    assert reason_of(error) == "first line second line, which is long"
    assert reason_of(error, 24) == "first line second line ..."
