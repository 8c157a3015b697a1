"""Steps of scripts that people start from, written anew as these scripts do things."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm


def dcgan(images: Tensor) -> Any:
    """pytorch/examples, dcgan/main.py: its two networks at 64x64, 6.3 M parameters, binary cross entropy, real and fake
    images in passes of their own, the fake ones of the critic's turn used again in the generator's, gradients of the
    critic computed in both, every number of its line read at every step."""
    channels = images.shape[1]
    layers: list[nn.Module] = []
    for inputs, outputs, stride, padding in ((100, 512, 1, 0), (512, 256, 2, 1), (256, 128, 2, 1), (128, 64, 2, 1)):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False), nn.BatchNorm2d(outputs)]
        layers.append(nn.ReLU(True))
    generator = nn.Sequential(*layers, nn.ConvTranspose2d(64, channels, 4, 2, 1, bias=False), nn.Tanh())
    layers = [nn.Conv2d(channels, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for inputs in (64, 128, 256):
        layers += [nn.Conv2d(inputs, 2 * inputs, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * inputs)]
        layers.append(nn.LeakyReLU(0.2, True))
    critic = nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Sigmoid(), nn.Flatten(0))
    both = nn.ModuleList([generator, critic])
    for module in both.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
    generating = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    judging = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(batch: Tensor) -> None:
        ones, zeros = torch.ones(len(batch)), torch.zeros(len(batch))
        critic.zero_grad()
        on_real = critic(batch)
        of_real = functional.binary_cross_entropy(on_real, ones)
        of_real.backward()
        fake = generator(torch.randn(len(batch), 100, 1, 1))
        on_fake = critic(fake.detach())
        of_fake = functional.binary_cross_entropy(on_fake, zeros)
        of_fake.backward()
        judging.step()
        generator.zero_grad()
        again = critic(fake)
        of_generator = functional.binary_cross_entropy(again, ones)
        of_generator.backward()
        generating.step()
        for shown in ((of_real + of_fake), of_generator, on_real.mean(), on_fake.mean(), again.mean()):
            shown.item()

    return both, step, None


def sngan(images: Tensor) -> Any:
    """torch-fidelity, examples/sngan_cifar10.py: the networks of Miyato et al. 2018, Table 3, hinge loss, one turn of
    the generator and five of the critic on one batch of real images, torch's own spectral norm, real and fake images
    in passes of their own."""
    channels = images.shape[1]
    layers: list[nn.Module] = []
    for inputs, outputs, stride, padding in ((128, 512, 1, 0), (512, 256, 2, 1), (256, 128, 2, 1), (128, 64, 2, 1)):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()]
    generator = nn.Sequential(*layers, nn.ConvTranspose2d(64, channels, 3, 1, 1), nn.Tanh())
    layers = []
    sizes = ((channels, 64, 3, 1), (64, 64, 4, 2), (64, 128, 3, 1), (128, 128, 4, 2))
    for inputs, outputs, kernel, stride in (*sizes, (128, 256, 3, 1), (256, 256, 4, 2), (256, 512, 3, 1)):
        layers += [spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, 1)), nn.LeakyReLU(0.1)]
    critic = nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(512 * 4 * 4, 1)))
    generating = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.0, 0.9))
    judging = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.0, 0.9))

    def step(batch: Tensor) -> None:
        generator.requires_grad_(True)
        critic.requires_grad_(False)
        judging.zero_grad()
        generating.zero_grad()
        (-critic(generator(torch.randn(len(batch), 128, 1, 1))).mean()).backward()
        generating.step()
        generator.requires_grad_(False)
        critic.requires_grad_(True)
        for _ in range(5):
            judging.zero_grad()
            generating.zero_grad()
            fake = generator(torch.randn(len(batch), 128, 1, 1))
            loss = functional.relu(1 - critic(batch)).mean() + functional.relu(1 + critic(fake)).mean()
            loss.backward()
            judging.step()

    return nn.ModuleList([generator, critic]), step, None


def mlp(images: Tensor) -> Any:
    """The GAN of a tutorial: 100-256-512-1024-pixels with batch normalisation, a critic with dropout, Adam, binary
    cross entropy, both losses printed. Its batches come from a DataLoader (see `loaded` in peer_step.py)."""
    size, shape = images[0].numel(), images.shape[1:]
    layers: list[nn.Module] = []
    for inputs, outputs in ((100, 256), (256, 512), (512, 1024)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2, inplace=True)]
    generator = nn.Sequential(*layers, nn.Linear(1024, size), nn.Tanh(), nn.Unflatten(1, shape))
    layers = [nn.Flatten()]
    for inputs, outputs in ((size, 1024), (1024, 512), (512, 256)):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2, inplace=True), nn.Dropout(0.3)]
    critic = nn.Sequential(*layers, nn.Linear(256, 1), nn.Sigmoid())
    generating = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    judging = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    cross_entropy = nn.BCELoss()

    def step(batch: Tensor) -> None:
        valid, fake = torch.ones(len(batch), 1), torch.zeros(len(batch), 1)
        generating.zero_grad()
        drawn = generator(torch.randn(len(batch), 100))
        of_generator = cross_entropy(critic(drawn), valid)
        of_generator.backward()
        generating.step()
        judging.zero_grad()
        of_critic = (cross_entropy(critic(batch), valid) + cross_entropy(critic(drawn.detach()), fake)) / 2
        of_critic.backward()
        judging.step()
        of_critic.item(), of_generator.item()

    return nn.ModuleList([generator, critic]), step, None
