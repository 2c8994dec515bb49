"""Plans: their files, their names, what is refused, and the random numbers of an ensemble's members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models_for_tests import Smooth, labelled

from classwise import registry
from classwise.attacks import Ensemble, Plan, Stage, build, build_attacks, predict
from classwise.attacks.named import members, members_of, plan, read
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation.run import evaluate
from classwise.noise import Noise
from classwise.threat import ThreatModel

LINF = ThreatModel("Linf", 0.05)
FILE = """
full = "autoattack(steps=5, queries=20)"

[[stage]]
attack = "nearest-pgd(steps=20, targets=5)"

[[stage]]
attack = "square(queries=30)"
closest = 0.2
go_on = 0.1
if_closer = true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def one(text: str) -> Any:
    return build([text], LINF)[text]


# Files.


def test_a_file_says_what_the_plan_is(folder: Path) -> None:
    nearest, square = "nearest-pgd(steps=20, targets=5)", "square(queries=30)"
    stages = Stage(nearest, one(nearest)), Stage(square, one(square), 0.2, go_on=0.1, if_closer=True)
    assert read(written(folder, FILE), LINF) == Plan(stages, members_of("autoattack(steps=5, queries=20)", LINF))


def test_a_plan_without_a_suite_has_no_audit(folder: Path) -> None:
    found = read(written(folder, '[[stage]]\nattack = "pgd"\n'), LINF)
    assert found == Plan((Stage("pgd", one("pgd")),))
    assert found.full == ()


def test_a_built_in_plan_written_down_is_the_same_plan(folder: Path) -> None:
    lines = ['full = "autoattack"']
    for stage in registry.build("plan", "fast", LINF).stages:
        lines += ["[[stage]]", f'attack = "{stage.name}"', f"closest = {stage.closest}"]
        lines += [f"go_on = {stage.go_on}", f"if_closer = {str(stage.if_closer).lower()}"]
    assert read(written(folder, "\n".join(lines)), LINF) == registry.build("plan", "fast", LINF)


def test_the_file_in_the_docs_is_a_plan(folder: Path) -> None:
    docs = Path(__file__).parents[2] / "docs/fast.md"
    example = docs.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    found = read(written(folder, example), LINF)
    assert [stage.name for stage in found.stages] == ["nearest-pgd(steps=20, targets=5)", "square"]
    assert (found.stages[1].closest, found.stages[1].go_on, found.stages[1].if_closer) == (0.2, 0.1, False)
    assert len(found.full) == 4


