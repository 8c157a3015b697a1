"""Promotion, rollback and history by hand, on the command line."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genforge import cli
from genforge.registry.registry import Registry
from genforge.tracking.mlflow_store import StoreAway
from tests.webhooks import webhook


@pytest.fixture
def digits(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Three versions, of which 1 and then 2 were staged."""
    monkeypatch.chdir(tracked)
    registry = Registry(tracked, "digits")
    registry.history_of_aliases.make_model()
    for mean in (5.0, 4.0, 3.0):
        scores = {"genforge.scores.p-1": json.dumps({"fid": {"mean": mean, "std": 0.1}})}
        registry.client.create_model_version("digits", (tracked / "nothing").as_uri(), tags=scores)
    registry.move("staging", 1, None, "the first")
    registry.move("staging", 2, 1, "better")
    return registry


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:  # type: ignore[type-arg]
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and not captured.out
    return captured.err


def test_rolling_back_is_one_command(digits: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    moved = told(capsys, "rollback", "--reason", "it draws no sevens")
    assert (moved["model"], moved["alias"], moved["before"], moved["after"]) == ("digits", "staging", 2, 1)
    assert "it draws no sevens" in moved["reason"] and moved["who"] and moved["time"]
    assert digits.aliases() == {"staging": 1}
    assert "no earlier version" in refused(capsys, "rollback")
    assert "nobody's" in refused(capsys, "rollback", "--alias", "production")
    assert told(capsys, "rollback", "--to", "2")["after"] == 2
    assert "cannot go back to version 3" in refused(capsys, "rollback", "--to", "3")
    assert [move.action for move in digits.history()] == ["promote", "promote", "rollback", "rollback"]


def test_promotion_by_hand_is_written_down_with_its_evidence(
    digits: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, version in (("digits", 2), ("digits/1", 1), ("digits@staging", 2), ("digits/3", 3)):
        moved = told(capsys, "promote", model, "--alias", "production", "--reason", "we looked at them")
        assert (moved["alias"], moved["after"], moved["reason"]) == ("production", version, "we looked at them")
    assert moved["evidence"]["candidate"] == {"p-1": {"fid": {"mean": 3.0, "std": 0.1}}}
    assert moved["evidence"]["holder"] == {"p-1": {"fid": {"mean": 4.0, "std": 0.1}}}
    assert digits.aliases() == {"staging": 2, "production": 3}
    assert told(capsys, "rollback", "--alias", "production")["after"] == 2


def test_what_cannot_be_promoted_is_told(digits: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    for model, words in (
        ("digits/9", "no version 9"),
        ("digits@nope", "staging (version 2)"),
        ("nothing", "nothing is registered"),
        ("digits@a@b", "NAME@ALIAS"),
        ("digits/2", "is version 2 already"),
    ):
        assert words in refused(capsys, "promote", model, "--alias", "staging", "--reason", "why not"), model
    assert "--reason is empty" in refused(capsys, "promote", "digits/3", "--alias", "staging", "--reason", " ")
    assert digits.aliases() == {"staging": 2}
    assert len(digits.history()) == 2


def test_an_alias_that_mlflow_refuses_is_told_before_it_is_written_down(
    digits: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for alias in ("latest", "v1", "a b", "a/b", "$(touch owned)", "x" * 300, ""):
        assert "alias" in refused(capsys, "promote", "digits/3", "--alias", alias, "--reason", "why not"), alias
    assert len(digits.history()) == 2


def test_the_history_is_for_people_and_for_programs(digits: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    digits.move("production", 1, None, "[bold]<script>")
    moves = told(capsys, "history")
    assert [(move["alias"], move["before"], move["after"]) for move in moves] == [
        ("staging", None, 1),
        ("staging", 1, 2),
        ("production", None, 1),
    ]
    assert told(capsys, "history", "digits", "--alias", "staging") == moves[:2]
    assert cli.main(["history"]) == 0
    assert "[bold]<script>" in capsys.readouterr().out


def test_an_alias_that_never_moved_is_told_with_those_that_have(
    digits: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    digits.move("production", 1, None, "the first")
    told_so = refused(capsys, "history", "--alias", "stagin")
    assert "'stagin' of digits has ever moved" in told_so and "production, staging" in told_so
    assert "stagin" in refused(capsys, "history", "--alias", "stagin", "--json")


def test_a_model_that_is_not_registered_is_told_with_those_that_are(
    digits: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("history",), ("history", "--json"), ("history", "--alias", "staging"), ("rollback",)):
        told_so = refused(capsys, command[0], "digit", *command[1:])
        assert "nothing is registered as 'digit'; what is: digits" in told_so, command
    told_so = refused(capsys, "promote", "digit/1", "--alias", "production", "--reason", "why not")
    assert "nothing is registered as 'digit'; what is: digits" in told_so
    assert "nothing is registered as 'a/b'" in refused(capsys, "history", "a/b")
    assert len(digits.history()) == 2


def test_a_project_that_has_registered_nothing_yet_has_an_empty_history(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tracked)
    assert told(capsys, "history") == told(capsys, "history", "--alias", "staging") == []
    assert cli.main(["history", "--alias", "staging"]) == 0
    assert "`genforge run` moves the first" in capsys.readouterr().out
    (tracked / "mlflow.db").unlink()
    assert "`genforge run` does that" in refused(capsys, "history", "others")
    assert not (tracked / "mlflow.db").exists()


@contextlib.contextmanager
def leaving(answer: int) -> Iterator[str]:
    """The address of a tracking server that answers the first question and then no more: `answer` 0 closes the
    connection, another number is the status that it gives with MLflow's words for a database that is away."""
    asked: list[str] = []

    class Leaving(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            asked.append(self.path)
            if len(asked) > 1 and not answer:
                self.close_connection = True
                return
            body = b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "no database"}' if len(asked) > 1 else b"{}"
            self.send_response(answer if len(asked) > 1 else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Leaving) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    assert len(asked) > 1, "it was asked once only, so nothing of this was tested"


def test_a_version_that_a_store_no_longer_tells_may_be_asked_for_again(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with leaving(0) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("http://", "http://ada:secret@"))
        with pytest.raises(StoreAway) as error:
            Registry(tracked, "digits").version(1)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("answer", [0, 503])
@pytest.mark.parametrize("command", [("history",), ("sample", "models:/digits@staging")])
def test_a_store_that_leaves_in_the_middle_is_told_in_words_and_may_be_asked_again(
    tracked: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: int,
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tracked)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("GENFORGE_FAILURE", str(tracked / "failure.json"))
    with leaving(answer) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        told_so = refused(capsys, *command)
    assert f"MLflow at {address} does not answer" in told_so and "run this again" in told_so
    assert json.loads((tracked / "failure.json").read_text())["kind"] == "passing"


def test_what_needs_approval_moves_with_somebodys_name_and_that_is_kept(
    digits: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    (digits.root / "params.yaml").write_text(
        "registry: {approval: [production]}\nrecipes: {gan: {from: hinge-sngan}}\n"
    )
    promotion = ("promote", "digits", "--alias", "production", "--reason", "we looked")
    assert "--approve NAME" in refused(capsys, *promotion)
    assert "name of who" in refused(capsys, *promotion, "--approve", " ")
    assert "production" not in digits.aliases()
    moved = told(capsys, *promotion, "--approve", "Ada  Lovelace")
    assert moved["evidence"]["approval"]["by"] == "Ada Lovelace"
    assert moved["evidence"]["approval"]["at"][:10] == moved["time"][:10]
    assert cli.main(["history"]) == 0
    assert "approved by Ada" in " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    told(capsys, "promote", "digits/3", "--alias", "staging", "--reason", "no approval is asked for")
    told(capsys, "promote", "digits/3", "--alias", "production", "--reason", "again", "--approve", "Ada")
    assert told(capsys, "rollback", "--alias", "production")["after"] == 2  # waits for nobody


def test_a_webhook_hears_of_every_move_and_one_that_is_away_stops_none(
    digits: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as (address, heard):
        monkeypatch.setenv("GENFORGE_WEBHOOK", address)
        told(capsys, "promote", "digits/3", "--alias", "staging", "--reason", "better")
        told(capsys, "rollback", "--reason", "or not")
    assert [(event["event"], event["before"], event["after"]) for event in heard] == [
        ("promoted", 2, 3),
        ("rolled back", 3, 2),
    ]
    assert "digits@staging moves from version 2 to version 3" in heard[0]["text"] and "better" in heard[0]["text"]
    for away in (address, "http://[broken", "file:///etc/passwd", "http://user:secret@127.0.0.1:9/"):
        monkeypatch.setenv("GENFORGE_WEBHOOK", away)
        assert cli.main(["promote", "digits/3", "--alias", "staging", "--reason", "better"]) == 0
        warning = capsys.readouterr().err
        assert "was not told" in warning and "Traceback" not in warning and "secret" not in warning
        assert cli.main(["rollback"]) == 0
        capsys.readouterr()
