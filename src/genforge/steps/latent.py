"""Looks at the latent space of a trained model that has an encoder: its pictures, and what its codes know of factors.

`train` and `evaluate` keep both; `genforge latent` shows them at hand, encodes and decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.files import read_array, write_array, write_json
from genforge.progress import say
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.table import Table

    from genforge.contracts import Network
    from genforge.data.loading import Prepared
    from genforge.evaluation.latent import Strip

LOOKED_AT = 1000  # held-out images that tell how far codes reach
ASKED = 2000  # held-out images, at most, whose codes are asked what they know


def strips_of(networks: Mapping[str, Network], prepared: Prepared) -> dict[str, Strip]:
    """Pictures of the latent space by name, made of images of the validation split; none of a model without encoder, or
    of points, which a row of dots would not show."""
    from genforge.evaluation.latent import LatentSpace, strips

    if "encoder" not in networks or prepared.count("validation") < 2 or prepared.shape.is_point:
        return {}
    images = np.asarray(prepared.images("validation")[:LOOKED_AT])
    labels = prepared.labels("validation")
    return strips(
        LatentSpace.of(networks), images, None if labels is None else labels[:LOOKED_AT], len(prepared.classes)
    )


def knowledge_of(networks: Mapping[str, Network], prepared: Prepared) -> dict[str, Any] | None:
    """How well codes of held-out images keep them, and what they know of the factors that drawn images were made of, as
    JSON; None for a model without encoder."""
    from genforge.evaluation.disentanglement import disentanglement
    from genforge.evaluation.latent import LatentSpace

    if "encoder" not in networks:
        return None
    space = LatentSpace.of(networks)
    images, labels = np.asarray(prepared.images("test")[:ASKED]), prepared.labels("test")
    labels = None if labels is None else labels[:ASKED]
    codes = space.encode(images, labels)
    back = space.decode(codes, labels)
    unit = 127.5 if prepared.shape.stored == "uint8" else 1.0  # of what a network sees as 1
    error = float(np.square((back.astype(np.float32) - images) / unit).mean())
    known: dict[str, Any] = {
        "size": space.size,
        "images": len(images),
        "reconstruction_error": error,
        "spread": codes.std(dim=0).tolist(),
    }
    factors = prepared.factors("test")
    if factors is not None and len(images) >= 100:
        found = disentanglement(codes.cpu().numpy(), factors[:ASKED], prepared.card["factors"])
        known["disentanglement"] = None if found is None else found.to_json()
    return known


def in_numbers(known: Mapping[str, Any]) -> dict[str, float]:
    """The same as numbers for a tracker."""
    numbers = {"reconstruction_error": known["reconstruction_error"]}
    if found := known.get("disentanglement"):
        numbers["mig"] = found["mig"]
        for column, factor in enumerate(found["factors"]):
            for dimension, row in enumerate(found["rank_correlation"]):
                numbers[f"rank_correlation.{dimension}.{factor}"] = row[column]
    return numbers


def show(project: Project, model: str, out: Path, encode: bool = False, decode: Path | None = None) -> dict[str, Any]:
    """Write the pictures of a model's latent space into the folder `out`, and tell what its codes know.

    Args:
        model: a recipe of params.yaml, or a trained folder.
        encode: write codes.npy too, float32 (n, size), of the test split's images in their order.
        decode: a .npy of codes (n, size), whose images are written to decoded.npy, uint8 (n, height, width, channels),
            or points float32 (n, 1, 1, 2).

    Raises:
        UserError: there is no such model, it has no encoder, or the codes are of another size.
    """
    from genforge.catalog import target
    from genforge.data.loading import Prepared
    from genforge.evaluation.latent import LatentSpace
    from genforge.models import load
    from genforge.pictures import grid, save_png

    folder = project.root / model if (project.root / model / "model.json").is_file() else project.model(model)
    if not (folder / "model.json").is_file():
        raise UserError(
            f"{model!r} is no trained model here: name a recipe of params.yaml that was trained "
            f"({', '.join(sorted(project.config.recipes))}), or a folder with model.json; registered models carry no "
            f"encoder"
        )
    networks = load(folder, target, project.device, companions=True).networks
    space, prepared = LatentSpace.of(networks), Prepared.open(project.prepared)
    if space.decoder.port.image != prepared.shape:
        raise UserError(f"{model!r} draws {space.decoder.port.image}, but the prepared data has {prepared.shape}")
    codes = None if decode is None else _codes(decode, space.size)
    for name, strip in strips_of(networks, prepared).items():
        save_png(out / f"{name}.png", grid(strip.images, strip.columns))
        say(f"{out / name}.png: {strip.words}")
    if encode:
        written = space.encode(np.asarray(prepared.images("test")), prepared.labels("test"))
        write_array(out / "codes.npy", written.cpu().numpy())
    if codes is not None:
        import torch

        if space.decoder.port.classes:
            raise UserError(f"{model!r} is conditional: a code alone says no class, so that --decode cannot be asked")
        write_array(out / "decoded.npy", space.decode(torch.from_numpy(codes)))
    known = knowledge_of(networks, prepared)
    assert known is not None
    write_json(out / "latent.json", known)
    say(f"mean squared error of a held-out pixel, in [-1, 1]: {known['reconstruction_error']:.4f}")
    if found := known.get("disentanglement"):
        say(f"mutual information gap {found['mig']:.2f}; 1 where each factor has a dimension of its own")
    return known


def _codes(path: Path, size: int) -> np.ndarray:
    codes = read_array(path)
    if codes.ndim != 2 or codes.shape[1] != size or codes.dtype.kind != "f" or not np.isfinite(codes).all():
        raise UserError(
            f"--decode {path}: holds {codes.dtype} {codes.shape}; it should be finite floats (n, {size}), a row a code"
        )
    return codes.astype(np.float32)


def knowledge_table(known: Mapping[str, Any]) -> Table:
    """What `knowledge_of` found, for a terminal: a row a dimension, liveliest first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    found = known.get("disentanglement") or {"factors": (), "rank_correlation": [()] * known["size"]}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("dimension")
    table.add_column("spread", justify="right")
    for factor in found["factors"]:
        table.add_column(factor, justify="right")
    for dimension in np.argsort(known["spread"])[::-1].tolist():
        row = found["rank_correlation"][dimension]
        table.add_row(str(dimension), f"{known['spread'][dimension]:.3f}", *(f"{value:+.2f}" for value in row))
    if "mig" in found:
        table.title, table.title_justify = "rank correlation of dimensions with factors", "left"
    return table
