"""Every way in which labels come in, in every network that knows it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from genforge.catalog import target
from genforge.networks.conditioning import ConditionalBatchNorm, OneHot, Projection, join_planes
from genforge.settings import UserError
from tests.networks.network_cases import EIGHT, build, inputs

WAYS = [
    (name, way)
    for name in ("dcgan-generator", "dcgan-critic", "mlp-generator", "mlp-critic", "resnet-generator", "resnet-critic")
    for way in get_args(target("network", name).settings_type.model_fields["conditioning"].annotation)
]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_labels_change_the_output_are_asked_for_and_reach_every_weight(name: str, way: str) -> None:
    network = build(name, EIGHT, classes=3, conditioning=way).eval()
    *given, labels = inputs(network, 6)
    with torch.no_grad():
        outputs = network(*given, labels)
        assert not torch.allclose(outputs, network(*given, (labels + 1) % 3), atol=1e-4)
        torch.testing.assert_close(network(given[0][3:], labels[3:]), outputs[3:], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="labels"):
        network(*given)
    network.train()(*given, labels).square().sum().backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), key
        if weight.dim() > 1:
            assert weight.grad.abs().sum() > 0, key


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_without_labels_in_the_data_no_way_is_taken(name: str, way: str) -> None:
    plain, other = build(name, EIGHT), build(name, EIGHT, conditioning=way)
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in plain.state_dict().items())


def test_conditional_batch_normalisation_is_plain_with_each_class_s_own_scale_and_shift() -> None:
    layer, plain = ConditionalBatchNorm(2, 3), torch.nn.BatchNorm2d(3)
    images, labels = 5 * torch.randn(8, 3, 4, 4) + 1, torch.arange(8) % 2
    torch.testing.assert_close(layer(images, labels), plain(images))
    with torch.no_grad():
        layer.scale.table.weight[1], layer.shift.table.weight[1] = 3.0, -2.0
    normalised = plain(images)
    torch.testing.assert_close(layer(images, labels)[::2], normalised[::2])
    torch.testing.assert_close(layer(images, labels)[1::2], 3 * normalised[1::2] - 2)


@pytest.mark.parametrize("outputs", [1, 2])
def test_projection_is_an_inner_product_with_the_class_s_vector(outputs: int) -> None:
    projection = Projection(3, 4, outputs, spectral=False)
    features, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    vectors = projection.label.table.weight.view(3, outputs, 4)
    expected = torch.stack([vectors[label] @ feature for label, feature in zip(labels, features, strict=True)])
    torch.testing.assert_close(projection(features, labels), expected)


def test_a_projection_s_vectors_take_part_in_spectral_normalisation() -> None:
    weight = Projection(3, 4, 1, spectral=True).label.table.weight
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1.0, abs=1e-3)


def test_concatenated_planes_are_one_for_the_class_and_zero_for_others() -> None:
    images = torch.randn(2, 1, 4, 4)
    joined = join_planes(images, OneHot(3), torch.tensor([0, 2]))
    assert torch.equal(joined[:, :1], images)
    assert torch.equal(joined[:, 1:, 0, 0], torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    assert torch.equal(joined[:, 1:], joined[:, 1:, :1, :1].expand(2, 3, 4, 4))


@pytest.mark.parametrize("name", ["dcgan-generator", "resnet-generator"])
def test_conditional_batch_normalisation_needs_batch_normalisation(name: str) -> None:
    wrong: dict[str, Any] = {"normalisation": "group", "conditioning": "batch-norm"}
    with pytest.raises(UserError, match=r"networks.generator.conditioning.*with normalisation group"):
        target("network", name).settings_type.read(wrong, "networks.generator")
