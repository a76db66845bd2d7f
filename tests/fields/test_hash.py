"""Hash-grid fields, depths from a coarse pass, and the schedule scaled to the length of a run."""

import dataclasses

import pytest
import torch
from nsff.config_loader import load_config
from nsff.errors import InputError, UsageError
from nsff.fields import build_fields, build_optimizer
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import make_rays, pixel_grid
from nsff.rendering.ray_sampling import (
    DepthSampling,
    choose_depths,
    dilate_and_normalise,
    importance_depths,
    stratified_depths,
)
from nsff.training.checkpoint import list_checkpoints
from nsff.training.loop import train
from nsff.training.schedules import learning_rate, plan_step, run_progress
from nsff.training.trainer import Trainer
from toy_fields import AHEAD, toy

CPU = torch.device("cpu")
SMALL = {"hash_levels": 4, "hash_log2_rows": 10, "hash_finest": 64, "hash_dynamic_finest": 64, "hash_width": 16}


@pytest.fixture
def config(paper_config, tmp_path):
    return dataclasses.replace(
        paper_config, basedir=str(tmp_path), variant="paper", field="hash", schedule="scaled", lrate=5e-4, N_rand=64,
        num_extra_sample=16, hash_coarse_samples=8, hash_samples=8, N_iters=6, i_weights=3, i_print=2, i_img=0, **SMALL,
    )  # fmt: skip


def test_initial_fields_are_finite_outside_the_extent_with_small_scene_flow(config):
    fields = build_fields(config)
    points, viewdirs = torch.rand(5, 7, 3) * 8.0 - 4.0, torch.nn.functional.normalize(torch.rand(5, 3), dim=-1)
    dynamic = fields.dynamic(points, torch.linspace(-1.6, 1.6, 5), viewdirs)
    static = fields.static(points, viewdirs)
    for value in (*vars(dynamic).values(), *vars(static).values()):
        assert bool(torch.isfinite(value).all())
    assert float(dynamic.sf_fwd.abs().max()) < 0.05
    for weight in (static.blend_w, dynamic.prob_bwd, dynamic.prob_fwd):
        assert 0.0 < float(weight.min()) <= float(weight.max()) < 1.0


@pytest.mark.parametrize("kind", ["hash", "mlp"])
def test_geometry_equals_the_full_forward_pass(config, kind):
    fields = build_fields(dataclasses.replace(config, field=kind))
    points, time = torch.rand(5, 7, 3), torch.linspace(-1.0, 1.0, 5)
    viewdirs = torch.nn.functional.normalize(torch.rand(5, 3), dim=-1)
    static, dynamic = fields.static(points, viewdirs), fields.dynamic(points, time, viewdirs)
    sigma_raw, blend_w = fields.static.geometry(points)
    torch.testing.assert_close(sigma_raw, static.sigma_raw)
    torch.testing.assert_close(blend_w, static.blend_w)
    torch.testing.assert_close(fields.dynamic.geometry(points, time), dynamic.sigma_raw)


def test_backward_reaches_every_parameter_and_the_points(config):
    fields = build_fields(config)
    points = (torch.rand(40, 7, 3) * 2.0 - 1.0).requires_grad_()
    viewdirs = torch.nn.functional.normalize(torch.rand(40, 3), dim=-1)
    dynamic = fields.dynamic(points, torch.zeros(40), viewdirs)
    static = fields.static(points, viewdirs)
    total = sum(value.square().sum() for value in (*vars(dynamic).values(), *vars(static).values()))
    total.backward()
    assert float(points.grad.abs().min()) > 0.0
    for name, parameter in fields.named_parameters():
        assert float(parameter.grad.abs().max()) > 0.0, name


def test_view_direction_changes_colour_only(config):
    fields = build_fields(config)
    points = torch.rand(1, 3, 3).expand(2, 3, 3)
    viewdirs = torch.tensor([[0.0, 0.0, -1.0], [0.6, 0.0, -0.8]])
    static, dynamic = fields.static(points, viewdirs), fields.dynamic(points, torch.zeros(2), viewdirs)
    for samples in (static, dynamic):
        for name, (first, second) in vars(samples).items():
            if name != "rgb_raw":
                torch.testing.assert_close(first, second)
        assert float((samples.rgb_raw[0] - samples.rgb_raw[1]).abs().max()) > 1e-4


def test_fields_fit_stripes_of_the_finest_level(config):
    """Fit stripes one cell of the finest level wide, which the positional encoding alone cannot represent."""
    fields = build_fields(config)
    points = torch.rand(64, 16, 3) * 2.0 - 1.0
    stripes = (points[..., :1] * 30.0).sin().sign().expand(-1, -1, 3)
    viewdirs = torch.tensor([0.0, 0.0, -1.0]).expand(64, 3)
    optimizer = build_optimizer(fields, config)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(150):
        optimizer.zero_grad()
        error = ((fields.static(points, viewdirs).rgb_raw - stripes) ** 2).mean()
        error = error + ((fields.dynamic(points, torch.zeros(64), viewdirs).rgb_raw - stripes) ** 2).mean()
        error.backward()
        optimizer.step()
    assert float(error) < 0.2  # a constant 0 of both fields gives 2


def test_resumed_run_equals_uninterrupted_run(config, paper_scene):
    uninterrupted, interrupted = Trainer(config, paper_scene, CPU), Trainer(config, paper_scene, CPU)
    for _ in range(6):
        uninterrupted.train_step()
    for _ in range(3):
        interrupted.train_step()
    config.experiment_dir.mkdir()
    interrupted.save()
    resumed = Trainer(config, paper_scene, CPU)
    resumed.resume()
    for _ in range(3):
        resumed.train_step()
    for actual, expected in zip(resumed.fields.parameters(), uninterrupted.fields.parameters(), strict=True):
        assert torch.equal(actual, expected)


