"""The drop-in AutoAttack: scripts get what they expect, and what is broken in the released package works."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models_for_tests import Smooth, Stateful, labelled
from torch import Tensor, nn

from classwise.attacks import APGD, FAB, Attack, EoT, Square, predict
from classwise.errors import InputError
from classwise.interop.autoattack import AutoAttack, EvaluationState
from classwise.interop.released import APGDAttack, FABAttack, SquareAttack
from classwise.threat import ThreatModel

SHAPE = (1, 3, 3)
EPS = 0.02


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, field in ((APGDAttack, "n_iter"), (FABAttack, "n_iter"), (SquareAttack, "n_queries")):
        monkeypatch.setattr(settings, "attack", limited(settings.attack, field))
    monkeypatch.setattr("classwise.interop.autoattack.version", lambda record: "standard")  # as at the released budgets


def limited(attack: Callable[[Any], Attack], field: str) -> Callable[[Any], Attack]:
    """Return the attack at a part of its budget, where a test leaves the released one in place."""
    small = {"n_iter": (100, 4), "n_queries": (5000, 20)}[field]

    def brief(self: Any) -> Attack:
        usual, few = small
        return attack(replace(self, **{field: few}) if getattr(self, field) == usual else self)

    return brief


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
    assert lines[:3] == [
        "setting parameters for standard version",
        "using standard version including apgd-ce, apgd-t, fab-t, square.",
        "initial accuracy: 83.33%",
    ]
    assert lines[3].startswith("apgd-ce - 1/4 - ")
    assert [line.partition(":")[0] for line in lines if line.startswith("robust")] == [
        *(f"robust accuracy after {name}" for name in ("APGD-CE", "APGD-T", "FAB-T", "SQUARE")),
        "robust accuracy",
    ]
    assert lines[-2].startswith("max Linf perturbation: 0.02000, nan in tensor: 0, max: ")
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
    adversary.run_standard_evaluation(x, y)
    assert capsys.readouterr().out == ""
    assert log.read_text().splitlines()[1] == "initial accuracy: 83.33%"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"version": "nope"}, "Unknown version"),
        ({"attacks_to_run": ["square"]}, "unless you use version='custom'"),
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


# The idioms of public scripts, each as the released class has it.


def custom(model: nn.Module, *attacks: str, **settings: Any) -> AutoAttack:
    return AutoAttack(model, verbose=False, version="custom", attacks_to_run=attacks, **{"eps": EPS, **settings})


def test_custom_is_filled_in_later_with_the_defaults_of_the_released_class() -> None:
    """The example in examples/eval.py there."""
    model, x, y = problem()
    adversary = AutoAttack(model, eps=EPS, version="custom", verbose=False)
    assert (adversary.apgd.n_restarts, adversary.fab.n_restarts, adversary.square.n_restarts) == (5, 5, 1)
    assert (adversary.apgd_targeted.n_restarts, adversary.apgd_targeted.n_target_classes) == (1, 9)
    assert (adversary.square.rescale_schedule, adversary.square.p_init) == (False, 0.8)
    with pytest.raises(InputError, match="No attack is named"):
        adversary.run_standard_evaluation(x, y)
    adversary.attacks_to_run = ["apgd-ce", "fab"]
    adversary.apgd.n_restarts = adversary.fab.n_restarts = 2
    adversary.apgd.n_iter = 3
    threat = ThreatModel("Linf", EPS)
    assert adversary._attacks() == {
        "apgd-ce": APGD(threat, steps=3, loss="cross_entropy", restarts=2, large_eps=False),
        "fab": FAB(threat, steps=4, restarts=2),
    }
    adversary.run_standard_evaluation(x, y)


def test_each_setting_reaches_its_attack() -> None:
    adversary = custom(problem()[0], "apgd-dlr", "apgd-t", "fab-t", "square")
    adversary.apgd.eot_iter, adversary.apgd.thr_decr = 3, 0.5
    adversary.apgd_targeted.n_target_classes, adversary.apgd_targeted.n_iter_orig = 2, 7
    adversary.fab.n_target_classes, adversary.fab.n_iter = 3, 8
    adversary.square.n_queries, adversary.square.n_restarts, adversary.square.loss = 9, 2, "ce"
    adversary.epsilon, adversary.norm = 0.5, "L2"
    threat = ThreatModel("L2", 0.5)
    assert adversary._attacks() == {
        "apgd-dlr": EoT(APGD(threat, steps=4, loss="dlr", restarts=5, rho=0.5, large_eps=False), 3),
        "apgd-t": APGD(threat, steps=7, loss="dlr", targets=2, large_eps=False),
        "fab-t": FAB(threat, steps=8, targets=3),
        "square": Square(threat, queries=9, restarts=2, loss="cross_entropy", rescale_schedule=False),
    }


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_versions_are_those_of_the_released_class(norm: str) -> None:
    """Standard in L1 takes five restarts of APGD-CE, five targets of APGD-T, and both begin in larger balls."""
    sparse, threat = norm == "L1", ThreatModel(norm, 1.0)
    adversary = AutoAttack(problem()[0], norm=norm, eps=1.0, verbose=False)
    assert adversary._attacks() == {
        "apgd-ce": APGD(threat, steps=4, loss="cross_entropy", restarts=5 if sparse else 1, large_eps=sparse),
        "apgd-t": APGD(threat, steps=4, loss="dlr", targets=5 if sparse else 9, large_eps=sparse),
        "fab-t": FAB(threat, steps=4, targets=9),
        "square": Square(threat, queries=20, rescale_schedule=False),
    }
    adversary.version = "plus"
    assert adversary.attacks_to_run == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [(a.restarts, a.targets) for a in adversary._attacks().values() if not isinstance(a, Square)] == [  # type: ignore[attr-defined]
        (5, 0),
        (5, 0),
        (5, 0),
        (1, 9),
        (1, 9),
    ]
    adversary.set_version("rand")
    assert adversary._attacks() == {
        name: EoT(APGD(threat, steps=4, loss=loss, large_eps=False), 20)
        for name, loss in (("apgd-ce", "cross_entropy"), ("apgd-dlr", "dlr"))
    }


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_a_version_with_changed_settings_is_not_passed_off_as_it(
    norm: str, version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()  # the released budgets; no attack runs where no image is right
    model, x, y = problem(n=2)
    wrong = (predict(model(x), y) + 1) % 4
    adversary = AutoAttack(model, norm=norm, eps=EPS, version=version)
    adversary.seed = 5
    adversary.run_standard_evaluation(x, wrong)
    assert "warning" not in capsys.readouterr().out
    adversary.apgd.n_iter = 99
    adversary.run_standard_evaluation(x, wrong)
    said = f"warning: the settings were changed, so this is not AutoAttack {version}."
    assert said in capsys.readouterr().out.splitlines()


def test_a_subset_of_standard_is_assigned_after_the_constructor() -> None:
    model, x, y = problem()
    adversary = AutoAttack(model, eps=EPS, verbose=False)
    adversary.attacks_to_run = ["square"]
    assert list(adversary.run_standard_evaluation_individual(x, y)) == ["square"]
    adversary.attacks_to_run = ["sqare"]
    with pytest.raises(InputError, match="did you mean 'square'"):
        adversary.run_standard_evaluation(x, y)


def test_a_larger_radius_another_seed_and_another_model_are_used_when_assigned_later() -> None:
    model, x, y = problem()
    adversary = custom(model, "square", eps=0.005)
    few = adversary.run_standard_evaluation(x, y)
    adversary.epsilon = 0.5
    assert adversary.square.eps == 0.5
    many = adversary.run_standard_evaluation(x, y)
    assert (many != x).flatten(1).any(1).sum() > (few != x).flatten(1).any(1).sum()
    adversary.seed = 3
    assert adversary.get_seed() == 3
    assert not torch.equal(adversary.run_standard_evaluation(x, y), many)
    other = Smooth(4, 9, seed=5)
    adversary.model = other
    assert adversary.clean_accuracy(x, other(x).argmax(1)) == 1
    assert torch.equal(adversary.get_logits(x), other(x))


@pytest.mark.parametrize("holder", ["", "apgd", "apgd_targeted", "fab", "square"])
def test_a_setting_that_does_not_exist_is_refused_not_ignored(holder: str) -> None:
    adversary = custom(problem()[0], "square")
    with pytest.raises(InputError, match="would be ignored"):
        (getattr(adversary, holder) if holder else adversary).n_step = 3


@pytest.mark.parametrize(
    ("holder", "name", "value"),
    [
        ("", "norm", "L3"),
        ("", "epsilon", "x"),
        ("", "version", "nope"),
        ("", "is_tf_model", True),
        ("apgd", "loss", "cw"),
        ("apgd", "n_iter", 0),
        ("apgd_targeted", "n_target_classes", 0),
        ("square", "targeted", True),
        ("fab", "n_restarts", 0),
    ],
)
def test_a_setting_outside_its_range_is_refused(holder: str, name: str, value: object) -> None:
    model, x, y = problem()
    adversary = custom(model, "apgd-ce", "apgd-t", "fab", "square")

    def assign_and_run() -> None:
        setattr(getattr(adversary, holder) if holder else adversary, name, value)
        if name == "loss":
            adversary.apgd.perturb(x, y)
        adversary.run_standard_evaluation(x, y)

    with pytest.raises(InputError):
        assign_and_run()


@pytest.mark.parametrize("name", ["apgd", "apgd_targeted", "fab", "square"])
def test_an_attack_by_itself_perturbs_what_it_breaks_and_nothing_else(name: str) -> None:
    model, x, y = problem()
    settings = getattr(custom(model, "square"), name)
    x_adv = settings.perturb(x, y)
    changed = (x_adv != x).flatten(1).any(1)
    assert 0 < changed.sum() < len(x)
    assert (predict(model(x_adv), y) != y)[changed].all()
    assert ThreatModel("Linf", EPS).contains(x_adv, x).all()
    assert torch.equal(settings.perturb(x), settings.perturb(x, model(x).argmax(1)))
    assert settings.perturb(x[0], y[0]).shape == (1, *SHAPE)


def test_no_survivor_means_no_further_call_of_the_model() -> None:
    """In the released class and here, the attacks that follow have nothing to do."""
    model, x, y = problem()
    rows: list[int] = []

    def counting(images: Tensor) -> Tensor:
        rows.append(len(images))
        return model(images)

    adversary = AutoAttack(counting, eps=0.9, verbose=False)
    x_adv = adversary.run_standard_evaluation(x, y)
    assert not (predict(model(x_adv), y) == y).any()
    adversary.run_standard_evaluation_individual(x, (model(x).argmax(1) + 1) % 4)
    assert min(rows) > 0


def test_candidates_come_back_on_the_device_of_the_images() -> None:
    model, x, y = problem()
    adversary = custom(model, "square", device="cpu")
    x_adv, y_adv = adversary.run_standard_evaluation(x, y, return_labels=True)
    assert (x_adv.device, y_adv.device, x_adv.dtype) == (x.device, y.device, x.dtype)


# State files.

_KEYS = {"_attacks_to_run", "path", "_run_attacks", "_robust_flags", "_last_saved", "_SAVE_TIMEOUT", "_clean_accuracy"}


def test_the_state_file_has_the_keys_and_types_that_the_released_class_reads(tmp_path: Path) -> None:
    model, x, y = problem()
    path = tmp_path / "state.json"
    adversary = custom(model, "apgd-ce", "square")
    x_adv = adversary.run_standard_evaluation(x, y, state_path=path)
    stored = json.loads(path.read_text())
    assert set(stored) == _KEYS  # the released class refuses any other
    assert torch.tensor(stored["_robust_flags"], dtype=torch.bool).tolist() == (predict(model(x_adv), y) == y).tolist()
    assert datetime.fromisoformat(stored["_last_saved"])
    assert stored["path"] == str(path)
    state = EvaluationState.from_disk(path)
    assert (
        state.robust_accuracy
        == state.robust_flags.mean().item()
        == float((predict(model(x_adv), y) == y).float().mean())
    )  # type: ignore[union-attr]
    assert torch.equal(adversary.run_standard_evaluation(x, y, state_path=path), x_adv)


def test_a_state_that_the_released_class_wrote_is_gone_on_from(tmp_path: Path) -> None:
    """It writes the set of attacks as text, and no images."""
    model, x, y = problem()
    path = tmp_path / "state.json"
    flags = (model(x).argmax(1) == y).tolist()
    flags[flags.index(True)] = False
    stored = {
        "_attacks_to_run": "{'square', 'apgd-ce'}",
        "path": str(path),
        "_run_attacks": ["apgd-ce"],
        "_robust_flags": flags,
        "_last_saved": "2026-01-02 03:04:05.678901",
        "_SAVE_TIMEOUT": 60,
        "_clean_accuracy": 0.8,
    }
    path.write_text(json.dumps(stored))
    adversary = custom(model, "apgd-ce", "square")
    x_adv = adversary.run_standard_evaluation(x, y, state_path=path)
    state = EvaluationState.from_disk(path)
    assert state.run_attacks == ["apgd-ce", "square"]
    assert state.robust_accuracy < sum(flags) / len(flags)
    assert torch.equal(x_adv[flags.index(False)], x[flags.index(False)])
    path.write_text("{}")
    with pytest.raises(InputError, match="no state of an attack"):
        adversary.run_standard_evaluation(x, y, state_path=path)


class Edited(nn.Module):
    """A model whose code changes and whose weights do not."""

    def __init__(self, model: nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x + self.shift).clamp(0, 1))
        return logits


@pytest.mark.parametrize(
    "wrap", [Edited, lambda model, shift: Edited(model, shift).forward], ids=["module", "function"]
)
def test_a_state_is_refused_once_the_code_of_the_model_has_changed(
    wrap: Callable[[nn.Module, float], nn.Module], tmp_path: Path
) -> None:
    """A function has no weights at all that would tell it from another."""
    model, x, y = problem()
    path = tmp_path / "state.json"
    x_adv = custom(wrap(model, 0.0), "square").run_standard_evaluation(x, y, state_path=path)
    assert torch.equal(custom(wrap(model, 0.0), "square").run_standard_evaluation(x, y, state_path=path), x_adv)
    sentence = "holds the run of other code.* the weights of the model are the same, but its logits differ by"
    with pytest.raises(InputError, match=f"{sentence}.*choose another state_path"):
        custom(wrap(model, 0.1), "square").run_standard_evaluation(x, y, state_path=path)


def test_a_state_from_before_fingerprints_is_gone_on_from(tmp_path: Path) -> None:
    model, x, y = problem()
    path = tmp_path / "state.json"
    x_adv = custom(model, "square").run_standard_evaluation(x, y, state_path=path)
    beside = Path(f"{path}.images")
    torch.save({key: value for key, value in torch.load(beside).items() if key != "function"}, beside)
    assert torch.equal(custom(model, "square").run_standard_evaluation(x, y, state_path=path), x_adv)


# Sequences of calls in public scripts.


def test_the_calls_of_robustbench_benchmark_run_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``benchmark()`` of RobustBench/robustbench, eval.py at 78fcc9e, with and without ``aa_state_path``."""
    model, x, y = problem(n=14)
    state_path, log_path = tmp_path / "state.json", tmp_path / "log.txt"

    def benchmark(aa_state_path: Path | None) -> float:
        device = torch.device("cpu")
        adversary = AutoAttack(model, norm="Linf", eps=EPS, version="standard", device=device, log_path=log_path)
        x_adv = adversary.run_standard_evaluation(x, y, bs=8, state_path=aa_state_path)
        assert isinstance(x_adv, Tensor)
        if aa_state_path is None:
            return float((model(x_adv).max(1)[1] == y).float().mean())
        flags = EvaluationState.from_disk(aa_state_path).robust_flags
        assert flags is not None
        return flags.mean().item()

    robust = benchmark(None)
    assert benchmark(state_path) == robust
    capsys.readouterr()
    assert benchmark(state_path) == robust
    assert capsys.readouterr().out.splitlines()[:6] == [
        "setting parameters for standard version",
        f"Restored state from {state_path}",
        "using standard version including .",
        "apgd-ce, apgd-t, fab-t, square was/were already run.",
        "initial clean accuracy: 85.71%",
        f"robust accuracy at the time of restoring the state: {robust:.2%}",
    ]


