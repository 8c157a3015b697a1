"""The real images as every metric wants them: looked at once for a data set and an extractor, and kept beside it.

`reference-features.npy` holds what the extractor sees in the training split; `reference.safetensors` what metrics
prepare from it, by name: mean and root of the covariance, distances to the nearest others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from genforge.evaluation.metrics import METRICS
from genforge.evaluation.threads import blas_threads
from genforge.files import read_array, replacing, write_array
from genforge.settings import UserError

if TYPE_CHECKING:
    from genforge.evaluation.extractor import Extractor

REFERENCE_FEATURES, REFERENCE_PREPARED = "reference-features.npy", "reference.safetensors"
REFERENCE_SPLIT = "train"  # as is the field's convention
SEED = 2020  # torch-fidelity's own default, for the metrics' own draws


@dataclass(frozen=True)
class Reference:
    """features: float32 (m, dimensions). prepared: what metrics computed of them, by name."""

    features: np.ndarray
    prepared: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, features: np.ndarray) -> Reference:
        """Each metric's preparation, once even where several share it."""
        prepared: dict[str, np.ndarray] = {}
        with blas_threads(features.shape[1]):
            for prepare in dict.fromkeys(metric.prepare for metric in METRICS.values() if metric.prepare):
                prepared |= prepare(features, SEED)
        return cls(features, prepared)


def write_reference(folder: Path, extractor: Extractor, images: np.ndarray, batch_size: int = 250) -> None:
    """Look at the training split once, for every judge to come, and write what is seen into `folder`.

    Args:
        images: uint8 (m, height, width, channels).
    """
    reference = Reference.of(extractor.features(images, batch_size, title="reference features").features)
    write_array(folder / REFERENCE_FEATURES, reference.features)
    with replacing(folder / REFERENCE_PREPARED) as file:
        file.write(save({name: np.ascontiguousarray(array) for name, array in reference.prepared.items()}))


def read_reference(folder: Path) -> Reference:
    """Raises UserError when it is missing, damaged or of another version of genforge."""
    remedy = "make it again with `genforge step extractor`"
    path = folder / REFERENCE_PREPARED
    try:
        return Reference(read_array(folder / REFERENCE_FEATURES), load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from None
