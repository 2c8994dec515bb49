"""``classwise homing``: train with and without each class."""

from __future__ import annotations

from pathlib import Path

from classwise.provenance import __version__


def study_homing(
    method: str = "at",
    model: str = "digits_cnn",
    data: str = "digits",
    data_dir: Path | None = None,
    recipe: str | None = None,
    attacks: str = "fast",
    eps: str | float | None = None,
    norm: str | int | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    out: Path = Path("runs/homing"),
    accelerator: str = "auto",
    download: bool = False,
) -> None:
    """Train with and without each class: are images safe where the class they were sent to is missing?

    Claim H7, with controls. As many trainings as there are classes, and three.

    Args:
        method: training method, see `classwise list methods`.
        model: architecture, see `classwise list models`.
        data: data set, see `classwise list data`.
        data_dir: folder that holds it.
        recipe: training recipe, with changes like `digits(epochs=5)`.
        attacks: what an image must survive to be safe.
        eps: radius of all attacks, such as 8/255; the data set's usual one if not given.
        norm: Linf, L2 or L1; with --eps.
        limit: train on a stratified sample of this many images.
        test_limit: look at a stratified sample of this many test images.
        seed: of weights, order and attacks; the control of another seed takes the next one.
        out: folder of the study; the same command goes on where it stopped.
        accelerator: cpu, cuda or auto.
        download: fetch the data set into --data-dir if it is missing.
    """
    from functools import partial

    from classwise import files, resolve
    from classwise.cli.show import lines, results
    from classwise.studies.homing import HomingStudy
    from classwise.training.loop import fit

    train = resolve.training_images(data, data_dir, limit, seed, download)
    test = resolve.training_images(data, data_dir, test_limit, seed, download, "test")
    threat, plan = resolve.threat(data, eps, norm), resolve.recipe(recipe, data)
    run = resolve.training_job(method, model, train, plan, threat, seed).run
    again = resolve.named_attacks(attacks, threat, test, seed)
    trainer = partial(fit, resolve.launched(accelerator, 1))
    finding = HomingStudy(train, test, run, again, out, trainer, lines.say).result()
    files.write_json(out / "homing.json", {"classwise": __version__, "findings": [finding.as_dict()]})
    results.found([finding], [])
    lines.wrote([out / "homing.json"])
