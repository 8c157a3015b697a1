"""Register the best model of each family, and move the aliases to what is better than before.

`best-<family>` follows the best version of a family, `staging` the best of all that passes its gates; no alias moves
but through the gates (`steps/gates.py`). Baselines are ceilings, not models, and
are not registered. A version that holds an alias and was judged by another protocol (the data have grown, the judge was
retrained) is drawn from and judged again here by today's, so that like is compared with like.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from genforge.evaluation.leaderboard import COLLAPSED, with_error
from genforge.evaluation.metrics import metric as metric_of
from genforge.files import digest_file, read_json, write_json
from genforge.progress import say
from genforge.registry import registry
from genforge.registry.registry import STAGING, Registry, Version
from genforge.settings import UserError
from genforge.steps import lineage
from genforge.steps.aliases import announced, needs_approval
from genforge.steps.gates import Comparisons, in_short
from genforge.steps.project import Project
from genforge.tracking import runs as tracking


def run(project: Project, name: str | None = None) -> None:
    """Write results/registered.json: versions, aliases, and why `staging` moved or stayed; and results/verdicts, what
    every gate said of each alias's candidate; and results/lineage, from each alias to the images.

    Raises:
        UserError: the leaderboard is missing, MLflow does not answer, or somebody moved an alias meanwhile.
    """
    board = read_json(project.leaderboard)
    models = [row for row in board["rows"] if row["role"] == "model"]
    project.verdicts.mkdir(parents=True, exist_ok=True)
    with tracking.run(project.root, kind="register", tags={"protocol": board["protocol_name"]}) as record:
        _tell_the_pipeline(project, board, tracking.pipeline(project.root) or record)
        _upload(project)
        aliases = _Aliases(project, board)
        versions = {row["name"]: aliases.register(row) for row in _best_of_each_family(models)}
        best = _best_of_each_family(models)
        for row in best:
            aliases.offer(f"best-{row['family'].lower()}", row["name"], versions[row["name"]][0])
        if best:
            # The best that passes its gates by itself; if none does, the best of all, and it is said why it stays.
            passing = [row for row in best if aliases.gates.own(row["name"])["passed"]]
            row = (passing or best)[0]
            reason = aliases.offer(STAGING, row["name"], versions[row["name"]][0])
        else:
            collapsed = [row["name"] for row in board["rows"] if row["role"] == COLLAPSED]
            reason = "only baselines were trained, and they are not registered"
            if collapsed:
                reason = f"no model is left to register: {', '.join(collapsed)} collapsed"
        staged = aliases.registry.holder(STAGING)
        result = {
            "model": project.config.data.name,
            "metric": board["metric"],
            "protocol_name": board["protocol_name"],
            "versions": {
                recipe: {"version": version.number, "family": version.family, "new": is_new}
                for recipe, (version, is_new) in versions.items()
            },
            "aliases": aliases.registry.aliases(),
            "staging": {
                "holder": f"version {staged.number} ({staged.recipe})" if staged else "nobody's",
                "version": staged.number if staged else None,
                "reason": reason,
            },
        }
        record.tags({"staging": result["staging"]["holder"]})
        lineage.write(project, aliases.registry, project.lineage)
        record.artifact(project.lineage, "lineage")
    write_json(project.registered, result)
    _upload(project)


class _Aliases:
    """The registry as this run of the step uses it: one leaderboard, one metric, one protocol."""

    def __init__(self, project: Project, board: Mapping[str, Any]) -> None:
        self.project = project
        self.metric, self.protocol = str(board["metric"]), str(board["protocol_name"])
        self.registry = Registry(project.root, project.config.data.name)
        self.gates = Comparisons(project, self._draw)
        self._loaded: dict[int, Any] = {}

    def register(self, row: Mapping[str, Any]) -> tuple[Version, bool]:
        """The version of a leaderboard row's model, and whether it is new."""
        scores = {key: {"mean": found["mean"], "std": found["std"]} for key, found in row["metrics"].items()}
        folder = self.project.model(row["name"])
        version, is_new = self.registry.register(folder, scores, self.protocol, self._tags(row))
        known = "registered" if is_new else "is registered already"
        say(f"{row['name']}: {known} as {self.registry.name} version {version.number}")
        return version, is_new

    def offer(self, alias: str, name: str, candidate: Version) -> str:
        """Move the alias to the candidate, which is the recipe `name`, if it is better than the holder and passes the
        gates. Returns why it moved or stayed."""
        holder, unusable = self.registry.holder(alias), ""
        if holder is not None and holder.mean(self.metric, self.protocol) is None:
            try:
                holder = self._judge_again(holder)
            except registry.Unusable as error:
                unusable = str(error)
        verdict = registry.compare(self.metric, self.protocol, candidate, holder, unusable)
        told, verdict = self._through_gates(name, verdict, None if unusable else holder)
        verdict = self._through_people(alias, candidate, verdict)
        if verdict.moves:
            evidence = {
                "metric": self.metric,
                "protocol": self.protocol,
                "candidate": dict(candidate.scores[self.protocol]),
                "holder": dict(holder.scores.get(self.protocol, {})) if holder else {},
                "gates": {found["name"]: found["words"] for found in told["gates"]},
            }
            expected = holder.number if holder else None
            move = self.registry.move(alias, candidate.number, expected, verdict.reason, evidence)
            announced({"model": self.registry.name, **asdict(move)})
        outcome = f"{'moves' if verdict.moves else 'stays'}: {verdict.reason}"
        write_json(self.project.verdicts / f"{alias}.json", {**told, "alias": alias, "outcome": outcome})
        self.registry.note(candidate.number, {f"gate.{entry['name']}": _in_words(entry) for entry in told["gates"]})
        say(f"{self.registry.name}@{alias} {'moves' if verdict.moves else 'stays'}: {verdict.reason}")
        return verdict.reason

    def _through_gates(
        self, name: str, verdict: registry.Verdict, holder: Version | None
    ) -> tuple[dict[str, Any], registry.Verdict]:
        """What every gate says, and the verdict that follows."""
        other = (holder.number, holder.recipe) if holder else None
        try:
            told = self.gates.verdict(name, other, compared=verdict.moves)
        except registry.Unusable as error:
            told = self.gates.verdict(name, None, compared=verdict.moves)
            verdict = registry.Verdict(verdict.moves, f"{verdict.reason}; its holder can draw no more: {error}")
        if verdict.moves and not told["passed"]:
            return told, registry.Verdict(False, f"{name} {in_short(told)}")
        if verdict.moves:
            return told, registry.Verdict(True, f"{verdict.reason}; {in_short(told)}")
        return told, verdict

    def _through_people(self, alias: str, candidate: Version, verdict: registry.Verdict) -> registry.Verdict:
        """The verdict, unless a person has taken this alias from the candidate before, or has to approve first. What
        was rolled back comes back by hand alone: no schedule undoes what somebody has decided."""
        if not verdict.moves:
            return verdict
        by_hand = f"`genforge promote {self.registry.name}/{candidate.number} --alias {alias} --reason ..."
        moves = [move for move in self.registry.history(alias) if candidate.number in (move.before, move.after)]
        if moves and moves[-1].action == "rollback" and moves[-1].before == candidate.number:
            undone = f"version {candidate.number} was taken from it by {moves[-1].who}, {moves[-1].reason}"
            return registry.Verdict(False, f"{undone}; {by_hand}` gives it back")
        if needs_approval(self.project, alias):
            return registry.Verdict(False, f"{verdict.reason}; it waits for approval: {by_hand} --approve NAME`")
        return verdict

    def _model(self, number: int) -> Any:
        """A registered version, loaded once."""
        if number not in self._loaded:
            self._loaded[number] = self.registry.load(number, self.project.device)
        return self._loaded[number]

    def _draw(self, number: int, images: int, seed: int) -> np.ndarray:
        """Images of a registered version."""
        return registry.draw(self._model(number), images, seed, 0, self.project.config.evaluation.batch_size)

    def _judge_again(self, holder: Version) -> Version:
        """The holder with its score under today's protocol.

        Raises:
            Unusable: it draws no images that today's judge could look at.
        """
        from genforge.evaluation.fidelity import Judge
        from genforge.steps.evaluate import summary

        settings = self.project.config.evaluation
        judge = Judge.open(self.project.extractor, self.project.prepared, self.project.device, settings.batch_size)
        if judge.protocol(settings.images).name != self.protocol:
            raise UserError(
                f"results/leaderboard.json was made by protocol {self.protocol}, but the judge here is "
                f"{judge.protocol(settings.images).name}; run `dvc repro`"
            )
        say(f"version {holder.number} ({holder.recipe}) was judged by another protocol: judging it by {self.protocol}")
        model = self._model(holder.number)
        registry.check_shape(model, judge.shape)
        values = [
            judge.score(registry.draw(model, settings.images, seed, 0, settings.batch_size), [self.metric])[self.metric]
            for seed in settings.seeds
        ]
        found = summary(values)
        scores = {self.metric: {"mean": found["mean"], "std": found["std"]}}
        return self.registry.record_scores(holder.number, scores, self.protocol)

    def _tags(self, row: Mapping[str, Any]) -> dict[str, str]:
        card = read_json(self.project.model(row["name"]) / "model.json")
        lock = self.project.root / "dvc.lock"
        score = f"{metric_of(self.metric).title} {with_error(row, self.metric)} under {self.protocol}"
        tags = {
            "recipe": row["name"],
            "family": row["family"],
            "origin": row["origin"],
            "data": card["data"]["digest"],
            "code": card.get("code", ""),
            "steps": card.get("steps", ""),
            "seed": card.get("seed", ""),
            "dvc_lock": digest_file(lock) if lock.is_file() else "",
            "summary": f"{row['name']}, of family {row['family']}, from the recipe {row['origin']}: {score}",
            **lineage.tags(self.project, row["name"]),
            **tracking.git_tags(self.project.root),
        }
        return {key: str(value) for key, value in tags.items() if value != ""}


