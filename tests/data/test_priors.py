"""Lifted priors against the exact depth, flow and masks of the built-in scene."""

import dataclasses
import math

import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.alignment import Alignment, align_disparity, triangulate
from nsff.data.priors import Priors, ray_depth, report
from nsff.data.scene import load_scene
from nsff.evaluation.prior_figures import measure_priors
from nsff.geometry.ndc import ndc_to_world
from nsff.geometry.rays import make_rays, pixel_grid, project, world_to_camera
from nsff.geometry.space import NdcSpace

CPU = torch.device("cpu")
FRAME = 5


@pytest.fixture(scope="module")
def scene(small_scene):
    options = ["--datadir", str(small_scene), "--expname", "x", "--use_viewdirs", "--bd_factor", "0.6"]
    return load_scene(load_config([*options, "--end_frame", "12", "--final_height", "36"]), CPU)


@pytest.fixture(scope="module")
def all_of(scene):
    """Indices of all pixels of a frame, over all frames."""
    return lambda frame: frame * scene.n_pixels + torch.arange(scene.n_pixels)


def with_disparity(scene, frame, values):
    disparity = scene.disparity.clone()
    disparity[frame] = values
    return dataclasses.replace(scene, disparity=disparity)


def test_lifted_point_lies_at_the_depth_of_its_pixel(scene, all_of):
    lifted = Priors.of(scene).lift(all_of(FRAME))
    points = ndc_to_world(lifted.rays.points(lifted.z[:, None])[:, 0], scene.intrinsics)
    in_camera = world_to_camera(points, scene.c2w[FRAME])
    moving = scene.motion_masks[FRAME].flatten()
    expected = scene.cameras.scale / scene.disparity[FRAME].flatten()
    torch.testing.assert_close(-in_camera[moving, 2], expected[moving], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(-in_camera[:, 2], expected, rtol=0.05, atol=0.0)  # flow has a share on the background
    torch.testing.assert_close(
        project(in_camera, scene.intrinsics), pixel_grid(scene.intrinsics, CPU), rtol=0, atol=0.01
    )


def test_triangulate_exact_flow_gives_exact_depth(scene, all_of):
    inverse_depth, information, remaining = triangulate(scene, all_of(FRAME))
    known = scene.background[FRAME].flatten() & (information > 1.0)
    exact = scene.disparity[FRAME].flatten() / scene.cameras.scale
    assert int(known.sum()) > 1000
    assert float(((inverse_depth - exact).abs() * information.sqrt())[known].quantile(0.9)) < 0.1  # pixels
    assert float(remaining[known].quantile(0.9)) < 0.3
    assert float(remaining[scene.motion_masks[FRAME].flatten()].median()) > 0.5


@pytest.mark.parametrize(("scale", "shift"), [(37.0, 5.0), (0.01, -3.0)])
def test_align_disparity_recovers_scale_and_shift(scene, scale, shift):
    network = with_disparity(scene, FRAME, scale * scene.disparity[FRAME] + shift)
    alignment = align_disparity(network, FRAME)
    inverse_depth = alignment.scale * network.disparity[FRAME] + alignment.shift
    exact = scene.disparity[FRAME] / scene.cameras.scale
    assert alignment.believed
    assert alignment.residual < 0.1
    torch.testing.assert_close(inverse_depth, exact, rtol=0.03, atol=0.01)


def test_inverse_depth_in_units_of_the_poses_is_taken_as_it_is(scene):
    alignment = align_disparity(scene, FRAME)
    assert (alignment.scale, alignment.shift) == (1.0 / scene.cameras.scale, 0.0)


def test_frame_with_disparity_upside_down_is_named_and_not_used(scene, all_of, caplog):
    priors = Priors.of(with_disparity(scene, FRAME, scene.disparity[FRAME].max() - scene.disparity[FRAME]))
    assert [alignment.believed for alignment in priors.alignments] == [frame != FRAME for frame in range(12)]
    assert f"depth of 1 frames contradicts flow and poses and is not used: {FRAME}" in caplog.text
    assert float(priors.lift(all_of(FRAME)).confidence.max()) == 0.0
    moving = scene.motion_masks[FRAME - 1].flatten()
    assert float(priors.lift(all_of(FRAME - 1)).sf_fwd_confidence[moving].max()) == 0.0


def test_frame_without_known_flow_is_not_believed(scene):
    unknown = torch.zeros_like(scene.flow_fwd_mask)
    alignment = align_disparity(dataclasses.replace(scene, flow_fwd_mask=unknown, flow_bwd_mask=unknown), FRAME)
    assert not alignment.believed
    assert math.isnan(alignment.residual)


def test_lifted_scene_flow_projects_to_the_target_of_optical_flow(scene, all_of):
    lifted = Priors.of(scene).lift(all_of(FRAME))
    points = lifted.rays.points(lifted.z[:, None])[:, 0]
    for flow, confidence, step, optical in (
        (lifted.sf_fwd, lifted.sf_fwd_confidence, 1, scene.flow_fwd),
        (lifted.sf_bwd, lifted.sf_bwd_confidence, -1, scene.flow_bwd),
    ):
        c2w = scene.c2w[FRAME + step]
        target = project(world_to_camera(ndc_to_world(points + flow, scene.intrinsics), c2w), scene.intrinsics)
        error = (target - pixel_grid(scene.intrinsics, CPU) - scene.pick(optical, all_of(FRAME))).norm(dim=-1)
        moving = scene.motion_masks[FRAME].flatten() & (confidence > 0.0)
        assert int(moving.sum()) > 50
        assert float(error[moving].max()) < 0.05
        assert bool((flow[scene.background[FRAME].flatten()] == 0.0).all())


def test_scene_flow_at_the_ends_has_no_confidence(scene, all_of):
    priors = Priors.of(scene)
    assert float(priors.lift(all_of(0)).sf_bwd_confidence.max()) == 0.0
    assert float(priors.lift(all_of(11)).sf_fwd_confidence.max()) == 0.0


def test_random_flow_loses_confidence(scene, all_of):
    moving = scene.motion_masks[FRAME].flatten()
    flow = scene.flow_fwd.clone()
    flow[FRAME] += 20.0 * torch.randn(flow[FRAME].shape, generator=torch.Generator().manual_seed(0))
    right = Priors.of(scene).lift(all_of(FRAME)).sf_fwd_confidence[moving].mean()
    wrong = Priors.of(dataclasses.replace(scene, flow_fwd=flow)).lift(all_of(FRAME)).sf_fwd_confidence[moving].mean()
    assert float(wrong) < 0.3 * float(right)


def test_lift_point_before_the_near_plane_stays_on_it(scene):
    rays = make_rays(torch.tensor([[3.0, 2.0]]), scene.c2w[FRAME], scene.intrinsics, NdcSpace(scene.intrinsics))
    z = ray_depth(scene, torch.tensor([[3.0, 2.0]]), scene.c2w[FRAME], torch.tensor([50.0]))
    assert float(z) == 0.0
    assert float(rays.points(z[:, None])[0, 0, 2]) == -1.0


def test_prior_figures_name_the_frames_that_are_doubted(scene):
    figures, doubted = measure_priors(Priors.of(scene))
    assert figures.prior_depth < 0.1
    assert figures.prior_frames == 100.0
    assert figures.prior_flow > 60.0
    assert figures.prior_moving == 100.0
    assert set(doubted.values()) == {()}
    flow_fwd, flow_bwd = scene.flow_fwd_mask.clone(), scene.flow_bwd_mask.clone()
    flow_fwd[FRAME], flow_bwd[FRAME] = False, False
    upside_down = with_disparity(scene, 2, scene.disparity[2].max() - scene.disparity[2])
    figures, doubted = measure_priors(
        Priors.of(dataclasses.replace(upside_down, flow_fwd_mask=flow_fwd, flow_bwd_mask=flow_bwd))
    )
    assert figures.prior_frames == pytest.approx(100.0 * 10 / 12)
    assert set(doubted["prior_frames"]) == {2, FRAME}  # without flow, depth cannot be aligned
    assert FRAME in doubted["prior_flow"]


def test_belief_is_full_for_exact_depth_and_falls_with_its_error(scene):
    width = scene.intrinsics.width
    across = torch.linspace(0.0, 4.0 * math.pi, width)
    beliefs = []
    for bend in (0.0, 1.0, 2.0):
        bent = scene.disparity * (bend * across.sin()).exp()
        beliefs.append(Priors.of(dataclasses.replace(scene, disparity=bent)).belief)
    assert beliefs[0] > 0.95
    assert beliefs[0] > beliefs[1] > beliefs[2]


def test_nothing_is_believed_where_no_mask_tells_what_moves(scene):
    nothing = torch.zeros_like(scene.motion_masks)
    assert Priors.of(dataclasses.replace(scene, motion_masks=nothing, background=~nothing)).belief == 0.0


def test_depth_of_mapped_scene_is_that_of_one_in_memory(scene, all_of):
    in_memory, mapped = (Priors.of(dataclasses.replace(scene, is_mapped=is_mapped)) for is_mapped in (False, True))
    assert mapped.table is None
    for actual, expected in zip(mapped.depth(all_of(FRAME)), in_memory.depth(all_of(FRAME)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-3)


def test_depth_that_nothing_can_check_is_not_said_to_contradict(caplog):
    """A frame without consistent flow has nothing to be compared with."""
    caplog.set_level("INFO", "nsff")
    good, wrong = Alignment(1.0, 0.0, 0.3, 0.01, believed=True), Alignment(1.0, 0.0, 9.0, 0.5, believed=False)
    unknown = Alignment(1.0, 0.0, float("nan"), 0.0, believed=False)
    report([good, wrong, unknown])
    assert caplog.messages == [
        "depth agrees with flow and poses to 0.30 px (median over the frames)",
        "depth of 1 frames contradicts flow and poses and is not used: 1",
        "depth of 1 frames is not used, too little consistent flow is there to check it: 2",
    ]
    caplog.clear()
    report([unknown, unknown])
    assert caplog.messages == ["depth of 2 frames is not used, too little consistent flow is there to check it: 0, 1"]
