"""Where a number comes from: the version, the code, the machine."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
_DIGITS = 8


def environment() -> dict[str, Any]:
    """Describe the machine and the versions that a number was made with."""
    import numpy as np
    import torch

    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        # Not platform.platform(), which has the name of the kernel, and that may be of a firm or a machine.
        "platform": "-".join([platform.system(), platform.machine(), "with", "".join(platform.libc_ver())]),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,  # type: ignore[no-untyped-call]
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_verdicts": False,
    }


def code() -> str:
    """Return a short hash of the source files of this package, to tell apart states of one version."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return short(digest.hexdigest())


def short(digest: str) -> str:
    """Return the first digits of a hash: enough to tell apart what one person has."""
    return digest[:_DIGITS]
