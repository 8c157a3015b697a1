"""Steps of pythae's trainer."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn


def pythae_convolutional(images: Tensor) -> Any:
    """Its own networks for MNIST, 17 M parameters, a latent of 16."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST

    config = VAEConfig(input_dim=tuple(images.shape[1:]), latent_dim=16)
    return _trained(VAE(config, encoder=Encoder_Conv_VAE_MNIST(config), decoder=Decoder_Conv_AE_MNIST(config)), images)


def pythae_mlp(images: Tensor) -> Any:
    """784-400-20 and back, in its interface."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    size, shape = images[0].numel(), tuple(images.shape[1:])

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(size, 400), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(400, 20), nn.Linear(400, 20)

        def forward(self, values: Tensor) -> Any:
            hidden = self.hidden(values.reshape(len(values), -1))
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_variance(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, size), nn.Sigmoid())

        def forward(self, latent: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(latent).reshape(len(latent), *shape))

    config = VAEConfig(input_dim=shape, latent_dim=20, reconstruction_loss="bce")
    return _trained(VAE(config, encoder=Encoder(), decoder=Decoder()), images)


def _trained(model: Any, images: Tensor) -> Any:
    """What its `BaseTrainer.train_step` does with every batch, with its own optimizer and its own way of stepping."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    given = BaseDataset((images + 1) / 2, torch.ones(len(images)))
    config = BaseTrainerConfig(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=64, learning_rate=1e-3)
    trainer = BaseTrainer(model=model, train_dataset=given, training_config=config)
    trainer.prepare_training()
    model.train()

    def step(batch: Tensor) -> None:
        with trainer.amp_context:
            output = model({"data": (batch + 1) / 2}, epoch=1, dataset_size=len(images), uses_ddp=False)
        trainer._optimizers_step(output)
        output.loss.item()  # it is added up at every step

    return model, step, None
