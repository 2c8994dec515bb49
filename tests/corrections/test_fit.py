"""Fitting a decision rule under attack: what it gains, what it may cost, and which images it may see."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models_for_tests import Smooth, Tallest, affine, labelled, planted
from tests.strategies import examples
from torch import Tensor, nn

from classwise import registry
from classwise.attacks import build
from classwise.corrections.fit import choice, repair
from classwise.corrections.fitted import ADAPTIVE, NON_ADAPTIVE, Repair, paired_change
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation.run import evaluate
from classwise.metrics.paired import Pairs, change_intervals
from classwise.models import load_model, save_weights
from classwise.models.corrected import Corrected, fitted_on_test
from classwise.runtime.inference import forward
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.05)
PGD = build("margin-pgd(steps=3)", THREAT)
RULES = registry.names("correction")
fit = partial(repair, folds=0)
"""Without the promise, which most tests do not look at."""


def images(x: Tensor, y: Tensor, classes: int, split: str = "train") -> Images:
    return Images.from_arrays(x, y, classes=[f"class {k}" for k in range(classes)], split=split)


def smooth(split: str = "train", n: int = 60) -> tuple[nn.Module, Images]:
    """Return a small random network and images that it is mostly right on."""
    model = Smooth(3, 16)
    x, y = labelled(model, n, (1, 4, 4))
    return model, images((255 * x).round() / 255, y, 3, split)


def smooth_with(classes: int) -> Images:
    """Return images of more classes than the network has logits."""
    x = labelled(Smooth(3, 16), 60, (1, 4, 4))[0]
    return images((255 * x).round() / 255, torch.arange(60) % classes, classes)


class Linear(nn.Module):
    """Ends in a linear layer, as most networks do, with weights of unlike length."""

    def __init__(self) -> None:
        super().__init__()
        source = affine(3, 16)
        self.layer = nn.Linear(16, 3)
        self.layer.weight.data = source.weight.data * torch.tensor([[0.3], [1.0], [2.0]])
        self.layer.bias.data = -0.5 * self.layer.weight.data.sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def linear() -> tuple[nn.Module, Images]:
    model = Linear()
    x, y = labelled(model, 60, (1, 4, 4))
    return model, images((255 * x).round() / 255, y, 3)


def tallest() -> tuple[nn.Module, Images]:
    """Return the model whose class is the brightest pixel, and images of which those of class 0 lead by the least."""
    x, y = planted([[0.06, 0.07], [0.3, 0.32], [0.3, 0.34]])
    return Tallest(), images((255 * x).round() / 255, y, 3)


# What it gains and costs.


def test_offsets_lift_a_class_whose_lead_the_attack_just_overcomes() -> None:
    """At eps 0.05 leads up to 0.1 break: both of class 0, none of the others.

    An offset of b on class 0 adds b/10 to its leads and takes it from those of the others (logits are ten times the
    pixels), so that any b from 0.4 (0.06 + 0.04 = 0.1) to 2 (0.3 - 0.2 = 0.1) saves all images.
    """
    model, data = tallest()
    for rule in ("iv-offset", "iv-offsets"):
        found = fit(model, data, f"{rule}(step=0.2)", PGD, max_loss=0)
        first, best = found.rounds[0], found.rounds[found.chosen]
        assert first.outcomes.accuracy(ADAPTIVE).tolist() == [0, 1, 1]
        assert best.outcomes.accuracy(ADAPTIVE).tolist() == [1, 1, 1]
        offset = found.model.correction.offset
        assert 0.4 - 2 / 25 < float(offset[0] - offset[1:].max()) < 2 + 2 / 25, "to the nearest of 256 grey levels"


@pytest.mark.parametrize("rule", RULES)
def test_adaptive_robustness_is_at_most_the_non_adaptive_and_that_at_most_the_clean(rule: str) -> None:
    model, data = linear()
    found = fit(model, data, f"{rule}(rounds=3)", PGD, max_loss=100)
    assert len(found.rounds) > 1
    for each in found.rounds:
        adaptive, fixed, clean = (each.outcomes.correct(view) for view in (ADAPTIVE, NON_ADAPTIVE, "clean"))
        assert (adaptive <= fixed).all()
        assert (fixed <= clean).all()


def test_attacks_on_the_corrected_model_find_what_those_on_the_uncorrected_one_did_not() -> None:
    model, data = smooth()
    found = fit(model, data, "iv-offset(step=0.3, rounds=4)", PGD, max_loss=100)
    last = found.rounds[-1].outcomes
    assert last.correct(ADAPTIVE).sum() < last.correct(NON_ADAPTIVE).sum()


@pytest.mark.parametrize("max_loss", [0.0, 2.0, 20.0])
def test_the_chosen_round_keeps_the_average_and_is_no_worse_for_the_weakest_class(max_loss: float) -> None:
    model, data = smooth()
    found = fit(model, data, "iv-offsets(rounds=4)", PGD, max_loss=max_loss)
    first, best = found.rounds[0], found.rounds[found.chosen]
    assert first.average - best.average <= max_loss / 100 + 1e-9
    assert best.outcomes.accuracy(ADAPTIVE).min() >= first.outcomes.accuracy(ADAPTIVE).min()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0, 100))
@examples(50)
def test_the_choice_has_the_best_worst_class_of_all_that_are_allowed(
    points: list[tuple[float, float]], max_loss: float
) -> None:
    average, worst = zip(*points, strict=True)
    chosen = choice(average, worst, max_loss)
    assert average[0] - average[chosen] <= max_loss / 100 + 1e-9
    for mean, low in points:
        if average[0] - mean <= max_loss / 100:
            assert worst[chosen] >= low


def test_nothing_is_changed_where_nothing_helps() -> None:
    """Every image is right by a wide lead, so that no round is better than none."""
    x, y = planted([[0.4], [0.4], [0.4]])
    found = fit(Tallest(), images((255 * x).round() / 255, y, 3), "iv-offsets(rounds=2)", PGD)
    assert found.chosen == 0
    assert not found.model.correction.offset.any()


def test_the_curve_has_three_prices_and_the_knob_at_nothing_has_one() -> None:
    model, data = tallest()
    assert [tried.max_loss for tried in fit(model, data, "iv-offsets(rounds=1)", PGD, max_loss=4).rounds] == [
        0,
        0,
        2,
        4,
    ]
    assert [tried.max_loss for tried in fit(model, data, "iv-offsets(rounds=1)", PGD, max_loss=0).rounds] == [0, 0]


def test_neither_the_batch_nor_the_mode_of_the_model_matters() -> None:
    model, data = smooth()
    curves = [
        fit(model.train(mode), data, "iv-offsets(rounds=2)", PGD, batch_size=size).curve()
        for mode, size in ((False, 60), (True, 7))
    ]
    assert curves[0] == curves[1]
    assert model.training, "the mode is put back"


def test_the_curve_is_strict_json_with_intervals_and_says_what_it_is_not() -> None:
    model, data = smooth()
    curve = json.loads(json.dumps(fit(model, data, "iv-offsets(rounds=1)", PGD).curve(), allow_nan=False))
    assert "classwise evaluate corrected:DIR" in curve["final_number"]
    assert curve["warning"] is None
    for point in curve["rounds"]:
        assert "illustration" in point["non_adaptive"]["label"]
        for low, high, value in (
            (*point["adaptive"]["accuracy_interval"], point["adaptive"]["accuracy"]),
            (*point["adaptive"]["worst"]["interval"], point["adaptive"]["worst"]["accuracy"]),
        ):
            assert low <= value <= high
    assert [point["chosen"] for point in curve["rounds"]].count(True) == 1


def test_the_class_that_pays_is_named_with_what_it_loses() -> None:
    """Class 0 leads by 0.03 and needs 0.1, so that an offset must take 0.07 from the lead of 0.15, and that breaks."""
    x, y = planted([[0.03, 0.04], [0.15, 0.32], [0.3, 0.34]])
    data = images((255 * x).round() / 255, y, 3)
    found = fit(Tallest(), data, "iv-offset(rounds=3)", PGD, max_loss=100)
    point = found.points[found.chosen]
    assert found.curve()["rounds"][found.chosen]["paying"] == point.paying == {"class 1": -50.0}
    assert (point.adaptive.by_class["class 0"].accuracy, point.adaptive.by_class["class 1"].accuracy) == (1, 0.5)
    assert [point.chosen for point in found.points] == [number == found.chosen for number in range(len(found.rounds))]


def test_the_change_of_the_average_has_the_interval_of_the_images_that_change() -> None:
    """Of 100 images 9 turn right and 1 turns wrong."""
    before = np.array([True] * 50 + [False] * 50)
    after = before.copy()
    after[49:59] = ~after[49:59]
    low, high = change_intervals(Pairs(np.array([9]), np.array([1]), np.array([100])), simultaneous=False)
    assert paired_change(before, after) == pytest.approx((0.08, low[0], high[0]))


# What it promises.


def test_the_promise_judges_every_image_by_a_fit_that_did_not_see_it() -> None:
    model, data = smooth()
    result = repair(model, data, "iv-offsets(rounds=1)", PGD, folds=3)
    promise = result.promise
    assert promise is not None
    assert promise.folds == 3
    assert promise.corrected.index.tolist() == list(range(60))
    assert promise.before.average.accuracy == result.points[0].adaptive.average.accuracy
    assert promise.change.value == pytest.approx(promise.after.average.accuracy - promise.before.average.accuracy)
    assert promise.change.low <= promise.change.value <= promise.change.high
    stored = json.loads(json.dumps(result.curve(), allow_nan=False))["promise"]
    assert stored["corrected"]["worst"]["accuracy"] == promise.after.worst.accuracy


def test_a_rise_that_is_of_the_choice_alone_is_not_promised() -> None:
    """Classes are alike, and noise alone tells them apart: the weakest rises where it is fitted, less elsewhere."""
    rises, promised = list[float](), list[float]()
    attack = build("margin-pgd(steps=2)", ThreatModel("Linf", 0.01))
    for seed in range(3):
        y = torch.arange(5).repeat(24)
        noise = torch.randn(120, 5, generator=torch.Generator().manual_seed(seed))
        x = (0.5 + 0.12 * nn.functional.one_hot(y, 5) + 0.06 * noise).clamp(0.1, 0.9)
        data = images((255 * x[:, None, None]).round() / 255, y, 5)
        result = repair(Tallest(), data, "iv-offsets(rounds=1)", attack, max_loss=5)
        assert result.promise is not None
        before, after = (result.points[number].adaptive.worst.accuracy for number in (0, result.chosen))
        rises.append(after - before)
        promised.append(result.promise.after.worst.accuracy - before)
    assert min(rises) > 0.02
    assert sum(promised) < sum(rises)


def test_a_class_with_one_image_gets_no_promise() -> None:
    model, data = smooth()
    first = (data.y == 0).nonzero().flatten()[:1]
    part = data.subset(torch.cat([first, (data.y != 0).nonzero().flatten()]))
    assert repair(model, part, "iv-offsets(rounds=1)", PGD).promise is None


def test_few_images_and_classes_that_are_never_right_are_said() -> None:
    model, data = smooth()
    few = fit(model, data, "iv-offsets(rounds=1)", PGD).warnings
    assert any("below 100 a class" in sentence and "300 are recommended" in sentence for sentence in few)
    swapped = replace(data, y=torch.where(data.y < 2, 1 - data.y, data.y))
    never = fit(model, swapped, "iv-offsets(rounds=1)", PGD).warnings
    assert any("no clean image of class 0, class 1 right" in sentence for sentence in never)
    floor = fit(model, data, "iv-offsets(rounds=1)", PGD, target="floor(level=0.99)", max_loss=0).warnings
    assert any("floor of 99.0% is out of reach" in sentence for sentence in floor)


# Which images it may see.


def test_test_images_are_refused_unless_forced() -> None:
    model, data = smooth("test")
    with pytest.raises(InputError, match=r"test images of arrays .* held-out images .* --fit-on-test"):
        fit(model, data, "iv-offsets", PGD)
    val = replace(data, name="imagenet", split="val")
    with pytest.raises(InputError, match="val images of imagenet"):
        fit(model, val, "iv-offsets", PGD)


def test_a_fit_on_test_images_is_stamped_in_every_output(tmp_path: Path) -> None:
    net, data = load_model("digits_cnn", num_classes=10, shape=(1, 8, 8)), digits("test")
    found = fit(net, data, "iv-offsets(rounds=1)", PGD, fit_on_test=True)
    found.write(tmp_path, "digits_cnn")
    for name in ("curve.json", "corrected.json"):
        assert json.loads((tmp_path / name).read_text())["fitted_on_test"] is True
    assert "fitted on test images" in found.curve()["warning"]
    loaded = load_model(f"corrected:{tmp_path}", num_classes=10, shape=(1, 8, 8))
    assert fitted_on_test(loaded)
    result = evaluate(loaded, data, build("fgsm", THREAT))
    assert "fitted_on_test" in {flag["flag"] for flag in result.header["flags"]}


def test_flags_say_which_images_a_correction_has_seen_and_where_it_was_fitted() -> None:
    model, data = smooth()
    corrected = fit(model, data.subset(torch.arange(30)), "iv-offsets(rounds=1)", PGD).model

    def flags(images: Images, eps: float = 0.05) -> dict[str, Any]:
        result = evaluate(corrected, images, build("fgsm", ThreatModel("Linf", eps)))
        return {flag["flag"]: flag["value"] for flag in result.header["flags"]}

    assert flags(data)["fitted_on_test"] == 30
    unseen = data.subset(torch.arange(30, 60))
    assert not flags(unseen).keys() & {"fitted_on_test", "fitted_elsewhere"}
    assert flags(unseen, 0.1).keys() & {"fitted_on_test", "fitted_elsewhere"} == {"fitted_elsewhere"}
    assert "fitted_elsewhere" in flags(replace(unseen, name="other"))


def test_a_correction_of_a_file_whose_code_changed_under_the_same_weights_is_refused(tmp_path: Path) -> None:
    path, folder = tmp_path / "mine.py", tmp_path / "corrected"
    code = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear((x - MEAN).flatten(1))

def make():
    return Mine()
"""
    path.write_text(code.replace("MEAN", "0.5"))
    text, shape = f"{path}:make", (1, 8, 8)
    net = load_model(text, num_classes=10, shape=shape)
    fit(net, digits("test"), "iv-offsets(rounds=1)", PGD, fit_on_test=True).write(folder, text)
    load_model(f"corrected:{folder}", num_classes=10, shape=shape, trust_code=True)
    path.write_text(code.replace("MEAN", "0.45"))
    with pytest.raises(InputError, match=r"corrects a model of other code: .* or fit the correction again"):
        load_model(f"corrected:{folder}", num_classes=10, shape=shape, trust_code=True)


