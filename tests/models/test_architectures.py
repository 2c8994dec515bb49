"""What every registered architecture must do."""

import pytest
import torch

from classwise import registry
from classwise.models import Normalize, load_model

NAMES = registry.names("model")
# Grey and of an odd size: no architecture may rely on 3x32x32.
SHAPE = (1, 18, 21)


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return load_model(request.param, num_classes=7, shape=SHAPE)


def test_all_seven_are_registered():
    assert NAMES == [
        "digits_cnn",
        "preact_resnet18",
        "resnet18",
        "small_cnn",
        "small_resnet",
        "wrn_28_10",
        "wrn_34_10",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_its_entry_has_a_summary_and_a_source(name):
    entry = registry.entry("model", name)
    assert entry.summary
    assert entry.source


def test_an_odd_grey_image_gives_one_logit_a_class(model):
    logits = model(torch.rand(2, *SHAPE))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_the_logits_of_an_image_do_not_depend_on_its_batch(model):
    with torch.no_grad():
        x = torch.rand(3, *SHAPE)
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_normalisation_is_its_first_layer(model):
    assert isinstance(next(iter(model.children())), Normalize)


@pytest.mark.parametrize("name", ["preact_resnet18", "resnet18", "small_resnet", "small_cnn", "digits_cnn"])
def test_64x64_colour_images_work(name):
    assert load_model(name, num_classes=3, shape=(3, 64, 64))(torch.rand(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"small_cnn"}))
def test_an_untrained_one_has_an_input_gradient(name):
    # small_cnn is left out: its last layer starts at zero, as in TRADES.
    model = load_model(name, num_classes=3, shape=(1, 16, 16))
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    model(x)[0, 0].backward()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["preact_resnet18", "resnet18", "small_resnet", "digits_cnn"])
def test_an_image_is_not_changed_in_place(name):
    x = torch.rand(1, 3, 16, 16)
    before = x.clone()
    load_model(name, num_classes=3, shape=(3, 16, 16))(x)
    assert torch.equal(x, before)
