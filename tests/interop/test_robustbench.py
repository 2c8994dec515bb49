"""The entry of a leaderboard: RobustBench's keys and formats, and no number under a name that it does not deserve."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classwise.attacks import build
from classwise.errors import InputError
from classwise.interop.robustbench import entry, write
from classwise.metrics import Outcomes, Result, average, literature_names
from classwise.report import which_number
from classwise.threat import ThreatModel

ROOT = Path(__file__).parents[2]
THREAT = ThreatModel("Linf", 8 / 255)
AUTOATTACK = repr(build("autoattack", THREAT)["autoattack"])
# The keys of model_info/cifar10/Linf/Bai2024MixedNUTS.json, which has all of them, and the type of each value.
KEYS = {
    "link": str,
    "name": str,
    "authors": str,
    "additional_data": bool,
    "number_forward_passes": int,
    "dataset": str,
    "venue": str,
    "architecture": str,
    "eps": str,
    "clean_acc": str,
    "reported": str,
    "autoattack_acc": str,
    "external": str,
    "footnote": str,
    "unreliable": bool,
}
ABOUT: dict[str, Any] = {
    "link": "https://arxiv.org/abs/0000.00000",
    "name": "A paper",
    "authors": "A. Author, B. Author",
    "venue": "arXiv, Jan 2026",
    "architecture": "PreActResNet-18",
    "additional_data": False,
    "number_forward_passes": 1,
    "reported": 41.5,
    "external": "40.2",
    "footnote": "It uses a trick.",
}


def result(attacks: dict[str, str], flags: tuple[str, ...] = ()) -> Result:
    """Return 8 images of 3 classes, the last class absent: 7 right when clean, one less after each attack."""
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    clean = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    predictions, last = {}, clean
    for position, name in enumerate(attacks):
        last = last.copy()
        last[position] = 2
        predictions[name] = last
    header = {
        "model": {"name": "mine", "sha256": "ab" * 32, "parameters": 7},
        "data": {"name": "cifar10", "split": "test", "note": "", "n": 8, "sha256": "cd" * 32},
        "threat": {"norm": "Linf", "eps": 8 / 255, "eps_text": "8/255"},
        "seed": 3,
        "batch_size": 8,
        "device": "cpu",
        "command": None,
        "seconds": 1.0,
        "environment": {},
        "flags": [{"flag": flag, "message": "so", "attack": None, "classes": [], "value": None} for flag in flags],
        "logits": {},
        "groups": {},
        "attacks": {name: {"settings": settings, "seconds": 1.0} for name, settings in attacks.items()},
        "classwise": "9.9.9",
    }
    return Result(header, Outcomes(("cat", "dog", "emu"), np.arange(8), y, clean, predictions, {}, {}))


def full(flags: tuple[str, ...] = ()) -> Result:
    return result({"autoattack": AUTOATTACK}, flags)


def test_every_key_of_robustbench_has_its_type() -> None:
    found = entry(full(), **ABOUT)
    assert {key: type(value) for key, value in found.items() if key != "classwise"} == KEYS


def test_accuracies_and_the_radius_are_text_in_per_cent_and_255ths() -> None:
    found = entry(full(), **ABOUT)
    assert (found["dataset"], found["eps"]) == ("cifar10", "8/255")
    assert (found["clean_acc"], found["autoattack_acc"]) == ("87.50", "75.00")
    assert (found["reported"], found["external"]) == ("41.5", "40.2")


def test_what_a_result_does_not_know_is_empty_and_never_guessed() -> None:
    found = entry(full())
    assert all(found[key] == "" for key in ("link", "name", "authors", "venue", "architecture", "reported"))
    assert found["additional_data"] is found["number_forward_passes"] is None
    assert "external" not in found  # RobustBench takes any value there for the best known number


def test_autoattack_is_named_as_ours_and_reliable_without_a_flag() -> None:
    found = entry(full())
    assert found["unreliable"] is False
    assert found["footnote"] == "AutoAttack standard as implemented by classwise 9.9.9, on 8 images."
    assert entry(full(), footnote="It uses a trick.")["footnote"].startswith("It uses a trick. AutoAttack standard")


@pytest.mark.parametrize(
    "attacks",
    [
        {"pgd": "PGD()"},
        {"apgd-ce": "APGD()", "square": "Square()"},
        {"autoattack-plus": repr(build("autoattack-plus", THREAT)["autoattack-plus"])},
        {"autoattack(steps=5)": repr(build(["autoattack(steps=5)"], THREAT)["autoattack(steps=5)"])},
        {"autoattack": "PGD(threat=ThreatModel(norm='Linf', eps=0.03), steps=20)"},
        {"autoattack": AUTOATTACK.replace("queries=5000", "queries=500")},
        {"autoattack": AUTOATTACK.replace("targets=9, rho", "targets=1, rho")},
    ],
)
def test_a_number_by_other_attacks_is_not_called_autoattack(attacks: dict[str, str]) -> None:
    made = result(attacks)
    found = entry(made)
    assert "autoattack_acc" not in found
    assert found["unreliable"] is True
    assert "without AutoAttack standard" in found["footnote"]
    assert found["classwise"]["label"] == which_number(made)
    assert which_number(made) in found["footnote"]
    assert found["classwise"]["robust_acc"] == f"{100 * (7 - len(attacks)) / 8:.2f}"


def test_without_an_attack_there_is_no_robust_number_at_all() -> None:
    found = entry(result({}))
    assert "autoattack_acc" not in found
    assert found["clean_acc"] == "87.50"
    assert all(found["classwise"][key] is None for key in ("robust_acc", "robust_correct", "worst", "summary"))
    assert found["unreliable"] is True
    assert "Clean only" in found["footnote"]


def test_beside_weaker_attacks_autoattack_keeps_its_own_number() -> None:
    found = entry(result({"autoattack": AUTOATTACK, "pgd": "PGD()"}))
    assert (found["autoattack_acc"], found["classwise"]["robust_acc"]) == ("75.00", "62.50")


def test_a_flag_makes_the_number_unreliable_unless_it_says_what_was_mended() -> None:
    doubted = entry(full(("zero_gradient", "zero_gradient", "train_mode")))
    assert doubted["unreliable"] is True
    assert doubted["footnote"].endswith("The evaluation raised the flags zero_gradient.")
    assert entry(full(("train_mode",)))["unreliable"] is False


def test_the_block_holds_the_counts_of_each_class_and_the_worst_one_with_its_interval() -> None:
    made = full()
    block = entry(made)["classwise"]
    assert block["classes"] == ["cat", "dog", "emu"]
    assert (block["n"], block["clean_correct"], block["robust_correct"]) == ([4, 4, 0], [4, 3, 0], [3, 3, 0])
    assert block["worst"] == {**made.table()["worst"], "confidence": 0.95}
    assert block["worst"]["interval"][0] < 0.75 < block["worst"]["interval"][1]
    assert block["summary"] == literature_names([3, 3, 0], [4, 4, 0])
    assert block["robust_acc"] == f"{100 * average([3, 3, 0], [4, 4, 0]):.2f}"


def test_the_block_says_on_what_with_what_and_with_which_seed() -> None:
    block = entry(full())["classwise"]
    assert (block["images"], block["seed"], block["version"]) == (8, 3, "9.9.9")
    assert block["model"]["sha256"] == "ab" * 32
    assert block["data"]["sha256"] == "cd" * 32
    assert block["attacks"] == {"autoattack": AUTOATTACK}
    assert block["threat"] == {"norm": "Linf", "eps": 8 / 255, "eps_text": "8/255"}


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"venu": "ICML"}, "did you mean 'venue'"),
        ({"autoattack_acc": "99.99"}, "The evaluation itself fills every other key"),
        ({"unreliable": False}, "The evaluation itself fills every other key"),
        ({"additional_data": "False"}, "additional_data cannot be 'False'; RobustBench wants True or False"),
        ({"number_forward_passes": True}, "a whole number of at least 1"),
        ({"number_forward_passes": 0}, "a whole number of at least 1"),
        ({"authors": ["A"]}, "wants text"),
        ({"reported": "about 50"}, "a per cent value such as 56.14"),
        ({"external": 156.14}, "a per cent value such as 56.14"),
        ({"external": float("nan")}, "a per cent value such as 56.14"),
        ({"reported": True}, "a per cent value such as 56.14"),
    ],
)
def test_what_does_not_belong_in_an_entry_is_refused(about: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        entry(full(), **about)


def test_a_result_without_images_is_refused() -> None:
    made = full()
    empty = dataclasses.replace(made, outcomes=made.outcomes.select([]))
    with pytest.raises(InputError, match="no images"):
        entry(empty)


def test_the_file_is_strict_json_that_reads_back(tmp_path: Path) -> None:
    path = write(full(), tmp_path / "new" / "entry.json", **ABOUT)
    assert json.loads(path.read_text()) == entry(full(), **ABOUT)


def test_a_committed_autoattack_result_is_recognised() -> None:
    made = Result.read(ROOT / "results" / "cifar10-resnet2b-adv-8-autoattack")
    found = entry(made)
    assert found["autoattack_acc"] == f"{100 * made.table('autoattack')['accuracy']:.2f}"
    assert found["unreliable"] is False


def test_standard_settings_count_whatever_the_attack_is_called() -> None:
    assert entry(result({"mine": AUTOATTACK}))["autoattack_acc"] == "75.00"


def test_a_search_in_bfloat16_earns_no_autoattack_number() -> None:
    made = result({"autoattack": AUTOATTACK})
    coarse = Result({**made.header, "search_precision": "bfloat16"}, made.outcomes)
    assert "autoattack_acc" not in entry(coarse)
    assert which_number(coarse) == "Not AutoAttack: autoattack alone, searched in bfloat16."


def test_autoattack_on_a_part_of_the_images_says_on_how_many() -> None:
    found = entry(result({"autoattack": AUTOATTACK}))
    assert found["autoattack_acc"] == "75.00"
    assert "on 8 images" in found["footnote"]


def test_writing_an_entry_does_not_wait_for_torch() -> None:
    code = "import sys, classwise.interop.robustbench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
