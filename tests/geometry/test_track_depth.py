"""Depth of moving regions from their tracks, on tracks that are drawn by hand."""

import dataclasses

import numpy as np
import pytest
from nsff.geometry.moving_regions import MovingFlow, MovingRegions, Track, _cut, label_regions, link_regions
from nsff.geometry.track_depth import TrackDepth, inverse_depths_by_frame, measure_tracks

SIZE, FOCAL = (90, 160), 100.0
INTRINSICS = np.array([[FOCAL, 0.0, 80.0], [0.0, FOCAL, 45.0], [0.0, 0.0, 1.0]])
N_FRAMES = 12
RIG_X = [0.6, -0.4, 0.2, -0.6, 0.5, 0.0, -0.5, 0.4, -0.2, 0.6, -0.3, 0.1]  # a camera of a row in turn
RIG_Y = [0.1, 0.2, -0.2, 0.0, 0.2, -0.1, 0.1, -0.2, 0.0, 0.1, -0.1, 0.2]


def look_from(x: float, y: float) -> np.ndarray:
    """w2c of a camera at (x, y, 0) that looks along +z."""
    return np.concatenate([np.eye(3), [[-x], [-y], [0.0]]], axis=1)


def project(point: np.ndarray, x: float, y: float) -> np.ndarray:
    """Pixel of a world point in the camera at (x, y, 0)."""
    return FOCAL * (point[:2] - [x, y]) / point[2] + [80.0, 45.0]


def draw(boxes: list[list[tuple[float, float, float]]]) -> MovingRegions:
    """Frames of square regions (right, down, half side), each of which flows onto its next square, stretched.

    Squares of one frame are drawn in order; later ones hide earlier ones.
    """
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    frames = []
    for k, squares in enumerate(boxes):
        moving, flows = np.zeros(SIZE, bool), {step: np.zeros((*SIZE, 2), np.float32) for step in (-1, 1)}
        for number, (right, down, half) in enumerate(squares):
            inside = (abs(columns - right) <= half) & (abs(rows - down) <= half)
            moving |= inside
            for step, flow in flows.items():
                if 0 <= k + step < len(boxes):
                    next_right, next_down, next_half = boxes[k + step][number]
                    scale = next_half / half
                    target = np.stack([next_right + scale * (columns - right), next_down + scale * (rows - down)], -1)
                    flow[inside] = (target - np.stack([columns, rows], axis=-1))[inside]
        kept = {step: flow[moving] for step, flow in flows.items() if 0 <= k + step < len(boxes)}
        frames.append(MovingFlow(moving, kept, {step: np.ones(moving.sum(), bool) for step in kept}))
    return MovingRegions.of(frames)


def clip_of(path: list[np.ndarray], xs: list[float], ys: list[float]) -> tuple[MovingRegions, np.ndarray]:
    """A square of side 0.6 that moves along a path, and the cameras."""
    boxes = [[(*project(point, x, y), FOCAL * 0.3 / point[2])] for point, x, y in zip(path, xs, ys, strict=True)]
    return draw(boxes), np.stack([look_from(x, y) for x, y in zip(xs, ys, strict=True)])


def test_measure_tracks_finds_depths_of_thing_that_comes_nearer():
    """From depth 5 to 4.12 in steps of 0.08, and 0.05 to the right, before cameras that jump."""
    path = [np.array([-0.3 + 0.05 * k, 0.1, 5.0 - 0.08 * k]) for k in range(N_FRAMES)]
    measured, w2c = clip_of(path, RIG_X, RIG_Y)
    tracks = link_regions(measured)
    assert [(track.start, len(track.labels)) for track in tracks] == [(0, N_FRAMES)]
    (depth,) = measure_tracks(tracks, measured, w2c, INTRINSICS)
    errors = np.abs(depth.depths / [point[2] for point in path] - 1.0)
    assert np.median(errors) < 0.03
    assert errors.max() < 0.06  # least motion shortens the path at its ends
    assert depth.is_reliable
    assert inverse_depths_by_frame([(tracks[0], depth)], N_FRAMES)[3] == {1: 1.0 / depth.balanced[3]}


def test_measure_tracks_exact_for_thing_at_rest():
    """Depths of a thing that rests need no guess and have no uncertainty."""
    measured, w2c = clip_of([np.array([0.1, 0.0, 4.0])] * N_FRAMES, RIG_X, RIG_Y)
    (depth,) = measure_tracks(link_regions(measured), measured, w2c, INTRINSICS)
    np.testing.assert_allclose(depth.depths, 4.0, rtol=1e-3)
    assert depth.uncertainty < 0.01
    np.testing.assert_allclose(depth.scale_bounds, 1.0, rtol=1e-3)


