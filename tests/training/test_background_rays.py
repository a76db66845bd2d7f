"""Background rays for the static field alone, and the loss that keeps the dynamic field out of the background."""

import dataclasses

import numpy as np
import pytest
import torch
from nsff.data.pixel_sampler import draw_background, gather_batch
from nsff.data.scene import background_of
from nsff.fields import build_fields
from nsff.geometry.rays import make_rays, pixel_grid
from nsff.geometry.space import NdcSpace
from nsff.rendering.ray_sampling import DepthSampling, sample_depths
from nsff.rendering.train_render import SampledRays, TwoStepWarp, render_background, render_train
from nsff.training.checkpoint import load_weights, read_checkpoint
from nsff.training.losses import background_loss, split_loss
from nsff.training.trainer import Trainer
from toy_fields import AHEAD, toy

CPU = torch.device("cpu")


def with_background_terms(config, field: str):
    """The golden config with small fields, background rays and the split loss."""
    return dataclasses.replace(
        config, field=field, schedule="scaled", N_rand=32, num_extra_sample=8, netwidth=16, N_samples=8,
        hash_levels=3, hash_log2_rows=10, hash_finest=32, hash_dynamic_finest=32, hash_coarse_samples=8, hash_samples=8,
        warm_steps="0", background_rays=64, w_split=0.1, raw_noise_std=1.0,
    )  # fmt: skip


def test_background_excludes_margin_around_motion_mask():
    mask = np.zeros((30, 100), bool)
    assert background_of(mask).all()
    mask[10, 50] = True
    rows, columns = np.nonzero(~background_of(mask))
    # one hundredth of 100 columns: a disk of radius 1
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (9, 50), (10, 49), (10, 50), (10, 51), (11, 50),
    ]  # fmt: skip


def test_draw_background_pixels_match_their_frames_and_lie_in_background(paper_scene):
    batch = draw_background(paper_scene, 500, torch.Generator().manual_seed(0))
    column, row = batch.uv.long().unbind(-1)
    assert len(column) == 500
    assert bool(batch.background.all())
    assert len(batch.frames.unique()) > 15
    assert torch.equal(paper_scene.images[batch.frames, row, column] / 255.0, batch.rgb)
    assert bool(paper_scene.background[batch.frames, row, column].all())
    assert not bool(paper_scene.motion_masks[batch.frames, row, column].any())


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_scene_without_background_gives_zero_terms(paper_config, paper_scene, field):
    scene = dataclasses.replace(paper_scene, background=torch.zeros_like(paper_scene.background))
    terms = Trainer(with_background_terms(paper_config, field), scene, CPU).train_step().terms
    assert (float(terms.background), float(terms.split)) == (0.0, 0.0)
    assert bool(torch.isfinite(terms.total()))


def test_make_rays_with_camera_per_ray_equals_single_cameras(paper_scene):
    uv, frames = pixel_grid(paper_scene.intrinsics, CPU)[:40:8], torch.tensor([3, 0, 3, 11, 23])
    rays = make_rays(uv, paper_scene.c2w[frames], paper_scene.intrinsics, NdcSpace(paper_scene.intrinsics))
    for k, frame in enumerate(frames.tolist()):
        expected = make_rays(
            uv[k : k + 1], paper_scene.c2w[frame], paper_scene.intrinsics, NdcSpace(paper_scene.intrinsics)
        )
        torch.testing.assert_close(rays[k : k + 1].origins, expected.origins)
        torch.testing.assert_close(rays[k : k + 1].directions, expected.directions)
        torch.testing.assert_close(rays[k : k + 1].viewdirs, expected.viewdirs)


@pytest.mark.parametrize("n_coarse", [0, 32])
def test_render_background_of_toy_scene_shows_static_wall(paper_scene, n_coarse):
    uv = pixel_grid(paper_scene.intrinsics, CPU)[:9]
    rays = make_rays(uv, AHEAD, paper_scene.intrinsics, NdcSpace(paper_scene.intrinsics))
    rgb = render_background(toy().static, rays, DepthSampling(24, n_coarse, 0.0), torch.Generator(), lambda n: 0.0)
    torch.testing.assert_close(rgb, torch.full((9, 3), 0.5))  # the grey wall


def test_draw_background_marks_what_is_none_where_too_little_is(paper_scene):
    background = torch.zeros_like(paper_scene.background)
    background[:, :, :5] = True
    batch = draw_background(dataclasses.replace(paper_scene, background=background), 500, torch.Generator())
    fraction = 5 / background.shape[2]
    assert float(batch.background.float().mean()) == pytest.approx(2 * fraction, abs=0.1)
    assert torch.equal(batch.background, batch.uv[:, 0] < 5)


def test_background_loss_matches_hand_value():
    rgb = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.3, 0.3, 0.3]])
    target = torch.tensor([[0.5, 0.5, 0.2], [0.5, 0.0, 0.0], [1.0, 1.0, 1.0]])
    background = torch.tensor([True, True, False])
    assert float(background_loss(rgb, target, background)) == pytest.approx((0.09 + 0.25) / 6)


def test_split_loss_is_mean_over_uniform_background_rays(paper_config, paper_scene, golden):
    fields = build_fields(paper_config)
    load_weights(fields, read_checkpoint(golden / "render" / "002000.tar"), paper_config)
    batch = gather_batch(paper_scene, 5, torch.tensor([3, 700, 1200, 1290, 5, 9]), n_uniform=4)
    batch = dataclasses.replace(batch, background=torch.tensor([True, False, True, True, True, True]))
    sampled = SampledRays.at(batch.rays, sample_depths(6, 12, 0.0, None, CPU))
    one_step = TwoStepWarp(backward=True, rendered=False)
    render = render_train(fields, sampled, paper_scene.timeline, 5, n_static=6, two_step=one_step)
    expected = render.ref.blended.dynamic_weight[[0, 2, 3]].mean()
    torch.testing.assert_close(split_loss(render, batch), expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_background_terms_are_zero_unless_enabled(paper_config, paper_scene, field):
    enabled = with_background_terms(paper_config, field)
    terms = Trainer(enabled, paper_scene, CPU).train_step().terms
    assert float(terms.background) > 0.0
    assert float(terms.split) > 0.0
    disabled = dataclasses.replace(enabled, background_rays=0, w_split=0.0)
    terms = Trainer(disabled, paper_scene, CPU).train_step().terms
    assert (float(terms.background), float(terms.split)) == (0.0, 0.0)


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_render_background_has_gradients_in_static_field_only(paper_config, paper_scene, field):
    config = with_background_terms(paper_config, field)
    fields = build_fields(config)
    rays = make_rays(
        pixel_grid(paper_scene.intrinsics, CPU)[:16],
        paper_scene.c2w[0],
        paper_scene.intrinsics,
        NdcSpace(paper_scene.intrinsics),
    )
    sampling = DepthSampling.of(config)
    render_background(fields.static, rays, sampling, torch.Generator(), lambda n: 1.0).sum().backward()
    assert all(parameter.grad is None for parameter in fields.dynamic.parameters())
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in fields.static.parameters())
