"""The engine: verdicts, and everything they must not depend on."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from tests.models_for_tests import MASKS, Smooth, labelled
from torch import Tensor, nn

from classwise import metrics, registry
from classwise.attacks import PGD, Ensemble, Plan, Stage, build
from classwise.attacks.base import described
from classwise.attacks.named import members_of
from classwise.attacks.transfer_attack import transfer
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation import records
from classwise.evaluation.job import Job
from classwise.evaluation.run import EvaluationProgress, evaluate
from classwise.metrics.recorded import of_older_text
from classwise.metrics.result import Result
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.1)


class Bands(nn.Module):
    """Scores class c by the mean of the c-th row of pixels, so the margin of every image is known exactly."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x[:, 0].mean(2)


def planted(margins: list[list[float]], width: int = 4) -> Images:
    """Return images of C rows where row y is brighter than all others by a margin (in 8-bit steps of 1/255)."""
    num_classes = len(margins)
    labels = torch.tensor([c for c, group in enumerate(margins) for _ in group])
    x = torch.full((len(labels), 1, num_classes, width), 100, dtype=torch.uint8)
    for i, margin in enumerate(m for group in margins for m in group):
        x[i, 0, labels[i]] += round(margin * 255)
    return Images(x, labels, tuple(f"class {c}" for c in range(num_classes)), torch.arange(len(labels)))


