"""Schedules: stages, weights of the losses and the learning rate over a run, by hand."""

import dataclasses

import pytest
from nsff.config import AUTO_WARM_STEPS
from nsff.config_loader import load_config
from nsff.training.schedules import learning_rate, plan_step, run_progress, stage_length


def config_of(variant: str, *more: str):
    return load_config(
        ["--expname", "x", "--variant", variant, "--use_motion_mask", "--decay_depth_w", "--use_viewdirs", *more]
    )


def test_plan_step_stage_limits_follow_variant():
    paper = config_of("paper", "--decay_iteration", "2")
    assert [plan_step(paper, step, 24).n_hard for step in (0, 1999, 2000)] == [512, 512, 0]
    assert [plan_step(paper, step, 24).two_step.rendered for step in (1999, 2000, 9000)] == [False, True, True]
    wild = config_of("wild", "--decay_iteration", "2", "--chain_sf")
    assert stage_length(wild, 24) == 24_000
    assert stage_length(wild, 400) == 250_000
    assert [plan_step(wild, step, 24).two_step.rendered for step in (24_000, 48_000, 48_001)] == [False, False, True]
    assert [plan_step(wild, s, 24).weights.colour_where_dynamic for s in (0, 24_000, 24_001)] == [False, False, True]
    assert [plan_step(wild, step, 24).n_hard for step in (23_999, 24_000)] == [512, 0]
    assert not plan_step(config_of("wild"), 10**6, 24).two_step.rendered


def test_plan_step_after_hundreds_of_stages_has_finite_weights():
    weights = plan_step(config_of("paper", "--decay_iteration", "1"), 10**6, 24).weights
    assert 0.0 <= weights.depth < 1e-200


def test_plan_step_prior_weights_decay_and_two_step_direction_alternates():
    config = config_of("paper", "--decay_iteration", "1")
    weights = [plan_step(config, step, 24).weights for step in (999, 1000, 2500)]
    assert [w.depth for w in weights] == pytest.approx([0.04, 0.004, 0.0004])
    assert [w.flow for w in weights] == pytest.approx([0.02, 0.02, 0.02])  # decay_optical_flow_w was not given
    assert [plan_step(config, step, 24).two_step.backward for step in (7, 8, 9)] == [False, True, False]


def test_learning_rate_falls_tenfold_over_lrate_decay():
    config = dataclasses.replace(config_of("paper"), lrate_decay=3)
    assert learning_rate(config, 0) == pytest.approx(5e-4)
    assert learning_rate(config, 3000) == pytest.approx(5e-5)


def test_scaled_schedule_follows_run_progress():
    config = config_of("paper", "--field", "hash", "--N_iters", "900", "--max_minutes", "10")
    assert run_progress(config, 450, 0.0) == pytest.approx(0.5)
    assert run_progress(config, 450, 540.0) == pytest.approx(0.9)  # the clock is ahead of the steps
    assert run_progress(config, 2000, 0.0) == 1.0
    plans = [plan_step(config, 0, 24, progress) for progress in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)]
    assert [plan.n_hard for plan in plans] == [512] * 6
    assert [plan.two_step.rendered for plan in plans] == [False, False, True, True, True, True]
    w = config.w_depth
    assert [plan.weights.depth for plan in plans] == pytest.approx([w, w, w / 10, w / 10, w / 100, w / 100])
    networks = dataclasses.replace(config, field="mlp")
    plans = [plan_step(networks, 0, 24, progress) for progress in (0.0, 0.33, 0.34, 1.0)]
    assert [plan.n_hard for plan in plans] == [512, 512, 0, 0]
    assert learning_rate(config, 7, 1.0) == pytest.approx(0.1 * learning_rate(config, 0, 0.0))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--field", "hash"], AUTO_WARM_STEPS),
        (["--field", "hash", "--schedule", "published"], 0),
        (["--field", "hash", "--warm_steps", "30"], 30),
        (["--schedule", "scaled"], 0),
        (["--warm_steps", "30"], 30),
        ([], 0),
    ],
)
def test_warm_start_is_the_default_of_hash_on_the_scaled_schedule_alone(options, steps):
    config = config_of("paper", *options)
    plans = [plan_step(config, step, 24) for step in (0, max(0, steps - 1), steps)]
    assert [plan.warm_start for plan in plans] == [steps > 0, steps > 0, False]


def test_warm_start_ends_at_its_share_of_a_short_run():
    config = config_of("paper", "--field", "hash", "--N_iters", "100")
    assert [plan_step(config, 50, 24, progress).warm_start for progress in (0.0, 0.59, 0.6)] == [True, True, False]


def test_share_of_the_warm_start_shortens_it_in_steps_and_in_progress():
    config = config_of("paper", "--field", "hash")
    assert [plan_step(config, step, 24, 0.0, 0.25).warm_start for step in (0, 199, 200)] == [True, True, False]
    assert [plan_step(config, 0, 24, progress, 0.25).warm_start for progress in (0.14, 0.16)] == [True, False]
    assert not plan_step(config, 0, 24, 0.0, 0.0).warm_start


def test_published_steps_do_not_follow_lifted_priors():
    for options in ([], ["--schedule", "scaled"], ["--field", "hash", "--schedule", "published"]):
        plan = plan_step(config_of("paper", *options), 0, 24)
        assert (plan.static_everywhere, plan.weights.blended_on_hard, plan.weights.line_of_sight) == (False, False, 0.0)
