"""Every network of the catalog on small ports: what its contract tests run over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genforge.catalog import NETWORKS, build_network, target
from genforge.contracts import Batch, ImageShape, Network, Port, TrainingData, to_network
from genforge.networks.baselines import Baseline
from genforge.networks.pixels import Pixels
from genforge.networks.progressive import Growing
from genforge.settings import Settings

# Smaller than the defaults, so that every size is tested in a moment.
SMALL: dict[str, dict[str, Any]] = {
    "dcgan-generator": {"width": 8},
    "dcgan-critic": {"width": 8, "spectral_norm": True, "style": "sngan"},
    "mlp-generator": {"widths": [16, 24]},
    "mlp-critic": {"widths": [24, 16], "spectral_norm": True},
    "resnet-generator": {"width": 8},
    "resnet-critic": {"width": 8},
    "style-generator": {"width": 4, "widest": 16, "style_size": 16, "mapping_layers": 2},
    "style-critic": {"width": 4, "widest": 16},
    "progressive-generator": {"width": 12, "widest": 16},
    "progressive-critic": {"width": 4, "widest": 16},
    "unet": {"width": 8},
    "energy": {"temperature": 1.0, "backbone": {"name": "dcgan-critic", "width": 8, "spectral_norm": True}},
    "realnvp": {"width": 8, "blocks": 1, "couplings": 2},
    "realnvp-mlp": {"width": 16, "layers": 1, "couplings": 4},
    "mlp-backbone": {"width": 16, "blocks": 1},
    "ddpm-denoiser": {"backbone": {"name": "unet", "width": 8}},
    "edm-denoiser": {"backbone": {"name": "unet", "width": 8, "time_embedding": "fourier"}},
    "flow-matching-denoiser": {"backbone": {"name": "unet", "width": 8}},
    "pixelcnn": {"width": 8, "layers": 3, "features": 8, "mixtures": 3},
    "pixel-transformer": {"width": 8, "layers": 1, "heads": 2, "features": 8, "mixtures": 3},
    "autoguided-denoiser": {
        part: {"name": "edm-denoiser", "backbone": {"name": "unet", "width": 8}} for part in ("main", "guide")
    },
    "gaussian": {"components": 8},
    "mixture": {"components": 2, "dimensions": 16},
    "kernel-density": {"images": 20},
    "latent-prior": {
        "prior": {"name": "gaussian", "components": 8},
        "decoder": {"name": "mlp-generator", "widths": [8]},
    },
}


def port(kind: str, image: ImageShape, classes: int = 0) -> Port:
    match kind:
        case "latent_to_image":
            return Port("latent_to_image", image, latent_size=image.size + 1, classes=classes)
        case "image_to_vector":
            return Port("image_to_vector", image, outputs=6, classes=classes)
        case "denoiser":
            return Port("denoiser", image, classes=classes)
        case "backbone":
            return Port("backbone", image, outputs=image.channels, classes=classes)
        case "pixels":
            return Port("pixels", image)
        case "autoregressive":
            return Port("autoregressive", image, classes=classes)
        case "energy":
            return Port("energy", image, classes=classes)
    raise AssertionError(f"no case for networks of kind {kind}")


def build(name: str, image: ImageShape, classes: int = 0, **settings: Any) -> Network:
    """The small network with every weight moved off zero, so that no zero-initialised layer hides what is before it."""
    torch.manual_seed(0)
    kind = target("network", name).kind
    small = SMALL.get(name, {})
    if image.is_point:
        small = _of_points(small, "mlp-critic" if kind == "energy" else "mlp-backbone")
    network = build_network({"name": name, **small, **settings}, port(kind, image, classes), "test")
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return network


def _of_points(settings: dict[str, Any], inner: str) -> dict[str, Any]:
    """The settings with `inner` for every backbone, at any depth."""
    return {
        key: {"name": inner, **SMALL[inner]}
        if key == "backbone"
        else _of_points(value, inner)
        if isinstance(value, dict)
        else value
        for key, value in settings.items()
    }


def inputs(network: Network, count: int) -> tuple[Tensor, ...]:
    """What the network's forward takes, for `count` images; the last are labels where it is conditioned."""
    generator = torch.Generator().manual_seed(1)
    image = network.port.image
    images = torch.randn(count, image.channels, image.height, image.width, generator=generator)
    place = torch.rand(count, generator=generator)
    labels = (torch.arange(count) % network.port.classes,) if network.port.classes else ()
    match network.kind:
        case "latent_to_image":
            return (torch.randn(count, network.port.latent_size, generator=generator), *labels)
        case "image_to_vector" | "autoregressive" | "energy":
            return (images, *labels)
        case "pixels":
            return (images.tanh(), some_pixels(image, count).images)
        case _:
            return (images, place + 0.1, *labels)


def output_shape(network: Network, count: int) -> tuple[int, ...]:
    image = network.port.image
    if network.kind == "image_to_vector":
        return (count, network.port.outputs)
    if network.kind in ("pixels", "energy"):
        return (count,)
    channels = network.port.outputs if network.kind == "backbone" else image.channels
    return (count, channels, image.height, image.width)


def moments(*networks: Network) -> Iterator[None]:
    """Once for most networks; for networks that grow, at every size and while each comes: some weights are at work at
    one of these alone."""
    growing = [network for network in networks if isinstance(network, Growing)]
    for half in range(2 * growing[0].stages + 1) if growing else (0,):
        for network in growing:
            network.grow(half / 2)
        yield


class Images(TrainingData):
    """Images given as floats (n, c, h, w), labelled in turn where there are classes."""

    def __init__(self, images: Tensor, classes: int = 0) -> None:
        self.images = images
        self.shape, self.count, self.classes = ImageShape(*images.shape[1:]), len(images), classes
        self.labels = torch.arange(self.count) % classes if classes else None

    def chunks(self, size: int = 1024) -> Iterator[Batch]:
        for start in range(0, self.count, size):
            yield self._chosen(torch.arange(start, min(start + size, self.count)))

    def batch(self, turn: int, size: int) -> Batch:
        places = torch.arange(turn * size, (turn + 1) * size)
        epochs = {epoch: self._order(epoch) for epoch in (places // self.count).unique().tolist()}
        return self._chosen(
            torch.tensor([epochs[place // self.count][place % self.count] for place in places.tolist()])
        )

    def _order(self, epoch: int) -> list[int]:
        return torch.randperm(self.count, generator=torch.Generator().manual_seed(epoch)).tolist()

    def _chosen(self, which: Tensor) -> Batch:
        return Batch(self.images[which], None if self.labels is None else self.labels[which])


def some_pixels(image: ImageShape, count: int = 64, classes: int = 0) -> Images:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (count, image.height, image.width, image.channels), generator=generator)
    return Images(to_network(pixels.to(torch.uint8)), classes)


ALL = sorted(NETWORKS)
CONDITIONED = [name for name in ALL if not issubclass(target("network", name), Baseline | Pixels)]  # on labels
OF_POINTS = [name for name in ALL if target("network", name).takes_points]
EIGHT = ImageShape(1, 8, 8)


class Echo(Network):
    """A backbone for gray 8x8 images that gives what it is told to, and remembers what it was asked."""

    kind = "backbone"
    settings_type = Settings

    def __init__(self, answer: Tensor) -> None:
        super().__init__(Settings(), Port("backbone", ImageShape(1, 8, 8), outputs=1))
        self.answer, self.images, self.time = answer, torch.empty(0), torch.empty(0)

    def forward(self, images: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.images, self.time = images, time
        return self.answer
