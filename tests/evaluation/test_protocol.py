from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from genforge.evaluation.protocol import Protocol, ProtocolMismatch, require_same
from genforge.settings import UserError

OTHER = {
    "kid": {"subsets": 100, "subset_size": 1000},
    "precision": {"neighbours": 3},
    "mind": {"projections": 1000},
}


def a_protocol(**changes: Any) -> Protocol:
    base = Protocol(
        extractor="classifier",
        extractor_digest="e" * 32,
        feature_layer="features",
        logits_layer="logits",
        resizing="none",
        precision="float32",
        reference_digest="d" * 32,
        reference_split="train",
        reference_images=1132,
        images=500,
        settings={"kid": {"subsets": 100, "subset_size": 500}, "precision": {"neighbours": 3}},
        seed=2020,
        versions={"genforge": "0.1.0", "torch": "2.13.0", "torch-fidelity": "0.4.0"},
    )
    return replace(base, **changes)


def test_name_is_short_and_says_the_extractor() -> None:
    name = a_protocol().name
    extractor, _, digest = name.partition("-")
    assert extractor == "classifier"
    assert len(digest) == 6
    assert set(digest) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [
        {"extractor_digest": "f" * 32},
        {"feature_layer": "pixels"},
        {"resizing": "bicubic"},
        {"reference_digest": "0" * 32},
        {"reference_split": "test"},
        {"images": 501},
        {"seed": 0},
        {"settings": OTHER},
        {"precision": "bfloat16"},
        {"versions": {"torch": "2.14.0"}},
    ],
)
def test_every_part_of_the_protocol_changes_its_name(change: dict[str, Any]) -> None:
    assert a_protocol(**change).name != a_protocol().name


def test_json_round_trip_keeps_protocol_and_name() -> None:
    protocol = a_protocol()
    again = Protocol.from_json(protocol.to_json())
    assert again == protocol
    assert again.name == protocol.name


def test_a_protocol_of_another_version_is_refused_by_name_of_what_is_odd() -> None:
    old = a_protocol().to_json() | {"layer": "x"}
    del old["feature_layer"]
    with pytest.raises(UserError, match=r"gan: .*feature_layer, layer"):
        Protocol.from_json(old, "gan")


def test_same_protocols_are_one() -> None:
    assert require_same([("gan", a_protocol()), ("vae", a_protocol())]) == a_protocol()


def test_a_mismatch_spells_out_what_differs_and_nothing_else() -> None:
    ours, theirs = a_protocol(), a_protocol(images=1000, settings=OTHER)
    with pytest.raises(ProtocolMismatch) as caught:
        require_same([("gan", ours), ("vae", theirs)])
    text = str(caught.value)
    assert f"gan ({ours.name}) and vae ({theirs.name})" in text
    assert "images: 500 against 1000" in text
    assert "settings.kid.subset_size: 500 against 1000" in text
    assert "settings.mind.projections: None against 1000" in text
    assert "kid.subsets" not in text
    assert "extractor_digest" not in text
    assert "reference_images" not in text