def test_scale_bounds_enclose_the_depth_of_things_that_jitter():
    """Accelerations of their own draw least squares towards the camera, and the reverse regression away from it."""
    bounds = []
    for seed in range(10):
        jitter = 0.05 * np.random.default_rng(seed).standard_normal((N_FRAMES, 2))
        path = [np.array([-0.3 + 0.05 * k + jitter[k, 0], 0.1 + jitter[k, 1], 5.0]) for k in range(N_FRAMES)]
        measured, w2c = clip_of(path, RIG_X, RIG_Y)
        (depth,) = measure_tracks(link_regions(measured), measured, w2c, INTRINSICS)
        bounds.append([bound * np.median(depth.depths) for bound in depth.scale_bounds])
    nearest, farthest = np.mean(bounds, axis=0)
    assert 4.8 < nearest < 5.0 < farthest < 5.2


@pytest.mark.parametrize(("speed", "bend"), [(0.15, 0.0), (-0.05, 0.0), (-0.05, 0.002), (0.15, 0.002)])
def test_measure_tracks_rejects_smooth_camera(speed, bend):
    """Both move steadily along x: the thing might move with the camera, or rest at another depth (2.5 for -0.05)."""
    (depth,) = depths_before_smooth_camera(speed, bend)
    assert not depth.is_reliable


@pytest.mark.parametrize("speed", [0.02, -0.02, -0.05])
def test_uncertainty_bounds_error_for_thing_of_constant_velocity(speed):
    (depth,) = depths_before_smooth_camera(speed, 0.002)
    error = np.linalg.norm(depth.depths - 5.0) / np.linalg.norm(depth.depths)
    assert error <= 1.01 * depth.uncertainty


def depths_before_smooth_camera(speed: float, bend: float) -> list[TrackDepth]:
    """Depths of a thing at depth 5 that moves along x by `speed` per frame, the camera by 0.05, on a parabola."""
    path = [np.array([speed * (k - 5.5), 0.1, 5.0]) for k in range(N_FRAMES)]
    x, y = [0.05 * (k - 5.5) for k in range(N_FRAMES)], [bend * (k - 5.5) ** 2 for k in range(N_FRAMES)]
    measured, w2c = clip_of(path, x, y)
    return measure_tracks(link_regions(measured), measured, w2c, INTRINSICS)


def test_measure_tracks_rejects_camera_at_rest_and_short_track():
    path = [np.array([-0.8 + 0.15 * k, 0.1, 5.0]) for k in range(N_FRAMES)]
    measured, w2c = clip_of(path, [0.0] * N_FRAMES, [0.0] * N_FRAMES)
    (depth,) = measure_tracks(link_regions(measured), measured, w2c, INTRINSICS)
    assert not depth.is_reliable  # all depths 0 cost nothing
    measured, w2c = clip_of([np.array([0.1, 0.0, 4.0])] * 3, RIG_X[:3], RIG_Y[:3])
    (depth,) = measure_tracks(link_regions(measured), measured, w2c, INTRINSICS)
    assert not depth.is_reliable


def labels_at(regions: MovingRegions, frame: int, squares: list[tuple[float, float, float]]) -> list[int]:
    """Labels of the regions at the centres of squares."""
    labels = regions.image(frame)
    return [int(labels[round(down), round(right)]) for right, down, _ in squares]


def test_link_regions_that_cross_keep_their_own():
    """Two squares pass each other: the upper one to the right, the lower one to the left."""
    boxes = [[(30.0 + 8 * k, 25.0, 7.0), (125.0 - 8 * k, 55.0, 7.0)] for k in range(N_FRAMES)]
    measured = draw(boxes)
    tracks = link_regions(measured)
    upper, lower = zip(*(labels_at(measured, frame, squares) for frame, squares in enumerate(boxes)), strict=True)
    assert sorted(tracks, key=lambda track: track.labels[0]) == sorted(
        [Track(0, list(upper)), Track(0, list(lower))], key=lambda track: track.labels[0]
    )


def n_connected(regions: MovingRegions) -> list[int]:
    """Number of connected regions of each frame."""
    return [int(label_regions(frame.moving).max()) for frame in regions.frames]


