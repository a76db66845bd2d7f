"""The synthetic scene: depth, flow, masks and cameras agree with each other as training reads them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import imageio.v3 as iio
import make_demo_scene
import numpy as np
import pytest
import torch
from nsff.config import Config
from nsff.config_loader import load_config
from nsff.data.scene import Scene, load_scene
from nsff.demo import scene as demo_scene
from nsff.demo.paint import band_noise
from nsff.demo.shading import LIGHT, SUN_SIZE, visibility
from nsff.demo.solids import Solid, intersect, silhouette
from nsff.errors import InputError, UsageError
from nsff.geometry.poses import scene_scale
from nsff.geometry.rays import camera_rays, pixel_grid, project, world_to_camera

WIDTH, HEIGHT, N_FRAMES = 64, 36, 24
TINY = demo_scene.DemoSettings(width=32, height=18, n_frames=3, path="smooth")
SCRIPTS = Path(make_demo_scene.__file__).parent
# (frame, neighbour): both ends, ordinary steps both ways, and the jump from camera 12 back to camera 1 both ways.
PAIRS = [(0, 1), (5, 6), (6, 5), (11, 12), (12, 11), (17, 18), (23, 22)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "dense"
    demo_scene.write_demo_scene(path, demo_scene.DemoSettings(WIDTH, HEIGHT, N_FRAMES))
    return path


@pytest.fixture(scope="session")
def scene(folder: Path) -> Scene:
    return load(folder)


@pytest.fixture(scope="module")
def smooth_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The scene with smooth, matt surfaces: pictures have detail down to a pixel, which no interpolation reproduces."""
    rng = np.random.default_rng(0)

    def smooth(solid: Solid) -> Solid:
        texture = np.stack([0.5 + 0.15 * band_noise(rng, (64, 64), 1.0, 4.0) for _ in range(3)], axis=-1)
        return dataclasses.replace(solid, texture=texture.clip(0.0, 1.0), gloss=0.0)

    solids, path = tuple(map(smooth, demo_scene.build_solids(0))), tmp_path_factory.mktemp("smooth") / "dense"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_scene, "build_solids", lambda _seed, walls: solids)
        demo_scene.write_demo_scene(path, demo_scene.DemoSettings(WIDTH, HEIGHT, N_FRAMES))
    return load(path)


def load(folder: Path) -> Scene:
    options = {"expname": "x", "datadir": folder, "final_height": HEIGHT, "end_frame": N_FRAMES}
    argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return load_scene(load_config([*argv, "--use_viewdirs"]), torch.device("cpu"))