def blurry(n: int = 120, num_classes: int = 4) -> tuple[nn.Module, Images]:
    """Return a small random network, and images it labels itself, many of them near its boundaries."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, num_classes))
    x = (Noise(3, torch.arange(n)).uniform((1, 6, 6)) * 255).to(torch.uint8)
    with torch.no_grad():
        y = model(x.float() / 255).argmax(1)
    y[::10] = (y[::10] + 1) % num_classes
    return model.eval(), Images(x, y, tuple(str(c) for c in range(num_classes)), torch.arange(n))


@pytest.mark.parametrize("eps", [0.02, 0.07, 0.12])
def test_counts_on_a_planted_unfair_model_are_exact(eps: float) -> None:
    # Rows move against each other by eps each, so an image breaks once twice eps reaches its margin.
    margins = [[0.3] * 5, [0.2, 0.2, 0.1], [0.05, 0.1, 0.2, 0.3]]
    result = evaluate(Bands(), planted(margins), build("pgd", ThreatModel("Linf", eps)))
    expected = [sum(round(m * 255) / 255 > 2 * eps for m in group) for group in margins]
    assert result.outcomes.counts().tolist() == expected


def test_a_robust_count_never_rises_with_the_radius() -> None:
    model, data = blurry()
    robust = [
        evaluate(model, data, build("pgd", ThreatModel("Linf", eps))).outcomes.counts() for eps in (0, 0.01, 0.03, 0.1)
    ]
    assert all((stronger <= weaker).all() for weaker, stronger in itertools.pairwise(robust))
    assert robust[0].sum() > robust[-1].sum()


def test_a_radius_of_zero_changes_no_prediction() -> None:
    model, data = blurry()
    outcomes = evaluate(model, data, build("fgsm,pgd,margin-pgd", ThreatModel("Linf", 0))).outcomes
    assert (outcomes.correct() == outcomes.correct("clean")).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 250])
def test_verdicts_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    model, data = blurry()
    attacks = build("pgd,temperature-pgd(inverse_temperatures=[1,10])", ThreatModel("Linf", 0.02))
    whole = evaluate(model, data, attacks, batch_size=64).outcomes
    other = evaluate(model, data, attacks, batch_size=batch_size).outcomes
    assert 0 < whole.correct().sum() < whole.correct("clean").sum()
    for name in attacks:
        assert (whole.predictions[name] == other.predictions[name]).all()


def test_verdicts_follow_the_image_when_the_order_changes() -> None:
    model, data = blurry()
    attacks = build("pgd", ThreatModel("Linf", 0.02))
    order = torch.arange(len(data)).flip(0)
    straight = evaluate(model, data, attacks).outcomes.predictions["pgd"]
    flipped = evaluate(model, data.subset(order), attacks).outcomes.predictions["pgd"]
    assert (straight[order.numpy()] == flipped).all()


def test_verdicts_of_a_subset_are_those_of_the_whole() -> None:
    model, data = blurry()
    attacks = build("pgd", ThreatModel("Linf", 0.02))
    some = torch.arange(5, 100, 3)
    whole = evaluate(model, data, attacks).outcomes.predictions["pgd"]
    part = evaluate(model, data.subset(some), attacks).outcomes.predictions["pgd"]
    assert (whole[some.numpy()] == part).all()


def test_verdicts_of_an_attack_do_not_depend_on_its_companions() -> None:
    model, data = blurry()
    threat = ThreatModel("Linf", 0.02)
    alone = evaluate(model, data, build("pgd", threat)).outcomes.predictions["pgd"]
    together = evaluate(model, data, build("margin-pgd,fgsm,pgd", threat)).outcomes.predictions["pgd"]
    assert (alone == together).all()


def test_permuting_the_classes_permutes_the_counts() -> None:
    model, data = blurry()
    permutation = torch.tensor([2, 0, 3, 1])  # old class c becomes permutation[c]
    inverse = permutation.argsort()
    renamed = Images(data.x, permutation[data.y], data.classes, data.index)
    attacks = build("pgd", ThreatModel("Linf", 0.02))
    before = evaluate(model, data, attacks).outcomes.counts()
    after = evaluate(Reordered(model, inverse), renamed, attacks).outcomes.counts()
    assert (after[permutation.numpy()] == before).all()


class Reordered(nn.Module):
    """Puts the logits of a model in another order."""

    def __init__(self, model: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.model, self.order = model, order

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, self.order]


class Crash(Exception):
    """Stands for a power cut."""


def test_a_crashed_evaluation_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = blurry()
    attacks = build("pgd,margin-pgd", ThreatModel("Linf", 0.02))
    whole = evaluate(model, data, attacks, batch_size=20).outcomes

    def crash(seen: EvaluationProgress) -> None:
        if seen.view == "margin-pgd" and seen.done > 60:
            raise Crash

    with pytest.raises(Crash):
        evaluate(model, data, attacks, batch_size=20, directory=tmp_path, watch=crash)
    assert not (tmp_path / "result.json").exists()
    attacked: list[EvaluationProgress] = []
    resumed = evaluate(model, data, attacks, batch_size=7, directory=tmp_path, watch=attacked.append).outcomes
    assert {seen.view for seen in attacked} == {"margin-pgd"}, "a finished attack was run again"
    assert min(seen.done for seen in attacked) > 60, "finished images were attacked again"
    for name in attacks:
        assert (whole.predictions[name] == resumed.predictions[name]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.npz", "outcomes.npz", "result.json"]


def test_a_finished_evaluation_is_not_done_again(tmp_path: Path) -> None:
    model, data = blurry()
    attacks = build("pgd", THREAT)
    first = evaluate(model, data, attacks, directory=tmp_path)
    again = evaluate(model, data, attacks, directory=tmp_path, watch=lambda seen: pytest.fail("attacked again"))
    assert (again.outcomes.correct() == first.outcomes.correct()).all()


@pytest.mark.parametrize("change", ["seed", "eps", "attack", "model", "data"])
def test_the_folder_of_another_evaluation_is_refused_and_left_alone(tmp_path: Path, change: str) -> None:
    model, data = blurry()
    evaluate(model, data, build("pgd", THREAT), directory=tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    attacks = build("fgsm" if change == "attack" else "pgd", ThreatModel("Linf", 0.2 if change == "eps" else 0.1))
    if change == "model":
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
    if change == "data":
        data = data.subset(torch.arange(50))
    named = {
        "seed": "the seed = 0, and now 1",
        "eps": "the radius",
        "attack": "the attacks = pgd, and now fgsm",
        "model": "the model's weights",
        "data": "the data",
    }
    with pytest.raises(InputError, match=f"other settings: {named[change]}"):
        evaluate(model, data, attacks, seed=int(change == "seed"), directory=tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


def test_the_partial_file_of_another_evaluation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = blurry()

    def crash(seen: EvaluationProgress) -> None:
        if seen.done > 60:
            raise Crash

    with pytest.raises(Crash):
        evaluate(model, data, build("pgd", THREAT), batch_size=20, directory=tmp_path, watch=crash)
    with pytest.raises(
        InputError, match="unfinished evaluation with other settings: the seed = 0, and now 1 is asked for"
    ):
        evaluate(model, data, build("pgd", THREAT), batch_size=20, seed=1, directory=tmp_path)


def test_a_damaged_partial_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "partial-0-of-1.npz").write_bytes(b"PK nonsense")
    model, data = blurry()
    with pytest.raises(InputError, match="damaged"):
        evaluate(model, data, build("pgd", THREAT), directory=tmp_path)


class Preprocessed(nn.Module):
    """The same weights, with other code before them."""

    def __init__(self, model: nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x - self.shift)
        return logits


def test_the_result_of_the_same_weights_in_other_code_is_refused_and_an_older_one_is_read(tmp_path: Path) -> None:
    model, data = blurry()
    attacks = build("pgd", THREAT)
    evaluate(Preprocessed(model, 0.0), data, attacks, directory=tmp_path, name="mine.py")
    evaluate(Preprocessed(model, 0.0), data, attacks, directory=tmp_path, name="mine.py", batch_size=3)
    with pytest.raises(InputError, match="of other code: the weights of the model are the same, but its logits differ"):
        evaluate(Preprocessed(model, 0.01), data, attacks, directory=tmp_path, name="mine.py")
    path = tmp_path / "result.json"
    document = json.loads(path.read_text())
    del document["functions"]  # as older versions wrote it
    path.write_text(json.dumps(document))
    evaluate(Preprocessed(model, 0.01), data, attacks, directory=tmp_path, name="mine.py")


def test_a_result_belongs_to_the_function_however_its_path_is_spelled(tmp_path: Path) -> None:
    model, data = blurry()
    attacks = build("fgsm", THREAT)
    first = evaluate(model, data, attacks, directory=tmp_path, name="mine.py:f")
    again = evaluate(model, data, attacks, directory=tmp_path, name="/srv/me/mine.py:f")
    assert again.header["model"]["name"] == first.header["model"]["name"]
    assert again.header["seconds"] == first.header["seconds"]


def test_a_result_whose_identity_holds_the_name_as_older_versions_hashed_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = blurry()
    attacks = build("fgsm", THREAT)
    whole = Job.identity_of
    with monkeypatch.context() as patch:
        patch.setattr(Job, "identity_of", lambda job, attacks, name=None: whole(job, attacks, job.settings.name))
        first = evaluate(model, data, attacks, directory=tmp_path, name="mine.py:f")
    for name in ("mine.py:f", "/srv/me/mine.py:f"):
        again = evaluate(model, data, attacks, directory=tmp_path, name=name)
        assert [again.header[key] for key in ("identity", "seconds")] == [
            first.header[key] for key in ("identity", "seconds")
        ]
    path = tmp_path / "result.json"
    document = json.loads(path.read_text())
    del document["functions"]  # nothing tells then that the other name means the same
    path.write_text(json.dumps(document))
    evaluate(model, data, attacks, directory=tmp_path, name="mine.py:f")
    with pytest.raises(InputError, match="the model's name"):
        evaluate(model, data, attacks, directory=tmp_path, name="other.py:g")


def test_the_unfinished_evaluation_of_the_same_weights_in_other_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = blurry()

    def crash(seen: EvaluationProgress) -> None:
        if seen.done > 60:
            raise Crash

    def go(shift: float, watch: Callable[[EvaluationProgress], None] | None = None) -> None:
        model_now = Preprocessed(model, shift)
        evaluate(model_now, data, build("pgd", THREAT), batch_size=20, directory=tmp_path, watch=watch, name="mine.py")

    with pytest.raises(Crash):
        go(0.0, crash)
    with pytest.raises(InputError, match="unfinished evaluation of other code"):
        go(0.01)
    go(0.0)


def test_a_transfer_attack_whose_source_computes_something_else_is_another_attack(tmp_path: Path) -> None:
    model, data = blurry()

    def go(shift: float) -> None:
        source = transfer(build("fgsm", THREAT)["fgsm"], Preprocessed(model, shift), "source.py with weights 0123")
        evaluate(model, data, {"transfer": source}, directory=tmp_path)

    go(0.0)
    go(0.0)
    with pytest.raises(InputError, match=r"of other code: the weights of the source source\.py with weights 0123 are"):
        go(0.01)


class Claim:
    """An attack that returns what it is told to, whether allowed or not."""

    threat = THREAT

    def __init__(self, delta: float) -> None:
        self.delta = delta

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        return x + self.delta * torch.where(
            torch.arange(x.shape[2])[None, None, :, None] == y[:, None, None, None], -1, 1
        )


def test_candidates_outside_the_ball_do_not_count_and_are_flagged() -> None:
    data = planted([[0.25] * 3, [0.25] * 3])
    result = evaluate(Bands().eval(), data, {"claim": Claim(0.2)})
    assert result.outcomes.counts().tolist() == [3, 3]
    assert [(flag["flag"], flag["value"]) for flag in result.header["flags"]] == [("outside_threat", 6.0)]


def test_candidates_on_the_border_of_the_ball_count() -> None:
    result = evaluate(Bands(), planted([[0.19] * 3, [0.19] * 3]), {"claim": Claim(0.1)})
    assert result.outcomes.counts().tolist() == [0, 0]


def test_candidates_outside_the_pixel_range_do_not_count() -> None:
    dark = planted([[0.05], [0.05]])
    dark.x.sub_(100)
    result = evaluate(Bands(), dark, {"claim": Claim(0.1)})
    assert result.outcomes.counts().tolist() == [1, 1]


class Constant(nn.Module):
    """Gives the same logit to every class: every prediction is a tie."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True) * torch.zeros(1, 2) + 3


