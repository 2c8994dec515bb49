"""``classwise demo``: train, attack and report on embedded digits."""

from __future__ import annotations

from pathlib import Path

from classwise.cli.commands.evaluate import evaluate_model
from classwise.cli.commands.report import make_report
from classwise.cli.commands.train import train_model


def run_demo(out: Path = Path("classwise-demo"), seed: int = 0) -> None:
    """Train, attack and report on embedded handwritten digits: the whole path in under two minutes.

    Args:
        out: folder for the training run, the evaluation and the report.
        seed: of training and attacks.
    """
    from classwise.cli.show import lines, results

    lines.say("A small network learns to read 8x8 digits under attack, then every test digit is attacked.")
    train_model("at", model="digits_cnn", data="digits", wrappers="", seed=seed, out=out / "run")
    evaluate_model(f"run:{out / 'run'}", data="digits", seed=seed, out=out / "evaluation")
    page = make_report(out / "evaluation")
    results.next_steps(page, out)
