"""Homing studies within a study: where they lie, what is not done twice, and what a failure holds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.trials_for_tests import tiny

from classwise import files, resolve
from classwise.cli.commands.study import run_study
from classwise.errors import InputError
from classwise.studies import homing as homing_studies
from classwise.studies.spec import Entry, Homing, Study
from classwise.studies.trials import LOCK_FILE, StudyContext, Trial, grid

AT, ALP = Entry("at"), Entry("alp")


def quiet(line: str) -> None:
    pass


def study(homing: Homing | None, **settings: Any) -> Study:
    recipe = "digits(epochs=1, steps=1, holdout=0.2, batch_size=20)"
    return tiny(AT, ALP, **{"seeds": (0, 1), "recipe": recipe, **settings}, homing=homing)


@pytest.fixture
def where(tmp_path: Path) -> StudyContext:
    return StudyContext(tmp_path)


def runs(found: Study, where: StudyContext) -> list[Trial]:
    return grid(found, where)


def test_one_is_asked_for_each_seed_of_the_method_or_for_those_named(where: StudyContext) -> None:
    def titles(homing: Homing | None) -> list[str]:
        found = study(homing)
        return [each.trial.title for each in homing_studies.asked(found, runs(found, where))]

    assert titles(None) == []
    assert titles(Homing("alp")) == ["alp on digits_cnn, seed 0", "alp on digits_cnn, seed 1"]
    assert titles(Homing("at", seeds=(1,))) == ["at on digits_cnn, seed 1"]


def test_it_lies_in_the_folder_of_its_run_and_is_not_done_twice(where: StudyContext) -> None:
    found = study(Homing("at", "pgd(steps=1)", limit=20, seeds=(1,)))
    trials = runs(found, where)
    (first,) = homing_studies.answers(found, trials, where, quiet)
    assert first.about == "at with and without each class, digits_cnn, digits, Linf 0.15"
    assert [finding.claim for finding in first.findings] == ["H7"]
    weights = sorted(where.out.glob("at-digits_cnn-seed1-*/homing-*/*/best.safetensors"))
    assert len(weights) == 13
    before = [path.stat().st_mtime_ns for path in weights]
    (again,) = homing_studies.answers(found, trials, where, quiet)
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert again.record() == first.record()


def test_its_folder_changes_with_attacks_and_images(where: StudyContext) -> None:
    def folder(homing: Homing) -> Path:
        found = study(homing, seeds=(0,))
        (each,) = homing_studies.asked(found, runs(found, where))
        return each.folder(where, resolve.training_images("digits", None, each.limit, 0, False, "test"))

    kinds = [Homing("at", "pgd", 20), Homing("at", "fgsm", 20), Homing("at", "pgd", 30), Homing("alp", "pgd", 20)]
    assert len({folder(each) for each in kinds}) == 4
    assert folder(Homing("at", "pgd", 20)) == folder(Homing("at", "pgd", 20))


def test_one_that_another_process_does_is_left_to_it(where: StudyContext) -> None:
    found = study(Homing("at", "pgd(steps=1)", limit=20, seeds=(0,)))
    trials = runs(found, where)
    (each,) = homing_studies.asked(found, trials)
    test = resolve.training_images("digits", None, 20, 0, False, "test")
    with files.held(each.folder(where, test) / LOCK_FILE):
        (found_,) = homing_studies.answers(found, trials, where, quiet)
    assert found_.findings == ()
    assert found_.unanswered == (
        "Another process does the homing of at on digits_cnn, seed 0; ask again when it has ended.",
    )


def test_the_tables_of_a_study_are_there_before_its_trainings_without_a_class_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        'name = "tables"\ndata = "digits"\nmodel = "digits_cnn"\nrecipe = "digits(epochs=1, steps=1)"\nlimit = 100\n'
        '[evaluate]\nattacks = "fgsm"\nlimit = 20\n[homing]\nmethod = "at"\n[[method]]\nmethod = "at"\n'
    )

    def begun(*_: Any) -> list[Any]:
        assert "| at |" in (tmp_path / "out" / "table.md").read_text()
        raise InputError("begun")

    monkeypatch.setattr(homing_studies, "answers", begun)
    with pytest.raises(InputError, match="begun"):
        run_study(file, tmp_path / "out")
