import json
import os
from pathlib import Path

import pytest
import torch

from classwise.errors import InputError
from classwise.models import load_model, read_weights, save_weights, weights_sha256

DIGITS = {"num_classes": 10, "shape": (1, 8, 8)}
SHARED = os.environ.get("CLASSWISE_SHARED")


def test_fresh_weights_follow_the_seed():
    a, b, c = (weights_sha256(load_model("digits_cnn", **DIGITS, seed=seed)) for seed in (0, 0, 1))
    assert a == b != c


def test_fresh_weights_do_not_depend_on_the_callers_random_state():
    torch.manual_seed(1)
    a = weights_sha256(load_model("digits_cnn", **DIGITS))
    torch.manual_seed(2)
    assert weights_sha256(load_model("digits_cnn", **DIGITS)) == a


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_model("small_cnn", num_classes=10, shape=(1, 28, 28))
    assert torch.equal(torch.rand(3), expected)


def test_a_default_device_of_the_callers_is_not_used():
    with torch.device("meta"):
        model = load_model("digits_cnn", **DIGITS)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_the_model_is_in_eval_mode_and_can_be_trained():
    model = load_model("small_resnet", num_classes=10, shape=(3, 32, 32))
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_settings_reach_the_architecture():
    model = load_model("small_cnn(dropout=0.25)", num_classes=10, shape=(1, 28, 28))
    assert model.classifier.drop.p == 0.25


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("digit_cnn", "Unknown model 'digit_cnn': did you mean 'digits_cnn'"),
        ("digits_cnn(width=3)", "has no setting 'width'"),
        ("small_cnn", "at least 16x16"),
        ("digits_cnn@none.pt", "no weights file none.pt"),
        ("none.pt", "write ARCH@none.pt, as in small_cnn@none.pt"),
        ("none.pt2", "write export:none.pt2"),
        ("run:", "write run:FOLDER or run:FOLDER@last"),
        ("", "is not a name"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_sentence(text, says):
    with pytest.raises(InputError, match=says):
        load_model(text, **DIGITS)


@pytest.mark.parametrize("known", [{}, {"num_classes": 10}, {"shape": (1, 8, 8)}])
def test_an_architecture_needs_classes_and_shape(known):
    with pytest.raises(InputError, match="needs the number of classes and the image shape"):
        load_model("digits_cnn", **known)


@pytest.fixture
def weights(tmp_path):
    model = load_model("digits_cnn(mean=0.5, std=0.25)", **DIGITS, seed=5)
    save_weights(model, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors", model


def test_weights_from_a_file_bring_their_normalisation(weights):
    path, model = weights
    assert weights_sha256(load_model(f"digits_cnn@{path}", **DIGITS)) == weights_sha256(model)


def test_settings_that_contradict_the_file_are_refused(weights):
    with pytest.raises(InputError, match=r"another normalize\.mean than the model; leave mean and std out"):
        load_model(f"digits_cnn(mean=0.1, std=0.25)@{weights[0]}", **DIGITS)


def test_weights_for_other_classes_than_the_datas_are_called_that(weights):
    with pytest.raises(InputError, match="has weights for 10 classes, the model has 7"):
        load_model(f"digits_cnn@{weights[0]}", num_classes=7, shape=(1, 8, 8))


def test_a_path_with_an_at_sign_works(weights, tmp_path):
    (tmp_path / "a@b").mkdir()
    moved = weights[0].rename(tmp_path / "a@b" / "w.safetensors")
    assert weights_sha256(load_model(f"digits_cnn@{moved}", **DIGITS)) == weights_sha256(weights[1])


def test_a_home_folder_is_expanded_after_a_prefix(weights, monkeypatch):
    monkeypatch.setenv("HOME", str(weights[0].parent))
    load_model("digits_cnn@~/w.safetensors", **DIGITS)


@pytest.fixture
def run(tmp_path):
    """A run folder as training writes it, with different best and last weights."""
    record = {"model": "digits_cnn", "classes": [str(digit) for digit in range(10)], "shape": [1, 8, 8]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    for seed, which in enumerate(("best", "last")):
        save_weights(
            load_model("digits_cnn(mean=0.5, std=0.5)", **DIGITS, seed=seed), tmp_path / f"{which}.safetensors"
        )
    return tmp_path


@pytest.mark.parametrize(("ending", "which"), [("", "best"), ("@best", "best"), ("@last", "last")])
def test_a_run_gives_its_best_weights_unless_asked_for_the_last(run, ending, which):
    model, state = load_model(f"run:{run}{ending}"), read_weights(run / f"{which}.safetensors")
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)


def test_a_run_knows_its_own_classes_and_shape(run):
    assert load_model(f"run:{run}")(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"num_classes": 100, "shape": (1, 8, 8)}, "was trained on 10 classes, the data have 100"),
        ({"num_classes": 10, "shape": (3, 32, 32)}, "was trained on 1x8x8 images, the data are 3x32x32"),
    ],
)
def test_a_run_on_other_data_is_refused(run, data, says):
    with pytest.raises(InputError, match=says):
        load_model(f"run:{run}", **data)


