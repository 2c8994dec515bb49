import copy
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from classwise.errors import InputError
from classwise.models import digits_cnn, load_weights, read_weights, save_weights, weights_sha256

SHAPE = (1, 8, 8)


def tiny(num_classes=3, mean=None, std=None):
    return digits_cnn(num_classes, SHAPE, mean, std)


class WithBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_saved_weights_come_back_bit_for_bit(tmp_path):
    model, other = tiny(), tiny()
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert same(model, other)


def test_buffers_and_whole_numbers_come_back_too(tmp_path):
    model, other = WithBatchNorm(), WithBatchNorm()
    model.bn(torch.randn(4, 2, 3, 3))
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, str(tmp_path / "w.safetensors"))
    assert same(model, other)
    assert other.bn.num_batches_tracked == 1


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")


def test_weights_are_not_written_under_another_ending(tmp_path):
    with pytest.raises(InputError, match=r"written as \.safetensors, not as 'w\.pt'"):
        save_weights(tiny(), tmp_path / "w.pt")


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("ending", [".pt", ".pth", ".pth.tar"])
def test_pickled_weights_load_from_the_usual_nestings_and_wrappers(tmp_path, key, prefix, ending):
    model, other, path = tiny(), tiny(), tmp_path / f"w{ending}"
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state}, path)
    load_weights(other, path)
    assert same(model, other)


