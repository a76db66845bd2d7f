"""The forward pass of a training step on fake CUDA tensors: any tensor left on the CPU raises."""

import numpy as np
import pytest
import torch
from nsff import cuda
from nsff.config_loader import load_config
from nsff.data.cameras import Cameras
from nsff.data.pixel_sampler import gather_batch
from nsff.data.scene import Scene
from nsff.fields import build_fields
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera, make_rays
from nsff.geometry.space import NdcSpace
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling, choose_depths, density_noise
from nsff.rendering.train_render import SampledRays, render_background, render_train
from nsff.training.losses import BackgroundRender, NeighbourCameras, compute_losses
from nsff.training.schedules import plan_step
from nsff.training.variant_rules import VARIANT_RULES
from torch._subclasses.fake_tensor import FakeTensorMode


def fake_scene(device: torch.device) -> Scene:
    n, height, width = 5, 12, 20
    images = torch.randint(256, (n, height, width, 3), dtype=torch.uint8, device=device)
    map_ = torch.rand(n, height, width, device=device)
    flow, mask = torch.rand(n, height, width, 2, device=device), map_ > 0.5
    poses = torch.rand(n, 3, 4, device=device)
    size = Intrinsics(height, width, 15.0)
    cameras = Cameras(size, np.zeros((n, 3, 4), np.float32), np.ones((n, 2), np.float32), 1.0, np.eye(4)[:3])
    return Scene(cameras, poses, images, map_, mask, ~mask, flow, mask, flow, mask)


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_training_step_stays_on_the_device(variant, field, monkeypatch):
    monkeypatch.setattr(cuda, "available", lambda: False)  # kernels need real memory: run the torch reference
    more = ["--netwidth", "16", "--N_samples", "8", "--chain_sf", "--use_motion_mask", "--amp", "--field", field]
    more += ["--schedule", "published", "--w_split", "0.1", "--hash_levels", "2"]
    config = load_config(["--expname", "x", "--use_viewdirs", "--variant", variant, "--decay_iteration", "1", *more])
    device = torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        with device:  # only here: a tensor that the code makes on the default device, the CPU, is found below
            fields, scene = build_fields(config), fake_scene(device)
        plan = plan_step(config, 60_000, scene.timeline.n_frames)
        assert plan.two_step.rendered
        batch = gather_batch(scene, 2, torch.arange(14, device=device) % 10, n_uniform=10)
        sampling = DepthSampling(8, 6 if field == "hash" else 0, 1.0)
        depths = choose_depths(fields, batch.rays, 0.0, sampling)
        render = render_train(
            fields, SampledRays.at(batch.rays, depths), scene.timeline, 2, len(batch.rays), plan.two_step,
            lambda n: density_noise((n, 8), 1.0, None, device),
        )  # fmt: skip
        cameras = NeighbourCameras.of(scene, 2)
        background_rays = make_rays(
            batch.uv, scene.c2w[batch.uv[:, 0].long() % 5], scene.intrinsics, NdcSpace(scene.intrinsics)
        )
        rgb = render_background(fields.static, background_rays, sampling, None, lambda n: 0.0)
        background = BackgroundRender(rgb, batch.rgb, batch.background)
        terms = compute_losses(render, batch, cameras, plan.weights, VARIANT_RULES[variant], background)
        assert terms.total().device.type == "cuda"
        assert terms.total().shape == ()
        frame = render_frame(
            fields, Camera(scene.c2w[0], scene.intrinsics, NdcSpace(scene.intrinsics)), 0.0, sampling, 64
        )
        assert frame.rgb.device.type == "cuda"
        assert frame.rgb.shape == (12, 20, 3)
        assert frame.rgb.dtype == torch.float32


def test_fake_tensors_on_two_devices_raise():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device="cuda") + torch.zeros(3)
