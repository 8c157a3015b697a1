"""All searches of a project as one Optuna storage that can be looked at and not changed.

Every search on one machine has a journal of its own; searches of many machines share a database. Optuna's tools look at
one storage, and some of them delete studies at the press of a button: so they are given this one.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from genforge.search.storage import STORAGE_VARIABLE, open_existing_database, open_journal

_MOST = 4096  # storages side by side: an outer id is the inner one times this, plus the storage's place


class ReadOnly(RuntimeError):
    """Somebody wanted to change a search through its view."""


def _refuse(self: object, *arguments: object, **named: object) -> NoReturn:
    raise ReadOnly("searches are only looked at here")


class SearchView(BaseStorage):
    """The searches of the project in `root`, as they are at the moment of each call: searches that begin later appear
    as well. Studies of several storages keep their names; their ids are told apart.

    Raises:
        UserError: `GENFORGE_OPTUNA_STORAGE` names a database that cannot be opened.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / ".genforge" / "search"
        self._storages: list[BaseStorage] = []  # only ever appended to: a place is part of an id
        self._journals: dict[Path, int] = {}  # place of each
        database = open_existing_database() if os.environ.get(STORAGE_VARIABLE) else None
        if database is not None:
            self._storages.append(database)
        self._has_database = database is not None

    # Studies

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            self._study(study, place) for place in self._places() for study in self._storages[place].get_all_studies()
        ]

    def get_study_id_from_name(self, study_name: str) -> int:
        for study in self.get_all_studies():
            if study.study_name == study_name:
                return int(study._study_id)
        raise KeyError(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return str(self._of(study_id).get_study_name_from_id(study_id // _MOST))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return list(self._of(study_id).get_study_directions(study_id // _MOST))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._of(study_id).get_study_user_attrs(study_id // _MOST))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._of(study_id).get_study_system_attrs(study_id // _MOST))

    # Trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trial(self._of(trial_id).get_trial(trial_id // _MOST), trial_id % _MOST)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found: Sequence[FrozenTrial] = self._of(study_id).get_all_trials(study_id // _MOST, deepcopy, states)
        return [self._trial(trial, study_id % _MOST) for trial in found]

    # What nobody can do here. Assigned, not written out: they have one answer.

    create_new_study = cast(Any, _refuse)
    delete_study = cast(Any, _refuse)
    set_study_user_attr = cast(Any, _refuse)
    set_study_system_attr = cast(Any, _refuse)
    create_new_trial = cast(Any, _refuse)
    set_trial_param = cast(Any, _refuse)
    set_trial_state_values = cast(Any, _refuse)
    set_trial_intermediate_value = cast(Any, _refuse)
    set_trial_user_attr = cast(Any, _refuse)
    set_trial_system_attr = cast(Any, _refuse)

    # How it is done

    def _places(self) -> list[int]:
        """Of the database, if any, and of every journal that is there now."""
        found = sorted(self._folder.glob("*/*/journal.log"))
        for journal in found:
            if journal not in self._journals:
                self._journals[journal] = len(self._storages)
                self._storages.append(open_journal(journal))
        return ([0] if self._has_database else []) + [self._journals[journal] for journal in found]

    def _of(self, outer: int) -> BaseStorage:
        """The storage of an outer id. Raises KeyError when there is none."""
        place = outer % _MOST
        if place >= len(self._storages):
            raise KeyError(outer)
        return self._storages[place]

    @staticmethod
    def _study(study: FrozenStudy, place: int) -> FrozenStudy:
        seen = copy.copy(study)
        seen._study_id = study._study_id * _MOST + place
        return seen

    @staticmethod
    def _trial(trial: FrozenTrial, place: int) -> FrozenTrial:
        seen = copy.copy(trial)
        seen._trial_id = trial._trial_id * _MOST + place
        return seen