def test_a_tie_counts_as_wrong() -> None:
    assert evaluate(Constant(), planted([[0.1], [0.1]]), build("pgd", THREAT)).outcomes.counts("clean").sum() == 0


class Cracked(nn.Module):
    """Returns NaN where the first row is bright enough."""

    def forward(self, x: Tensor) -> Tensor:
        logits = 10 * x[:, 0].mean(2)
        return torch.where(x[:, :, 0].mean(2) > 0.55, torch.nan, logits)


def test_logits_that_are_not_finite_make_an_image_broken_and_raise_a_flag() -> None:
    result = evaluate(Cracked().eval(), planted([[0.3], [0.3]]), build("pgd", ThreatModel("Linf", 0.01)))
    assert result.outcomes.counts("clean").tolist() == [0, 1]
    assert result.outcomes.clean.tolist() == [-1, 1]
    assert [(f["flag"], f["classes"]) for f in result.header["flags"]] == [("non_finite", ["class 0"])]


def test_the_model_is_evaluated_in_eval_mode_and_put_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.9), Bands())
    model[2].eval()
    model.train()
    model[2].training = False
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = evaluate(model, planted([[0.3] * 4, [0.3] * 4]), build("pgd", ThreatModel("Linf", 0.05)))
    assert result.outcomes.counts("clean").tolist() == [4, 4]
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "train_mode" in {flag["flag"] for flag in result.header["flags"]}