@pytest.fixture
def coarse_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small texture tiles where their content does not matter: they take most of the time of a tiny scene."""
    monkeypatch.setattr(demo_scene, "TEXELS", 64)


def prior(scene: Scene, frame: int, neighbour: int) -> tuple[np.ndarray, np.ndarray]:
    """Flow from a frame to its neighbour and its mask, as loaded."""
    if neighbour > frame:
        return scene.flow_fwd[frame].numpy(), scene.flow_fwd_mask[frame].numpy()
    return scene.flow_bwd[frame].numpy(), scene.flow_bwd_mask[frame].numpy()


def targets(flow: np.ndarray) -> np.ndarray:
    """Target of each pixel: (right, down), float32."""
    return (np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1) + flow).astype(np.float32)


def reprojected(scene: Scene, folder: Path, frame: int, neighbour: int) -> tuple[np.ndarray, np.ndarray]:
    """Flow of a static scene by the true depth and the loaded poses, and the depth of its points in the neighbour."""
    scale = scene_scale(np.load(folder / "poses_bounds.npy")[:, 15:17], Config.bd_factor)
    pixels = pixel_grid(scene.intrinsics, torch.device("cpu"))
    origins, directions = camera_rays(pixels, scene.c2w[frame], scene.intrinsics)
    points = origins + directions * (scale / scene.disparity[frame].reshape(-1, 1))
    points_cam = world_to_camera(points, scene.c2w[neighbour])
    flow = project(points_cam, scene.intrinsics) - pixels
    return flow.reshape(HEIGHT, WIDTH, 2).numpy(), -points_cam[:, 2].reshape(HEIGHT, WIDTH).numpy() / scale


def warp_error(scene: Scene, frame: int, neighbour: int, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Squared difference between a frame and its neighbour, sampled at flow + shift."""
    target = targets(prior(scene, frame, neighbour)[0] + np.array(shift))
    image = scene.image(neighbour).numpy()
    warped = cv2.remap(image, target[..., 0], target[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return (warped - scene.image(frame).numpy()) ** 2


def decibel(mean_squared_error: float) -> float:
    return float(-10.0 * np.log10(mean_squared_error))


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_demo_scene_loads_with_its_bounds_and_focal(folder: Path, scene: Scene) -> None:
    assert scene.images.shape == (N_FRAMES, HEIGHT, WIDTH, 3)
    assert scene.intrinsics.focal == pytest.approx(0.85 * WIDTH)
    near, far = np.load(folder / "poses_bounds.npy")[:, 15:17].T
    depth = 1.0 / scene.disparity.numpy()
    np.testing.assert_allclose(depth.min((1, 2)), near, rtol=1e-6)
    np.testing.assert_allclose(depth.max((1, 2)), far, rtol=1e-6)
    assert 3.5 < far.max() / near.min() < 5.5
    nearest_scaled = scene.cameras.bounds[:, 0].min()
    assert nearest_scaled > 1.0  # nothing in front of the near plane of NDC


def test_images_are_twice_as_large_and_average_to_training_frames(folder: Path) -> None:
    large = iio.imread(folder / "images" / "00007.png").astype(float)
    small = iio.imread(folder / f"images_{WIDTH}x{HEIGHT}" / "00007.png")
    mean = (large[::2, ::2] + large[1::2, ::2] + large[::2, 1::2] + large[1::2, 1::2]) / 4.0
    assert np.abs(mean - small).max() <= 0.5  # rounding


@pytest.mark.parametrize(("frame", "neighbour"), PAIRS)
def test_flow_of_static_pixels_is_reprojection_of_depth(folder: Path, scene: Scene, frame: int, neighbour: int) -> None:
    static = ~scene.motion_masks[frame].numpy()
    error = np.linalg.norm(prior(scene, frame, neighbour)[0] - reprojected(scene, folder, frame, neighbour)[0], axis=-1)
    assert error[static].max() < 0.01  # float32 poses leave 1e-5
    assert error[~static].mean() > 0.5  # moving pixels do move


@pytest.mark.parametrize(("frame", "neighbour"), PAIRS)
def test_flow_mask_marks_pixels_occluded_in_neighbour(folder: Path, scene: Scene, frame: int, neighbour: int) -> None:
    flow, depth = reprojected(scene, folder, frame, neighbour)
    mask = prior(scene, frame, neighbour)[1]
    columns, rows = np.round(targets(flow)).astype(int).transpose(2, 0, 1)
    inside = (columns > 0) & (columns < WIDTH - 1) & (rows > 0) & (rows < HEIGHT - 1)
    neighbour_depth = 1.0 / scene.disparity[neighbour].numpy()
    # Depths are those of pixel centres; the extremes over 3 x 3 pixels bound the depths between the centres.
    nearest, farthest = cv2.erode(neighbour_depth, np.ones((3, 3))), cv2.dilate(neighbour_depth, np.ones((3, 3)))
    around = rows.clip(0, HEIGHT - 1), columns.clip(0, WIDTH - 1)
    static = ~scene.motion_masks[frame].numpy() & inside
    occluded, visible = static & ~mask, static & mask
    assert occluded.sum() > 10
    assert (nearest[around] < 0.98 * depth)[occluded].mean() > 0.9  # a thin edge may pass between the centres
    assert (farthest[around] > 0.98 * depth)[visible].mean() > 0.99


def test_flow_mask_excludes_pixels_that_leave_frame(scene: Scene) -> None:
    for frame, neighbour in PAIRS:
        flow, mask = prior(scene, frame, neighbour)
        right, down = targets(flow).transpose(2, 0, 1)
        outside = (right < 0) | (right > WIDTH - 1) | (down < 0) | (down > HEIGHT - 1)
        assert outside.any()
        assert not (mask & outside).any()


@pytest.mark.parametrize("moving", [False, True])
def test_flow_warps_neighbour_onto_frame(smooth_scene: Scene, moving: bool) -> None:
    """The flow is exact if a shift by a quarter of a pixel in any direction is worse."""
    scene = smooth_scene

    def psnr(shift: tuple[float, float]) -> float:
        errors = []
        for frame, neighbour in PAIRS:
            valid = prior(scene, frame, neighbour)[1] & (scene.motion_masks[frame].numpy() == moving)
            errors.append(warp_error(scene, frame, neighbour, shift)[valid])
        return decibel(np.concatenate(errors).mean())

    exact = psnr((0.0, 0.0))
    assert exact > 27.0
    for shift in ((0.25, 0.0), (-0.25, 0.0), (0.0, 0.25), (0.0, -0.25)):
        assert psnr(shift) < exact - 0.8


def test_moving_fraction_is_between_2_and_25_percent(scene: Scene) -> None:
    fraction = scene.motion_masks.float().mean((1, 2))
    assert fraction.min() > 0.02
    assert fraction.max() < 0.25


def test_held_out_view_of_video_camera_equals_frame(folder: Path, scene: Scene) -> None:
    for t in (0, 7, 11, 12, 23):
        views = [iio.imread(folder / f"mv_images/{t:05d}/cam{k:02d}.jpg") / 255.0 for k in range(1, 13)]
        views = [cv2.resize(view, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for view in views]
        psnr = [decibel(((view - scene.image(t).numpy()) ** 2).mean()) for view in views]
        camera = t % 12
        assert psnr[camera] > 34.0  # JPEG of quality 95
        assert max(psnr[:camera] + psnr[camera + 1 :]) < 27.0
        mask = iio.imread(folder / "mv_masks" / f"{t:05d}" / f"cam{camera + 1:02d}.png")
        assert set(np.unique(mask)) == {0, 255}
        assert mask.shape == (2 * HEIGHT, 2 * WIDTH)
        small = cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) > 127
        assert (small == (iio.imread(folder / "motion_masks" / f"{t:05d}.png") > 0)).mean() > 0.99
    torch.testing.assert_close(scene.c2w[:12], scene.c2w[12:])


@pytest.mark.usefixtures("coarse_textures")
def test_seed_determines_textures_and_nothing_else(tmp_path: Path) -> None:
    trees = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        demo_scene.write_demo_scene(tmp_path / name, dataclasses.replace(TINY, seed=seed))
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1]
    differing = {name.split("/")[0] for name in trees[0] if trees[0][name] != trees[2][name]}
    assert differing == {"images", "images_32x18"}


def test_make_demo_scene_typed_in_other_folder_writes_scene(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "make_demo_scene.py"), "--data_path", "scene/dense", "--size", "32x18"]
    run = subprocess.run(
        [*command, "--frames", "3", "--path", "smooth"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "no held-out cameras" in run.stdout
    written = {path.name for path in (tmp_path / "scene" / "dense").iterdir()}
    assert written == {"images", "images_32x18", "disp", "flow_i1", "motion_masks", "poses_bounds.npy"}
    assert [path.name for path in (tmp_path / "scene").iterdir()] == ["dense"]


@pytest.mark.usefixtures("coarse_textures")
def test_make_demo_scene_replaces_nonempty_folder_only_with_overwrite(tmp_path: Path) -> None:
    folder = tmp_path / "dense"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    argv = ["--data_path", str(folder), "--size", "32x18", "--frames", "3", "--path", "smooth"]
    with pytest.raises(InputError, match=f"{folder} exists and is not empty; add --overwrite to replace it"):
        make_demo_scene.main(argv)
    assert tree(folder) == {"mine.txt": b"keep"}
    make_demo_scene.main([*argv, "--overwrite"])
    assert (folder / "poses_bounds.npy").is_file()
    assert not (folder / "mine.txt").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("coarse_textures")
def test_make_demo_scene_failed_write_leaves_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "dense"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    monkeypatch.setattr(demo_scene.np, "savez_compressed", raise_disk_full)
    argv = ["--data_path", str(folder), "--size", "32x18", "--frames", "3", "--path", "smooth", "--overwrite"]
    with pytest.raises(InputError, match=rf"cannot write {folder} \(No space left on device\)"):
        make_demo_scene.main(argv)
    assert tree(tmp_path) == {"dense/mine.txt": b"keep"}


@pytest.mark.parametrize("size", ["128", "128x", "axb", "0x72", "-128x72", "72x128", "9999x72", "128x72x3"])
def test_make_demo_scene_rejects_invalid_size(tmp_path: Path, size: str) -> None:
    with pytest.raises(UsageError, match=f"^argument --size: '{size}' is not WIDTHxHEIGHT.*--help$"):
        make_demo_scene.main(["--data_path", str(tmp_path / "dense"), f"--size={size}"])
    assert not (tmp_path / "dense").exists()


def jelly() -> Solid:
    return Solid(np.full(3, 0.5), demo_scene.wobble, np.ones((4, 4, 3)), (1.0, 1.0), "ball", moving=True)


def flag() -> Solid:
    return next(solid for solid in demo_scene.build_solids(0) if solid.kind == "cloth")


@pytest.mark.parametrize("solid", [jelly(), flag()], ids=["jelly", "flag"])
def test_intersect_finds_surface_of_deforming_solid(solid: Solid) -> None:
    """Intersections satisfy the equation of the surface; its points change their distances over time, reversibly."""
    time, rng = 3.0, np.random.default_rng(0)
    eye, centre = np.array([0.3, 0.2, 0.0]), solid.motion(time)[1]
    directions = centre + rng.uniform(-0.8, 0.8, (4000, 3)) - eye
    length = intersect(solid, time, eye, directions)
    hit = np.isfinite(length)
    assert 500 < hit.sum() < 3900
    points = eye + length[hit][:, None] * directions[hit]
    matrix, _ = solid.motion(time)
    local = np.linalg.solve(matrix, (points - centre).T).T
    if solid.kind == "ball":
        np.testing.assert_allclose(np.linalg.norm(local, axis=1), solid.half_size[0], atol=1e-9)
        facing = np.einsum("ni,ni->n", eye - points, solid.normals(local, time))
        assert facing.min() > 0.0  # the near side, seen from outside
    else:
        np.testing.assert_allclose(local[:, 2], demo_scene.wave(local[:, 0], local[:, 1], time), atol=1e-5)
        assert (np.abs(local[:, :2]) < solid.half_size[:2]).all()
    np.testing.assert_allclose(solid.advect(points, time, time), points, atol=1e-5)
    later = solid.advect(points, time, 8.0)
    before, after = (np.linalg.norm(p[:-1] - p[1:], axis=1) for p in (points, later))
    assert np.abs(after / before - 1.0).max() > 0.05  # 1e-12 for a rigid solid
    np.testing.assert_allclose(solid.advect(later, 8.0, time), points, atol=1e-4)


@pytest.mark.parametrize("solid", [jelly(), flag()], ids=["jelly", "flag"])
def test_normals_are_orthogonal_to_surface(solid: Solid) -> None:
    """A small step along the surface is orthogonal to its normal."""
    time, eye = 2.0, np.zeros(3)
    aim = solid.motion(time)[1] + np.array([[0.1, 0.1, 0.0], [0.1001, 0.1, 0.0], [0.1, 0.1001, 0.0]])
    points = aim * intersect(solid, time, eye, aim)[:, None]
    normal = solid.normals(solid.to_local(points, time), time)[0]
    assert np.linalg.norm(normal) == pytest.approx(1.0)
    for step in points[1:] - points[0]:
        assert abs(normal @ step) < 1e-3 * np.linalg.norm(step)


def test_sun_is_hidden_behind_ball_with_soft_edge() -> None:
    """A ball of radius 0.5 hides the sun from points behind it; at its edge half, outside of its soft edge nothing."""
    centre = np.array([1.0, 2.0, 3.0])
    ball = Solid(np.full(3, 0.5), lambda _: (np.eye(3), centre), np.ones((4, 4, 3)), (1.0, 1.0), "ball")
    sideways = np.cross(LIGHT, [0.0, 0.0, 1.0])
    sideways /= np.linalg.norm(sideways)
    soft = 2.0 * SUN_SIZE  # half the width of the edge, at a distance of 2 behind the ball
    beside = (0.0, 0.499 - soft, 0.5 - soft / 2.0, 0.5, 0.5 + soft / 2.0, 0.501 + soft)
    points = centre + np.array([2.0 * LIGHT, *(-2.0 * LIGHT + x * sideways for x in beside)])
    sun, _ = visibility((ball,), 0.0, points, np.zeros_like(points))
    lower, upper = 0.25**2 * (3.0 - 2.0 * 0.25), 0.75**2 * (3.0 - 2.0 * 0.75)  # smoothstep a quarter from its ends
    np.testing.assert_allclose(sun, [1.0, 0.0, 0.0, lower, 0.5, upper, 1.0], atol=1e-9)


def test_silhouette_of_box_is_distance_to_its_edge() -> None:
    """Along the diagonal of the xy plane, a cube shows a width of sqrt(2): lines enter at the nearer of two edges."""
    cube = Solid(np.full(3, 0.5), lambda _: (np.eye(3), np.zeros(3)), np.ones((4, 4, 3)), (1.0, 1.0))
    along, across = np.array([1.0, 1.0, 0.0]) / np.sqrt(2.0), np.array([1.0, -1.0, 0.0]) / np.sqrt(2.0)
    starts = np.array([-3.0 * along + x * across for x in (0.6, 0.7, 0.8, 1.0)])
    inside, length = silhouette(cube, 0.0, starts, along)
    np.testing.assert_allclose(inside, np.sqrt(0.5) - np.array([0.6, 0.7, 0.8, 1.0]), atol=1e-9)
    assert length[0] == pytest.approx(3.0 - (np.sqrt(0.5) - 0.6))  # to the face, which recedes by as much as the offset
    assert (np.isfinite(intersect(cube, 0.0, starts, along)) == (inside > 0.0)).all()


def test_ambient_light_fades_towards_contact() -> None:
    """A wall takes ambient light from a floor point that it touches, none from one farther off than its reach."""
    wall = Solid(
        np.array([5.0, 5.0, 0.1]), lambda _: (np.eye(3), np.array([0.0, 0.0, -0.1])), np.ones((4, 4, 3)), (1, 1)
    )
    points = np.array([[0.0, -4.0, distance] for distance in (0.0, 0.175, 0.36)])
    _, ambient = visibility((wall,), 0.0, points, np.array([[0.0, 1.0, 0.0]] * 3))
    np.testing.assert_allclose(ambient, [1.0 - 0.65, 1.0 - 0.65 * 0.25, 1.0], atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_pictures_on_box_are_not_mirrored(axis: int, side: float) -> None:
    """Seen from outside, red is left of green: right x up points to the viewer."""
    texture = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]])  # blue: upper left
    box = Solid(np.ones(3), lambda _: (np.eye(3), np.zeros(3)), texture, (2.0, 2.0))
    corners = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5]), axis=-1).reshape(4, 2)
    points = np.insert(corners, axis, side, axis=1)
    colours = box.albedo(points)
    lower_left, lower_right, upper_left = (
        points[(colours == colour).all(1)][0] for colour in (texture[0, 0], texture[0, 1], texture[1, 0])
    )
    np.testing.assert_allclose(np.cross(lower_right - lower_left, upper_left - lower_left), side * np.eye(3)[axis])
    if axis != 1:
        assert upper_left[1] > lower_left[1]