STAGE = '[[stage]]\nattack = "pgd"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("= nonsense", r"^Cannot read the plan .*mine.toml: "),
        ('[[stage]]\nattack = "pgd', r"^Cannot read the plan "),
        ("", r"needs \[\[stage\]\] tables and may name one suite as full; nothing else\.$"),
        ('full = "autoattack"', r"needs \[\[stage\]\] tables"),
        ("stage = []", r"needs \[\[stage\]\] tables"),
        ('stage = "pgd"', r"needs \[\[stage\]\] tables"),
        ('[stage]\nattack = "pgd"', r"needs \[\[stage\]\] tables"),
        (f"full = 3\n{STAGE}", r"may name one suite as full"),
        (f'full = ["autoattack"]\n{STAGE}', r"may name one suite as full"),
        (f"audit = 1\n{STAGE}", r"nothing else"),
        (f'full = "autoatack"\n{STAGE}', r"did you mean 'autoattack'\?"),
        (f'full = "fast"\n{STAGE}', "fast is a plan, and only attacks and suites can stand here"),
        ("stage = [1]", r"A stage of a plan names its attack"),
        ("[[stage]]\nclosest = 0.5", r"A stage of a plan names its attack"),
        ("[[stage]]\nattack = 3", r"A stage of a plan names its attack"),
        ('[[stage]]\nattack = ["pgd"]', r"A stage of a plan names its attack"),
        ('[[stage]]\nattack = ""', r"is not a name"),
        ('[[stage]]\nattack = "pdg"', r"did you mean 'pgd'\?"),
        ('[[stage]]\nattack = "pgd(steps=0)"', r"steps and restarts of at least 1"),
        ('[[stage]]\nattack = "pgd,square"', r"is not a name"),
        ('[[stage]]\nattack = "quick"', r"one attack, and 'quick' stands for several; give each its stage\.$"),
        ('[[stage]]\nattack = "fast"', "fast is a plan, and only attacks and suites can stand here"),
        (f"{STAGE}closest = 0", r"The share closest = 0.0 of pgd must be above 0 and at most 1\.$"),
        (f"{STAGE}closest = -0.5", r"must be above 0 and at most 1"),
        (f"{STAGE}closest = 1.01", r"must be above 0 and at most 1"),
        (f"{STAGE}closest = nan", r"must be above 0 and at most 1"),
        (f"{STAGE}closest = inf", r"must be above 0 and at most 1"),
        (f"{STAGE}closest = 1{'0' * 400}", r"must be above 0 and at most 1"),
        (f"{STAGE}closest = true", r"^closest of the stage 'pgd' is a share between 0 and 1, not True\.$"),
        (f'{STAGE}closest = "0.2"', r"^closest of the stage 'pgd' is a share between 0 and 1, not '0.2'\.$"),
        (f"{STAGE}go_on = true", r"^go_on of the stage 'pgd' is a share between 0 and 1, not True\.$"),
        (f"{STAGE}go_on = -0.1", r"The share go_on = -0.1 of pgd must be between 0 and 1\.$"),
        (f"{STAGE}go_on = nan", r"must be between 0 and 1"),
        (f"{STAGE}go_on = 1{'0' * 400}", r"must be between 0 and 1"),
        (f'{STAGE}if_closer = "yes"', r"^if_closer of the stage 'pgd' is true or false, not 'yes'\.$"),
        (f"{STAGE}closet = 0.2", r"nothing else"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_in_one_sentence(folder: Path, text: str, says: str) -> None:
    written(folder, text)
    with pytest.raises(InputError, match=says) as error:
        build_attacks("mine.toml", LINF)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^Cannot read the plan nowhere.toml: .*[Nn]o such file"):
        build_attacks("nowhere.toml", LINF)


def test_a_folder_is_no_plan(folder: Path) -> None:
    (folder / "mine.toml").mkdir()
    with pytest.raises(InputError, match=r"^Cannot read the plan mine.toml"):
        build_attacks("mine.toml", LINF)


def test_a_file_that_is_no_text_is_no_plan(folder: Path) -> None:
    (folder / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"^Cannot read the plan mine.toml"):
        build_attacks("mine.toml", LINF)


# Plans and stages made in Python.


def test_a_plan_needs_a_stage() -> None:
    with pytest.raises(InputError, match="at least one stage"):
        Plan((), members_of("autoattack", LINF))


def test_all_attacks_of_a_plan_have_one_threat_model() -> None:
    other = build("pgd", ThreatModel("Linf", 0.1))["pgd"]
    for stages, full in (([one("pgd"), other], []), ([one("pgd")], [other])):
        with pytest.raises(InputError, match="one threat model"):
            Plan(tuple(Stage("a", a) for a in stages), tuple(Stage("b", b) for b in full))


def test_the_threat_of_a_plan_is_that_of_its_attacks() -> None:
    assert registry.build("plan", "fast", LINF).threat == LINF


def test_a_plan_is_frozen_settings() -> None:
    found = registry.build("plan", "fast", LINF)
    assert hash(found) == hash(registry.build("plan", "fast", LINF))
    assert repr(found) != repr(registry.build("plan", "fast", ThreatModel("Linf", 0.06)))
    assert repr(found) != repr(replace(found, full=()))
    assert repr(found) != repr(replace(found, stages=found.stages[:-1]))


# Names.


def test_names_come_in_the_order_asked_for(folder: Path) -> None:
    written(folder, FILE)
    names = "square(queries=10),quick,fast,mine.toml,pgd(steps=3, restarts=2),upper-bound"
    found = build_attacks(names, LINF)
    expected = ["square(queries=10)", "fgsm", "pgd", "margin-pgd", "fast", "mine", "pgd(steps=3, restarts=2)"]
    assert list(found) == [*expected, "upper-bound"]
    assert [name for name, item in found.items() if isinstance(item, Plan)] == ["fast", "mine", "upper-bound"]


def test_a_list_of_names_is_as_good_as_one_text() -> None:
    assert build_attacks(["fast", "pgd"], LINF) == build_attacks("fast,pgd", LINF)


@pytest.mark.parametrize("text", ["", " , ", []])
def test_no_name_at_all_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="No attack was named"):
        build_attacks(text, LINF)


