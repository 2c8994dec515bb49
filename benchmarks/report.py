"""Size of report.html for 1,000 classes, and how long a browser works until it can be used.

    python benchmarks/report.py [--classes 1000] [--repeat 3]

Needs playwright and Chromium. The evaluation is synthetic: 50 images a class, three attacks, twenty superclasses, six
examples of 224 x 224 pixels. Two times of each opening, median and range: what the page's main thread computed until
the load event and the first frame after it, with all charts drawn and all tables ready (CPU), and what a person waits
(wall clock), which a busy machine lengthens. Then one search and one sort of the table of classes, likewise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from classwise.metrics.examples import Examples, worth_showing
from classwise.metrics.outcomes import Outcomes
from classwise.metrics.result import Result
from classwise.report.page import page

READY = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
ATTACKS = {"pgd": 0.06, "margin-pgd": 0.03, "temperature-pgd": 0.0}


def synthetic(size: int, per_class: int = 50) -> tuple[Result, Examples]:
    """Plant classes of 20 to 60 % robust accuracy, each mostly taken for its neighbour."""
    random = np.random.default_rng(0)
    y, hardness = np.repeat(np.arange(size), per_class), random.random(size * per_class)
    rival = np.where(random.random(len(y)) < 0.5, y ^ 1, (y + random.integers(1, size, len(y))) % size) % size
    rival = np.where(rival == y, (y + 1) % size, rival)
    clean = np.where(hardness > 0.9, rival, y)
    strength = random.uniform(0.2, 0.6, size)[y]
    predictions = {name: np.where(hardness > strength + more, rival, y) for name, more in ATTACKS.items()}
    names = tuple(f"class {c}, a name of some length" for c in range(size))
    predictions = {name: np.where(clean != y, clean, p) for name, p in predictions.items()}
    outcomes = Outcomes(names, np.arange(len(y)), y, clean, predictions, {}, {})
    header: dict[str, Any] = {
        "model": {"name": "synthetic", "sha256": "0" * 64, "parameters": 1},
        "data": {"name": "synthetic", "split": "test", "n": len(y), "sha256": "0" * 64, "note": ""},
        "threat": {"norm": "Linf", "eps": 4 / 255, "eps_text": "4/255"},
        "seed": 0,
        "batch_size": 1,
        "device": "cpu",
        "command": "",
        "seconds": 1.0,
        "environment": {},
        "flags": [],
        "logits": {},
        "groups": {f"superclass {g}": list(names[g::20]) for g in range(20)},
        "attacks": {name: {"settings": name, "seconds": 1.0} for name in ATTACKS},
    }
    index = worth_showing(outcomes)[:6]
    x = random.integers(0, 256, (len(index), 3, 224, 224), dtype=np.uint8)
    x_adv = (x / 255 + random.choice([-4 / 255, 4 / 255], x.shape)).clip(0, 1).astype(np.float32)
    return Result(header, outcomes), Examples("", index, x, x_adv)


def spent(browser: Any, act: Callable[[Page], None], opened: Path | None = None) -> tuple[float, float]:
    """Return CPU seconds of the main thread and wall seconds of an act on a new page, which has ``opened`` before."""
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    if opened is not None:
        load(opened)(tab)
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def cpu() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(entry["value"] for entry in metrics if entry["name"] == "TaskDuration"))

    before, start = cpu(), time.perf_counter()
    act(tab)
    tab.evaluate(READY)
    found = cpu() - before, time.perf_counter() - start
    tab.close()
    return found


def load(path: Path) -> Callable[[Page], None]:
    """Return the act of opening a page."""

    def act(tab: Page) -> None:
        tab.goto(path.as_uri(), timeout=300_000)
        tab.evaluate(READY)

    return act


def main() -> None:
    """Write the page, open it, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "report.html"
        path.write_text(page(*_of(settings.classes)))
        print(f"{settings.classes:,} classes: {path.stat().st_size / 1e6:.2f} MB")
        executable = os.environ.get("CLASSWISE_CHROMIUM") or shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        print(
            f"Chromium {browser.version}; median (range) of {settings.repeat}; 1-minute load {os.getloadavg()[0]:.1f}"
        )
        acts: dict[str, tuple[Callable[[Page], None], Path | None]] = {
            "open": (load(path), None),
            "search": (lambda tab: tab.locator(".find input").fill("class 777"), path),
            "sort": (lambda tab: tab.locator("#class-table thead button").first.dispatch_event("click"), path),
        }
        for name, (act, opened) in acts.items():
            times = np.array([spent(browser, act, opened) for _ in range(settings.repeat)])
            cpu, wall = (f"{np.median(t):.2f} ({t.min():.2f}-{t.max():.2f}) s" for t in times.T)
            print(f"{name:7} CPU {cpu}, wall {wall}")
        browser.close()


def _of(size: int) -> tuple[Result, str, Examples]:
    result, examples = synthetic(size)
    return result, "runs/synthetic", examples


if __name__ == "__main__":
    main()
