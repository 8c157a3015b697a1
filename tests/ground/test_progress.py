"""Progress is plain lines where there is no terminal, and messages under a flow."""

from __future__ import annotations

import json
from pathlib import Path

from genforge import progress


def test_without_a_terminal_the_end_is_one_plain_line(capsys) -> None:
    with progress.Bar("training gan", total=3) as bar:
        for _ in range(3):
            bar.advance(note="loss 0.5")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("training gan: 3/3 steps, ") and output.err.endswith("loss 0.5\n")


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
