"""The restructured MLPs against a layer-by-layer implementation of the paper's figure, and their encoding."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from nsff.fields import blocked, mlp
from nsff.fields.encoding import Encoding
from nsff.fields.mlp import DynamicMlp, StaticMlp
from nsff.rendering.volume_rendering import opacity


def evaluate_by_layers(
    field: DynamicMlp, points: torch.Tensor, time: torch.Tensor, viewdirs: torch.Tensor
) -> torch.Tensor:
    """Evaluate the network layer by layer as the paper draws it, nothing stacked, folded or shared between samples."""
    encoded = Encoding(4, 10)(torch.cat([points, time[:, None, None].expand_as(points[..., :1])], dim=-1))
    directions = Encoding(3, 4)(viewdirs)[:, None].expand(-1, points.shape[1], -1)
    hidden = encoded
    for layer, linear in enumerate(field.pts_linears):
        hidden = F.relu(linear(hidden))
        if layer == 4:
            hidden = torch.cat([encoded, hidden], dim=-1)
    colour = F.relu(field.views_linears[0](torch.cat([field.feature_linear(hidden), directions], dim=-1)))
    flow, prob = torch.tanh(field.sf_linear(hidden)), torch.sigmoid(field.prob_linear(hidden))
    return torch.cat([field.rgb_linear(colour), field.alpha_linear(hidden), flow, prob], dim=-1)


def concatenate(samples) -> torch.Tensor:
    values = [value if value.ndim == 3 else value[..., None] for value in vars(samples).values()]
    return torch.cat(values, dim=-1)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    points, time = (torch.rand(*shape, generator=generator) * 2 - 1 for shape in ((37, 13, 3), (37,)))
    viewdirs = F.normalize(torch.randn(37, 3, generator=generator), dim=-1)
    probe = torch.randn(37, 13, 12, generator=generator)
    return points, time, viewdirs, probe


def gradients(output, probe, field, points) -> dict[str, torch.Tensor]:
    names, parameters = zip(*field.named_parameters(), strict=True)
    values = torch.autograd.grad((output * probe).sum(), [points, *parameters])
    return dict(zip(["points", *names], values, strict=True))


@pytest.mark.parametrize(("depth", "block_bytes"), [(8, 1), (8, 5000), (8, 1 << 30), (6, 5000), (7, 5000), (9, 5000)])
@pytest.mark.parametrize("forward", [mlp.forward_plain, blocked.forward_blocked])
def test_restructured_network_equals_the_papers(inputs, monkeypatch, forward, depth, block_bytes):
    monkeypatch.setattr(mlp, "forward_blocked", forward)
    monkeypatch.setattr(blocked, "BLOCK_BYTES", block_bytes)
    torch.manual_seed(0)
    field, (points, time, viewdirs, probe) = DynamicMlp(depth, 48), inputs
    points.requires_grad_(True)
    expected = evaluate_by_layers(field, points, time, viewdirs)
    actual = concatenate(field(points, time, viewdirs))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    expected_gradients = gradients(expected, probe, field, points)
    for name, value in gradients(actual, probe, field, points).items():
        torch.testing.assert_close(
            value, expected_gradients[name], rtol=1e-3, atol=1e-4 * float(expected_gradients[name].abs().max())
        )


def test_blocked_gradient_matches_finite_differences():
    torch.manual_seed(1)
    field = StaticMlp(6, 8, 2, 1).double()
    points = torch.rand(3, 2, 3, dtype=torch.float64, requires_grad=True)
    viewdirs = F.normalize(torch.rand(3, 3, dtype=torch.float64), dim=-1)
    assert torch.autograd.gradcheck(lambda p: concatenate(field(p, viewdirs)), points, eps=1e-6, atol=1e-6)


def test_single_sample_without_gradient_equals_that_with_gradient():
    field = StaticMlp(8, 16)
    point, direction = torch.zeros(1, 1, 3), torch.tensor([[0.0, 0.0, -1.0]])
    with torch.no_grad():
        without_grad = field(point, direction)
    assert not without_grad.sigma_raw.requires_grad
    torch.testing.assert_close(without_grad.rgb_raw, field(point, direction).rgb_raw.detach())


def test_encoding_by_hand():
    encoded = Encoding(2, 2)(torch.tensor([[0.5, -1.0]]))
    x = torch.tensor([0.5, -1.0])
    assert torch.equal(encoded[0], torch.cat([x, x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos()]))


def test_encoding_backward_equals_autograd():
    x = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    encoding = Encoding(4, 3)
    encoded = encoding(x)
    grad = torch.rand_like(encoded)
    expected = torch.autograd.grad(encoded, x, grad)[0]
    torch.testing.assert_close(encoding.backpropagate(encoded.detach(), grad), expected)


def test_scene_flow_starts_small():
    torch.manual_seed(0)
    directions = F.normalize(torch.randn(8, 3), dim=-1)
    samples = DynamicMlp(8, 256)(torch.rand(8, 8, 3) * 2 - 1, torch.linspace(-1, 1, 8), directions)
    assert float(torch.cat([samples.sf_fwd, samples.sf_bwd]).abs().max()) < 0.005
    assert float(samples.sigma_raw.std()) < 1.0


def test_wrong_shapes_raise_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        opacity(torch.zeros(4, 5), torch.zeros(4, 6))
    with pytest.raises(jaxtyping.TypeCheckError):
        StaticMlp(8, 16)(torch.zeros(2, 3, 4), torch.zeros(2, 3))