def test_moving_solid_shades_static_floor(folder: Path) -> None:
    """Between two times of one camera, a few static pixels outside of both masks change, by the moving shadow."""
    images = [iio.imread(folder / f"mv_images/{t:05d}/cam06.jpg")[::2, ::2].astype(int) for t in (0, 12)]
    masks = [iio.imread(folder / f"mv_masks/{t:05d}/cam06.png") for t in (0, 12)]
    masks = [cv2.dilate(mask, np.ones((5, 5)))[::2, ::2] > 0 for mask in masks]
    change = np.abs(images[0] - images[1]).max(-1)[~(masks[0] | masks[1])]
    assert (change > 25).mean() > 0.005
    assert (change > 25).mean() < 0.1


def test_write_video_encodes_all_frames(tmp_path: Path, folder: Path) -> None:
    demo_scene.write_video(tmp_path / "a clip.mp4", sorted((folder / "images").iterdir()))
    frames = iio.imread(tmp_path / "a clip.mp4", plugin="FFMPEG")
    assert frames.shape == (N_FRAMES, 2 * HEIGHT, 2 * WIDTH, 3)
    assert np.abs(frames[5].astype(int) - iio.imread(folder / "images/00005.png")).mean() < 8.0
    assert [path.name for path in tmp_path.iterdir()] == ["a clip.mp4"]
