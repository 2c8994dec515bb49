"""``fast`` and ``upper-bound`` against AutoAttack standard by torchattacks: verdicts, passes and CPU seconds.

``fast`` is timed without its audit, and once more with it; what the audit costs is the difference.
"""

from __future__ import annotations

import math
from argparse import Namespace
from functools import partial
from typing import Any

import numpy as np
from side_by_side import (
    Case,
    Found,
    Timed,
    apart,
    by_classwise,
    by_torchattacks,
    differences,
    open_case,
    options,
    ratios,
    save,
    spread,
    table,
    title,
)

from classwise.evaluation.plan import ERROR
from classwise.metrics.audit import round_error, sample_size

PEER = "AutoAttack (torchattacks)"
IMAGES, POINTS = 10_000, 0.5  # what the projection is for


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__ or "")
    parser.add_argument("--audit", type=float, default=1.0, help="points of the audit (default 1)")
    parser.add_argument("--steps", type=int, default=100, help="of AutoAttack; fewer only to try this script")
    parser.add_argument("--queries", type=int, default=5000, help="likewise")
    args = parser.parse_args()
    case = open_case(args)
    audited = f"fast, audit {args.audit:g}"
    contenders = {
        "upper-bound": partial(by_classwise, attack="upper-bound"),
        "fast": partial(by_classwise, attack="fast"),
        audited: partial(by_classwise, attack="fast", audit=args.audit),
        PEER: partial(by_torchattacks, steps=args.steps, queries=args.queries),
    }
    if not args.audit:
        del contenders[audited]
    report(args, case, apart(args, contenders, args.repeat), audited)


def report(args: Namespace, case: Case, found: dict[str, Timed[Found]], audited: str) -> None:
    """Print the table, and write the file."""
    peer, content = found[PEER], dict[str, Any]()
    rows = []
    for name, timed in found.items():
        missed = differences(case, timed.value, peer.value)
        beyond = differences(case, peer.value, timed.value)
        faster = ratios(peer, timed)
        content[name] = {
            **timed.record(),
            "faster_by": faster,
            **timed.value.record(case),
            "robust_but_broken_by_autoattack": missed,
            "broken_but_robust_to_autoattack": beyond,
        }
        counts = (int(timed.value.robust.sum()), len(missed), len(beyond))
        rows.append((name, *counts, timed, spread(faster, ".1f"), timed.value.passes))
    content = {"contenders": content, "projection": projection(case, found, audited)}
    path = save(args, case, "fast", {"steps": args.steps, "queries": args.queries, **content})
    head = ("contender", "robust", "missed", "beyond", "CPU s", "faster by", "forward + forward-and-backward images")
    print(title(case, path))
    print(table(head, rows))
    print(notes(content))


def projection(case: Case, found: dict[str, Timed[Found]], audited: str) -> dict[str, Any] | None:
    """Scale the seconds to 10,000 images with an audit of 0.5 points; None where there was no audit.

    Ladder and AutoAttack grow with the number of images; the audit's cost an image is that of this run, its sample
    that of the survivors of this run, scaled.
    """
    if audited not in found:
        return None
    plain, with_audit = found["fast"], found[audited]
    members = with_audit.value.header["full"]
    attacked = sum(part["attacked"] for part in with_audit.value.parts if part["name"] == f"audit: {members[0]}")
    if with_audit.value.header["audit"] is None or not attacked:
        return None
    scale = IMAGES / len(case.data)
    survivors = np.bincount(case.y[plain.value.robust].numpy(), minlength=len(case.data.classes))
    strata = np.round(survivors * scale).astype(np.int64)
    sample = int(sample_size(strata, math.floor(POINTS / 100 * IMAGES), round_error(0, ERROR)).sum())
    each = (with_audit.median - plain.median) / attacked
    seconds = {"ladder": plain.median * scale, "audit": each * sample, "autoattack": found[PEER].median * scale}
    return {
        "from_n": len(case.data),
        "images": IMAGES,
        "points": POINTS,
        "audited_images": sample,
        "cpu_seconds": seconds,
        "faster_by": seconds["autoattack"] / (seconds["ladder"] + seconds["audit"]),
    }


def notes(content: dict[str, Any]) -> str:
    """Say in words what the table leaves out."""
    lines = []
    for name, found in content["contenders"].items():
        lines.append(f"- {name}: robust by class {found['robust_by_class']}")
        if found.get("reasons"):
            lines.append(f"  every survivor met AutoAttack, because: {'; '.join(found['reasons'])}")
        if found.get("audit"):
            lines.append(
                f"  audit: at most {found['audit']['at_most']} images missed; rounds {found['audit']['rounds']}"
            )
        lines += [f"  missed: {image}" for image in found["robust_but_broken_by_autoattack"]]
    if content["projection"]:
        seen = content["projection"]
        seconds = {name: round(value) for name, value in seen["cpu_seconds"].items()}
        lines.append(
            f"- projected from {seen['from_n']:,} to {seen['images']:,} images with an audit of "
            f"{seen['points']} points ({seen['audited_images']} images): {seconds} CPU s, "
            f"faster by {seen['faster_by']:.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
