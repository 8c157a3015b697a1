"""The extractor that papers use: torch-fidelity's InceptionV3, behind the same door as our own.

Its numbers can be set beside papers' only with the papers' reference and number of images. Weights are read as plain
tensors and kept as safetensors: nothing in a weights file is run.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from genforge.evaluation.extractor import Extractor
from genforge.evaluation.weights import first_line, read_weights
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision

SIDE = 299  # pixels


class InceptionExtractor(Extractor):
    """torch-fidelity's InceptionV3, converted from the TensorFlow network of Heusel et al. 2017."""

    name = "inception"
    dimensions = 2048
    feature_layer, logits_layer = "2048", "logits_unbiased"
    resizing = "to 299 x 299 as TensorFlow 1 resizes, by torch-fidelity; gray repeated to three channels"
    at_once = 4  # of 8, glibc gives a thread's memory back after every layer and fetches it anew

    def __init__(self, weights: Mapping[str, Tensor], digest: str, device: str = "cpu") -> None:
        network = inception_network(weights).to(device)
        if device == "cpu":
            fold_normalisations(network)
        # A fifth faster on CPUs, and what tensor cores want.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.digest, self.device = digest, device

    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features, logits = self.network(images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1))  # gray: the same thrice
        return features, logits

    def look_between(self, images: Tensor) -> Tensor:
        # torch-fidelity's own way in takes whole levels only; its layers follow each other in the order of their names.
        layers = [layer for name, layer in self.network.named_children() if name != "fc"]
        levels = images.float().add(1.0).mul(127.5).expand(-1, 3, -1, -1)
        return nn.Sequential(*layers)((resized(levels, SIDE) - 128.0) / 128.0).flatten(1)


def fold_normalisations(network: nn.Module) -> None:
    """Put every batch normalisation, by now a fixed scale and shift, into the convolution before it, in float64: the
    same features to rounding, in a twentieth less time."""
    for layer in network.modules():
        convolution, normalisation = getattr(layer, "conv", None), getattr(layer, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
            layer.conv = fuse_conv_bn_eval(convolution.double(), normalisation.double()).float()
            layer.bn = nn.Identity()


def resized(levels: Tensor, side: int) -> Tensor:
    """Images (n, channels, height, width) to squares of `side` pixels, bilinearly as TensorFlow 1 did it."""
    import_torchvision()
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(levels, size=(side, side), align_corners=False)


def inception_network(weights: Mapping[str, Tensor]) -> nn.Module:
    """torch-fidelity's own network with these weights, giving the features and then the logits."""
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # It takes weights in no other way than by unpickling a file, so it gets one that was written a moment ago.
    file = io.BytesIO()
    torch.save(dict(weights), file)
    file.seek(0)
    layers = [InceptionExtractor.feature_layer, InceptionExtractor.logits_layer]
    return FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=file)


def inception_weights(path: Path | None) -> dict[str, Tensor]:
    """Weights of torch-fidelity's Inception, from a file or from its usual download. Nothing in them is run.

    Args:
        path: a `.pth` file as torch-fidelity publishes it, or the same as `.safetensors`; None: the file in torch's hub
            cache, downloaded when it is not there.

    Raises:
        UserError: there is no such file, it holds something else, or nothing can be downloaded here.
    """
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    if path is None:
        weights = _download(URL_INCEPTION_V3)
    else:
        weights = read_weights(path, f"torch-fidelity's weights ({URL_INCEPTION_V3})")
    try:
        inception_network(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"extractor.weights: {path or 'the download'} does not fit torch-fidelity's InceptionV3 "
            f"({first_line(error)}); its weights are at {URL_INCEPTION_V3}"
        ) from None
    return weights


def _download(url: str) -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise UserError(
            f"extractor.name: inception: its weights cannot be downloaded here ({first_line(error)}). Fetch {url} "
            f"where there is a network and set extractor.weights to the file, or set extractor.name: classifier"
        ) from None