def test_the_readme_example_of_robustbench_runs() -> None:
    """README.md of RobustBench/robustbench at 78fcc9e: no device, two attacks, restarts set afterwards."""
    model, x, y = problem()
    adversary = AutoAttack(model, norm="Linf", eps=EPS, version="custom", attacks_to_run=["apgd-ce", "apgd-dlr"])
    adversary.apgd.n_restarts = 1
    x_adv = adversary.run_standard_evaluation(x, y)
    assert isinstance(x_adv, Tensor)
    assert 0 < int((predict(model(x_adv), y) == y).sum()) < len(x)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda x: torch.empty(10**12, device="meta"), "no state of an attack"),
        (lambda x: x.to_sparse(), "no state of an attack"),
        (lambda x: x[:1, :1, :1, :1].expand(10**4, 10**4, 10, 10), "no state of an attack"),
        (lambda x: [x], "no state of an attack"),
        (lambda x: x[:1], "belongs to another model, data or settings"),
        (lambda x: x.double(), "belongs to another model, data or settings"),
    ],
)
def test_the_images_beside_a_state_are_those_of_the_run_or_refused(
    tmp_path: Path, made: Callable[..., object], says: str
) -> None:
    model, x, y = problem()
    path = tmp_path / "state.json"
    adversary = custom(model, "apgd-ce")
    adversary.run_standard_evaluation(x, y, state_path=path)
    images = torch.load(f"{path}.images", weights_only=True)
    torch.save({**images, "x_adv": made(images["x_adv"])}, f"{path}.images")
    with pytest.raises(InputError, match=says):
        adversary.run_standard_evaluation(x, y, state_path=path)
