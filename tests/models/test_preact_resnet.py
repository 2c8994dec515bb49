import torch
from torch.nn import functional as F

from classwise.models import preact_resnet18
from classwise.models.preact_resnet import _PreActBlock


def test_it_has_11172170_weights_on_cifar_10():
    """Convolutions 9·ab, shortcuts ab, BatchNorm 2 a channel before each convolution of a block and at the end."""

    def block(a, b):
        return 2 * a + 9 * a * b + 2 * b + 9 * b * b + a * b * (a != b)

    pairs = [(64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    expected = 9 * 3 * 64 + sum(block(a, b) for a, b in pairs) + 2 * 512 + 513 * 10
    ours = sum(parameter.numel() for parameter in preact_resnet18(10, (3, 32, 32)).parameters())
    # kuangliu/pytorch-cifar, without the last BatchNorm, is published with 11,171,146.
    assert ours == expected == 11_171_146 + 2 * 512


def test_a_block_that_changes_width_takes_its_shortcut_from_the_activated_input():
    block = _PreActBlock(3, 5, stride=2).eval()
    block.bn1.running_mean.fill_(0.3)
    x, w = torch.rand(2, 3, 8, 8), block.state_dict()
    scale = 1 / (1 + 1e-5) ** 0.5
    active = F.relu((x - 0.3) * scale)
    hidden = F.relu(F.conv2d(active, w["conv1.weight"], stride=2, padding=1) * scale)
    expected = F.conv2d(hidden, w["conv2.weight"], padding=1) + F.conv2d(active, w["shortcut.0.weight"], stride=2)
    torch.testing.assert_close(block(x), expected)


def test_a_block_of_one_width_adds_the_input_itself():
    block = _PreActBlock(4, 4, stride=1).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_batchnorm_and_relu_come_between_the_last_stage_and_the_pooling():
    model = preact_resnet18(3, (1, 8, 8)).eval()
    torch.nn.init.constant_(model.bn.bias, -1e6)
    torch.testing.assert_close(model(torch.rand(2, 1, 8, 8)), model.linear.bias.expand(2, 3))


def test_its_names_are_those_of_the_public_checkpoints():
    names = set(preact_resnet18(10, (3, 32, 32)).state_dict())
    assert {"conv1.weight", "layer2.0.shortcut.0.weight", "layer4.1.bn2.bias", "bn.weight", "linear.bias"} <= names
    assert not any("normalize" in name for name in names)
