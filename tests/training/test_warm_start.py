"""The warm start: terms against hand values, and fields that show the scene after a few steps."""

import dataclasses
import logging

import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.priors import LiftedPixels, Priors
from nsff.data.scene import load_scene
from nsff.fields import DynamicField, DynamicSamples, Fields, StaticField, StaticSamples, build_fields
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import RayBundle
from nsff.geometry.space import NdcSpace
from nsff.training.trainer import Trainer
from nsff.training.warm_start import (
    OPAQUE,
    PointBatch,
    compute_warm_losses,
    draw_points,
    lift_points,
    warm_share,
)

CPU = torch.device("cpu")
GRIDS = {"hash_levels": 6, "hash_log2_rows": 14, "hash_finest": 128, "hash_dynamic_finest": 128}


class Grey(StaticField):
    """Colour 0.5, density 20 and blend weight 0.25 everywhere."""

    def forward(self, points, viewdirs):
        one = torch.ones_like(points[..., 0])
        return StaticSamples(torch.zeros_like(points), 20.0 * one, 0.25 * one)


class GreyMoving(DynamicField):
    """Colour 0.5 and density 20 everywhere; moves by (0.1, 0, 0) forward and not backward."""

    def forward(self, points, time, viewdirs):
        zero, one = torch.zeros_like(points), torch.ones_like(points[..., 0])
        forward = zero + torch.tensor([0.1, 0.0, 0.0])
        return DynamicSamples(zero, 20.0 * one, zero, forward, 0.0 * one, 0.0 * one)


def test_warm_losses_match_hand_values():
    """Two pixels: a white moving one that is certain, and a grey static one of confidence 0.5 that stays."""
    directions = torch.tensor([[0.0, 0.0, 2.0]]).expand(2, 3)
    ahead = torch.tensor([[0.0, 0.0, -1.0]]).expand(2, 3)
    rays = RayBundle(ahead, directions, ahead, NdcSpace(Intrinsics(2, 2, 1.0)))
    lifted = LiftedPixels(
        rays, z=torch.tensor([0.5, 0.7]), confidence=torch.tensor([1.0, 0.5]),
        sf_fwd=torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.0, 0.0]]), sf_fwd_confidence=torch.ones(2),
        sf_bwd=torch.tensor([[0.0, -0.2, 0.0], [0.0, 0.0, 0.0]]), sf_bwd_confidence=torch.tensor([1.0, 0.0]),
    )  # fmt: skip
    rgb, moving = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]), torch.tensor([1.0, 0.0])
    batch = PointBatch(torch.zeros(2), lifted, rgb, moving, background=1.0 - moving)
    terms = compute_warm_losses(Fields(Grey(), GreyMoving()), batch, torch.Generator())
    shortfall, excess, background = (OPAQUE - 20.0) / OPAQUE, 21.0 / OPAQUE, 0.5 / 1.5
    assert float(terms.dynamic_colour) == pytest.approx(0.25 / 2)
    assert float(terms.static_colour) == 0.0
    assert float(terms.surface) == pytest.approx(0.01 * shortfall * (0.75 + background))
    assert float(terms.free_space) == pytest.approx(0.15 * excess * (0.75 + background))
    assert float(terms.blend) == pytest.approx(0.01 * (0.75**2 + 0.5 * 0.25**2) / 2)
    assert float(terms.scene_flow) == pytest.approx(0.3 * (0.2 + 0.2 + 0.5 * 0.1) / 2)
    assert float(terms.total()) == pytest.approx(sum(float(value) for value in vars(terms).values()))


