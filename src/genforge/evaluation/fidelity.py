"""The judge: looks at images once, and hands what was seen to every metric that is asked for.

The metrics stand in `measures/`, where those that torch-fidelity has, too, are shown to be its own numbers. The real
images are looked at once for a data set, by the step `extractor`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import scipy.linalg  # noqa: F401  metrics use it: its threads can be limited only once it is there
from torch import Tensor

from genforge.contracts import ImageShape, Network
from genforge.evaluation.card import card_for
from genforge.evaluation.extractor import Extractor, load_extractor, plain_float32
from genforge.evaluation.features import Features
from genforge.evaluation.metric import Evidence, LatentEvidence
from genforge.evaluation.metrics import METRICS, check_metrics
from genforge.evaluation.protocol import Protocol
from genforge.evaluation.reference import REFERENCE_SPLIT, SEED, Reference, read_reference
from genforge.evaluation.threads import blas_threads
from genforge.settings import UserError

FEWEST_IMAGES = 50  # below this every number is mostly bias


class Judge:
    """Scores images against the training split of one data set.

    Args:
        extractor: what turns images into features.
        shape: of the data's images.
        reference: the training split, as the extractor sees it.
        data_digest: of the prepared data.
        batch_size: images that are looked at together.
    """

    def __init__(
        self, extractor: Extractor, shape: ImageShape, reference: Reference, data_digest: str, batch_size: int = 250
    ) -> None:
        self.extractor, self.shape, self.batch_size = extractor, shape, batch_size
        self.reference, self.data_digest = reference, data_digest

    @classmethod
    def open(cls, extractor_folder: Path, prepared_folder: Path, device: str = "cpu", batch_size: int = 250) -> Self:
        """The judge that the step `extractor` left in `extractor_folder`, for the data in `prepared_folder`.

        Raises:
            UserError: something is missing or damaged, or the extractor was made for other data.
        """
        card = card_for(extractor_folder, prepared_folder)
        extractor = load_extractor(extractor_folder, device)
        return cls(extractor, ImageShape(**card["image"]), read_reference(extractor_folder), card["data"], batch_size)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics of images that this extractor can give."""
        return [name for name, item in METRICS.items() if item.needs == "images" or name in self._of_extractor]

    @property
    def latent_metrics(self) -> list[str]:
        """Names of the metrics of a latent space, which draw images of their own and look at them."""
        return [name for name, item in METRICS.items() if item.needs == "latent"]

    @property
    def _of_extractor(self) -> list[str]:
        there = {"classes": self.extractor.has_logits, "modes": self.extractor.has_modes}
        return [name for name, item in METRICS.items() if there.get(item.needs, False)]

    @property
    def left_out(self) -> dict[str, str]:
        """Metrics that it cannot give, each with the reason."""
        given = [*self.metrics, *self.latent_metrics]
        return {name: self.extractor.why_no_logits for name in METRICS if name not in given and self._expected(name)}

    def _expected(self, name: str) -> bool:
        """Whether somebody could miss this metric: modes are known of points alone."""
        return METRICS[name].needs != "modes" or self.shape.is_point

    def choose(self, names: Iterable[str] | None, where: str = "metrics") -> list[str]:
        """The metrics that are meant: those named, or all that cost little with this extractor.

        Raises:
            UserError: none is named; one is unknown, or this extractor cannot give it.
        """
        if names is None:
            return self.metrics + (self.latent_metrics if self.extractor.cheap else [])
        chosen = check_metrics(names, where)
        for name in chosen:
            if name not in self.metrics + self.latent_metrics:
                why = self.left_out.get(name, "only of points is it known which modes there are")
                raise UserError(f"{METRICS[name].title} cannot be computed: {why}")
        return chosen

    def protocol(self, images: int) -> Protocol:
        """How `images` generated images are judged, whichever metrics are asked for."""
        settings = {
            name: item.settings(images, len(self.reference.features))
            for name, item in METRICS.items()
            if self._expected(name)
        }
        return Protocol(
            extractor=self.extractor.name,
            extractor_digest=self.extractor.digest,
            feature_layer=self.extractor.feature_layer,
            logits_layer=self.extractor.logits_layer,
            resizing=self.extractor.resizing,
            precision=self.extractor.precision,
            reference_digest=self.data_digest,
            reference_split=REFERENCE_SPLIT,
            reference_images=len(self.reference.features),
            images=images,
            settings={name: found for name, found in settings.items() if found},
            seed=SEED,
        )

    def score(self, images: np.ndarray, metrics: Iterable[str] | None = None) -> dict[str, float]:
        """The metrics of generated images, all finite.

        Args:
            images: uint8 (n, height, width, channels) of the data's shape, at least 50.
            metrics: names from `METRICS` of metrics of images; None: all that this extractor can give.

        Raises:
            UserError: the images are of another type or shape or too few; no metric is named, one is unknown, or this
                extractor cannot give it.
            ValueError: a number is not finite.
        """
        wanted = self.metrics if metrics is None else self.choose(metrics)
        check_images(images, self.shape)
        return self.measure(self.extractor.features(images, self.batch_size), wanted)

    def measure(self, seen: Features, metrics: Iterable[str] | None = None) -> dict[str, float]:
        """The same, of images that were looked at before.

        Raises:
            UserError: no metric is named, one is unknown, needs a latent, or this extractor cannot give it.
            ValueError: a number is not finite.
        """
        wanted = self.metrics if metrics is None else self.choose(metrics)
        for name in wanted:
            if METRICS[name].needs == "latent":
                raise UserError(f"{METRICS[name].title} needs the model that drew the images; `score_latent` takes it")
        evidence = Evidence(seen.features, seen.logits, self.reference.features, self.reference.prepared, SEED)
        return self._computed(wanted, evidence, len(seen.features))

    def score_latent(
        self,
        network: Network,
        labels: Tensor | None,
        images: int,
        seed: int,
        metrics: Iterable[str] | None = None,
    ) -> dict[str, float]:
        """The metrics of a model's latent space.

        Args:
            network: of the kind `latent_to_image`, on the extractor's device.
            labels: (images,) int64, where the network is conditioned on them.
            images: how many the protocol speaks of.
            seed: of the latents.

        Raises:
            UserError: a metric is unknown.
            ValueError: a number is not finite.
        """
        wanted = self.latent_metrics if metrics is None else self.choose(metrics)
        evidence = LatentEvidence(network, self.extractor.look_between, labels, self.extractor.device, seed)
        with plain_float32():
            return self._computed(wanted, evidence, images)

    def _computed(self, wanted: Iterable[str], evidence: Evidence | LatentEvidence, images: int) -> dict[str, float]:
        settings = self.protocol(images).settings
        found: dict[str, float] = {}
        with blas_threads(self.extractor.dimensions):
            for name in wanted:
                found[name] = METRICS[name].compute(evidence, **settings.get(name, {}))
                if not math.isfinite(found[name]):
                    raise ValueError(f"{METRICS[name].title} came out as {found[name]}: these images cannot be judged")
        return found