def edit(run, **changes):
    record = json.loads((run / "run.json").read_text()) | changes
    kept = {key: value for key, value in record.items() if value is not None}
    (run / "run.json").write_text(json.dumps(kept))


def test_a_run_that_started_from_a_weights_file_does_not_need_it_any_more(run):
    edit(run, model="digits_cnn@gone.safetensors")
    load_model(f"run:{run}")


def test_a_run_that_started_from_another_run_loads_its_own_weights(run, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    edit_target = {"model": f"run:{run}@last", "classes": list("0123456789"), "shape": [1, 8, 8]}
    (second / "run.json").write_text(json.dumps(edit_target))
    model = load_model("digits_cnn(mean=0.5, std=0.5)", **DIGITS, seed=9)
    save_weights(model, second / "best.safetensors")
    assert weights_sha256(load_model(f"run:{second}")) == weights_sha256(model)


def test_a_run_of_a_users_own_network_loads(run):
    (run / "net.py").write_text(
        "from classwise.models import digits_cnn\ndef make():\n    return digits_cnn(10, (1, 8, 8), 0.5, 0.5)\n"
    )
    edit(run, model=f"{run / 'net.py'}:make")
    model, state = load_model(f"run:{run}", trust_code=True), read_weights(run / "best.safetensors")
    assert torch.equal(model.conv1.weight, state["conv1.weight"])


def test_a_folder_without_a_record_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"is no folder of a run: it has no run\.json"):
        load_model(f"run:{tmp_path}")


@pytest.mark.parametrize("key", ["model", "classes", "shape"])
def test_a_record_that_lacks_a_key_is_named(run, key):
    edit(run, **{key: None})
    with pytest.raises(InputError, match=f"run.json lacks {key}"):
        load_model(f"run:{run}")


@pytest.mark.parametrize("text", ["{", "7", ""])
def test_a_record_that_is_no_json_object_is_refused(run, text):
    (run / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        load_model(f"run:{run}")


def test_a_run_without_the_weights_says_which_it_has(run):
    (run / "best.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no best\.safetensors \(weights there: last\.safetensors\)"):
        load_model(f"run:{run}")


def test_the_folder_of_a_run_without_its_prefix_is_recognised(run):
    with pytest.raises(InputError, match=f"is the folder of a run; write run:{run}"):
        load_model(str(run), **DIGITS)


def test_a_folder_named_like_an_architecture_does_not_hide_it(run, monkeypatch):
    run.rename(run.parent / "digits_cnn")
    monkeypatch.chdir(run.parent)
    load_model("digits_cnn", **DIGITS)


NET = """
from torch import nn
class Net(nn.Module):
    def forward(self, x):
        return {returned}
"""


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("x", r"returns the shape \(2, 1, 8, 8\) .*; it must return logits of shape"),
        ("(x, x)", r"returns a tuple on images \(2, 1, 8, 8\)"),
        ("x.flatten(1)[:1]", r"returns the shape \(1, 64\)"),
        ("x.flatten(1)", r"returns 64 logits .*; the data set has 10 classes"),
        (
            "x @ x.new_ones(5, 5)",
            r"forward pass of model .*, on images \(2, 1, 8, 8\) without gradients: RuntimeError: ",
        ),
    ],
)
def test_a_model_that_does_not_return_logits_for_the_data_is_refused(tmp_path, returned, says):
    (tmp_path / "net.py").write_text(NET.format(returned=returned))
    with pytest.raises(InputError, match=says):
        load_model(f"{tmp_path / 'net.py'}:Net", **DIGITS)


@pytest.mark.real_data
@pytest.mark.skipif(SHARED is None, reason="CLASSWISE_SHARED names the folder with models/")
@pytest.mark.parametrize(
    ("folder", "shape"), [("mnist_smallcnn_trades", (1, 28, 28)), ("cifar_resnet2b_adv", (3, 32, 32))]
)
def test_robust_models_of_others_load_through_their_factory(folder, shape):
    model = load_model(f"{Path(SHARED) / 'models' / folder / 'load.py'}:load_model", num_classes=10, shape=shape)
    logits = model(torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 10)
    assert logits.std() > 0.1
