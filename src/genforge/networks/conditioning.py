"""Ways to give a generator or a critic the label of an image. A network that is not conditioned builds none of this.

`concatenation`: the label as zeros and a one, joined to the input (Mirza & Osindero 2014, "Conditional generative
adversarial nets"). `embedding`: a learned vector or plane a class, joined to the input. `batch-norm`: every class
has its own scale and shift after each normalisation of the generator (Dumoulin et al. 2017; Miyato & Koyama 2018).
`projection`: the critic's features are projected on a learned vector a class (Miyato & Koyama 2018).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from genforge.networks.layers import LabelEmbedding, Normalisation, normalisation, spectral_norm

GeneratorConditioning = Literal["embedding", "concatenation", "batch-norm"]
CriticConditioning = Literal["embedding", "concatenation", "projection"]


class OneHot(nn.Module):
    """Labels (n,) int64 to zeros and a one, (n, classes) float32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError("this network is conditioned on labels, but got none")
        return functional.one_hot(labels, self.classes).float()


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are the class's own: (n, channels, h, w) to the same shape."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = LabelEmbedding(classes, channels), LabelEmbedding(classes, channels)
        nn.init.ones_(self.scale.table.weight)
        nn.init.zeros_(self.shift.table.weight)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        scale, shift = self.scale(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]
        return self.normalise(images) * scale + shift


class Projection(nn.Module):
    """Features (n, size) and labels to what the class adds to the critic's outputs, (n, outputs): the features' inner
    products with the class's learned vectors. Miyato & Koyama 2018, "cGANs with projection discriminator", eq. 3."""

    def __init__(self, classes: int, size: int, outputs: int, spectral: bool) -> None:
        super().__init__()
        self.outputs = outputs
        self.label = LabelEmbedding(classes, outputs * size)
        spectral_norm(self.label.table, spectral)

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        vectors = self.label(labels).unflatten(1, (self.outputs, -1))  # (n, outputs, size)
        return (vectors @ features.unsqueeze(2)).squeeze(2)


def joined_label(conditioning: str, classes: int, size: int) -> LabelEmbedding | OneHot | None:
    """What turns labels into values that are joined to the input: `size` of them where they are learned, as many as
    there are classes where they are not; None where labels come in elsewhere, or there are none."""
    if not classes or conditioning not in ("embedding", "concatenation"):
        return None
    return LabelEmbedding(classes, size) if conditioning == "embedding" else OneHot(classes)


def label_size(label: LabelEmbedding | OneHot | None) -> int:
    """How many values `joined_label` gives."""
    match label:
        case LabelEmbedding():
            return label.table.embedding_dim
        case OneHot():
            return label.classes
    return 0


def join(values: Tensor, label: LabelEmbedding | OneHot | None, labels: Tensor | None) -> Tensor:
    """Vectors (n, size) with the label's values behind them."""
    return values if label is None else torch.cat([values, label(labels)], dim=1)


def join_planes(images: Tensor, label: LabelEmbedding | OneHot | None, labels: Tensor | None) -> Tensor:
    """Images (n, c, h, w) with the label's planes behind their channels: a learned one, or a constant one a class."""
    if label is None:
        return images
    height, width = images.shape[2:]
    values = label(labels)
    planes = values.view(len(images), -1, 1, 1) if isinstance(label, OneHot) else values.view(-1, 1, height, width)
    return torch.cat([images, planes.expand(-1, -1, height, width)], dim=1)


def planes(label: LabelEmbedding | OneHot | None) -> int:
    """How many channels `join_planes` adds."""
    return label.classes if isinstance(label, OneHot) else int(label is not None)


def generator_normalisation(kind: Normalisation, channels: int, conditioning: str, classes: int) -> nn.Module:
    """The generator's layer of normalisation: the class's own where conditioning and data ask for it."""
    if classes and conditioning == "batch-norm":
        return ConditionalBatchNorm(classes, channels)
    return normalisation(kind, channels)


def run(layers: nn.Sequential, values: Tensor, labels: Tensor | None) -> Tensor:
    """The values through all layers, of which some take the labels."""
    for layer in layers:
        values = layer(values, labels) if isinstance(layer, ConditionalBatchNorm) else layer(values)
    return values


def check_generator(conditioning: str, kind: str | None) -> str:
    """The conditioning, for a validator. Raises ValueError unless there is batch normalisation to condition."""
    if conditioning == "batch-norm" and kind is not None and kind != "batch":
        raise ValueError(f"embedding or concatenation with normalisation {kind}: only batch normalisation is a class's")
    return conditioning