def test_gradients_are_found_under_no_grad() -> None:
    with torch.no_grad():
        outcomes = evaluate(Bands(), planted([[0.1], [0.1]]), build("pgd", THREAT)).outcomes
    assert outcomes.counts().sum() == 0


def test_global_random_state_is_left_alone() -> None:
    model, data = blurry()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    evaluate(model, data, build("pgd", THREAT))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_flow_sums_to_the_loss_of_each_class() -> None:
    model, data = blurry()
    outcomes = evaluate(model, data, build("pgd,margin-pgd", ThreatModel("Linf", 0.02))).outcomes
    flow = outcomes.flow()
    assert (flow.sum(1) == outcomes.counts("clean")).all()
    assert (flow.diagonal() == outcomes.counts()).all()


def test_the_margin_of_a_verdict_tells_its_sign() -> None:
    model, data = blurry()
    outcomes = evaluate(model, data, build("pgd", ThreatModel("Linf", 0.02))).outcomes
    assert ((outcomes.margins["pgd"] >= 0) == ~outcomes.correct("pgd")).all()
    assert (outcomes.distances["pgd"] <= 0.02 * (1 + 1e-6) + 1e-7).all()


def test_the_header_says_how_it_was_done(tmp_path: Path) -> None:
    model, data = blurry()
    attacks = build("pgd(steps=7)", THREAT)
    evaluate(model, data, attacks, seed=4, directory=tmp_path, name="mine", command="classwise evaluate mine")
    document = Result.read(tmp_path).document
    assert document["threat"] == {"norm": "Linf", "eps": 0.1, "eps_text": "0.1"}
    assert document["seed"] == 4
    assert document["model"]["name"] == "mine"
    assert document["command"] == "classwise evaluate mine"
    assert eval(document["attacks"]["pgd(steps=7)"]["settings"]) == attacks["pgd(steps=7)"]
    assert document["environment"]["torch"] == torch.__version__


def test_progress_counts_what_has_been_seen() -> None:
    model, data = blurry()
    seen: list[EvaluationProgress] = []
    result = evaluate(model, data, build("pgd", THREAT), batch_size=50, watch=seen.append)
    right = int(result.outcomes.counts("clean").sum())
    assert [(s.view, s.done) for s in seen[:3]] == [("clean", 50), ("clean", 100), ("clean", 120)]
    assert [(s.view, s.done) for s in seen[3:]] == [("pgd", 50), ("pgd", 100), ("pgd", right)]
    assert {s.total for s in seen[3:]} == {right}
    assert seen[-1].correct.tolist() == result.outcomes.counts("pgd").tolist()
    assert seen[-1].seen.tolist() == result.outcomes.n.tolist()


class Probabilities(Bands):
    """Returns a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Nothing(nn.Module):
    """Returns NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].mean(2) * torch.nan


