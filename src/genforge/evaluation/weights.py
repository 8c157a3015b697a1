"""Weights from a file that somebody gives: plain tensors only. Nothing in the file is run."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genforge.settings import UserError


def read_weights(path: Path | None, wanted: str) -> dict[str, Tensor]:
    """Tensors by name.

    Args:
        path: a `.pth` file of a state dict, or the same as `.safetensors`.
        wanted: what to give there, and where it is published.

    Raises:
        UserError: no file is named, there is none, or it holds something else.
    """
    if path is None:
        raise UserError(f"extractor.weights: no file is named; give {wanted}")
    if not path.is_file():
        raise UserError(f"extractor.weights: {path} is not a file; give {wanted}")
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else _read_plain(path)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        # Of PyTorch's long advice only the first sentence: the rest tells how to run code from the file.
        reason = first_line(error).partition(". ")[0]
        raise UserError(f"extractor.weights: {path} does not hold plain weights ({reason}); give {wanted}") from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"extractor.weights: {path} does not hold plain weights by name; give {wanted}")
    return weights


def _read_plain(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wonders about what it then refuses
        return torch.load(path, "cpu", weights_only=True)


def first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