def test_link_regions_hidden_one_ends_and_begins_anew():
    """A small square flies behind a large one: they touch in frames 3 and 6, between them the small one is hidden."""
    boxes = [[(10.0 + 14 * k, 40.0, 6.0), (76.0, 40.0, 20.0)] for k in range(10)]
    measured = draw(boxes)
    assert n_connected(measured) == [2, 2, 2, 1, 1, 1, 1, 2, 2, 2]
    tracks = link_regions(measured)
    assert sorted((track.start, len(track.labels)) for track in tracks) == [(0, 4), (0, 10), (6, 4)]
    large = next(track for track in tracks if len(track.labels) == 10)
    assert large.labels == [labels_at(measured, frame, [squares[1]])[0] for frame, squares in enumerate(boxes)]


def test_things_that_always_touch_have_tracks_of_their_own():
    """Two squares side by side; the left one goes down while the right one goes up."""
    boxes = [[(60.0, 35.0 + 1.5 * k, 9.0), (79.0, 52.0 - 1.5 * k, 9.0)] for k in range(N_FRAMES)]
    measured = draw(boxes)
    assert n_connected(measured) == [1] * N_FRAMES
    tracks = link_regions(measured)
    assert [(track.start, len(track.labels)) for track in tracks] == [(0, N_FRAMES)] * 2
    for frame, squares in enumerate(boxes):
        labels = labels_at(measured, frame, squares)
        assert sorted(labels) == [1, 2]
        areas = np.bincount(measured.labels[frame])[labels]
        np.testing.assert_allclose(areas, 19 * 19, atol=2 * 19)


def test_thing_that_turns_and_comes_nearer_is_one_region():
    boxes = [[(60.0 + 3 * k, 40.0, 8.0 * 1.05**k)] for k in range(N_FRAMES)]
    assert [int(labels.max()) for labels in draw(boxes).labels] == [1] * N_FRAMES


@pytest.mark.parametrize("n_wrong", [1, 2])
def test_parts_cut_by_errors_of_flow_are_joined(n_wrong):
    """In some frames, the flow of half of a square jumps by 5 pixels, and is not trusted at the jump."""
    boxes = [[(40.0 + 5 * k, 40.0, 12.0)] for k in range(N_FRAMES)]
    frames = list(draw(boxes).frames)
    for index in range(5, 5 + n_wrong):
        moving, (rows, _) = frames[index].moving, np.nonzero(frames[index].moving)
        flows = {
            step: flow + np.where(rows > 40, 5.0, 0.0)[:, None] * [0.0, 1.0]
            for step, flow in frames[index].flows.items()
        }
        assert int(_cut(MovingFlow(moving, flows, frames[index].trusted)).max()) == 2
        frames[index] = MovingFlow(moving, flows, frames[index].trusted)
    assert [int(labels.max()) for labels in MovingRegions.of(frames).labels] == [1] * N_FRAMES


def test_regions_of_frames_without_motion_are_empty():
    none = MovingFlow(np.zeros(SIZE, bool), {1: np.zeros((0, 2), np.float32)}, {1: np.zeros(0, bool)})
    regions = MovingRegions.of(
        [none, dataclasses.replace(none, flows={-1: none.flows[1]}, trusted={-1: none.trusted[1]})]
    )
    assert [len(labels) for labels in regions.labels] == [0, 0]
    assert link_regions(regions) == []


def test_balanced_depths_lie_between_the_bounds():
    depth = TrackDepth(np.full(6, 4.0), 0.1, (1.0, 1.21))
    np.testing.assert_allclose(depth.balanced, 4.0 * 1.21**0.25)
    unknown = TrackDepth(np.full(6, 4.0), 0.1, (0.0, np.inf))
    np.testing.assert_allclose(unknown.balanced, 4.0)


def test_link_regions_ignores_specks():
    assert link_regions(draw([[(40.0, 40.0, 1.0)]] * 3)) == []


@pytest.mark.parametrize("n_frames", [1, 2])
def test_tracks_of_one_and_two_frames(n_frames):
    measured, w2c = clip_of([np.array([0.1, 0.0, 4.0])] * n_frames, RIG_X[:n_frames], RIG_Y[:n_frames])
    tracks = link_regions(measured)
    assert [len(track.labels) for track in tracks] == [n_frames]
    assert not measure_tracks(tracks, measured, w2c, INTRINSICS)[0].is_reliable
