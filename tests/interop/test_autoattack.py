"""The drop-in AutoAttack: scripts get what they expect, and what is broken in the released package works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models_for_tests import Smooth, Stateful, labelled
from torch import Tensor, nn

from classwise.attacks import predict
from classwise.attacks.autoattack import members
from classwise.errors import InputError
from classwise.interop.autoattack import AutoAttack
from classwise.threat import ThreatModel

SHAPE = (1, 3, 3)
EPS = 0.02


def brief(version: str, steps: int = 100, queries: int = 5000) -> tuple[str, ...]:
    return members(version, steps=4, queries=20)


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.interop.autoattack.members", brief)


def problem(num_classes: int = 4, n: int = 30) -> tuple[nn.Module, Tensor, Tensor]:
    model = Smooth(num_classes, 9)
    x, y = labelled(model, n, SHAPE)
    y[::7] = (y[::7] + 1) % num_classes
    return model, x, y


def test_it_returns_images_in_the_ball_with_their_labels_and_says_the_accuracies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, x, y = problem()
    adversary = AutoAttack(model, norm="Linf", eps=EPS, version="standard", device="cpu")
    x_adv, y_adv = adversary.run_standard_evaluation(x, y, bs=8, return_labels=True)
    assert ThreatModel("Linf", EPS).contains(x_adv, x).all()
    assert torch.equal(y_adv, predict(model(x_adv), y))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "initial accuracy: 83.33%"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        *(f"robust accuracy after {name}" for name in ("APGD-CE", "APGD-T", "FAB-T", "SQUARE")),
        "robust accuracy",
    ]
    assert lines[-1] == f"robust accuracy: {(y_adv == y).float().mean():.2%}"
    assert 0 < (y_adv == y).sum() < (predict(model(x), y) == y).sum()


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_few_classes_are_attacked_to_the_end(num_classes: int) -> None:
    # fra31/auto-attack issues 70, 76, 79 and 110: IndexError once an image survives APGD-CE.
    model, x, y = problem(num_classes)
    x_adv = AutoAttack(model, eps=0.001, verbose=False).run_standard_evaluation(x, y)
    assert (predict(model(x_adv), y) == y).any()


def test_the_batch_size_and_the_clock_change_nothing() -> None:
    # fra31/auto-attack issue 54.
    model, x, y = problem()
    runs = [AutoAttack(model, eps=EPS, verbose=False).run_standard_evaluation(x, y, bs=bs) for bs in (5, 16, 250)]
    assert all(torch.equal(predict(model(run), y), predict(model(runs[0]), y)) for run in runs)


def test_an_interrupted_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # fra31/auto-attack pull request 98: resuming always failed.
    model, x, y = problem()
    whole = AutoAttack(model, eps=EPS, verbose=False).run_standard_evaluation(x, y)
    stopped, state = AutoAttack(model, eps=EPS, verbose=False), tmp_path / "state"
    attack = AutoAttack._attack

    def crash(self: AutoAttack, which: object, name: str, *rest: object) -> None:
        if name == "fab-t":
            raise KeyboardInterrupt
        attack(self, which, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(AutoAttack, "_attack", crash)
    with pytest.raises(KeyboardInterrupt):
        stopped.run_standard_evaluation(x, y, state_path=state)
    names: list[str] = []

    def note(self: AutoAttack, which: object, name: str, *rest: object) -> None:
        names.append(name)
        attack(self, which, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(AutoAttack, "_attack", note)
    resumed = AutoAttack(model, eps=EPS, verbose=False).run_standard_evaluation(x, y, state_path=state)
    assert names == ["fab-t", "square"]
    assert torch.equal(resumed, whole)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    model, x, y = problem()
    state = tmp_path / "state"
    AutoAttack(model, eps=EPS, verbose=False).run_standard_evaluation(x, y, state_path=state)
    with pytest.raises(InputError, match="another model, data or settings"):
        AutoAttack(model, eps=EPS, seed=1, verbose=False).run_standard_evaluation(x, y, state_path=state)


def test_a_model_in_train_mode_is_attacked_in_eval_mode_and_put_back() -> None:
    model = Stateful(3).train()
    x, y = labelled(Stateful(3).eval(), 10, (1, 5, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adversary = AutoAttack(model, eps=0.0, verbose=False, version="custom", attacks_to_run=["apgd-ce"])
    model_right = adversary.clean_accuracy(x, y)
    adversary.run_standard_evaluation(x, y)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model_right == float((model.eval()(x).argmax(1) == y).float().mean())


def test_each_attack_by_itself_is_returned_by_name() -> None:
    model, x, y = problem()
    adversary = AutoAttack(model, eps=EPS, verbose=False)
    found = adversary.run_standard_evaluation_individual(x, y, return_labels=True)
    assert list(found) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    together = predict(model(adversary.run_standard_evaluation(x, y)), y) == y
    for name in ("apgd-ce", "apgd-t", "fab-t", "square"):
        assert (found[name][1] == y)[together].all()


def test_a_function_and_a_log_file_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, x, y = problem()
    log = tmp_path / "log.txt"
    adversary = AutoAttack(
        lambda images: model(images), eps=EPS, verbose=False, version="custom", attacks_to_run=["square"], log_path=log
    )
    adversary.attacks = {"square": next(iter(AutoAttack(model, eps=EPS).attacks.values()))}
    adversary.run_standard_evaluation(x, y)
    assert capsys.readouterr().out == ""
    assert log.read_text().splitlines()[0] == "initial accuracy: 83.33%"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"version": "nope"}, "Unknown version"),
        ({"version": "custom"}, "Unknown attack"),
        ({"version": "custom", "attacks_to_run": ["apgd-c"]}, "did you mean 'apgd-ce'"),
        ({"norm": "L3"}, "Unknown norm"),
        ({"is_tf_model": True}, "TensorFlow"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        AutoAttack(Smooth(3, 9), **settings)  # type: ignore[arg-type]


def test_normalised_images_are_refused() -> None:
    model, x, y = problem()
    with pytest.raises(InputError, match=r"give pixels in \[0, 1\]"):
        AutoAttack(model, verbose=False).run_standard_evaluation(x * 4 - 2, y)


def test_pixels_that_are_not_a_number_are_refused() -> None:
    model, x, y = problem()
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"give pixels in \[0, 1\]"):
        AutoAttack(model, verbose=False).run_standard_evaluation(x, y)
