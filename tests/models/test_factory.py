import sys
import textwrap

import pytest
import torch

from classwise.errors import InputError
from classwise.models import load_model


@pytest.fixture
def write(tmp_path):
    def write(code, name="net.py", folder="."):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(code))
        return path

    return write


NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, classes=3):
            super().__init__()
            self.fc = nn.Linear(4, classes)

        def forward(self, x):
            return self.fc(x.flatten(1))

    def make():
        return Net()

    def fails():
        raise ValueError("no such width\\nand more")

    def needs(width):
        return Net()

    def exits():
        raise SystemExit("usage: net.py")

    def number():
        return 7

    ready = Net()
    seven = 7
"""


@pytest.mark.parametrize("name", ["make", "Net", "ready"])
def test_functions_classes_and_modules_are_factories(write, name):
    model = load_model(f"{write(NET)}:{name}", num_classes=3, shape=(1, 2, 2))
    assert model(torch.rand(5, 1, 2, 2)).shape == (5, 3)
    assert not model.training


@pytest.mark.parametrize("name", ["made", "seven", ""])
def test_a_missing_factory_is_named_with_what_there_is(write, name):
    with pytest.raises(InputError, match="it defines Net, make, fails, needs, exits, number"):
        load_model(f"{write(NET)}:{name}")


def test_a_file_without_a_factory_asks_for_one(write):
    with pytest.raises(InputError, match=r"needs the name of a factory, as in net\.py:make; it defines Net"):
        load_model(str(write(NET)))


def test_a_file_that_defines_nothing_says_so(write):
    with pytest.raises(InputError, match="it defines no function or class"):
        load_model(f"{write('from pathlib import Path')}:make")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fails", r"fails failed \(ValueError: no such width\); it must run without arguments"),
        ("needs", r"needs failed \(TypeError: .*'width'\)"),
        ("exits", r"exits failed \(SystemExit: usage: net\.py\)"),
        ("number", r"number returns a int; it must return an nn\.Module"),
    ],
)
def test_a_factory_that_does_not_deliver_is_named_with_the_reason(write, name, says):
    with pytest.raises(InputError, match=says) as caught:
        load_model(f"{write(NET)}:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["import nothing_of_this_name", "def make(:", "1 / 0", "raise SystemExit(2)"])
def test_a_file_that_does_not_run_is_named_with_the_reason(write, code):
    with pytest.raises(InputError, match=r"net\.py cannot be imported \(\w+"):
        load_model(f"{write(code)}:make")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no file .*none\.py"):
        load_model(f"{tmp_path / 'none.py'}:make")


LOADER = "import torch\nfrom parts.width import width\ndef make():\n    from late import late\n    return late(width)\n"


def folder_with_neighbours(write, folder, width):
    write("from torch import nn\ndef late(n): return nn.Sequential(nn.Flatten(), nn.Linear(4, n))", "late.py", folder)
    path = write(LOADER, "load.py", folder)
    (path.parent / "parts").mkdir()
    (path.parent / "parts" / "width.py").write_text(f"width = {width}")
    return path


def test_two_folders_with_neighbours_of_the_same_names_do_not_meet(write):
    paths = [folder_with_neighbours(write, f"m{width}", width) for width in (3, 5)]
    for path, width in zip(paths, (3, 5), strict=True):
        load_model(f"{path}:make", num_classes=width, shape=(1, 2, 2))


def test_the_import_path_and_the_modules_are_left_as_they_were(write):
    path = folder_with_neighbours(write, "m", 3)
    before = list(sys.path)
    load_model(f"{path}:make")
    assert sys.path == before
    assert not {"parts", "parts.width", "late", "load"} & set(sys.modules)


def test_the_import_path_is_left_as_it_was_by_a_file_that_fails(write):
    before = list(sys.path)
    with pytest.raises(InputError):
        load_model(f"{write('1 / 0')}:make")
    assert sys.path == before


def test_a_model_from_a_file_can_be_pickled(write):
    import pickle

    model = load_model(f"{write(NET)}:make", num_classes=3, shape=(1, 2, 2))
    copy = pickle.loads(pickle.dumps(model))
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(copy(x), model(x))


def test_random_weights_of_a_factory_follow_the_seed(write):
    text = f"{write(NET)}:make"
    a, b, c = (load_model(text, seed=seed).fc.weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