def _in_words(entry: Mapping[str, Any]) -> str:
    return f"{'passed' if entry['passed'] else 'FAILED'}: {entry['words']}"


def _best_of_each_family(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of every family, from the best to the worst."""
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(models, key=lambda row: row["rank"]):
        best.setdefault(row["family"], row)
    return list(best.values())


def _tell_the_pipeline(project: Project, board: Mapping[str, Any], record: tracking.Run) -> None:
    """Put the leaderboard and the report where a person looks first: into the pipeline's run."""
    for row in board["rows"]:
        record.metrics(0, {f"{key}/{row['name']}": found["mean"] for key, found in row["metrics"].items()})
    metrics = list(board["rows"][0]["metrics"])
    columns = ["rank", "name", "family", "role", *metrics]
    rows = [
        [*(row[key] for key in columns[:4]), *(row["metrics"].get(key, {}).get("mean") for key in metrics)]
        for row in board["rows"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "leaderboard-table.json")
        write_json(table, {"columns": columns, "data": rows})  # the form of MLflow's log_table, which its UI shows
        record.artifact(table)
    record.tags({"mlflow.loggedArtifacts": json.dumps([{"path": table.name, "type": "table"}])})
    record.note(project.leaderboard.with_suffix(".md").read_text("utf-8"))
    for path in (project.leaderboard, project.leaderboard.with_suffix(".md"), project.report):
        if path.exists():
            record.artifact(path)


def _upload(project: Project) -> None:
    uploaded = tracking.upload_all(project.root)
    for run_id, reason in list(uploaded.left.items())[:1]:
        say(f"MLflow does not have everything yet: {len(uploaded.left)} runs are left, such as {run_id}: {reason}")
