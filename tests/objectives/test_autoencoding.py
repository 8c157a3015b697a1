"""A plain autoencoder: its loss, and the prior that is fitted to its codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genforge.catalog import build_network, resolve
from genforge.contracts import ImageShape
from genforge.networks.latent_prior import LatentPrior
from genforge.objectives.autoencoding import Autoencoding, AutoencodingSettings
from genforge.settings import UserError
from tests.networks.network_cases import some_pixels

IMAGE = ImageShape(1, 8, 8)


def autoencoding(prior: dict[str, Any] | None = None, **settings: Any) -> Autoencoding:
    torch.manual_seed(0)
    read = AutoencodingSettings.read({"latent_size": 3, **settings}, "test")
    choices: dict[str, Any] = {
        "encoder": {"name": "mlp-critic", "widths": [16]},
        "decoder": {
            "name": "latent-prior",
            "prior": prior or {"name": "gaussian"},
            "decoder": {"name": "mlp-generator", "widths": [16]},
        },
    }
    ports = Autoencoding.ports(read, IMAGE, 0)
    return Autoencoding(read, {role: build_network(choices[role], port, role) for role, port in ports.items()})


def test_the_loss_is_the_squared_error_and_a_little_of_the_codes_length() -> None:
    objective, batch = autoencoding(shrinkage=0.5), some_pixels(IMAGE, 6)
    loss = objective.loss(objective.players[0], batch.batch(0, 6))
    images = batch.batch(0, 6).images
    codes = objective.encoder(images)
    error = (objective.decoder.decode(codes) - images).square().sum() / 6
    torch.testing.assert_close(loss.value, error + 0.5 * codes.square().sum() / 6)


@pytest.mark.parametrize("prior", [{"name": "gaussian"}, {"name": "mixture", "components": 3, "variance_floor": 1e-9}])
def test_after_training_plain_noise_becomes_codes_with_the_moments_of_the_training_images_codes(
    prior: dict[str, Any],
) -> None:
    objective, data = autoencoding(prior), some_pixels(IMAGE, 300)
    torch.manual_seed(0)
    objective.finish(data)
    assert isinstance(objective.exported, LatentPrior)
    drawn = objective.exported.codes(torch.randn(20_000, 4)).double()
    with torch.no_grad():
        codes = objective.encoder(data.images).double()
    scale = codes.std(dim=0)
    assert ((drawn.mean(0) - codes.mean(0)).abs() < 0.05 * scale).all()
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(codes.T), rtol=0.1, atol=0.03 * scale.max().item() ** 2)


def test_a_decoder_without_a_prior_is_told() -> None:
    with pytest.raises(UserError, match=r"say `latent-prior` for networks\.decoder"):
        resolve("test", {"from": "autoencoder", "networks": {"decoder": {"name": "dcgan-generator"}}})


def test_a_prior_that_does_not_fit_itself_is_told() -> None:
    with pytest.raises(UserError, match=r"prior\.name: 'mlp-generator' does not fit itself to codes"):
        resolve("test", {"from": "autoencoder", "networks": {"decoder": {"prior": {"name": "mlp-generator"}}}})