def test_weights_of_a_wrapped_model_load_into_a_bare_one_and_back(tmp_path):
    model, other = tiny(), tiny()
    wrapped = nn.ModuleDict({"module": model})
    save_weights(wrapped, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert same(model, other)
    nn.init.zeros_(model.fc2.weight)
    load_weights(wrapped, tmp_path / "w.safetensors")
    assert same(model, other)


def test_reading_gives_names_and_tensors_without_gradients(tmp_path):
    torch.save({"model": {"module.a": nn.Parameter(torch.ones(2))}}, tmp_path / "w.pt")
    state = read_weights(tmp_path / "w.pt")
    assert list(state) == ["a"]
    assert not state["a"].requires_grad


def test_half_precision_files_are_cast_to_the_models_type(tmp_path):
    model, other = tiny(), tiny()
    torch.save({name: value.half() for name, value in model.state_dict().items()}, tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert other.fc2.weight.dtype == torch.float32
    torch.testing.assert_close(other.fc2.weight, model.fc2.weight.half().float())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("content", [Evil(), {"state_dict": {}, "args": Evil()}, tiny()])
def test_a_pickle_with_other_objects_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pt")
    with pytest.raises(InputError, match=r"holds objects other than tensors.*save state_dict\(\)"):
        read_weights("w.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(1)], {}, {"a": "b"}, torch.ones(1)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds no state dict; expected are names and tensors"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world", None])
def test_a_file_that_is_not_whole_is_refused(tmp_path, name, content):
    path = tmp_path / name
    if content is None:
        write = torch.save if name == "w.pt" else lambda state, path: save_weights(tiny(), path)
        write(tiny().state_dict(), path)
        content = path.read_bytes()[:1000]
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no weights file .*none\.pt"):
        read_weights(tmp_path / "none.pt")


def test_missing_and_unexpected_names_are_listed_up_to_three(tmp_path):
    model = tiny()
    state = model.state_dict()
    for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        state[f"other.{name}"] = state.pop(name)
    torch.save(dict(state), tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        load_weights(model, tmp_path / "w.pt")
    assert "lacks conv1.weight, conv1.bias, conv2.weight and 1 more" in str(caught.value)
    assert "unexpected other.conv1.weight, other.conv1.bias, other.conv2.weight and 1 more" in str(caught.value)


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path):
    save_weights(digits_cnn(3, (3, 8, 8)), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"conv1\.weight is \(16, 3, 3, 3\) there and \(16, 1, 3, 3\) here;"):
        load_weights(tiny(), tmp_path / "w.safetensors")


def test_another_number_of_classes_is_called_that(tmp_path):
    save_weights(tiny(num_classes=100), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="has weights for 100 classes, the model has 3"):
        load_weights(tiny(), tmp_path / "w.safetensors")


def test_a_file_that_does_not_fit_leaves_the_model_alone(tmp_path):
    save_weights(tiny(num_classes=100), tmp_path / "w.safetensors")
    model = tiny()
    before = copy.deepcopy(model)
    with pytest.raises(InputError):
        load_weights(model, tmp_path / "w.safetensors")
    assert same(model, before)


def test_a_file_without_the_normalisation_loads_into_a_model_with_it(tmp_path):
    model = tiny(mean=0.5, std=0.25)
    save_weights(tiny(), tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert model.normalize.mean.item() == 0.5


def test_a_file_with_a_normalisation_does_not_load_into_a_model_without_one(tmp_path):
    save_weights(tiny(mean=0.5, std=0.25), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"unexpected normalize\.mean, normalize\.std"):
        load_weights(tiny(), tmp_path / "w.safetensors")


def test_a_file_with_another_normalisation_is_refused(tmp_path):
    save_weights(tiny(mean=0.5, std=0.25), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"has another normalize\.std than the model"):
        load_weights(tiny(mean=0.5, std=0.5), tmp_path / "w.safetensors")


def test_the_count_of_batches_may_be_missing(tmp_path):
    model, other = WithBatchNorm(), WithBatchNorm()
    state = {name: value for name, value in model.state_dict().items() if "tracked" not in name}
    torch.save(state, tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert same(model, other)


def linear(*layers):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in layers))


def test_the_hash_is_that_of_the_documented_bytes():
    """sha256 of name, type, shape (each ended by a zero byte) and little-endian values, in the order of names."""
    import hashlib

    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": torch.tensor([[1.0, -2.0]]), "bias": torch.tensor([0.0])})
    bias = b"bias\0torch.float32\0(1,)\0" + bytes(4)
    weight = b"weight\0torch.float32\0(1, 2)\0" + bytes.fromhex("0000803f000000c0")
    assert weights_sha256(layer) == hashlib.sha256(bias + weight).hexdigest()


def test_the_hash_survives_a_file(tmp_path):
    model, other = tiny(mean=0.5, std=0.5), tiny(mean=0.5, std=0.5)
    assert weights_sha256(model) != weights_sha256(other)
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert weights_sha256(model) == weights_sha256(other)


def test_the_hash_ignores_wrappers_modes_gradients_and_memory_order():
    model = tiny()
    before = weights_sha256(model)
    model.train().requires_grad_(False).to(memory_format=torch.channels_last)
    assert weights_sha256(nn.ModuleDict({"module": model})) == before


@given(place=st.integers(0, 21546 - 7 * 33 - 1))
def test_the_hash_changes_with_any_single_weight(place):
    model = tiny()
    before = weights_sha256(model)
    with torch.no_grad():
        parameters = nn.utils.parameters_to_vector(model.parameters())
        parameters[place] += 1
        nn.utils.vector_to_parameters(parameters, model.parameters())
    assert weights_sha256(model) != before


def test_the_hash_changes_with_type_shape_and_name():
    model = linear((2, 2))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    renamed = nn.Sequential()
    renamed.add_module("1", copy.deepcopy(model[0]))
    reshaped = copy.deepcopy(model)
    reshaped[0].weight = nn.Parameter(torch.zeros(1, 4))
    hashes = {weights_sha256(m) for m in (model, renamed, reshaped, copy.deepcopy(model).to(torch.bfloat16))}
    assert len(hashes) == 4


def test_the_hash_changes_with_the_normalisation():
    a, b = tiny(mean=0.5, std=0.5), tiny(mean=0.5, std=0.25)
    b.load_state_dict({**a.state_dict(), "normalize.std": b.normalize.std})
    assert weights_sha256(a) != weights_sha256(b)
