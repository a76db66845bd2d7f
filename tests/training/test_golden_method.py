"""Networks, loader, geometry, all intermediates, loss terms and gradients against those of the published code."""

import dataclasses

import numpy as np
import pytest
import torch
from nsff import fields as nsff_fields
from nsff.data.cameras import load_cameras
from nsff.data.pixel_sampler import gather_batch, moving_pixels
from nsff.fields import blocked, mlp
from nsff.fields.encoding import Encoding
from nsff.geometry.camera_paths import bullet_time_loop, space_time_offsets
from nsff.geometry.ndc import ndc_to_world, to_ndc
from nsff.geometry.poses import interpolate
from nsff.geometry.rays import camera_rays, pixel_grid, project
from nsff.rendering.ray_sampling import sample_depths
from nsff.rendering.train_render import SampledRays, TwoStepWarp, render_train
from nsff.rendering.volume_rendering import composite, intervals
from nsff.training.losses import NeighbourCameras, compute_losses
from nsff.training.schedules import plan_step, stage_length
from nsff.training.variant_rules import VARIANT_RULES

CPU = torch.device("cpu")
STAGES = [
    "init_mid", "init_mid_next", "init_first_frame", "init_last_frame",
    "after_decay", "after_decay_next", "late_chain", "late_chain_next",
]  # fmt: skip
TERMS = {
    "colour": "render_loss", "cycle": "bidirection_loss", "prob": "prob_reg_loss", "depth": "depth_loss",
    "flow": "flow_loss", "sf_reg": "sf_reg_loss", "smoothness": "sf_sm_loss", "entropy": "entropy_loss",
}  # fmt: skip


def assert_close(ours, theirs, tolerance: float = 1e-4) -> None:
    """Assert that the largest difference is below `tolerance` times the largest published value."""
    ours = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours, np.float64)
    theirs = np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-12)


@pytest.mark.parametrize("forward", [mlp.forward_plain, blocked.forward_blocked])
def test_networks_match_published_outputs(figures, golden_fields, monkeypatch, forward):
    monkeypatch.setattr(mlp, "forward_blocked", forward)
    points, viewdirs = torch.from_numpy(figures["net/pts"]), torch.from_numpy(figures["net/viewdirs"])
    single_sample_rays, directions = points.reshape(-1, 1, 4), viewdirs.repeat_interleave(5, 0)  # a time per point
    dynamic = golden_fields.dynamic(single_sample_rays[..., :3], single_sample_rays[:, 0, 3], directions)
    static = golden_fields.static(points[..., :3], viewdirs)
    assert isinstance(dynamic, nsff_fields.DynamicSamples)
    flat = [dynamic.rgb_raw, dynamic.sigma_raw[..., None], dynamic.sf_bwd, dynamic.sf_fwd]
    flat += [dynamic.prob_bwd[..., None], dynamic.prob_fwd[..., None]]
    assert_close(torch.cat(flat, -1).view(7, 5, 12), figures["net/dynamic_out"], 1e-5)
    flat = [static.rgb_raw, static.sigma_raw[..., None], static.blend_w[..., None]]
    assert_close(torch.cat(flat, -1), figures["net/static_out"], 1e-5)
    assert_close(Encoding(4, 10)(points.reshape(-1, 4)), figures["net/embed_xyzt"], 1e-5)
    assert_close(Encoding(3, 4)(viewdirs), figures["net/embed_dir"], 1e-5)


def test_loader_matches_published_scene(figures, golden_scene, golden_config):
    assert_close(golden_scene.images / 255.0, figures["load/images"], 1e-5)
    assert_close(golden_scene.disparity, figures["load/disp"], 1e-5)
    assert_close(golden_scene.motion_masks, figures["load/masks"], 1e-5)
    assert_close(golden_scene.cameras.bounds, figures["load/bds"], 1e-5)
    assert_close(golden_scene.c2w, figures["load/poses"][:, :, :4], 1e-5)
    size = golden_scene.intrinsics
    np.testing.assert_allclose([size.height, size.width, size.focal], figures["load/poses"][0, :, 4], rtol=1e-6)
    counts = [len(moving_pixels(golden_scene, frame)) for frame in range(24)]
    assert counts == figures["load/motion_coords_count"].tolist()
    assert_close(load_cameras(golden_config).c2w, figures["load/nvidia_poses"][:, :, :4], 1e-5)


