"""The judge. torch-fidelity computes every number; it lives here, and its own network beside this in `inception.py`.

Images are looked at once. The features are then handed to `torch_fidelity.calculate_metrics` as rows of numbers: our
extractors are registered with it, and a registered extractor that is given rows in place of images passes them through.
So the reference's features are computed once for a data set, by the step `extractor`, and the numbers are those of a
direct call on images.

torch-fidelity reads its cache with pickle. Ours lives for one call, in a private folder that this process has just
written, and holds the moments of the reference, which are kept as safetensors.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from safetensors.numpy import load_file, save
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.data import Dataset

from genforge.contracts import ImageShape
from genforge.evaluation.extractor import CARD, Extractor, load_extractor
from genforge.evaluation.metrics import METRICS, metric
from genforge.evaluation.protocol import Protocol
from genforge.files import read_array, read_json, replacing, write_array
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision

REFERENCE_FEATURES, REFERENCE_MOMENTS = "reference-features.npy", "reference-moments.safetensors"
REFERENCE_SPLIT = "train"  # as is the field's convention
FEWEST_IMAGES = 50  # below this every number is mostly bias

SEED = 2020  # torch-fidelity's own default, for the metrics' own draws
INCEPTION_SPLITS = 10
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NEIGHBOURS = 3
# Precision and recall compare every real image with every other: the time grows with the square, and 5,000 are plenty.
NEIGHBOURHOOD_IMAGES = 5000

RESULTS = {  # our names of metrics to torch-fidelity's keyword and result
    "fid": ("fid", "frechet_inception_distance"),
    "is": ("isc", "inception_score_mean"),
    "kid": ("kid", "kernel_inception_distance_mean"),
    "precision": ("prc", "precision"),
    "recall": ("prc", "recall"),
}


class Judge:
    """Scores images against the training split of one data set.

    Args:
        extractor: what turns images into features.
        shape: of the data's images.
        reference: features of the training split, float32 (n, dimensions).
        moments: their `mu` and `sigma`, as torch-fidelity computes them.
        data_digest: of the prepared data.
    """

    def __init__(
        self,
        extractor: Extractor,
        shape: ImageShape,
        reference: np.ndarray,
        moments: Mapping[str, np.ndarray],
        data_digest: str,
        batch_size: int = 250,
    ) -> None:
        self.extractor, self.shape, self.batch_size = extractor, shape, batch_size
        self.reference, self.moments, self.data_digest = reference, dict(moments), data_digest

    @classmethod
    def open(cls, extractor_folder: Path, prepared_folder: Path, device: str = "cpu", batch_size: int = 250) -> Self:
        """The judge that the step `extractor` left in `extractor_folder`, for the data in `prepared_folder`.

        Raises:
            UserError: something is missing or damaged, or the extractor was made for other data.
        """
        card, data = read_json(extractor_folder / CARD), read_json(prepared_folder / "card.json")
        if card["data"] != data["digest"]:
            raise UserError(
                f"the extractor in {extractor_folder} was made for data {card['data']}, but {prepared_folder} holds "
                f"{data['digest']}; run `genforge step extractor`"
            )
        return cls(
            load_extractor(extractor_folder, device),
            ImageShape(**card["image"]),
            read_array(extractor_folder / REFERENCE_FEATURES),
            load_file(extractor_folder / REFERENCE_MOMENTS),
            card["data"],
            batch_size,
        )

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that this extractor can give."""
        return [name for name, item in METRICS.items() if self.extractor.has_logits or not item.needs_logits]

    @property
    def left_out(self) -> dict[str, str]:
        """Metrics that it cannot give, each with the reason."""
        return {name: self.extractor.why_no_logits for name in METRICS if name not in self.metrics}

    def protocol(self, images: int) -> Protocol:
        """How `images` generated images are judged."""
        return Protocol(
            extractor=self.extractor.name,
            extractor_digest=self.extractor.digest,
            feature_layer=self.extractor.feature_layer,
            logits_layer=self.extractor.logits_layer,
            resizing=self.extractor.resizing,
            precision=self.extractor.precision,
            reference_digest=self.data_digest,
            reference_split=REFERENCE_SPLIT,
            reference_images=len(self.reference),
            images=images,
            inception_splits=INCEPTION_SPLITS,
            kid_subsets=KID_SUBSETS,
            kid_subset_size=min(KID_SUBSET_SIZE, images, len(self.reference)),
            neighbours=NEIGHBOURS,
            neighbourhood_images=min(NEIGHBOURHOOD_IMAGES, len(self.reference)),
            seed=SEED,
        )

    def score(self, images: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """The metrics of generated images, all finite.

        Args:
            images: uint8 (n, height, width, channels) of the data's shape, at least 50.
            metrics: names from `METRICS`; None: all that this extractor can give.

        Raises:
            UserError: the images are of another type or shape or too few; a metric is unknown, or this extractor cannot
                give it.
            ValueError: a number is not finite.
        """
        wanted = [metric(name).name for name in (self.metrics if metrics is None else metrics)]
        for name in wanted:
            if name in self.left_out:
                raise UserError(f"{METRICS[name].title} cannot be computed: {self.left_out[name]}")
        check_images(images, self.shape)
        seen = self.extractor.features(images, self.batch_size)
        protocol = self.protocol(len(images))
        generated = torch.from_numpy(
            seen.features if seen.logits is None else np.concatenate([seen.features, seen.logits], axis=1)
        )

        # FID alone needs no more of the reference than its moments; precision and recall look at a part of it.
        real = torch.from_numpy(self.reference)
        found: dict[str, float] = {}
        if "fid" in wanted:
            with self._moments_as_cache(protocol) as cache:
                found |= calculate(self.extractor, protocol, ["fid"], generated, real, **cache)
        if whole := [name for name in ("is", "kid") if name in wanted]:
            found |= calculate(self.extractor, protocol, whole, generated, real)
        if near := [name for name in ("precision", "recall") if name in wanted]:
            part = real[neighbourhood(len(real))]
            found |= calculate(self.extractor, protocol, near, generated, part)
        for name in wanted:
            if not math.isfinite(found[name]):
                raise ValueError(f"{METRICS[name].title} came out as {found[name]}: these images cannot be judged")
        return {name: found[name] for name in wanted}

    @contextlib.contextmanager
    def _moments_as_cache(self, protocol: Protocol) -> Iterator[dict[str, Any]]:
        """Keywords with which torch-fidelity finds the moments of the reference in its cache."""
        owner = registered(self.extractor)
        name = f"{self.data_digest}-{REFERENCE_SPLIT}-{len(self.reference)}-{self.extractor.digest}"
        with tempfile.TemporaryDirectory(prefix="genforge-judge-") as folder:  # 0700
            torch.save(self.moments, Path(folder) / f"{name}-{owner}-stat-fid-{protocol.feature_layer}.pt")
            yield {"cache": True, "cache_root": folder, "input2_cache_name": name}


def write_reference(folder: Path, extractor: Extractor, images: np.ndarray, batch_size: int = 250) -> None:
    """Look at the training split once, for every judge to come: its features and their moments, into `folder`.

    Args:
        images: uint8 (n, height, width, channels).
    """
    import_torchvision()
    from torch_fidelity.metric_fid import fid_features_to_statistics

    features = extractor.features(images, batch_size, title="reference features").features
    write_array(folder / REFERENCE_FEATURES, features)
    moments = fid_features_to_statistics(torch.from_numpy(features))
    with replacing(folder / REFERENCE_MOMENTS) as file:
        file.write(save({name: np.ascontiguousarray(value) for name, value in moments.items()}))


def check_images(images: np.ndarray, shape: ImageShape) -> None:
    """Raises UserError unless `images` are uint8 (n, height, width, channels) of this shape, and enough of them."""
    expected = (shape.height, shape.width, shape.channels)
    if images.dtype != np.uint8:
        raise UserError(
            f"images are {images.dtype}, but the judge takes uint8 from 0 to 255; of floats in [-1, 1] make them with "
            f"`((x + 1) * 127.5).round().clip(0, 255).astype('uint8')`"
        )
    if images.ndim != 4 or images.shape[1:] != expected:
        raise UserError(
            f"images have shape {images.shape}, but the data's are (n, {', '.join(map(str, expected))}), which is "
            f"(n, height, width, channels); bring them to that shape, or prepare the data at theirs (data.image_size, "
            f"data.channels)"
        )
    if len(images) < FEWEST_IMAGES:
        raise UserError(f"{len(images)} images are too few to judge; give {FEWEST_IMAGES} at least, better thousands")


def neighbourhood(count: int) -> np.ndarray:
    """Which of `count` real images precision and recall look at: indices, ascending."""
    return np.sort(np.random.RandomState(SEED).permutation(count)[:NEIGHBOURHOOD_IMAGES])


def calculate(
    extractor: Extractor, protocol: Protocol, metrics: Sequence[str], generated: Tensor, real: Tensor, **cache: Any
) -> dict[str, float]:
    """`torch_fidelity.calculate_metrics` on rows of features, float32; the generated ones with logits behind them."""
    import_torchvision()
    import torch_fidelity

    # Its data loaders draw a number from torch's generator, which belongs to whoever is training. And NumPy takes every
    # core unless told otherwise; beside other work that made KID twenty times slower, not faster.
    with torch.random.fork_rng(devices=[]), threadpool_limits(torch.get_num_threads(), "blas"):
        found = torch_fidelity.calculate_metrics(
            input1=Rows(generated),
            input2=Rows(real),
            feature_extractor=registered(extractor),
            **{RESULTS[name][0]: True for name in metrics},
            **fixed(protocol),
            **({"cache": False} | cache),
            cuda=False,  # the extractor has done its work, on its own device
            save_cpu_ram=True,  # without loader processes, and with precision and recall in parts
            verbose=False,
        )
    return {name: float(found[RESULTS[name][1]]) for name in metrics}


def fixed(protocol: Protocol) -> dict[str, Any]:
    """The keywords of `torch_fidelity.calculate_metrics` that a protocol decides."""
    return {
        "isc_splits": protocol.inception_splits,
        "kid_subsets": protocol.kid_subsets,
        "kid_subset_size": protocol.kid_subset_size,
        "prc_neighborhood": protocol.neighbours,
        "rng_seed": protocol.seed,
    }


class Rows(Dataset[Tensor]):
    """Features (n, dimensions) as a data set of bare tensors, as torch-fidelity wants its inputs."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


class Images(Dataset[Tensor]):
    """Images uint8 (n, height, width, channels) as a data set of bare tensors (channels, height, width)."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[index])).permute(2, 0, 1)


def registered(extractor: Extractor) -> str:
    """The name under which torch-fidelity knows `extractor`; registers it the first time."""
    import_torchvision()
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    name = f"genforge-{extractor.name}-{extractor.digest}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name  # the same weights see the same, whichever device they lie on

    class Registered(FeatureExtractorBase):
        """Takes images, uint8 (n, channels, height, width), or rows of what was seen in them before."""

        def __init__(self, name: str, features_list: list[str], **keywords: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return tuple(layer for layer in (extractor.feature_layer, extractor.logits_layer) if layer is not None)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            if metric != "isc":
                return extractor.feature_layer
            if extractor.logits_layer is None:
                raise UserError(f"IS cannot be computed: {extractor.why_no_logits}")
            return extractor.logits_layer

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, input: Tensor) -> tuple[Tensor, ...]:
            seen: tuple[Tensor, Tensor | None]
            if input.ndim == 2:  # rows that were looked at before: features, then logits
                seen = (input[:, : extractor.dimensions], input[:, extractor.dimensions :])
            else:
                seen = extractor.look(input.permute(0, 2, 3, 1).to(extractor.device))
            layers = dict(zip((extractor.feature_layer, extractor.logits_layer), seen, strict=True))
            # The list comes from a set, so its order differs between processes; the order of layers must follow it.
            return tuple(cast(Tensor, layers[layer]) for layer in self.features_list)

    register_feature_extractor(name, Registered)
    return name
