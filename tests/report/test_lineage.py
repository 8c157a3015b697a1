"""A chain is drawn whole, narrow enough for a phone, and its text stays text."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

from genforge.report.lineage import WIDTH, Link, picture, picture_name

SVG = "{http://www.w3.org/2000/svg}"
DIGEST = "0123456789abcdef" * 4
CHAIN = [
    Link("alias", "digits@staging", ("since yesterday", "because " + "a very long reason " * 8)),
    Link("registered version", "digits version 3", (), [("weights", DIGEST)], "names"),
    Link(
        "raw images", "<script>alert(1)</script> & co", (), [("data/raw", "b1d871798cb9d8e6cab309c3885cb68e.dir")], "of"
    ),
]


def texts(chain: list[Link]) -> list[tuple[str, str]]:
    drawn = ElementTree.fromstring(picture(chain, "where it comes from"))  # raises unless it is well-formed
    assert {element.tag for element in drawn.iter()} == {
        SVG + name for name in ("svg", "title", "style", "g", "rect", "text", "path")
    }
    return [(text.attrib["class"], text.text or "") for text in drawn.iter(SVG + "text")]


def test_every_digest_stands_there_whole_and_in_order() -> None:
    shown = texts(CHAIN)
    assert "".join(text for kind, text in shown if kind == "digest") == DIGEST + "b1d871798cb9d8e6cab309c3885cb68e.dir"
    assert [text for kind, text in shown if kind == "kind"] == ["alias", "registered version", "raw images"]
    assert [text for kind, text in shown if kind == "word"] == ["names", "of"]
    assert ("name", "<script>alert(1)</script> & co") in shown


def test_it_fits_a_phone_and_no_box_meets_another() -> None:
    drawn = ElementTree.fromstring(picture(CHAIN, "title"))
    assert int(drawn.attrib["width"]) == WIDTH <= 390 - 2 * 18
    boxes = [(float(box.attrib["y"]), float(box.attrib["height"])) for box in drawn.iter(SVG + "rect")]
    assert len(boxes) == len(CHAIN)
    assert all(y + height < after for (y, height), (after, _) in itertools.pairwise(boxes))
    assert boxes[-1][0] + boxes[-1][1] <= float(drawn.attrib["height"])
    longest = max(len(text) for kind, text in texts(CHAIN) if kind == "words")
    assert longest <= 45  # letters of 12 px on a line of 292


def test_an_alias_names_a_file_of_its_folder() -> None:
    assert picture_name("best-gan") == "best-gan.svg"
    assert "/" not in picture_name("../../elsewhere")
