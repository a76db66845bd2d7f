"""Prior depth of moving things against their tracks, on squares before a wall whose depths are known."""

import dataclasses

import numpy as np
import pytest
import torch
from nsff.data.cameras import Cameras
from nsff.data.moving_depth import MovingDepth
from nsff.data.priors import Priors
from nsff.data.scene import Scene, background_of
from nsff.evaluation.prior_figures import measure_priors
from nsff.geometry.poses import Intrinsics

HEIGHT, WIDTH, FOCAL = 72, 128, 80.0
N_FRAMES, WALL = 12, 10.0
RIG_X = [0.6, -0.4, 0.2, -0.6, 0.5, 0.0, -0.5, 0.4, -0.2, 0.6, -0.3, 0.1]
RIG_Y = [0.1, 0.2, -0.2, 0.0, 0.2, -0.1, 0.1, -0.2, 0.0, 0.1, -0.1, 0.2]
RIG = list(zip(RIG_X, RIG_Y, strict=True))  # a camera of a row in turn; right, down
HAND_HELD = [(0.05 * k, 0.0) for k in range(N_FRAMES)]
NEARING = [(-1.0 + 0.05 * k, 0.1, 5.0 - 0.08 * k) for k in range(N_FRAMES)]  # centres of a square; right, down, forward
PASSING = [(1.2 - 0.04 * k, -0.2, 4.0) for k in range(N_FRAMES)]
SIDE = 0.9

Path = list[tuple[float, float, float]]


def squares_before_wall(paths: list[Path], rig: list[tuple[float, float]], lasting: int = N_FRAMES) -> Scene:
    """Squares that face the cameras and move along paths, with exact depth, flow and masks; the last one's for a while.

    Args:
        paths: centre of each square per frame.
        rig: centre of the camera per frame; it looks ahead.
        lasting: frames that show the last square.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    shape = N_FRAMES, HEIGHT, WIDTH
    disparity, moving = np.full(shape, 1.0 / WALL), np.zeros(shape, bool)
    flows = {1: np.zeros((*shape, 2)), -1: np.zeros((*shape, 2))}
    known = {1: np.ones(shape, bool), -1: np.ones(shape, bool)}
    known[1][-1] = known[-1][0] = False
    for k, camera in enumerate(rig):
        right, down = (columns - WIDTH / 2) / FOCAL, (rows - HEIGHT / 2) / FOCAL  # of the ray at depth 1
        for step, flow in flows.items():
            if 0 <= k + step < N_FRAMES:
                flow[k] = FOCAL * (np.subtract(camera, rig[k + step]) / WALL)
        for number, path in enumerate(paths):
            x, y, depth = path[k]
            offset = np.stack([right * depth + camera[0] - x, down * depth + camera[1] - y], axis=-1)
            inside = (np.abs(offset) <= SIDE / 2).all(-1) & (number < len(paths) - 1 or k < lasting)
            disparity[k][inside], moving[k][inside] = 1.0 / depth, True
            for step, flow in flows.items():
                if 0 <= k + step < N_FRAMES:
                    *centre, next_depth = path[k + step]
                    target = FOCAL * (offset + centre - np.array(rig[k + step])) / next_depth
                    flow[k][inside] = (target - FOCAL * np.stack([right, down], axis=-1))[inside]
    c2w = np.stack([np.concatenate([np.eye(3), [[x], [-y], [0.0]]], axis=1) for x, y in rig]).astype(np.float32)
    cameras = Cameras(
        Intrinsics(HEIGHT, WIDTH, FOCAL), c2w, np.full((N_FRAMES, 2), (3.0, WALL), np.float32), 1.0, c2w[0]
    )

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array if array.dtype == bool else array.astype(np.float32))

    return Scene(
        cameras,
        tensor(c2w),
        torch.full((*shape, 3), 128, dtype=torch.uint8),
        tensor(disparity),
        tensor(moving),
        torch.stack([tensor(background_of(mask)) for mask in moving]),
        tensor(flows[1]),
        tensor(known[1]),
        tensor(flows[-1]),
        tensor(known[-1]),
    )


def with_moving_depth_off(scene: Scene, factor: float, where: torch.Tensor | None = None) -> Scene:
    """The scene with the depth of what moves, or of some pixels, multiplied by a factor."""
    wrong = scene.motion_masks if where is None else where
    return dataclasses.replace(scene, disparity=torch.where(wrong, scene.disparity / factor, scene.disparity))


def inverse_depth_errors(priors: Priors, truth: Scene, where: torch.Tensor) -> torch.Tensor:
    """Ratio of the priors' inverse depth to the exact one at some pixels of all frames."""
    inverse_depth, _ = priors._inverse_depth(where.flatten().nonzero()[:, 0])
    return inverse_depth / truth.disparity[where]


