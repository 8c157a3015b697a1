"""How a number was computed. It stands beside every number, and numbers of different protocols are never compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any, Self

from genforge.files import digest_json
from genforge.settings import UserError

PACKAGES = ("genforge", "numpy", "torch", "torch-fidelity")


class ProtocolMismatch(UserError):
    """Two numbers that were computed in different ways were about to be compared."""


def package_versions() -> dict[str, str]:
    """Versions of what computes the numbers, without the part that only names a build (`+cpu`)."""
    return {name: version(name).partition("+")[0] for name in PACKAGES}


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a metric's value, the generated images and their seeds aside.

    extractor, extractor_digest: what turned images into features, and the digest of its weights.
    feature_layer, logits_layer: what is looked at; no logits layer, no IS.
    resizing: what is done to an image before the extractor sees it.
    precision: of the numbers inside the extractor.
    reference_digest, reference_split, reference_images: the real images.
    images: how many generated images there are.
    settings: of each metric that has some, by its name: the keywords of its function.
    seed: of the metrics' own draws. versions: of the packages that computed them.
    """

    extractor: str
    extractor_digest: str
    feature_layer: str
    logits_layer: str | None
    resizing: str
    precision: str
    reference_digest: str
    reference_split: str
    reference_images: int
    images: int
    settings: dict[str, dict[str, Any]]
    seed: int
    versions: dict[str, str] = field(default_factory=package_versions)

    @property
    def name(self) -> str:
        """Short enough for a table: the extractor and six digits of the digest of all the rest."""
        return f"{self.extractor}-{digest_json(self.to_json())[:6]}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "protocol") -> Self:
        """Raises UserError when `value` is not a protocol as this version of genforge writes it."""
        known = {item.name for item in fields(cls)}
        if odd := sorted(known.symmetric_difference(value)):
            raise UserError(
                f"{where}: not a protocol of this version of genforge (about: {', '.join(odd)}); judge again"
            )
        return cls(**value)


def require_same(protocols: Iterable[tuple[str, Protocol]]) -> Protocol:
    """The one protocol of all of these, each beside whose it is.

    Raises:
        ProtocolMismatch: two differ; says in what, with both values.
        ValueError: there is none.
    """
    numbered = list(protocols)
    if not numbered:
        raise ValueError("no protocols to compare")
    (first_owner, first), *others = numbered
    for owner, other in others:
        if differing := differences(first, other):
            lines = "\n".join(f"  {key}: {ours!r} against {theirs!r}" for key, (ours, theirs) in differing.items())
            raise ProtocolMismatch(
                f"{first_owner} ({first.name}) and {owner} ({other.name}) were judged by different protocols, so their "
                f"numbers cannot be compared:\n{lines}\nJudge both in the same way (`dvc repro`)."
            )
    return first


def differences(first: Protocol, second: Protocol) -> dict[str, tuple[Any, Any]]:
    """Where two protocols differ (`settings.kid.subset_size`), with both values; None where one has none."""
    ours, theirs = leaves(first.to_json()), leaves(second.to_json())
    keys = dict.fromkeys([*ours, *theirs])
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def leaves(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested mappings by their path: `{"kid": {"subsets": 100}}` to `{"kid.subsets": 100}`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found
