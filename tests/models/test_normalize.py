import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classwise.errors import InputError
from classwise.models import Normalize, load_model


@given(mean=st.lists(st.floats(0, 1), min_size=3, max_size=3), std=st.floats(0.05, 1))
def test_it_subtracts_the_mean_and_divides_by_the_std_of_each_channel(mean, std):
    x = torch.rand(2, 3, 4, 5)
    got = Normalize(mean, std, channels=3)(x)
    for channel in range(3):
        torch.testing.assert_close(got[:, channel], (x[:, channel] - mean[channel]) / std)


def test_without_statistics_the_very_same_tensor_comes_out():
    x = torch.rand(2, 3, 4, 5)
    assert Normalize(None, None, channels=3)(x) is x


def test_without_statistics_the_state_dict_holds_nothing():
    assert Normalize(None, None, channels=3).state_dict() == {}


def test_the_statistics_are_buffers_and_no_parameters():
    layer = Normalize(0.5, 0.25, channels=3)
    assert set(layer.state_dict()) == {"mean", "std"}
    assert list(layer.parameters()) == []


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        (0.5, None, "both mean and std"),
        (None, 0.5, "both mean and std"),
        ((0.5, 0.5), 0.5, "2 values of mean does not fit images of 3 channels"),
        (0.5, (0.5, 0.0, 0.5), "std above 0"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(mean, std, says):
    with pytest.raises(InputError, match=says):
        Normalize(mean, std, channels=3)


def test_settings_of_an_architecture_may_give_the_statistics():
    plain = load_model("digits_cnn", num_classes=10, shape=(1, 8, 8))
    scaled = load_model("digits_cnn(mean=0.5, std=1/4)", num_classes=10, shape=(1, 8, 8))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(scaled(x), plain((x - 0.5) * 4))