def test_resume_rejects_checkpoint_of_another_architecture(config, paper_scene):
    train(Trainer(config, paper_scene, CPU))
    for other, message in (
        ({"field": "mlp", "schedule": "published"}, "field hash.*asks for field mlp"),
        ({"hash_finest": 32}, "hash_finest 64.*asks for.*hash_finest 32"),
    ):
        with pytest.raises(InputError, match=message):
            Trainer(dataclasses.replace(config, **other), paper_scene, CPU).resume()


def test_max_minutes_counts_over_all_runs_of_an_experiment(config, paper_scene, caplog):
    limited = dataclasses.replace(config, N_iters=10**6, max_minutes=0.02)
    first = Trainer(limited, paper_scene, CPU)
    train(first)
    assert 1.2 <= first.seconds < 10.0
    again = Trainer(limited, paper_scene, CPU)
    with caplog.at_level("INFO", logger="nsff"):
        train(again)
    assert again.step == first.step
    assert "raise --max_minutes" in caplog.text
    newest = list_checkpoints(config.experiment_dir)[0]
    other = Trainer(dataclasses.replace(limited, expname="other", ft_path=str(newest)), paper_scene, CPU)
    other.resume()
    assert (other.step, other.seconds) == (first.step, 0.0)  # another experiment has its own minutes


def test_scaled_schedule_follows_run_progress(config):
    config = dataclasses.replace(config, N_iters=900, max_minutes=10.0, use_motion_mask=True, decay_depth_w=True)
    assert run_progress(config, 450, 0.0) == pytest.approx(0.5)
    assert run_progress(config, 450, 540.0) == pytest.approx(0.9)  # the clock is ahead of the steps
    assert run_progress(config, 2000, 0.0) == 1.0
    plans = [plan_step(config, 0, 24, progress) for progress in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)]
    assert [plan.n_hard > 0 for plan in plans] == [True, True, False, False, False, False]
    assert [plan.two_step.rendered for plan in plans] == [False, False, True, True, True, True]
    w = config.w_depth
    assert [plan.weights.depth for plan in plans] == pytest.approx([w, w, w / 10, w / 10, w / 100, w / 100])
    assert learning_rate(config, 7, 1.0) == pytest.approx(0.1 * learning_rate(config, 0, 0.0))


def test_stratified_depths_by_hand():
    assert stratified_depths(1, 4, 0.0, None, CPU)[0].tolist() == [0.125, 0.375, 0.625, 0.875]
    jittered = stratified_depths(50, 4, 1.0, torch.Generator().manual_seed(0), CPU)
    assert bool(((jittered * 4).floor() == torch.arange(4.0)).all())


def test_dilated_weights_by_hand():
    # maxima of neighbours [0 0 | 0 1 | 1 0 | 0 0] are 0 1 1 0 at the inner borders; means of two: 0.5 1 0.5, then / 2
    out = dilate_and_normalise(torch.tensor([[0.0, 0.0, 4.0, 0.0, 0.0]]))
    assert out[0].tolist() == pytest.approx([0.0, 0.25, 0.5, 0.25, 0.0])


def test_importance_depths_follow_the_density():
    density = torch.tensor([[0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    depths = importance_depths(density, 1000, 0.0, None)
    assert bool((depths[:, 1:] >= depths[:, :-1]).all())
    inside = ((depths >= 0.5) & (depths < 0.75)).float().mean(1)
    assert inside.tolist() == pytest.approx([0.8 + 0.2 / 4, 0.25], abs=2e-3)  # a fifth of the PDF is uniform
    assert bool(((depths >= 0.0) & (depths <= 1.0)).all())


def test_coarse_pass_concentrates_depths_at_a_wall():
    size = Intrinsics(12, 20, 15.0)
    rays = make_rays(pixel_grid(size, CPU), AHEAD, size)
    depths = choose_depths(toy(), rays, 0.0, DepthSampling(16, 32, 0.0))
    assert depths.shape == (240, 16)
    near = ((depths - 0.5).abs() < 0.08).float().mean()
    assert float(near) > 0.4  # uniform ones: 0.16
    uniform = choose_depths(toy(), rays, 0.0, DepthSampling(16, 0, 0.0))
    torch.testing.assert_close(uniform[0], torch.linspace(0, 1, 16))


def test_option_defaults_depend_on_the_field():
    mlp, hash_ = (load_config(["--expname", "x", "--use_viewdirs", "--field", kind]) for kind in ("mlp", "hash"))
    assert (mlp.schedule, mlp.N_iters, mlp.importance) == ("published", 500_000, False)
    assert (hash_.schedule, hash_.N_iters, hash_.importance) == ("scaled", 30_000, True)
    assert DepthSampling.of(mlp) == DepthSampling(64, 0, 1.0)
    assert learning_rate(hash_, 0) == pytest.approx(10 * learning_rate(mlp, 0))


@pytest.mark.parametrize("option", ["--hash_levels=0", "--hash_finest=8", "--hash_log2_rows=40", "--hash_samples=2"])
def test_cli_rejects_invalid_grid_sizes(option):
    with pytest.raises(UsageError, match=f"{option[2:].split('=')[0]} = .* is not supported: choose"):
        load_config(["--expname", "x", "--use_viewdirs", "--field", "hash", option])
