from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.strategies import model, planted, subject
from tests.metrics.strategies import header, recorded

from classwise.analysis.evidence import Subject, check_same, read
from classwise.errors import InputError
from classwise.metrics import WORST_CASE, Outcomes
from classwise.metrics.result import Result

PGD = planted({"pgd": [0.5, 0.8]}, n=10)
APGD = planted({"apgd-ce": [0.4, 0.8]}, n=10)


def write(folder: Path, outcomes: Outcomes, **changes) -> Path:
    Result(header(outcomes, **changes), outcomes).write(folder)
    return folder


def test_evaluations_of_one_model_on_the_same_images_are_one_subject(tmp_path: Path) -> None:
    found = read(
        [write(tmp_path / "a", PGD), write(tmp_path / "b", APGD), write(tmp_path / "c", PGD, model=model("m"))]
    )
    assert [each.label for each in found.subjects] == ["a", "c"]
    assert found.subjects[0].alone == ("pgd", "apgd-ce")
    assert found.subjects[0].result.outcomes.accuracy(WORST_CASE).tolist() == [0.4, 0.8]
    assert found.subjects[0].strong == ("apgd-ce",)


def test_strong_attacks_are_told_by_their_settings_not_by_their_names(tmp_path: Path) -> None:
    swapped = {"pgd": recorded("apgd-ce"), "apgd-ce": recorded("pgd")}
    attacks = {name: {**about, "seconds": 0.5} for name, about in swapped.items()}
    (found,) = read([write(tmp_path / "a", PGD.extended(APGD), attacks=attacks)]).subjects
    assert found.strong == ("pgd",)


def test_another_threat_or_other_data_is_another_subject(tmp_path: Path) -> None:
    other = {"norm": "Linf", "eps": 0.1, "eps_text": "0.1"}
    assert len(read([write(tmp_path / "a", PGD), write(tmp_path / "b", PGD, threat=other)]).subjects) == 2


def test_an_attack_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    both = PGD.extended(APGD)
    found = read([write(tmp_path / "a", PGD), write(tmp_path / "b", both)])
    assert found.subjects[0].alone == ("pgd", "apgd-ce")


def test_one_name_for_two_attacks_is_refused(tmp_path: Path) -> None:
    other = {"pgd": {"settings": "PGD(steps=3)", "seconds": 1.0}}
    with pytest.raises(InputError, match=r"b and .*a hold 'pgd' with different settings"):
        read([write(tmp_path / "a", PGD), write(tmp_path / "b", PGD, attacks=other)])


def test_clean_predictions_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    clean = np.where(np.arange(20) == 3, 1, APGD.y)
    predictions = {"apgd-ce": np.where(clean != APGD.y, clean, APGD.predictions["apgd-ce"])}
    wrong = replace(APGD, clean=clean, predictions=predictions)
    with pytest.raises(InputError, match="clean predictions differ"):
        read([write(tmp_path / "a", PGD), write(tmp_path / "b", wrong)])


def test_an_attack_on_survivors_does_not_stand_alone() -> None:
    both = PGD.extended(APGD)
    attacks = {name: {**recorded(name), "seconds": 0.5} for name in both.attacks}
    attacks["apgd-ce"]["after"] = ["pgd"]
    assert subject(both, attacks=attacks).alone == ("pgd",)


def test_a_training_run_is_read_by_its_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    (tmp_path / "run.json").write_text('{"classes": ["a", "b"]}')
    found = read([tmp_path])
    assert found.subjects == ()
    assert (found.trainings[0].classes, len(found.trainings[0].lines)) == (("a", "b"), 2)


@pytest.mark.parametrize(
    ("log", "run", "message"),
    [
        ("", '{"classes": []}', "no epoch was finished"),
        ("{", "{}", "no readable log"),
        ('{"epoch": 1}', "{}", "no readable log"),
    ],
)
def test_a_damaged_training_run_is_named(tmp_path: Path, log: str, run: str, message: str) -> None:
    (tmp_path / "log.jsonl").write_text(log)
    (tmp_path / "run.json").write_text(run)
    with pytest.raises(InputError, match=message):
        read([tmp_path])


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no result\.json"):
        read([tmp_path])


def test_the_method_is_read_from_the_run_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"method": "trades(beta=3)", "wrappers": "ema"}))
    assert subject(PGD, model=model(f"run:{tmp_path}@ema-best")).method == "trades(beta=3) + ema"
    assert subject(PGD, model=model("timm:resnet18")).method == "timm:resnet18"


def data(name: str, sha: str) -> dict:
    return {"name": name, "split": "test", "n": 20, "sha256": sha * 64, "note": ""}


def two(**changes) -> list[Subject]:
    return [subject(PGD, "a"), subject(changes.pop("outcomes", PGD), "b", model=model("b"), **changes)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([subject(PGD)], "at least two models"),
        (
            two(data={"name": "mnist", "split": "test", "n": 20, "sha256": "1" * 64, "note": ""}),
            "data set: digits and mnist",
        ),
        (
            two(data={"name": "digits", "split": "test", "n": 20, "sha256": "2" * 64, "note": ""}),
            "their images: 20 and 20",
        ),
        (two(outcomes=PGD.select(np.arange(19))), "their images: 20 and 19"),
        (two(outcomes=replace(PGD, classes=("a", "b"))), "the names of their classes"),
        (two(threat={"norm": "L2", "eps": 0.5, "eps_text": "0.5"}), "threat: Linf 8/255 and L2 0.5"),
        (two(outcomes=APGD), "attacks: pgd and apgd-ce"),
        (two(attacks={"pgd": {"settings": "PGD(steps=3)", "seconds": 1.0}}), "the settings of their attacks"),
    ],
)
def test_what_was_not_measured_alike_is_refused_with_the_first_difference(given, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_same(given, WORST_CASE)


def test_under_one_attack_the_others_may_differ() -> None:
    both = PGD.extended(APGD)
    check_same([subject(PGD, "a"), subject(both, "b", model=model("b"))], "pgd")


def test_folders_of_one_name_are_told_apart_by_the_folder_above(tmp_path: Path) -> None:
    paths = [write(tmp_path / path, PGD, model=model(path)) for path in ("x/run", "y/run", "z")]
    assert [each.label for each in read(paths).subjects] == ["x/run", "y/run", "z"]
