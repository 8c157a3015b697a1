"""Steps and drawing of denoising-diffusion-pytorch and diffusers, as their own users write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STEPS = 50  # of DDIM
RATE = 2e-4


def denoising_diffusion_pytorch(images: Tensor) -> Any:
    """Its `Unet(dim=32, dim_mults=(1, 2, 4))`, 2.6 M parameters, in its `GaussianDiffusion`; Adam and an average of the
    weights by ema-pytorch every ten steps, as its `Trainer` has them."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    network = Unet(dim=32, dim_mults=(1, 2, 4), channels=images.shape[1])
    diffusion = GaussianDiffusion(network, image_size=images.shape[-1], timesteps=1000, sampling_timesteps=STEPS)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=RATE, betas=(0.9, 0.99))
    average = EMA(diffusion, beta=0.995, update_every=10)

    def step(batch: Tensor) -> None:
        loss = diffusion((batch + 1) / 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        loss.item()  # it is shown beside the bar at every step
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return network, step, lambda count: diffusion.sample(batch_size=count)


def diffusers(images: Tensor) -> Any:
    """`UNet2DModel` at 2.7 M parameters, noise prediction, AdamW, gradients clipped to 1, `EMAModel`, and
    `DDIMScheduler`: the loop of diffusers' unconditional example."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    network = UNet2DModel(
        sample_size=images.shape[-1],
        in_channels=images.shape[1],
        out_channels=images.shape[1],
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    noising, denoising = DDPMScheduler(num_train_timesteps=1000), DDIMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)

    def step(batch: Tensor) -> None:
        noise = torch.randn_like(batch)
        times = torch.randint(0, 1000, (len(batch),))
        predicted = network(noising.add_noise(batch, noise, times), times).sample
        loss = nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        loss.detach().item()  # it is logged at every step

    @torch.no_grad()
    def draw(count: int) -> Tensor:
        denoising.set_timesteps(STEPS)
        drawn = torch.randn(count, *images.shape[1:])
        for time in denoising.timesteps:
            drawn = denoising.step(network(drawn, time).sample, time, drawn).prev_sample
        return drawn

    return network, step, draw
