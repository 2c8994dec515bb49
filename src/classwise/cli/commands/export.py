"""``classwise export``: write a model as a file that runs without classwise."""

from __future__ import annotations

from pathlib import Path


def export_model(
    model: str,
    data: str | None = None,
    data_dir: Path | None = None,
    split: str = "test",
    seed: int = 0,
    out: Path = Path("model.pt2"),
    download: bool = False,
) -> None:
    """Write a model as an exported program, as ONNX or as weights; a correction becomes part of its last layer.

    Args:
        model: any model string, as for `classwise evaluate`, such as corrected:FOLDER.
        data: data set that the model is for, see `classwise list data`; that of the run or of the correction if known.
        data_dir: folder that holds it.
        split: split whose first images the file is compared with the model on.
        seed: of the weights of an architecture without any.
        out: file that ends in .pt2 (torch.export), .onnx, or .safetensors (weights of the same architecture).
        download: fetch the data set into --data-dir if it is missing.
    """
    import torch

    from classwise import files, resolve
    from classwise.cli.show import lines
    from classwise.models.corrected import Corrected
    from classwise.models.export import export, folded

    files.refuse_unwritable(out)
    images = resolve.images(data or resolve.data_of_run(model), data_dir, split, 16, seed, download)
    network = resolve.model(model, images, seed).eval()
    x = images.fetch(torch.arange(len(images)))
    plain = folded(network, x[:2])
    if isinstance(plain, Corrected) and out.suffix == ".safetensors":
        lines.say("The model does not end in a linear layer: the file holds its weights and the correction's apart.")
    elif plain is not network:
        lines.say("The correction is part of the last linear layer: the architecture is that of the model as it was.")
    difference = export(plain, x, out)
    lines.say(f"Read back, its logits differ by at most {difference:.1g} on {len(x)} images of {images.name}.")
    lines.wrote([out])