@pytest.fixture(scope="module")
def config(small_scene, tmp_path_factory):
    options = ["--datadir", str(small_scene), "--expname", "x", "--use_viewdirs", "--bd_factor", "0.6"]
    config = load_config([*options, "--end_frame", "12", "--final_height", "36", "--field", "hash", "--lrate", "1e-3"])
    return dataclasses.replace(
        config, basedir=str(tmp_path_factory.mktemp("warm")), warm_steps="400", N_iters=10**6, N_rand=64,
        num_extra_sample=16, **GRIDS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scene(config):
    return load_scene(config, CPU)


def test_draw_points_are_half_moving(scene):
    index = draw_points(scene, [3, 8], 400, torch.Generator().manual_seed(0))
    assert (index // scene.n_pixels).tolist() == [3] * 200 + [8] * 200
    points = lift_points(Priors.of(scene), index)
    assert bool(points.moving[100:200].all())
    assert bool(points.moving[300:].all())
    expected = torch.tensor([scene.timeline.time_of(frame) for frame in (3, 8)]).repeat_interleave(200)
    torch.testing.assert_close(points.times, expected)
    assert torch.equal(points.rgb[250], scene.image(8).flatten(0, 1)[index[250] % scene.n_pixels])


def test_fields_hold_the_priors_after_the_warm_start(config, scene):
    """At the surface: colours, opacity, blend and motion of the exact scene. Half way to it: empty space."""
    trainer, frame = Trainer(config, scene, CPU), 5
    for _ in range(400):
        trainer.train_step()
    rgb, moving = scene.image(frame).reshape(-1, 3), scene.motion_masks[frame].flatten()
    background = scene.background[frame].flatten()
    lifted = Priors.of(scene).lift(frame * scene.n_pixels + torch.arange(len(rgb)))
    points = lifted.rays.points(torch.stack([lifted.z, 0.5 * lifted.z], dim=-1))
    with torch.no_grad():
        time = torch.full((len(rgb),), scene.timeline.time_of(frame))
        dynamic = trainer.fields.dynamic(points, time, lifted.rays.viewdirs)
        static = trainer.fields.static(points, lifted.rays.viewdirs)
    for samples, pixels in ((dynamic, moving), (static, background)):
        error = (samples.rgb_raw[pixels, 0].sigmoid() - rgb[pixels]) ** 2
        assert -10.0 * float(error.mean().log10()) > 22.0
        assert float(samples.sigma_raw[pixels, 0].median()) > 20.0
        assert float(samples.sigma_raw[pixels, 1].median()) < 1.0
    assert float(static.blend_w[moving, 0].mean()) > 0.9
    assert float(static.blend_w[background, 0].mean()) < 0.1
    known = moving & (lifted.sf_fwd_confidence > 0.5)
    error = (dynamic.sf_fwd[known, 0] - lifted.sf_fwd[known]).norm(dim=-1)
    assert float(error.median()) < 0.5 * float(lifted.sf_fwd[known].norm(dim=-1).median())


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_warm_step_trains_both_fields(config, scene, field):
    small = dataclasses.replace(config, field=field, netwidth=16, warm_steps="1")
    trainer = Trainer(small, scene, CPU)
    report = trainer.train_step()
    assert float(report.terms.scene_flow) > 0.0
    for part in (trainer.fields.static, trainer.fields.dynamic):
        assert any(bool(parameter.grad.any()) for parameter in part.parameters())
    assert "line_of_sight" in vars(trainer.train_step().terms)


def test_published_run_does_not_align_priors(config, scene, caplog):
    published = dataclasses.replace(config, field="mlp", schedule="published", warm_steps="auto", netwidth=16)
    with caplog.at_level(logging.DEBUG, logger="nsff"):
        assert Trainer(published, scene, CPU).priors is None
    assert caplog.text == ""


def test_scene_flow_of_hash_fields_never_reaches_infinity(config):
    dynamic = build_fields(config).dynamic
    with torch.no_grad():
        dynamic.motion.layers[-1].weight *= 1e4
    points = 2.0 * torch.rand(200, 4, 3) - 1.0
    samples = dynamic(points, torch.zeros(200), torch.zeros(200, 3))
    for flow in (samples.sf_fwd, samples.sf_bwd):
        assert float(flow[..., 0].abs().max()) > 0.9
        before, after = 1.0 - points[..., 2], 1.0 - (points + flow)[..., 2]
        assert bool((after >= 0.5 * before - 1e-6).all())  # the depth at most doubles
        assert bool((after <= 1.5 * before + 1e-6).all())


def test_scene_without_usable_depth_is_trained_on_rays_alone(config, scene, caplog):
    upside_down = dataclasses.replace(scene, disparity=scene.disparity.max() - scene.disparity)
    report = Trainer(config, upside_down, CPU).train_step()
    assert "depth of 12 frames contradicts flow and poses and is not used" in caplog.text
    assert "line_of_sight" in vars(report.terms)
    assert float(report.terms.line_of_sight) == 0.0


@pytest.mark.parametrize(("warm_steps", "expected"), [("auto", 0.25), ("500", 1.0)])
def test_warm_start_is_as_long_as_depth_is_believed_unless_told(config, scene, monkeypatch, warm_steps, expected):
    monkeypatch.setattr(Priors, "belief", 0.25)
    config = dataclasses.replace(config, warm_steps=warm_steps)
    assert warm_share(Priors.of(scene), config) == expected
    assert warm_share(None, config) == 0.0
