"""torch-fidelity as its users call it: on images, with nothing of ours but the registered extractor."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genforge.evaluation.extractor import Extractor
from genforge.evaluation.protocol import Protocol
from genforge.torchvision_cure import import_torchvision


class Images(Dataset[Tensor]):
    """Images uint8 (n, height, width, channels) as a data set of bare tensors (channels, height, width)."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[index])).permute(2, 0, 1)


def calculate(
    extractor: Extractor, generated: np.ndarray, real: np.ndarray, protocol: Protocol, **keywords: Any
) -> dict[str, float]:
    """`torch_fidelity.calculate_metrics` of images uint8 (n, height, width, channels), without its cache."""
    import_torchvision()
    import torch_fidelity

    return torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        feature_extractor=registered(extractor),
        cuda=False,
        cache=False,
        verbose=False,
        isc_splits=protocol.settings["is"]["splits"],
        kid_subsets=protocol.settings["kid"]["subsets"],
        kid_subset_size=protocol.settings["kid"]["subset_size"],
        prc_neighborhood=protocol.settings["precision"]["neighbours"],
        rng_seed=protocol.seed,
        **keywords,
    )


def registered(extractor: Extractor) -> str:
    """The name under which torch-fidelity knows `extractor`; registers it the first time."""
    import_torchvision()
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    name = f"genforge-{extractor.name}-{extractor.digest}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name  # the same weights see the same, whichever device they lie on

    class Registered(FeatureExtractorBase):
        """Takes images, uint8 (n, channels, height, width)."""

        def __init__(self, name: str, features_list: list[str], **keywords: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return tuple(layer for layer in (extractor.feature_layer, extractor.logits_layer) if layer is not None)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str | None:
            return extractor.logits_layer if metric == "isc" else extractor.feature_layer

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @torch.no_grad()
        def forward(self, input: Tensor) -> tuple[Tensor, ...]:
            seen = extractor.look(input.permute(0, 2, 3, 1).to(extractor.device))
            layers = dict(zip((extractor.feature_layer, extractor.logits_layer), seen, strict=True))
            # The list comes from a set, so its order differs between processes; the order of layers must follow it.
            return tuple(cast(Tensor, layers[layer]) for layer in self.features_list)

    register_feature_extractor(name, Registered)
    return name
