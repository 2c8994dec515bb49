"""Checkpoints in the layouts of the field give the logits of the plain network, and say what was done to them."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from classwise.errors import InputError
from classwise.models import load_model, load_weights, read_weights
from classwise.models.checkpoint import weights_note
from classwise.models.normalize import Normalize
from classwise.models.pickled import read_pickle
from classwise.models.wide_resnet import WideResNet
from classwise.registry import register

SHAPE = (3, 8, 8)
DATA = {"num_classes": 10, "shape": SHAPE}
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
X = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    """A network with BatchNorm whose statistics are not those that it starts with."""
    made = load_model("small_resnet", **DATA, seed=7)
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.1, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
    return made


@pytest.fixture
def other():
    return load_model("small_resnet", **DATA, seed=8)


def behind(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def column(values, *shape):
    return torch.tensor(values).view(*shape)


def logits(model, x=X):
    with torch.no_grad():
        return model.eval()(x)


def normalised(net):
    return lambda x: net((x - column(MEAN, 3, 1, 1)) / column(STD, 3, 1, 1))


def read(path, arch="small_resnet"):
    return load_model(f"{arch}@{path}", **DATA)


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("", "state_dict"),
        ("module.", None),
        ("_orig_mod.", "model_state_dict"),
        ("module._orig_mod.", "net"),
        ("model.", "state_dict"),
        ("net.", "state_dict"),
        ("1.", None),
        ("module.1.", "net"),
        ("module.model.", "model"),
        ("backbone.", "state_dict"),
    ],
)
def test_a_prefix_is_found_taken_off_and_said(tmp_path, net, prefix, key):
    state = behind(prefix, net.state_dict())
    torch.save(state if key is None else {key: state, "epoch": 7}, tmp_path / "w.pt")
    model = read(tmp_path / "w.pt")
    assert torch.equal(logits(model), logits(net))
    assert weights_note(model) == (f"prefix {prefix} taken off" if prefix else "")


@pytest.mark.parametrize(
    ("prefix", "mean", "std", "shape"),
    [
        ("1.", "0.mean", "0.std", (3,)),
        ("model.", "normalize.mean", "normalize.std", (1, 3, 1, 1)),
        ("model.", "mu", "std", (3, 1, 1)),
        ("", "mean", "std", (1, 3, 1, 1)),
        ("module.1.", "module.0.mean", "module.0.std", (3, 1, 1)),
        ("module.model.", "module.normalizer.new_mean", "module.normalizer.new_std", (3, 1, 1)),
    ],
)
def test_a_normalising_layer_in_front_becomes_the_normalisation(tmp_path, net, prefix, mean, std, shape):
    state = {mean: column(MEAN, *shape), std: column(STD, *shape), **behind(prefix, net.state_dict())}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    model = read(tmp_path / "w.pt")
    assert torch.equal(logits(model), logits(nn.Sequential(Normalize(MEAN, STD, 3), net)))
    assert "normalised by the file's mean (0.4914, 0.4822, 0.4465) and std" in weights_note(model)


def test_one_number_may_normalise_all_channels(tmp_path, net):
    state = {"0.mean": torch.tensor([0.5]), "0.std": torch.tensor([0.25]), **behind("1.", net.state_dict())}
    torch.save(state, tmp_path / "w.pt")
    assert torch.equal(logits(read(tmp_path / "w.pt")), logits(nn.Sequential(Normalize(0.5, 0.25, 3), net)))


def test_checkpoints_of_madrylab_hold_the_network_twice_and_a_normaliser(tmp_path, net):
    statistics = {"new_mean": column(MEAN, 3, 1, 1), "new_std": column(STD, 3, 1, 1)}
    state = {
        **behind("module.normalizer.", statistics),
        **behind("module.model.", net.state_dict()),
        **behind("module.attacker.normalize.", statistics),
        **behind("module.attacker.model.", net.state_dict()),
    }
    torch.save({"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}, "epoch": 150}, "m.pt")
    model = read("m.pt")
    assert torch.equal(logits(model), logits(nn.Sequential(Normalize(MEAN, STD, 3), net)))
    assert "the same again under module.attacker.model. left out" in weights_note(model)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_checkpoints_of_trades_hold_a_block_that_is_never_used(scratch):
    register("model", "wrn_tiny", source="test")(lambda k, shape, mean=None: WideResNet(k, shape, 10, 1))
    plain = load_model("wrn_tiny", **DATA, seed=3)
    state = OrderedDict(plain.state_dict())
    unused = {name.replace("block1.", "sub_block1."): torch.randn_like(value.float()) for name, value in state.items()}
    state |= {name: value for name, value in unused.items() if "sub_block1" in name}
    torch.save({"state_dict": behind("module.", state)}, "trades.pt")
    model = load_model("wrn_tiny@trades.pt", **DATA)
    assert torch.equal(logits(model), logits(plain))
    assert "sub_block1, which the Wide ResNet of TRADES never uses, left out" in weights_note(model)


def test_a_lightning_checkpoint_is_read_whatever_its_settings_are(net):
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**behind("model.", net.state_dict()), "criterion.weight": torch.ones(10)},
        "hyper_parameters": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/data")),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    }
    torch.save(content, "last.ckpt")
    model = read("last.ckpt")
    assert torch.equal(logits(model), logits(net))
    assert weights_note(model) == "prefix model. taken off; the weights of the training loss, left out"


@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_values_beside_the_weights_are_no_obstacle(net, legacy):
    content = {
        "net": net.state_dict(),
        "acc": np.float64(0.5),
        "best": np.float32(0.5),
        "epoch": np.int64(3),
        "history": np.arange(3.0),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.999)),
        "counts": defaultdict(int, {"cat": 3}),
        "path": pathlib.Path("runs"),
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9).state_dict(),
    }
    torch.save(content, "w.pth", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(logits(read("w.pth")), logits(net))


def test_a_flat_file_may_hold_numbers_beside_the_tensors(net):
    torch.save({**net.state_dict(), "epoch": 3, "acc": np.float64(0.5)}, "w.pt")
    assert torch.equal(logits(read("w.pt")), logits(net))


def test_what_stands_for_harmless_objects_is_never_the_object(net):
    torch.save({"state_dict": net.state_dict(), "args": argparse.Namespace(state_dict=1)}, "w.pt")
    before = torch.serialization.get_safe_globals()
    assert not isinstance(read_pickle(pathlib.Path("w.pt"))["args"], argparse.Namespace)
    assert set(torch.serialization.get_safe_globals()) == set(before)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


class Settings:
    pass


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("value", "name"), [(Harm(), "posix.mkdir"), (Settings(), "test_stored.Settings"), (eval, "eval")]
)
def test_any_other_object_is_refused_by_its_name_and_not_run(net, value, name, legacy):
    torch.save({"state_dict": net.state_dict(), "extra": value}, "w.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        InputError, match=rf"w\.pt holds objects other than tensors \(.*{name}.*\), which could run code"
    ):
        read("w.pt")
    assert not pathlib.Path("harm").exists()


def test_a_whole_model_is_refused_by_the_names_of_its_classes():
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), "w.pt")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.container\.Sequential.*save state_dict\(\)"):
        read("w.pt")


@pytest.mark.parametrize("average", ["ema", "state_dict_ema", "model_ema", "ema_state_dict", "swa_model", "teacher"])
@pytest.mark.parametrize("plain", ["state_dict", "model", "net"])
def test_of_plain_weights_and_an_average_the_plain_ones_are_taken_and_it_is_said(net, other, plain, average):
    torch.save({average: other.state_dict(), plain: net.state_dict()}, "w.pt")
    model = read("w.pt")
    assert torch.equal(logits(model), logits(net))
    assert f"{plain} taken; {average} is there too (averages; #{average} behind the file takes it)" in weights_note(
        model
    )
    chosen = read(f"w.pt#{average}")
    assert torch.equal(logits(chosen), logits(other))
    assert f"{average} taken, as asked" in weights_note(chosen)


def test_an_average_inside_one_state_dict_is_told_by_its_prefix(net, other):
    torch.save({"state_dict": behind("model.", net.state_dict()) | behind("ema_model.", other.state_dict())}, "w.ckpt")
    assert torch.equal(logits(read("w.ckpt")), logits(net))
    assert torch.equal(logits(read("w.ckpt#ema_model")), logits(other))


def test_an_average_alone_is_taken_and_said(net):
    torch.save({"ema": {"shadow": behind("module.", net.state_dict()), "decay": 0.999}}, "w.pt")
    model = read("w.pt")
    assert torch.equal(logits(model), logits(net))
    assert "ema.shadow.module, an average, taken" in weights_note(model)


def test_weights_of_an_averaged_model_bring_their_count(net):
    torch.save(torch.optim.swa_utils.AveragedModel(net).state_dict(), "w.pt")
    assert torch.equal(logits(read("w.pt")), logits(net))


def test_weights_before_averaging_are_not_taken_for_an_average(net, other):
    torch.save({"model_state_dict": net.state_dict(), "unaveraged_model_state_dict": other.state_dict()}, "w.pt")
    model = read("w.pt")
    assert torch.equal(logits(model), logits(net))
    assert "unaveraged_model_state_dict is there too (other weights" in weights_note(model)


def test_two_networks_of_which_neither_is_the_model_are_refused_until_one_is_named(net, other):
    state = behind("student.", net.state_dict()) | behind("critic.", other.state_dict())
    torch.save(state, "w.pt")
    with pytest.raises(InputError, match=r"several networks of this architecture \(student, critic\); say which"):
        read("w.pt")
    assert torch.equal(logits(read("w.pt#critic")), logits(other))


def test_a_key_that_is_not_there_is_named_with_those_that_are(net):
    torch.save({"state_dict": net.state_dict()}, "w.pt")
    with pytest.raises(InputError, match=r"w\.pt has no weights 'ema' for this model; those there are: state_dict"):
        read("w.pt#ema")


def test_a_file_whose_name_has_a_hash_sign_is_a_file(net):
    torch.save(net.state_dict(), "w#1.pt")
    assert torch.equal(logits(read("w#1.pt")), logits(net))


def test_half_precision_is_cast_and_said(net):
    torch.save({name: value.half() for name, value in net.state_dict().items()}, "w.pt")
    assert "cast from float16 to float32" in weights_note(read("w.pt"))


def test_whole_numbers_in_the_place_of_weights_are_refused(net):
    state = {name: value.char() if name == "linear.weight" else value for name, value in net.state_dict().items()}
    torch.save(state, "w.pt")
    with pytest.raises(InputError, match=r"holds linear\.weight as int8, not as floating point"):
        read("w.pt")


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("on the meta device, without values", lambda value: torch.empty(10**12, device="meta")),
        ("sparse", lambda value: value.to_sparse()),
        ("sparse", lambda value: torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6))),
        ("nested", lambda value: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        ("quantised", lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_values_are_refused_by_name_and_kind(net, kind, made):
    state = net.state_dict()
    torch.save({"net": {**state, "linear.weight": made(state["linear.weight"])}}, "w.pt")
    with pytest.raises(InputError, match=rf"holds linear\.weight as a tensor {kind}; save the dense"):
        read("w.pt")


def test_a_tensor_that_repeats_one_number_terabytes_long_is_refused_by_its_shape(net):
    torch.save({**net.state_dict(), "linear.weight": torch.zeros(1).expand(10**6, 10**6)}, "w.pt")
    with pytest.raises(InputError, match=r"linear\.weight is \(1000000, 1000000\) there"):
        read("w.pt")


def test_an_archive_that_unpacks_to_many_times_its_size_is_refused(net):
    with zipfile.ZipFile("w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(10_000_000))
    with pytest.raises(InputError, match=r"unpacks to 10,000,000, where torch\.save compresses nothing"):
        read("w.pt")


def test_safetensors_are_known_by_their_content(net):
    save_file(behind("module.", net.state_dict()), "w.bin")
    assert torch.equal(logits(read("w.bin")), logits(net))


@pytest.mark.parametrize("prefix", ["", "module.model."])
def test_names_that_nothing_accounts_for_are_refused(net, prefix):
    state = behind(prefix, net.state_dict()) | {f"{prefix}extra.weight": torch.ones(3)}
    torch.save(state, "w.pt")
    with pytest.raises(InputError, match=r"has unexpected extra\.weight; name the architecture"):
        read("w.pt")


def test_missing_names_are_said_without_the_prefix_of_the_others(net):
    state = behind("module.model.", net.state_dict())
    del state["module.model.linear.bias"]
    torch.save(state, "w.pt")
    with pytest.raises(InputError, match=r"does not fit the model: it lacks linear\.bias; name the architecture"):
        read("w.pt")


def test_another_number_of_classes_is_said_behind_any_prefix(net):
    torch.save({"state_dict": behind("module.", net.state_dict())}, "w.pt")
    with pytest.raises(InputError, match="has weights for 10 classes, the model has 7"):
        load_model("small_resnet@w.pt", num_classes=7, shape=SHAPE)


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7], "which are none of pixels in"),
        (MEAN, [0.0, 0.1, 0.1], "none of pixels"),
    ],
)
def test_statistics_that_are_none_of_unit_pixels_are_refused(net, mean, std, says):
    torch.save({"0.mean": column(mean, 3), "0.std": column(std, 3), **behind("1.", net.state_dict())}, "w.pt")
    with pytest.raises(InputError, match=says):
        read("w.pt")


def test_normalisations_that_differ_are_refused(net):
    state = {"0.mean": column(MEAN, 3), "0.std": column(STD, 3), "2.mean": column(STD, 3), "2.std": column(STD, 3)}
    torch.save(state | behind("1.", net.state_dict()), "w.pt")
    with pytest.raises(InputError, match="several normalisations that differ"):
        read("w.pt")


def test_settings_that_contradict_the_normaliser_are_refused(net):
    torch.save({"0.mean": column(MEAN, 3), "0.std": column(STD, 3), **behind("1.", net.state_dict())}, "w.pt")
    with pytest.raises(InputError, match=r"another normalize\.(mean|std) than the model; leave mean and std out"):
        read("w.pt", "small_resnet(mean=0.5, std=0.5)")


def test_half_a_normaliser_is_left_over(net):
    torch.save({"0.mean": column(MEAN, 3), **behind("1.", net.state_dict())}, "w.pt")
    with pytest.raises(InputError, match=r"unexpected 0\.mean"):
        read("w.pt")


def test_a_torchvision_model_takes_the_normalisation_of_its_file():
    from torchvision.models import squeezenet1_1

    inner = squeezenet1_1(num_classes=10)
    torch.save({"0.mean": column(MEAN, 3), "0.std": column(STD, 3), **behind("1.", inner.state_dict())}, "w.pt")
    data = {"num_classes": 10, "shape": (3, 32, 32)}
    model, x = load_model("torchvision:squeezenet1_1@w.pt", **data), torch.rand(2, 3, 32, 32)
    assert torch.equal(logits(model, x), logits(nn.Sequential(Normalize(MEAN, STD, 3), inner), x))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_recognised(net):
    torch.jit.save(torch.jit.trace(net, X), "w.pt")
    with pytest.raises(InputError, match=r"w\.pt is a TorchScript archive, which is a program, not weights; give a"):
        read("w.pt")


def test_an_exported_program_is_recognised(net):
    torch.export.save(torch.export.export(net, (X,)), "w.pt2")
    with pytest.raises(InputError, match=r"w\.pt2 is an exported program, not weights; write export:w\.pt2"):
        read("w.pt2")


def test_a_tar_archive_is_recognised():
    with tarfile.open("w.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    with pytest.raises(InputError, match="is a tar archive of PyTorch before"):
        read("w.pth")


def test_weights_in_a_model_of_the_users_are_matched_too(net):
    torch.save({"state_dict": behind("module.", net.state_dict())}, "w.pt")
    wrapped = nn.ModuleDict({"module": load_model("small_resnet", **DATA, seed=1)})
    load_weights(wrapped, "w.pt")
    assert torch.equal(logits(wrapped["module"]), logits(net))


def test_reading_without_a_model_takes_the_plain_weights(net, other):
    torch.save({"ema": other.state_dict(), "state_dict": behind("module.", net.state_dict())}, "w.pt")
    assert torch.equal(read_weights("w.pt")["conv1.weight"], net.state_dict()["conv1.weight"])
    assert torch.equal(read_weights("w.pt#ema")["conv1.weight"], other.state_dict()["conv1.weight"])


def test_other_weights_of_the_same_model_forget_the_note(net):
    torch.save(behind("module.", net.state_dict()), "wrapped.pt")
    torch.save(net.state_dict(), "bare.pt")
    model = read("wrapped.pt")
    load_weights(model, "bare.pt")
    assert weights_note(model) == ""


def test_what_was_done_is_in_the_record_and_on_the_terminal(capsys):
    from classwise.cli.main import main

    plain = load_model("digits_cnn", num_classes=10, shape=(1, 8, 8))
    torch.save({"state_dict": behind("module.", plain.state_dict())}, "w.pt")
    arguments = "evaluate digits_cnn@w.pt --data digits --attacks fgsm --limit 20 --examples 0 --out out"
    assert main(arguments.split()) in (None, 0)
    assert "Weights: prefix module. taken off." in " ".join(capsys.readouterr().out.split())
    assert json.loads(pathlib.Path("out/result.json").read_text())["model"]["note"] == "prefix module. taken off"
