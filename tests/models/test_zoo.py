import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from classwise.errors import InputError
from classwise.models import load_model, save_weights, zoo
from classwise.models.zoo import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a small torchvision model, as torchvision saves them."""
    from torchvision.models import get_model

    path = tmp_path_factory.mktemp("zoo") / "shuffle.pth"
    torch.manual_seed(0)
    model = get_model("shufflenet_v2_x0_5", weights=None, num_classes=4).eval()
    torch.save(model.state_dict(), path)
    return path, model


def test_torchvision_with_a_local_file_normalises_as_for_imagenet(weights):
    path, original = weights
    model = load_model(f"torchvision:shufflenet_v2_x0_5@{path}", num_classes=4, shape=(3, 32, 32))
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(model(x), original((x - mean) / std))


def test_weights_that_this_package_saved_load_too(weights, tmp_path):
    text = "torchvision:shufflenet_v2_x0_5@"
    model = load_model(f"{text}{weights[0]}", num_classes=4, shape=(3, 32, 32))
    save_weights(model, tmp_path / "w.safetensors")
    again = load_model(f"{text}{tmp_path / 'w.safetensors'}", num_classes=4, shape=(3, 32, 32))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), again(x))


def test_another_number_of_classes_is_called_that(weights):
    with pytest.raises(InputError, match="has weights for 4 classes, the model has 10"):
        load_model(f"torchvision:shufflenet_v2_x0_5@{weights[0]}", num_classes=10)


def test_an_unknown_torchvision_model_comes_with_the_nearest():
    with pytest.raises(InputError, match="Unknown torchvision model 'resnet_18': did you mean 'resnet18'"):
        load_model("torchvision:resnet_18")


def test_torchvision_asks_for_its_default_weights(monkeypatch):
    import torchvision.models

    asked = {}

    def get_model(name, **settings):
        asked.update(settings, name=name)
        return nn.Flatten()

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    monkeypatch.setattr(zoo, "_answers", lambda url: True)
    load_model("torchvision:resnet18")
    assert asked == {"name": "resnet18", "weights": "DEFAULT"}


def test_torchvision_offline_says_how_to_use_a_local_file(monkeypatch):
    import torchvision.models

    def offline(name, **settings):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    monkeypatch.setattr(zoo, "_answers", lambda url: True)
    with pytest.raises(InputError, match=r"\(OSError: Name or service not known\).*torchvision:resnet18@FILE"):
        load_model("torchvision:resnet18")


def test_timm_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="timm:resnet18 needs the package timm; run pip install timm"):
        load_model("timm:resnet18")


@pytest.fixture
def timm(monkeypatch):
    """A stand-in that records what it was asked for; timm itself is no dependency of the tests."""
    asked = []

    def create_model(name, pretrained, **settings):
        if name == "none":
            raise RuntimeError("Unknown model (none)")
        asked.append((name, pretrained, settings))
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, settings.get("num_classes", 5)))
        model.default_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return model

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    return asked


def test_timm_gives_pretrained_weights_behind_their_own_normalisation(timm):
    model = load_model("timm:resnet18", num_classes=5, shape=(3, 2, 2))
    x = torch.rand(2, 3, 2, 2)
    assert timm == [("resnet18", True, {})]
    torch.testing.assert_close(model(x), model.model((x - 0.5) * 4))


def test_timm_with_a_local_file_downloads_nothing(timm, tmp_path):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).state_dict(), tmp_path / "w.pt")
    load_model(f"timm:resnet18@{tmp_path / 'w.pt'}", num_classes=4, shape=(3, 2, 2))
    assert timm == [("resnet18", False, {"num_classes": 4})]


def test_what_timm_raises_is_said(timm):
    with pytest.raises(InputError, match=r"timm:none cannot be built \(RuntimeError: Unknown model \(none\)\)"):
        load_model("timm:none")


@pytest.fixture(params=["closed", "silent"])
def unreachable(request, monkeypatch):
    """Address of a port that refuses, or of one that accepts and never answers."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(zoo, "PATIENCE", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("before", [False, True])
def test_timm_out_of_reach_of_the_hub_asks_it_once_and_then_only_the_cache(unreachable, before, monkeypatch):
    hub = SimpleNamespace(HF_HUB_OFFLINE=before, ENDPOINT=unreachable)
    asked = []

    def create_model(name, pretrained):
        asked.append(hub.HF_HUB_OFFLINE)
        raise OSError("not in the cache")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(constants=hub))
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", hub)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    with pytest.raises(InputError, match=r"timm:resnet18 cannot be built \(OSError: not in the cache\).*go online"):
        load_model("timm:resnet18")
    assert asked == [True]
    assert hub.HF_HUB_OFFLINE is before


def test_torchvision_out_of_reach_starts_no_download(unreachable, monkeypatch, tmp_path):
    import torchvision.models

    downloads = []
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=f"{unreachable}/w.pth"))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
    monkeypatch.setattr(
        torchvision.models, "get_model", lambda name, **settings: downloads.append(name) or nn.Flatten()
    )
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"ConnectionError: no answer from .*w\.pth\).*torchvision:resnet18@FILE"):
        load_model("torchvision:resnet18")
    assert downloads == []
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "w.pth").touch()
    load_model("torchvision:resnet18")
    assert downloads == ["resnet18"]


def test_importing_the_models_imports_neither_torchvision_nor_timm():
    code = "import sys, classwise.models; sys.exit(any(name in sys.modules for name in ('torchvision', 'timm')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