@pytest.mark.parametrize("factor", [1.3, 1 / 1.3])
def test_wrong_depth_of_what_moves_is_named_and_corrected(factor, caplog):
    truth = squares_before_wall([NEARING, PASSING], RIG)
    priors = Priors.of(with_moving_depth_off(truth, factor))
    assert [region.frames for region in priors.moving.regions] == [range(N_FRAMES)] * 2
    for region in priors.moving.regions:
        assert region.contradicts
        assert region.factor == pytest.approx(1.0 / factor, rel=0.03)
    assert caplog.text.count("(frames 0 to 11) contradicts its path") == 2
    errors = inverse_depth_errors(priors, truth, truth.motion_masks)
    assert float((errors - 1.0).abs().max()) < 0.03
    figures, doubted = measure_priors(priors)
    assert (figures.prior_moving, doubted["prior_moving"]) == (0.0, tuple(range(N_FRAMES)))


def test_right_depth_of_what_moves_is_left_alone(caplog):
    priors = Priors.of(squares_before_wall([NEARING, PASSING], RIG))
    assert [region.contradicts for region in priors.moving.regions] == [False, False]
    assert priors.correction is None
    assert "contradicts" not in caplog.text
    assert measure_priors(priors)[0].prior_moving == 100.0


def test_only_the_wrong_one_of_two_things_is_corrected():
    truth = squares_before_wall([NEARING, PASSING], RIG)
    passing = truth.disparity > 0.245  # at depth 4, the other one at 4.1 to 5
    priors = Priors.of(with_moving_depth_off(truth, 1.3, passing))
    assert sorted(region.contradicts for region in priors.moving.regions) == [False, True]
    assert float((inverse_depth_errors(priors, truth, passing) - 1.0).abs().max()) < 0.03
    errors = inverse_depth_errors(priors, truth, truth.motion_masks & ~passing)
    torch.testing.assert_close(errors, torch.ones_like(errors), rtol=1e-5, atol=0.0)


def test_thing_without_track_is_corrected_like_all_others():
    """The second square is seen for four frames, too short for a track; the first one is at a wrong depth all along."""
    truth = squares_before_wall([NEARING, PASSING], RIG, lasting=4)
    priors = Priors.of(with_moving_depth_off(truth, 1.3))
    assert len(priors.moving.regions) == 1
    assert float((inverse_depth_errors(priors, truth, truth.motion_masks) - 1.0).abs().max()) < 0.03


def test_thing_without_track_is_left_alone_among_things_at_their_depth():
    truth = squares_before_wall([NEARING, PASSING], RIG, lasting=4)
    passing = truth.disparity > 0.245  # at depth 4, the other one at 4.1 to 5
    assert Priors.of(with_moving_depth_off(truth, 1.3, passing)).correction is None


def test_steady_camera_says_nothing_about_depth(caplog):
    """The camera moves as steadily as the square: at another depth it would move as steadily too."""
    caplog.set_level("INFO", "nsff")
    priors = Priors.of(with_moving_depth_off(squares_before_wall([NEARING], HAND_HELD), 1.3))
    assert priors.moving.regions == ()
    assert priors.correction is None
    assert measure_priors(priors)[0].prior_moving is None
    assert "no path of what moves tells its depth: it is taken as given there, unchecked" in caplog.text