def test_a_plan_takes_no_settings_that_it_does_not_have() -> None:
    with pytest.raises(InputError, match="The plan fast has no setting 'steps'"):
        build_attacks("fast(steps=3)", LINF)


@pytest.mark.parametrize("names", ["mine.toml,sub/mine.toml", "sub/fast.toml,fast", "fast,sub/fast.toml"])
def test_two_plans_of_one_name_are_refused(folder: Path, names: str) -> None:
    (folder / "sub").mkdir()
    for name in ("mine.toml", "sub/fast.toml"):
        written(folder, FILE, name)
    written(folder, STAGE, "sub/mine.toml")
    with pytest.raises(InputError, match=r"^Two different attacks are called '(mine|fast)'; rename the file of one\.$"):
        build_attacks(names, LINF)


def test_the_same_name_twice_is_one_attack(folder: Path) -> None:
    written(folder, FILE)
    assert list(build_attacks("mine.toml,pgd,mine.toml,quick", LINF)) == ["mine", "pgd", "fgsm", "margin-pgd"]


@pytest.mark.parametrize("name", ["clean", "worst_case"])
def test_a_file_called_like_a_view_of_every_result_is_refused(folder: Path, name: str) -> None:
    written(folder, FILE, f"{name}.toml")
    with pytest.raises(InputError, match=f"cannot be called '{name}'"):
        build_attacks(f"{name}.toml", LINF)


# Members.


def test_members_of_an_ensemble_are_its_attacks_by_name() -> None:
    found = members_of("autoattack", LINF)
    gradients = ["apgd-ce(steps=100)", "apgd-t(steps=100)", "fab-t(steps=100)"]
    assert [stage.name for stage in found] == [*gradients, "square(queries=5000)"]
    assert tuple(stage.attack for stage in found) == one("autoattack").attacks


def test_the_member_of_a_plain_attack_is_itself() -> None:
    assert members("mine", one("pgd")) == (Stage("mine", one("pgd"), path=("mine",)),)


@pytest.mark.parametrize("text", ["autoattack(steps=5, queries=20)", "ensemble(attacks='square(queries=20),pgd')"])
def test_the_engine_s_verdicts_are_those_of_the_ensemble_itself(text: str) -> None:
    model = Smooth(4, 9, factor=20.0)
    x = (labelled(model, 80, (1, 3, 3))[0] * 255).to(torch.uint8)
    y = model(x.float() / 255).argmax(1)
    data = Images(x, y, tuple("abcd"), torch.arange(100, 180))
    found = evaluate(model, data, build_attacks([text], LINF), seed=3).outcomes
    assert isinstance(one(text), Ensemble)
    x_adv = one(text)(model, data.fetch(torch.arange(80)), y, noise=Noise(3, data.index).fold(text))
    prediction = predict(model(x_adv), y).numpy()
    assert (found.predictions[text] == prediction).all()
    assert 10 < found.correct().sum() < 70
    assert len(set(found.stages[text]) - {""}) > 1, "several members must have broken something"


# Built-in plans.


def test_fast_is_the_plan_of_the_docs() -> None:
    table = (Path(__file__).parents[2] / "docs/fast.md").read_text(encoding="utf-8")
    for stage in registry.build("plan", "fast", LINF).stages:
        assert f"| `{stage.name}` |" in table
        share = "every image" if stage.closest == 1 else f"closest {100 * stage.closest:.0f} %"
        assert f"| `{stage.name}` | {share}" in table
    assert registry.build("plan", "fast", LINF).full == members_of("autoattack", LINF)


def test_the_upper_bound_is_the_first_stage_of_fast_without_an_audit() -> None:
    upper = registry.build("plan", "upper-bound", LINF)
    assert upper == Plan(registry.build("plan", "fast", LINF).stages[:1])


def test_a_plan_from_python_reads_like_one_from_a_file() -> None:
    made = plan([{"attack": "pgd"}, {"attack": "square", "closest": 1, "go_on": 1}], LINF, full="autoattack")
    assert made.stages == (Stage("pgd", one("pgd")), Stage("square", one("square"), 1.0, go_on=1.0))