class Wide(nn.Module):
    """Takes another image size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Probabilities(), "returns probabilities"),
        (Nothing(), "NaN or infinity for every image"),
        (Wide(), r"In the forward pass of Wide, on images \(2, 1, 2, 4\) without gradients: .*cannot be multiplied"),
        (nn.Flatten(), "returns 8 logits .*; the data set has 2 classes"),
        (nn.Identity(), "must return logits of shape"),
    ],
)
def test_a_model_that_cannot_be_evaluated_is_refused(model: nn.Module, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluate(model, planted([[0.1], [0.1]]), build("pgd", THREAT), directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_attacks_with_different_threats_are_refused() -> None:
    attacks = {"a": PGD(THREAT, keep="success"), "b": PGD(ThreatModel("Linf", 0.2), keep="success")}
    with pytest.raises(InputError, match="same threat"):
        evaluate(Bands(), planted([[0.1], [0.1]]), attacks)


def test_an_empty_set_is_refused() -> None:
    data = planted([[0.1], [0.1]])
    with pytest.raises(InputError, match="at least one image"):
        evaluate(Bands(), data.subset(torch.arange(0)), build("pgd", THREAT))


# Plans.

BRIEF = "autoattack(steps=4, queries=15)"
SMALL = ThreatModel("Linf", 0.05)


def firm(n: int = 60, factor: float = 4.0) -> tuple[nn.Module, Images]:
    """Return a small network whose bits do not depend on the batch, and images of which it gets nine in ten right."""
    model = Smooth(4, 9, factor=factor)
    x = (labelled(model, n, (1, 3, 3))[0] * 255).to(torch.uint8)
    with torch.no_grad():
        y = model(x.float() / 255).argmax(1)
    y[::10] = (y[::10] + 1) % 4
    return model, Images(x, y, tuple("abcd"), torch.arange(n))


def brief(threat: ThreatModel = SMALL) -> Plan:
    """Return the plan fast with its shares and switches, but short of steps and queries."""
    fast: Plan = registry.build("plan", "fast", threat)
    less = {"steps": 3, "queries": 15}
    stages = []
    for stage in fast.stages:
        short = {name: value for name, value in less.items() if hasattr(stage.attack, name)}
        stages.append(replace(stage, attack=replace(stage.attack, **short)))  # type: ignore[type-var]
    return Plan(tuple(stages), members_of(BRIEF, threat))


def assert_same(one: Any, other: Any, order: Any = slice(None)) -> None:
    """Compare outcomes image by image, those of the first in another order where one is given."""
    assert list(one.predictions) == list(other.predictions)
    for table in ("predictions", "margins", "distances", "stages"):
        assert list(getattr(one, table)) == list(getattr(other, table))
        for name, values in getattr(one, table).items():
            assert (values[order] == getattr(other, table)[name]).all(), (table, name)


def test_the_plan_fast_ends_with_the_verdicts_of_autoattack_on_a_tiny_model() -> None:
    model, data = firm(40, factor=20.0)
    found = evaluate(model, data, {"fast": registry.build("plan", "fast", SMALL)}, audit=100.0)
    # Whatever attacks AutoAttack makes, what it breaks at a tenth of its budget must not survive.
    reference = evaluate(model, data, build("autoattack(steps=10, queries=50)", SMALL)).outcomes
    assert 0 < found.outcomes.correct().sum() < found.outcomes.correct("clean").sum()
    assert (found.outcomes.correct() <= reference.correct()).all()


@pytest.mark.parametrize("batch_size", [1, 7, 250])
def test_outcomes_of_a_plan_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    model, data = firm()
    whole = evaluate(model, data, {"brief": brief()}, batch_size=64)
    other = evaluate(model, data, {"brief": brief()}, batch_size=batch_size)
    assert 0 < whole.outcomes.correct().sum() < whole.outcomes.correct("clean").sum()
    assert len(set(whole.outcomes.stages["brief"])) > 1
    assert_same(whole.outcomes, other.outcomes)
    assert whole.header["attacks"]["brief"]["audit"] == other.header["attacks"]["brief"]["audit"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mask", [None, *MASKS[:1]])
def test_outcomes_of_a_plan_follow_the_image_when_the_order_changes(seed: int, mask: Any) -> None:
    model, data = firm(100)
    model = model if mask is None else mask(model)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    straight = evaluate(model, data, {"brief": brief()}, audit=5.0)
    mixed = evaluate(model, data.subset(order), {"brief": brief()}, audit=5.0)
    assert_same(straight.outcomes, mixed.outcomes, order.numpy())
    flags = [{entry["flag"] for entry in result.header["flags"]} for result in (straight, mixed)]
    assert flags[0] == flags[1]


def crashing(after: int) -> Any:
    """Return a watcher that stands for a power cut after so many batches."""
    calls = itertools.count(1)

    def watch(seen: EvaluationProgress) -> None:
        if next(calls) == after:
            raise Crash

    return watch


def test_a_plan_goes_on_after_a_crash_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = firm(40)
    moments = list[EvaluationProgress]()
    whole = evaluate(model, data, {"brief": brief()}, batch_size=20, watch=moments.append).outcomes
    assert len(moments) > 8
    for moment in range(1, len(moments) + 1):
        folder = tmp_path / str(moment)
        with pytest.raises(Crash):
            evaluate(model, data, {"brief": brief()}, batch_size=20, directory=folder, watch=crashing(moment))
        again = list[EvaluationProgress]()
        resumed = evaluate(model, data, {"brief": brief()}, batch_size=20, directory=folder, watch=again.append)
        assert len(again) == len(moments) - moment, "finished batches were attacked again"
        assert_same(whole, resumed.outcomes)
        assert_same(whole, Result.read(folder).outcomes)
        assert sorted(path.name for path in folder.iterdir()) == ["examples.npz", "outcomes.npz", "result.json"]


def test_a_crash_may_follow_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = firm(40)
    whole, crashes = evaluate(model, data, {"brief": brief()}, batch_size=20).outcomes, 0
    while True:
        try:
            result = evaluate(
                model, data, {"brief": brief()}, batch_size=7 + crashes, directory=tmp_path, watch=crashing(2)
            )
            break
        except Crash:
            crashes += 1
    assert crashes > 5
    assert_same(whole, result.outcomes)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.__name__)
def test_on_a_masked_model_every_survivor_of_a_plan_meets_the_full_suite(mask: type[nn.Module]) -> None:
    model, data = firm()
    masked = mask(model).eval()
    found = evaluate(masked, data, {"brief": brief()})
    full = evaluate(masked, data, build(BRIEF, SMALL)).outcomes
    view = found.header["attacks"]["brief"]
    assert (found.outcomes.correct() <= full.correct()).all(), "the plan missed what its suite breaks"
    if mask.__name__ in ("Rounded", "Cut", "Frozen"):
        assert any("zero_gradient" in reason for reason in view["reasons"])
        assert view["audit"] is None
        assert [stage["name"] for stage in view["stages"]][-4:] == [f"full: {member}" for member in view["full"]]


@pytest.mark.parametrize("audit", [0.0, 5.0])
@pytest.mark.parametrize("mask", [None, *MASKS[:1]])
def test_the_counts_of_the_stages_add_up(audit: float, mask: Any) -> None:
    model, data = firm()
    model = model if mask is None else mask(model)
    attacks = {"brief": brief(), BRIEF: build(BRIEF, SMALL)[BRIEF], "pgd": build("pgd", SMALL)["pgd"]}
    assert isinstance(attacks[BRIEF], Ensemble)
    result = evaluate(model, data, attacks, audit=audit)
    outcomes, clean = result.outcomes, result.outcomes.counts("clean")
    assert set(outcomes.stages) == {"brief", BRIEF}
    for view in outcomes.stages:
        stages = result.document["attacks"][view]["stages"]
        lost = np.zeros(4, dtype=int)
        for stage in stages:
            assert (np.array(stage["attacked"]) <= clean - lost).all(), "only survivors are attacked"
            assert (np.array(stage["broken"]) <= stage["attacked"]).all()
            lost += stage["broken"]
        assert lost.tolist() == (clean - outcomes.counts(view)).tolist()
        broken = outcomes.correct("clean") & ~outcomes.correct(view)
        assert ((outcomes.stages[view] != "") == broken).all()
        by_name = Counter[str]()
        for stage in stages:
            by_name[stage["name"]] += sum(stage["broken"])
        assert Counter(outcomes.stages[view][broken].tolist()) == +by_name
        assert stages[0]["attacked"] == clean.tolist()


def test_without_an_audit_the_result_says_so() -> None:
    model, data = firm()
    view = evaluate(model, data, {"brief": brief()}, audit=0.0).header["attacks"]["brief"]
    assert view["audit"] is None
    assert view["reasons"] == ()
    assert not any(stage["name"].startswith(("audit", "full")) for stage in view["stages"])


@pytest.mark.parametrize("audit", [-0.1, 100.5, float("nan")])
def test_an_audit_that_cannot_be_is_refused(audit: float) -> None:
    with pytest.raises(InputError, match=r"must be between 0 and 100 per cent of the images\.$"):
        evaluate(*firm(4), {"brief": brief()}, audit=audit)


@pytest.mark.parametrize("rows", [0, -3])
def test_a_fixed_shape_of_no_image_is_refused(rows: int) -> None:
    with pytest.raises(InputError, match="from 1 to"):
        evaluate(*firm(4), {"brief": brief()}, fixed_shape=rows)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_images_is_enough_for_a_plan(n: int) -> None:
    model, data = firm()
    result = evaluate(model, data.subset(torch.arange(1, n + 1)), {"brief": brief(ThreatModel("Linf", 0.001))})
    assert result.outcomes.correct().all()
    assert result.header["attacks"]["brief"]["audit"]["at_most"] == 0


def test_a_plan_on_images_that_are_all_wrong_has_nothing_to_do() -> None:
    model, data = firm()
    view = evaluate(model, data.subset(torch.arange(0, 60, 10)), {"brief": brief()}).header["attacks"]["brief"]
    assert "stages" not in view
    assert (view["reasons"], view["audit"]) == ((), None)


# Attacks added later.


class Remembering:
    """An attack that remembers which images it was given."""

    def __init__(self, attack: PGD) -> None:
        self.attack, self.threat, self.given = attack, attack.threat, list[int]()

    def __repr__(self) -> str:
        return f"Remembering({self.attack!r})"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        self.given += noise.index.tolist()
        return self.attack(model, x, y, noise=noise)


FIRST = build("pgd(steps=1)", SMALL)


def added() -> dict[str, Any]:
    return {**FIRST, "later": Remembering(PGD(SMALL, keep="success")), "brief": brief()}


def test_an_attack_added_later_is_run_on_the_survivors_alone(tmp_path: Path) -> None:
    model, data = firm()
    first = evaluate(model, data, FIRST, directory=tmp_path)
    attacks = added()
    both = evaluate(model, data, attacks, examples=0, directory=tmp_path)
    assert sorted(attacks["later"].given) == np.flatnonzero(first.outcomes.correct()).tolist()
    entries = both.document["attacks"]
    assert entries["later"]["after"] == entries["brief"]["after"] == ["pgd(steps=1)"]
    assert "after" not in entries["pgd(steps=1)"]
    assert_same(Result.read(tmp_path).outcomes, both.outcomes)


def test_an_attack_added_later_leaves_the_older_views_as_they_were(tmp_path: Path) -> None:
    model, data = firm()
    first = evaluate(model, data, FIRST, directory=tmp_path)
    both = evaluate(model, data, added(), directory=tmp_path)
    assert both.document["attacks"]["pgd(steps=1)"] == first.document["attacks"]["pgd(steps=1)"]
    assert_same(both.outcomes.first(1), first.outcomes)


def test_after_an_attack_was_added_the_worst_case_is_that_of_all(tmp_path: Path) -> None:
    model, data = firm()
    evaluate(model, data, FIRST, directory=tmp_path)
    later = evaluate(model, data, added(), directory=tmp_path).outcomes
    together = evaluate(model, data, {**FIRST, "later": PGD(SMALL, keep="success")}).outcomes
    assert later.correct().sum() < later.correct("pgd(steps=1)").sum()
    assert (later.correct("later") == together.correct()).all()
    assert (later.correct() == (later.correct("later") & later.correct("brief"))).all()


def test_a_crash_while_an_attack_is_added_leaves_the_older_result_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = firm()
    first = evaluate(model, data, FIRST, directory=tmp_path / "whole")
    moments = list[EvaluationProgress]()
    whole = evaluate(model, data, added(), batch_size=20, directory=tmp_path / "whole", watch=moments.append)
    for moment in range(1, len(moments) + 1, 3):
        folder = tmp_path / str(moment)
        evaluate(model, data, FIRST, directory=folder)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(Crash):
            evaluate(model, data, added(), batch_size=20, directory=folder, watch=crashing(moment))
        assert {name: (folder / name).read_bytes() for name in before} == before
        kept = evaluate(model, data, FIRST, directory=folder, watch=lambda seen: pytest.fail("attacked again"))
        assert_same(kept.outcomes, first.outcomes)
        again = list[EvaluationProgress]()
        resumed = evaluate(model, data, added(), batch_size=20, directory=folder, watch=again.append)
        assert len(again) == len(moments) - moment, "finished batches were attacked again"
        assert_same(whole.outcomes, resumed.outcomes)
        assert sorted(path.name for path in folder.iterdir()) == ["examples.npz", "outcomes.npz", "result.json"]


def test_a_crash_while_the_longer_result_is_written_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = firm()
    first = evaluate(model, data, FIRST, directory=tmp_path)

    def power_cut(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("classwise.metrics.result.write_json", power_cut)
        with pytest.raises(Crash):
            evaluate(model, data, added(), directory=tmp_path)
    assert_same(Result.read(tmp_path).outcomes, first.outcomes)
    assert Result.read(tmp_path).document == first.document
    resumed = evaluate(model, data, added(), directory=tmp_path)
    assert list(resumed.outcomes.attacks) == ["pgd(steps=1)", "later", "brief"]
    assert resumed.document["attacks"]["later"]["after"] == ["pgd(steps=1)"]


def test_records_that_a_crash_left_beside_a_finished_result_are_in_nobody_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = firm()
    with monkeypatch.context() as patch:
        patch.setattr(records, "clear", lambda *_: None)
        evaluate(model, data, FIRST, directory=tmp_path)
    (tmp_path / ".result.json.abc.partial").write_text("half")
    assert (tmp_path / "partial-0-of-1.npz").exists()
    evaluate(model, data, FIRST, directory=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.npz", "outcomes.npz", "result.json"]
    with monkeypatch.context() as patch:
        patch.setattr(records, "clear", lambda *_: None)
        evaluate(model, data, FIRST, directory=tmp_path / "other")
    evaluate(model, data, added(), directory=tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == [
        "examples.npz",
        "outcomes.npz",
        "result.json",
    ]


def test_the_older_result_may_be_asked_for_while_a_longer_one_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = firm()
    evaluate(model, data, FIRST, directory=tmp_path)
    with pytest.raises(Crash):
        evaluate(model, data, added(), batch_size=20, directory=tmp_path, watch=crashing(6))
    evaluate(model, data, FIRST, directory=tmp_path)
    assert (tmp_path / "partial-0-of-1.npz").exists(), "the longer one's records were thrown away"


# Several processes.


def _rank(rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks)
    )
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    os.environ.update(TORCHELASTIC_RUN_ID="test", GROUP_RANK="0", LOCAL_WORLD_SIZE=str(ranks))
    fabric = Fabric(accelerator="cpu", devices=ranks, strategy="ddp", plugins=[TorchElasticEnvironment()])
    fabric.launch()
    model, data = blurry()
    evaluate(model, data, build("pgd", ThreatModel("Linf", 0.02)), batch_size=16, fabric=fabric, directory=folder)
    plan, firm_model, firm_data = Path(folder) / "plan", *firm()
    for attacks in (FIRST, added()):
        evaluate(firm_model, firm_data, attacks, batch_size=16, fabric=fabric, directory=plan)
    fabric.barrier()
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_two_processes_give_the_verdicts_of_one(tmp_path: Path) -> None:
    port = _free_port()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_rank, args=(r, 2, port, str(tmp_path))) for r in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    model, data = blurry()
    one: Any = evaluate(model, data, build("pgd", ThreatModel("Linf", 0.02))).outcomes
    two = Result.read(tmp_path).outcomes
    assert (one.predictions["pgd"] == two.predictions["pgd"]).all()
    assert (one.clean == two.clean).all()
    assert np.allclose(one.margins["pgd"], two.margins["pgd"], atol=1e-5)
    for attacks in (FIRST, added()):
        one = evaluate(*firm(), attacks, directory=tmp_path / "alone")
    two = Result.read(tmp_path / "plan")
    assert_same(one.outcomes, two.outcomes)
    assert one.document["attacks"]["brief"]["audit"] == two.document["attacks"]["brief"]["audit"]
    assert sorted(path.name for path in (tmp_path / "plan").iterdir()) == [
        "examples.npz",
        "outcomes.npz",
        "result.json",
    ]


def test_a_plan_whose_stage_leaves_the_ball_is_flagged() -> None:
    plan = Plan((Stage("claim", Claim(0.2)),))
    result = evaluate(Bands().eval(), planted([[0.25] * 3, [0.25] * 3]), {"mine": plan})
    assert ("outside_threat", "mine") in [(flag["flag"], flag["attack"]) for flag in result.header["flags"]]


def test_the_flags_of_the_older_attacks_stay_when_one_is_added(tmp_path: Path) -> None:
    data, first = planted([[0.25] * 3, [0.25] * 3]), {"claim": Claim(0.2)}
    evaluate(Bands().eval(), data, first, directory=tmp_path)
    result = evaluate(Bands().eval(), data, {**first, **build("pgd", THREAT)}, directory=tmp_path)
    assert ("outside_threat", "claim") in [(flag["flag"], flag["attack"]) for flag in result.header["flags"]]


def test_verdicts_are_float32_inside_a_callers_autocast() -> None:
    model, data = blurry()
    attacks = build("pgd(steps=3)", ThreatModel("Linf", 0.02))
    plain = evaluate(model, data, attacks).outcomes
    with torch.autocast("cpu", torch.bfloat16):
        cast = evaluate(model, data, attacks).outcomes
    assert (plain.margins["clean"] == cast.margins["clean"]).all()


def test_the_suite_of_a_plan_is_called_autoattack_only_if_it_is() -> None:
    model, data = blurry(n=20)
    stages = (Stage("fgsm", build("fgsm", ThreatModel("Linf", 0.01))["fgsm"]),)
    mine = Plan(stages, members_of("square(queries=2)", ThreatModel("Linf", 0.01)))
    result = evaluate(model, data, {"mine": mine})
    header = result.header["attacks"]["mine"]
    assert header["suite"] == "square(queries=2)"
    assert header["attack"] == described(mine) == of_older_text(header["settings"])
    jsonschema.validate(result.document, json.loads((Path(metrics.__file__).parent / "result.schema.json").read_text()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attacks": "pgd"}, r"build_attacks\('pgd', threat\) returns, not 'pgd'"),
        ({"data": ([], [])}, "The data of an evaluation are classwise.Images or the like, not a tuple"),
        ({"seed": -1}, "The seed is -1"),
        ({"seed": 2**63}, "whole number from 0"),
        ({"attacks": build("pgd", ThreatModel("L1", 600))}, "Within the L1 radius 600 every image"),
    ],
)
def test_what_python_may_hand_over_by_mistake_is_said(changes: dict[str, Any], says: str) -> None:
    model, data = blurry()
    given = {"data": data, "attacks": build("pgd", ThreatModel("Linf", 0.02)), **changes}
    with pytest.raises(InputError, match=says):
        evaluate(model, **given)


def test_attacks_without_a_threat_are_refused() -> None:
    with pytest.raises(InputError, match=r"Attacks need a threat such as .*, not 0\.1"):
        build("pgd", 0.1)  # type: ignore[arg-type]
