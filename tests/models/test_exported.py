import pytest
import torch
from torch import nn

from classwise.errors import InputError
from classwise.models import load_model
from classwise.models.exported import exported

SHAPE = (1, 6, 6)
BATCH = ({0: torch.export.Dim("batch")},)


def network():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, 3)
    )


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    model = network()
    model(torch.randn(8, *SHAPE))
    return model.eval()


def export(model, path, example=None, dynamic=BATCH):
    example = (torch.rand(2, *SHAPE),) if example is None else example
    torch.export.save(torch.export.export(model, example, dynamic_shapes=dynamic), path)
    return path


@pytest.fixture(scope="module")
def path(original, tmp_path_factory):
    return export(original, tmp_path_factory.mktemp("export") / "net.pt2")


@pytest.fixture
def model(path):
    return load_model(f"export:{path}", num_classes=3, shape=SHAPE)


@pytest.mark.parametrize("batch", [1, 2, 7, 300])
def test_it_gives_the_logits_of_the_original_for_any_batch(model, original, batch):
    x = torch.rand(batch, *SHAPE)
    torch.testing.assert_close(model(x), original(x))


def test_its_input_gradient_is_that_of_the_original(model, original):
    gradients = []
    for net in (model, original):
        x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).requires_grad_()
        net(x)[:, 1].sum().backward()
        gradients.append(x.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_it_takes_part_in_train_and_eval(model):
    around = nn.Sequential(model)
    assert around.train().training
    assert model.training
    for module in around.modules():
        module.eval()
    assert not model.training


def test_training_mode_changes_no_prediction(model):
    x = torch.rand(4, *SHAPE)
    assert torch.equal(model.train()(x), model.eval()(x))


def test_its_weights_are_seen(model, original):
    shapes = sorted(tuple(parameter.shape) for parameter in model.parameters())
    assert shapes == sorted(tuple(parameter.shape) for parameter in original.parameters())


def test_a_fixed_batch_size_is_one_clear_error(original, tmp_path):
    path = export(original, tmp_path / "net.pt2", dynamic=None)
    with pytest.raises(InputError, match="was exported for batches of exactly 2; export it again with dynamic_shapes"):
        exported(path)


def test_a_batch_above_the_exported_limit_is_one_clear_error(original, tmp_path):
    path = export(original, tmp_path / "net.pt2", dynamic=({0: torch.export.Dim("batch", max=16)},))
    model = load_model(f"export:{path}", num_classes=3, shape=SHAPE)
    with pytest.raises(InputError, match=r"refuses a batch of shape 17x1x6x6 \(.*\b16\b"):
        model(torch.rand(17, *SHAPE))


def test_images_of_another_size_are_one_clear_error(path):
    with pytest.raises(InputError, match="refuses a batch of shape 2x1x7x7"):
        load_model(f"export:{path}", num_classes=3, shape=(1, 7, 7))


def test_a_program_exported_in_training_mode_is_refused(tmp_path):
    path = export(network().train(), tmp_path / "net.pt2")
    with pytest.raises(InputError, match=r"in training mode \(batch_norm, dropout\).*call model\.eval\(\)"):
        exported(path)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


def test_a_program_of_two_inputs_is_refused(tmp_path):
    x = torch.rand(2, *SHAPE)
    path = export(TwoInputs(), tmp_path / "net.pt2", (x, x), BATCH * 2)
    with pytest.raises(InputError, match="does not take one batch of images"):
        exported(path)


def test_a_file_that_is_no_program_is_refused(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"net\.pt2 is no exported program"):
        exported(tmp_path / "net.pt2")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no exported program .*none\.pt2"):
        load_model(f"export:{tmp_path / 'none.pt2'}")