@pytest.mark.parametrize(("n_believed", "n_judged"), [(5, 0), (6, 1)])
def test_frames_whose_depth_is_not_believed_do_not_judge(n_believed, n_judged):
    scene = with_moving_depth_off(squares_before_wall([NEARING], RIG), 1.3)
    believed = [frame < n_believed for frame in range(N_FRAMES)]
    assert len(MovingDepth.of(scene, lambda frame: scene.disparity[frame], believed).regions) == n_judged


@pytest.mark.parametrize("moving", [False, True])
def test_empty_and_full_masks_are_named(moving, caplog):
    scene = squares_before_wall([NEARING], RIG)
    masks = torch.full_like(scene.motion_masks, moving)
    priors = Priors.of(dataclasses.replace(scene, motion_masks=masks, background=~masks))
    assert priors.moving.regions == ()
    doubted = measure_priors(priors)[1]
    everywhere = tuple(range(N_FRAMES))
    assert (doubted["moving"], doubted["static"]) == (((), everywhere) if moving else (everywhere, ()))
    assert priors.usable is not moving
    assert doubted["prior_frames"] == ()
    expected = "motion masks of 12 frames cover the whole frame" if moving else "all motion masks are empty"
    assert expected in caplog.text


def test_random_flow_is_named_and_does_not_move_right_depth(caplog):
    """Frames 3 and 8 have random flow both ways, with masks that call it consistent."""
    scene = squares_before_wall([NEARING], RIG)
    generator = torch.Generator().manual_seed(0)
    fwd, bwd = scene.flow_fwd.clone(), scene.flow_bwd.clone()
    for flow in (fwd, bwd):
        flow[[3, 8]] = 10.0 * torch.randn(flow[[3, 8]].shape, generator=generator)
    priors = Priors.of(dataclasses.replace(scene, flow_fwd=fwd, flow_bwd=bwd))
    assert priors.doubts.flow == (3, 8)
    assert priors.doubts.noise == ((2, 3, 7, 8), (3, 4, 8, 9))  # flow to a frame of noise is not confirmed either
    assert not priors.scene.flow_fwd_mask[[2, 3, 7, 8]].any()
    assert priors.scene.flow_fwd_mask[[0, 1, 4, 5, 6, 9, 10]].flatten(1).any(1).all()
    assert scene.flow_fwd_mask[[2, 3]].any()  # the scene itself is left as it is
    assert "optical flow of 2 frames does not lead back" in caplog.text
    assert "frames 3, 8" in caplog.text
    assert set(measure_priors(priors)[1]["prior_flow"]) >= {3, 8}
    beside = scene.background & (torch.arange(N_FRAMES) % 5 != 3)[:, None, None]
    assert float(((inverse_depth_errors(priors, scene, beside) - 1.0).abs() < 0.05).float().mean()) > 0.98
    assert priors.correction is None


def test_flow_of_which_a_third_is_random_is_not_noise():
    """The part of it that is right is still used."""
    scene = squares_before_wall([NEARING], RIG)
    generator = torch.Generator().manual_seed(0)
    fwd, bwd = scene.flow_fwd.clone(), scene.flow_bwd.clone()
    for flow in (fwd, bwd):
        random = torch.rand(flow.shape[:-1], generator=generator) < 1 / 3
        flow[random] = 10.0 * torch.randn(flow.shape, generator=generator)[random]
    priors = Priors.of(dataclasses.replace(scene, flow_fwd=fwd, flow_bwd=bwd))
    assert priors.doubts.noise == ((), ())
    assert priors.doubts.flow == tuple(range(N_FRAMES))


def test_background_that_moves_against_its_mask_is_not_believed():
    """Masks that miss a thing: its flow is no parallax."""
    scene = squares_before_wall([PASSING], RIG)
    nothing = torch.zeros_like(scene.motion_masks)
    priors = Priors.of(dataclasses.replace(scene, motion_masks=nothing, background=~nothing))
    index = torch.arange(scene.motion_masks.numel())
    _, confidence = priors.depth(index)
    inner = torch.ones_like(scene.motion_masks)
    inner[[0, -1]] = False
    moving = (scene.motion_masks & inner).flatten()
    assert float(confidence[moving].median()) < 0.3
    assert float(confidence[scene.background.flatten()].median()) > 0.9
