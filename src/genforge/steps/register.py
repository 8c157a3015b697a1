"""Register the best model of each family, and move the aliases to what is better than before.

`best-<family>` follows the best version of a family, `staging` the best of all. Baselines are ceilings, not models, and
are not registered. A version that holds an alias and was judged by another protocol (the data have grown, the judge was
retrained) is drawn from and judged again here by today's, so that like is compared with like.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genforge.evaluation.metrics import metric as metric_of
from genforge.files import digest_file, read_json, write_json
from genforge.progress import say
from genforge.registry import registry
from genforge.registry.registry import STAGING, Registry, Version
from genforge.settings import UserError
from genforge.steps.project import Project
from genforge.tracking import runs as tracking


def run(project: Project, name: str | None = None) -> None:
    """Write results/registered.json: versions, aliases, and why `staging` moved or stayed.

    Raises:
        UserError: the leaderboard is missing, MLflow does not answer, or somebody moved an alias meanwhile.
    """
    board = read_json(project.leaderboard)
    models = [row for row in board["rows"] if row["role"] == "model"]
    with tracking.run(project.root, kind="register", tags={"protocol": board["protocol_name"]}) as record:
        _tell_the_pipeline(project, board, tracking.pipeline(project.root) or record)
        _upload(project)
        aliases = _Aliases(project, board)
        versions = {row["name"]: aliases.register(row) for row in _best_of_each_family(models)}
        for row in _best_of_each_family(models):
            aliases.offer(f"best-{row['family'].lower()}", versions[row["name"]][0])
        if models:
            best = min(models, key=lambda row: row["rank"])
            reason = aliases.offer(STAGING, versions[best["name"]][0])
        else:
            reason = "only baselines were trained, and they are not registered"
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
    write_json(project.registered, result)
    _upload(project)


class _Aliases:
    """The registry as this run of the step uses it: one leaderboard, one metric, one protocol."""

    def __init__(self, project: Project, board: Mapping[str, Any]) -> None:
        self.project = project
        self.metric, self.protocol = str(board["metric"]), str(board["protocol_name"])
        self.registry = Registry(project.root, project.config.data.name)

    def register(self, row: Mapping[str, Any]) -> tuple[Version, bool]:
        """The version of a leaderboard row's model, and whether it is new."""
        scores = {key: {"mean": found["mean"], "std": found["std"]} for key, found in row["metrics"].items()}
        folder = self.project.model(row["name"])
        version, is_new = self.registry.register(folder, scores, self.protocol, self._tags(row))
        known = "registered" if is_new else "is registered already"
        say(f"{row['name']}: {known} as {self.registry.name} version {version.number}")
        return version, is_new

    def offer(self, alias: str, candidate: Version) -> str:
        """Move the alias to the candidate if it is better than the holder. Returns why it moved or stayed."""
        holder, unusable = self.registry.holder(alias), ""
        if holder is not None and holder.mean(self.metric, self.protocol) is None:
            try:
                holder = self._judge_again(holder)
            except registry.Unusable as error:
                unusable = str(error)
        verdict = registry.compare(self.metric, self.protocol, candidate, holder, unusable)
        if verdict.moves:
            evidence = {
                "metric": self.metric,
                "protocol": self.protocol,
                "candidate": dict(candidate.scores[self.protocol]),
                "holder": dict(holder.scores.get(self.protocol, {})) if holder else {},
            }
            expected = holder.number if holder else None
            self.registry.move(alias, candidate.number, expected, verdict.reason, evidence)
        say(f"{self.registry.name}@{alias} {'moves' if verdict.moves else 'stays'}: {verdict.reason}")
        return verdict.reason

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
        model = self.registry.load(holder.number, self.project.device)
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
        found, lock = row["metrics"][self.metric], self.project.root / "dvc.lock"
        show = metric_of(self.metric).show
        score = f"{metric_of(self.metric).title} {show(found['mean'])} ± {show(found['std'])} under {self.protocol}"
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
            **tracking.git_tags(self.project.root),
        }
        return {key: str(value) for key, value in tags.items() if value != ""}


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
    for path in (project.leaderboard, project.leaderboard.with_suffix(".md"), project.report):
        if path.exists():
            record.artifact(path)


def _upload(project: Project) -> None:
    uploaded = tracking.upload_all(project.root)
    for run_id, reason in list(uploaded.left.items())[:1]:
        say(f"MLflow does not have everything yet: {len(uploaded.left)} runs are left, such as {run_id}: {reason}")