def check_images(images: np.ndarray, shape: ImageShape, fewest: int | None = None) -> None:
    """Raises UserError unless `images` are uint8 (n, height, width, channels), or points float32 (n, 1, 1, 2), of this
    shape, and enough of them: `fewest`, or as many as a judgement takes."""
    fewest = FEWEST_IMAGES if fewest is None else fewest
    expected = (shape.height, shape.width, shape.channels)
    if images.dtype != shape.stored and shape.is_point:
        raise UserError(f"points are {images.dtype}, but the judge takes float32, x and y in [-1, 1]")
    if shape.is_point and not np.isfinite(images).all():
        raise UserError("some points are not finite (NaN or infinity); look for what made them so")
    if images.dtype != shape.stored:
        broken = np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all()
        raise UserError(
            f"images are {images.dtype}{', some not finite (NaN or infinity)' if broken else ''}, but the judge takes "
            f"uint8 from 0 to 255; of floats in [-1, 1] make them with "
            f"`((x + 1) * 127.5).round().clip(0, 255).astype('uint8')`"
            f"{', after looking for what made them not finite' if broken else ''}"
        )
    if images.ndim != 4 or images.shape[1:] != expected:
        raise UserError(
            f"images have shape {images.shape}, but the data's are (n, {', '.join(map(str, expected))}), which is "
            f"(n, height, width, channels); bring them to that shape, or prepare the data at theirs (data.image_size, "
            f"data.channels)"
        )
    if len(images) < fewest:
        raise UserError(f"{len(images)} images are too few to judge; give {fewest} at least, better thousands")
