"""Run ``classwise demo`` as different processors compute, and write what it shows: python results/demo.py [OUT].

Rounding differs between processors, and so do the demo's network and its figures. The README quotes the range.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from classwise.files.writing import write_json
from classwise.metrics.result import Result

OUT = Path(__file__).parent / "demo" / "processors.json"
# What PyTorch and oneDNN may use; "avx512" only where the processor has it.
PROCESSORS = {"default": "AVX2", "avx2": "AVX2", "avx512": "DEFAULT"}


def shown(folder: Path) -> dict[str, Any]:
    """Return the figures of an evaluation that the README quotes, in per cent, and its number of images."""
    result = Result.read(folder)
    return {
        "images": len(result.outcomes.y),
        "clean": round(100 * result.clean.average.accuracy, 2),
        "robust": round(100 * result.average.accuracy, 2),
        "worst_class": result.worst.name,
        "worst": round(100 * result.worst.accuracy, 2),
    }


def run(capability: str, isa: str) -> dict[str, Any]:
    """Run the demo in a folder of its own."""
    flags = {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "classwise", "demo"]
        subprocess.run(command, cwd=folder, env=os.environ | flags, check=True, stdout=subprocess.DEVNULL)
        return shown(Path(folder) / "classwise-demo" / "evaluation")


def main(out: Path = OUT) -> None:
    """Run them all."""
    found = {name: run(name, isa) for name, isa in PROCESSORS.items()}
    write_json(out, {"command": "python results/demo.py", "seed": 0, "processors": found})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
