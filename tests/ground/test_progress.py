"""Progress is plain lines where there is no terminal, and messages under a flow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genforge import progress


def test_without_a_terminal_the_end_is_one_plain_line(capsys) -> None:
    with progress.Bar("training gan", total=3) as bar:
        for _ in range(3):
            bar.advance(note="loss 0.5")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("training gan: 3/3 steps, ") and output.err.endswith("loss 0.5\n")


@pytest.mark.parametrize(("noted", "lines"), [(None, 2), ("loss 2", 3)])
def test_a_last_step_that_was_told_is_not_told_again_at_the_end(
    noted: str | None, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)  # every step is
    with progress.Bar("training", 2) as bar:
        bar.advance(1, "loss 3")
        bar.advance(1)
        if noted is not None:
            bar.advance(0, noted)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in told] == ["training: 1/2 steps", *["training: 2/2 steps"] * (lines - 1)]


def test_work_that_fails_does_not_claim_to_have_ended(capsys) -> None:
    try:
        with progress.Bar("training gan", total=3) as bar:
            bar.advance()
            raise RuntimeError
    except RuntimeError:
        pass
    assert capsys.readouterr().err == ""


def test_under_a_flow_everything_goes_to_its_channel(tmp_path: Path, monkeypatch, capsys) -> None:
    channel = tmp_path / "channel"
    monkeypatch.setenv(progress.CHANNEL, str(channel))
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_REPORTS", 0.0)
    progress.say("hello\nthere")
    assert list(progress.track(["a", "b"], "reading", total=2)) == ["a", "b"]
    messages = [json.loads(line) for line in channel.read_text().splitlines()]
    assert messages[0] == {"text": "hello\nthere"}
    assert [message["done"] for message in messages[1:]] == [1, 2, 2]
    assert messages[-1]["text"].startswith("reading: 2/2 items")
    output = capsys.readouterr()
    assert output.out == output.err == ""
