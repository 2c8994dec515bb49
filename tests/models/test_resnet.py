import torch
from torch import nn

from classwise.models import resnet18


def test_it_has_11173962_weights_on_cifar_10():
    """As published for the CIFAR stem; torchvision's 11,689,512 differ by stem (7x7) and head (1,000 classes)."""
    ours = sum(parameter.numel() for parameter in resnet18(10, (3, 32, 32)).parameters())
    assert ours == 11_173_962 == 11_689_512 - (49 - 9) * 3 * 64 - 513 * 990


def test_it_gives_the_logits_of_torchvisions_with_the_same_stem_and_weights():
    from torchvision.models import resnet18 as reference

    torch.manual_seed(0)
    ours = resnet18(10, (3, 32, 32))
    theirs = reference(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    names = {name: name.replace("shortcut", "downsample").replace("linear", "fc") for name in ours.state_dict()}
    theirs.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
