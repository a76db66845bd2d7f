"""Which cameras of a video NDC can represent, from `poses_bounds.npy`."""

import numpy as np
import pytest
from nsff.errors import InputError
from nsff.geometry.camera_fit import CameraFit
from nsff.geometry.poses import to_llff
from scipy.spatial.transform import Rotation


def rows(degrees: np.ndarray, radius: float = 4.0, near: float = 3.0) -> np.ndarray:
    """Cameras on an arc, 60 degrees wide in view, that look at its centre."""
    rotations = Rotation.from_rotvec(np.radians(degrees)[:, None] * [0.0, 1.0, 0.0]).as_matrix()
    c2w = np.concatenate([rotations, radius * rotations[:, :, 2:]], axis=2)
    size_and_focal = [90.0, 160.0, 80.0 / np.tan(np.radians(30.0))]
    return to_llff(c2w, np.tile(size_and_focal, (len(c2w), 1)), np.tile([near, 20.0], (len(c2w), 1)))


@pytest.mark.parametrize(
    ("turn", "n_beyond"),
    [
        (20.0, 0),  # the edge of the frame looks 10 + 30 degrees aside
        (110.0, 0),  # 55 + 30, sideways but forward
        (130.0, 2),  # 65 + 30: the first and the last of nine cameras look back; the next, 49 + 30, do not
    ],
)
def test_cameras_that_turn_are_counted(turn, n_beyond):
    fit = CameraFit.in_ndc(rows(np.linspace(-0.5 * turn, 0.5 * turn, 9)), 0.9)
    assert fit.turn == pytest.approx(turn, abs=1e-3)
    assert len(fit.blind) == n_beyond
    assert fit.space == ("contracted" if n_beyond else "ndc")


def test_check_gives_figure_and_options():
    with pytest.raises(InputError, match=r"SCENE: the cameras turn by 130 degrees, and 2 of 9 .*--no_ndc.*--force_ndc"):
        CameraFit.in_ndc(rows(np.linspace(-65.0, 65.0, 9)), 0.9).check("SCENE")
    CameraFit.in_ndc(rows(np.zeros(4)), 0.9).check("SCENE")  # cameras that are all one fit


def test_a_camera_ahead_of_the_near_plane_does_not_fit():
    """Cameras in a row into the scene: the last stands 4 units ahead of the average, the near plane 0.9 * 3."""
    ahead = rows(np.zeros(3))
    ahead[:, [13]] -= np.array([[0.0], [4.0], [8.0]])  # z of the centre
    assert CameraFit.in_ndc(ahead, 0.9).blind == (2,)
