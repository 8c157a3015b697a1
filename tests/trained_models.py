"""Folders as training leaves them, with weights that were only drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from genforge.catalog import Exported
from genforge.contracts import ImageShape, Port
from genforge.files import write_json

IMAGE = ImageShape(1, 8, 8)


def exported(family: str, classes: int = 0, image: ImageShape = IMAGE) -> Exported:
    if family == "diffusion":
        network: dict[str, Any] = {"name": "ddpm-denoiser", "backbone": {"name": "unet", "width": 16}}
        return Exported(network, Port("denoiser", image, classes=classes), {"name": "ddim", "steps": 3})
    port = Port("latent_to_image", image, latent_size=16, classes=classes)
    return Exported({"name": "dcgan-generator", "width": 8}, port, {"name": "one-shot"})


def trained_folder(
    folder: Path,
    family: str,
    name: str = "",
    seed: int = 0,
    classes: int = 0,
    image: ImageShape = IMAGE,
    data: str = "d" * 32,
) -> Path:
    """results/models/<name> with what `register` reads."""
    torch.manual_seed(seed)
    choice = exported(family, classes, image)
    network, _ = choice.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)  # what starts at zero would make pictures that are all alike
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    card = {
        "name": name or family,
        "family": family,
        "origin": f"plain-{family}",
        "exported": choice.to_json(),
        "classes": [],
        "data": {"name": "digits", "digest": data},
        "seed": 0,
        "steps": 10,
        "seconds": 1.5,
        "parameters": 1000,
        "code": "c" * 32,
    }
    write_json(folder / "model.json", card)
    return folder