def test_a_fit_on_held_out_images_is_not_stamped() -> None:
    model, data = smooth()
    found = fit(model, data, "iv-offsets(rounds=1)", PGD, fit_on_test=True)
    assert not fitted_on_test(found.model)
    assert not found.record["fitted_on_test"]
    assert {attack["kind"] for attack in found.record["attack_settings"].values()} == {"PGD"}


def test_the_record_names_every_image_that_was_seen() -> None:
    model, data = smooth()
    part = data.subset(torch.arange(0, 60, 2))
    assert fit(model, part, "iv-offsets(rounds=1)", PGD).record["index"] == list(range(0, 60, 2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule": "iv-offsts"}, "did you mean 'iv-offsets'"),
        ({"rule": "iv-weightnorm"}, "ends in a linear layer"),
        ({"attacks": {}}, "at least one attack"),
        ({"data": smooth_with(4)}, "3 logits, the data 4 classes"),
        ({"max_loss": -1.0}, "between 0 and 100"),
        ({"max_loss": float("nan")}, "between 0 and 100"),
        ({"folds": 1}, "must have 2 to 100, or 0"),
        ({"target": "floor(classes='dog')"}, "Unknown class 'dog'"),
        ({"target": "weakst"}, "did you mean 'weakest'"),
        ({"data": smooth()[1].subset((smooth()[1].y != 1).nonzero().flatten())}, "Class 'class 1' has no images"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    model, data = smooth()
    settings: dict[str, Any] = {"data": data, "rule": "iv-offsets", "attacks": PGD, "folder": tmp_path, **change}
    with pytest.raises(InputError, match=says):
        fit(model, **settings)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# The folder.


def digits(split: str = "train") -> Images:
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    return Images.from_arrays(x, np.arange(30) % 10, split=split)


@pytest.fixture
def fitted(tmp_path: Path) -> tuple[Repair, Path]:
    """Fit and write a correction of weights in a file."""
    net = load_model("digits_cnn", num_classes=10, shape=(1, 8, 8))
    save_weights(net, tmp_path / "net.safetensors")
    found = fit(net, digits(), "iv-scale(step=0.3, rounds=2)", PGD, max_loss=100)
    found.write(tmp_path / "corrected", f"digits_cnn@{tmp_path / 'net.safetensors'}")
    return found, tmp_path / "corrected"


def load(folder: Path) -> nn.Module:
    return load_model(f"corrected:{folder}", num_classes=10, shape=(1, 8, 8))


def test_a_corrected_model_is_read_back_as_it_was(fitted: tuple[Repair, Path]) -> None:
    found, folder = fitted
    x = digits().fetch(torch.arange(30))
    loaded = load(folder)
    assert isinstance(loaded, Corrected)
    assert torch.equal(forward(loaded, x), forward(found.model, x))
    assert torch.equal(forward(loaded, x), found.model.correction(forward(found.model.model, x)))


def test_a_model_whose_weights_have_changed_is_refused(fitted: tuple[Repair, Path]) -> None:
    folder = fitted[1]
    other = load_model("digits_cnn", num_classes=10, shape=(1, 8, 8), seed=1)
    save_weights(other, folder.parent / "net.safetensors")
    with pytest.raises(InputError, match=r"its weights are now .* fit the correction again"):
        load(folder)


def test_a_corrected_model_is_corrected_once_more(fitted: tuple[Repair, Path], tmp_path: Path) -> None:
    model = load(fitted[1])
    found = fit(model, digits(), "iv-offsets(rounds=1)", PGD)
    found.write(tmp_path / "twice", f"corrected:{fitted[1]}")
    x = digits().fetch(torch.arange(30))
    assert torch.equal(forward(load(tmp_path / "twice"), x), forward(found.model, x))


def test_a_folder_is_not_written_twice(fitted: tuple[Repair, Path]) -> None:
    with pytest.raises(InputError, match="holds a corrected model already"):
        fitted[0].write(fitted[1], "digits_cnn")


def test_damaged_folders_are_refused_in_a_sentence(fitted: tuple[Repair, Path]) -> None:
    folder = fitted[1]
    record = json.loads((folder / "corrected.json").read_text())
    with pytest.raises(InputError, match="holds no corrected model"):
        load(folder / "nowhere")
    for content, says in (
        ("{", "cannot be read"),
        ("[]", "is no object"),
        (json.dumps({**record, "rule": "iv-offsets"}), "does not hold 'iv-offsets'"),
        (json.dumps({**record, "rule": "iv-none"}), "Unknown correction 'iv-none'"),
    ):
        (folder / "corrected.json").write_text(content)
        with pytest.raises(InputError, match=says):
            load(folder)
    (folder / "corrected.json").write_text(json.dumps(record))
    (folder / "correction.safetensors").unlink()
    with pytest.raises(InputError, match="no weights file"):
        load(folder)