def test_camera_paths_match_published_poses(figures, golden_scene, golden_config):
    c2w, focal = golden_scene.c2w.numpy(), golden_scene.intrinsics.focal
    target = c2w[golden_config.target_idx]
    assert_close(target, figures["load/ref_c2w"][:, :4], 1e-5)
    assert_close(bullet_time_loop(target, focal), figures["load/bullet_time_poses"][:, :, :4], 1e-5)
    assert_close(space_time_offsets(focal), figures["load/slowmo_bt_poses"], 1e-5)
    between = interpolate(c2w[2], c2w[3], 0.3)
    assert_close(between[:, :3], figures["geom/interp_rot"], 1e-5)
    assert_close(between[:, 3], figures["geom/interp_trans"], 1e-5)


def test_ray_geometry_matches_published_values(figures, golden_scene):
    size = golden_scene.intrinsics
    origins, directions = camera_rays(pixel_grid(size, CPU), golden_scene.c2w[3], size)
    assert_close(origins, figures["geom/rays_o"].reshape(-1, 3), 1e-5)
    assert_close(directions, figures["geom/rays_d"].reshape(-1, 3), 1e-5)
    for ours, name in zip(to_ndc(origins, directions, size), ("ndc_rays_o", "ndc_rays_d"), strict=True):
        assert_close(ours, figures[f"geom/{name}"].reshape(-1, 3), 1e-5)
    points = torch.from_numpy(figures["geom/ndc_points"])
    assert_close(ndc_to_world(points, size), figures["geom/ndc_to_euclidean"], 1e-5)
    assert_close(project(torch.from_numpy(figures["geom/cam_points"]), size), figures["geom/projected"], 1e-5)


@dataclasses.dataclass
class Step:
    """A replayed step of the published code."""

    plan: object
    batch: object
    render: object
    terms: object


def replay(stage, name, figures, scene, config, fields, static_everywhere: bool) -> Step:
    frame, prefix = stage["frame"], f"step/{name}/"
    draws = [torch.from_numpy(figures[prefix + key]) for key in ("pick2", "pick3") if prefix + key in figures]
    hard = moving_pixels(scene, frame)[draws[0]] if len(draws) == 2 else draws[0][:0]
    batch = gather_batch(scene, frame, torch.cat([draws[-1], hard]), len(draws[-1]))
    plan = plan_step(config, stage["step"], scene.timeline.n_frames)
    n_rays = len(batch.rays)
    render = render_train(
        fields, SampledRays.at(batch.rays, sample_depths(n_rays, config.N_samples, 0.0, None, CPU)),
        scene.timeline, frame, n_rays if static_everywhere or plan.static_everywhere else batch.n_uniform,
        TwoStepWarp(backward=bool(stage["chain_bwd"]), rendered=plan.two_step.rendered),
    )  # fmt: skip
    cameras = NeighbourCameras.of(scene, frame)
    terms = compute_losses(render, batch, cameras, plan.weights, VARIANT_RULES[config.variant])
    return Step(plan, batch, render, terms)


