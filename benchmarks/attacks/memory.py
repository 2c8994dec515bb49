"""Peak memory of an evaluation at two numbers of images, and of one bare pass forwards and back.

Each is measured in a process of its own. The floor is a process that has only loaded the network and the images; what
an evaluation adds to it should not grow with the number of images, and stay near what a bare pass adds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from side_by_side import Case, by_classwise, open_case, options, save, table, title

from classwise.runtime.memory import batch_that_fits

# Every attack's working set, in few steps: the peak does not grow with them.
ATTACKS = "nearest-pgd(steps=2),apgd-ce(steps=4),fab-t(steps=3, targets=2),square(queries=40)"


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__ or "")
    parser.add_argument("--larger", type=int, default=4000, help="the other number of images (default 4000)")
    parser.add_argument("--attacks", default=ATTACKS, help="what the evaluation runs")
    parser.add_argument("--child", choices=RUNS, help="measure this one in this process; what the script itself calls")
    args = parser.parse_args()
    case = open_case(args)
    if args.child:
        forget_peak()
        RUNS[args.child](case, args)
        print(json.dumps(peak()))
        return
    found = {(run, n): child(run, n) for n in (args.n, args.larger) for run in RUNS}
    report(args, case, found)


def report(args: Namespace, case: Case, found: dict[tuple[str, int], float]) -> None:
    """Print the table, and write the file."""
    content, rows = list[dict[str, Any]](), list[tuple[str, ...]]()
    for (run, n), size in found.items():
        floor, bare = found["load", n], found["bare pass", n]
        record = {"run": run, "n": n, "peak_mib": size, "above_floor_mib": size - floor, "over_bare_pass": size / bare}
        content.append(record)
        rows.append((run, f"{n:,}", f"{size:.0f}", f"{size - floor:.0f}", f"{size / bare:.2f}"))
    growth = found["evaluation", args.larger] - found["evaluation", args.n]
    floor_growth = found["load", args.larger] - found["load", args.n]
    summary = {"growth_mib": growth, "growth_of_floor_mib": floor_growth, "runs": content}
    path = save(args, case, "memory", {"attacks": args.attacks, "batch_size": batch(case), **summary})
    print(title(case, path))
    print(table(("process", "images", "peak MiB", "above the floor, MiB", "peak over that of a bare pass"), rows))
    print(f"From {args.n:,} to {args.larger:,} images: {growth:+.0f} MiB, of which the data {floor_growth:+.0f} MiB.")


def child(run: str, n: int) -> float:
    """Measure a run in a process of its own, in MiB."""
    command = [sys.executable, *sys.argv, "--child", run, "--n", str(n)]  # of two --n the last one counts
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def forget_peak() -> None:
    """Let the peak begin anew where Linux allows it: reading a data set takes more for a moment than attacking it.

    What reading has left in the heap goes back first, since an attack could use it without a trace in the peak.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Return the most memory that this process held since the peak was forgotten, or ever, in MiB.

    Linux hands ``ru_maxrss`` of the parent down to the program that it starts, so where /proc has it, the peak of
    the program itself is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def load(case: Case, args: Namespace) -> None:
    """Do nothing beyond loading."""


def bare_pass(case: Case, args: Namespace) -> None:
    """Pass one batch, as large as the engine's, forwards and back."""
    which = torch.arange(min(batch(case), len(case.data)))
    x = case.data.fetch(which).requires_grad_(True)
    torch.autograd.grad(case.model(x).sum(), x)


def evaluation(case: Case, args: Namespace) -> None:
    """Evaluate as a user would, attack after attack."""
    by_classwise(case, f"ensemble(attacks='{args.attacks}')" if "," in args.attacks else args.attacks)


def batch(case: Case) -> int:
    """Return the batch size that the engine chooses."""
    two = torch.arange(2)
    return batch_that_fits(case.model, case.data.fetch(two))


RUNS = {"load": load, "bare pass": bare_pass, "evaluation": evaluation}


if __name__ == "__main__":
    main()