@pytest.mark.parametrize("name", STAGES)
def test_step_renders_match_published_values(name, stages, figures, golden_scene, golden_config, golden_fields):
    stage, prefix = stages[name], f"step/{name}/ret/"
    step = replay(stage, name, figures, golden_scene, golden_config, golden_fields, static_everywhere=True)
    assert step.plan.two_step.rendered == stage["chain_5frames"]
    assert golden_scene.timeline.time_of(stage["frame"]) == pytest.approx(stage["img_idx"])
    origins, directions = camera_rays(step.batch.uv, golden_scene.c2w[stage["frame"]], golden_scene.intrinsics)
    assert_close(torch.stack([origins, directions]), figures[f"step/{name}/rays"], 1e-5)
    ref, prev, next_ = step.render.ref, step.render.prev, step.render.next
    ours = {
        "rgb_map_ref": ref.blended.rgb, "depth_map_ref": ref.blended.depth,
        "weights_map_dd": ref.blended.dynamic_weight,
        "rgb_map_ref_dy": ref.dynamic_only.rgb, "depth_map_ref_dy": ref.dynamic_only.depth,
        "weights_ref_dy": ref.dynamic_only.weights, "raw_pts_ref": ref.points, "raw_blend_w": ref.static.blend_w,
        "raw_sf_ref2prev": ref.dynamic.sf_bwd, "raw_sf_ref2post": ref.dynamic.sf_fwd,
        "raw_prob_ref2prev": ref.dynamic.prob_bwd, "raw_prob_ref2post": ref.dynamic.prob_fwd,
        "rgb_map_prev_dy": prev.rgb, "rgb_map_post_dy": next_.rgb, "raw_pts_prev": prev.points,
        "raw_pts_post": next_.points, "raw_sf_prev2ref": prev.dynamic.sf_fwd,
        "raw_sf_post2ref": next_.dynamic.sf_bwd, "prob_map_prev": prev.confidence, "prob_map_post": next_.confidence,
        "raw_pts_pp": step.render.two_step_points, "raw_sf_p2pp": prev.dynamic.sf_bwd,
        "raw_prob_p2pp": prev.dynamic.prob_bwd,
    }  # fmt: skip
    ours |= static_only(step, golden_scene, golden_config)
    if step.render.two_step is not None:
        far = step.render.two_step
        ours |= {"rgb_map_pp_dy": far.rgb, "raw_sf_pp2p": far.dynamic.sf_fwd, "prob_map_pp": far.confidence}
    published = {key.removeprefix(prefix) for key in figures if key.startswith(prefix)}
    assert published <= ours.keys()
    for key in published:
        assert_close(ours[key], figures[prefix + key])


def static_only(step: Step, scene, config) -> dict[str, torch.Tensor]:
    rays = step.batch.rays
    depths = sample_depths(len(rays), config.N_samples, 0.0, None, CPU)
    render = composite(step.render.ref.static, depths, intervals(rays, depths))
    return {"rgb_map_rig": render.rgb, "depth_map_rig": render.depth}


@pytest.mark.parametrize("forward", [mlp.forward_plain, blocked.forward_blocked])
@pytest.mark.parametrize("name", STAGES)
def test_step_losses_match_published_values(
    name, forward, stages, figures, golden_scene, golden_config, golden_fields, monkeypatch
):
    monkeypatch.setattr(mlp, "forward_blocked", forward)
    stage = stages[name]
    step = replay(stage, name, figures, golden_scene, golden_config, golden_fields, static_everywhere=False)
    assert step.plan.weights.depth == pytest.approx(stage["terms"]["w_depth"])
    assert step.plan.weights.flow == pytest.approx(stage["terms"]["w_of"])
    for ours, theirs in TERMS.items():
        assert float(getattr(step.terms.detach(), ours)) == pytest.approx(stage["terms"].get(theirs, 0.0), rel=1e-4), (
            ours
        )
    step.terms.total().backward()
    assert stage["grad_l1_sum_l2"].keys() == dict(golden_fields.named_parameters()).keys()
    for parameter, (l1, _, l2) in stage["grad_l1_sum_l2"].items():
        gradient = golden_fields.get_parameter(parameter).grad
        assert float(gradient.abs().sum()) == pytest.approx(l1, rel=1e-3), parameter
        assert float(gradient.norm()) == pytest.approx(l2, rel=1e-3), parameter


def test_stage_length_matches_published_variants(golden_config, variant):
    assert stage_length(golden_config, 24) == {"paper": 1000, "wild": 24_000}[variant]
