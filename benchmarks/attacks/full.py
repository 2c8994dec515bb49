"""``autoattack`` of classwise, which makes every pass of AutoAttack, against torchattacks: ratio and verdicts."""

from __future__ import annotations

from functools import partial
from typing import Any

from side_by_side import (
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


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__ or "", n=500)
    parser.add_argument("--steps", type=int, default=100, help="of Auto-PGD and FAB; fewer only to try this script")
    parser.add_argument("--queries", type=int, default=5000, help="likewise, of Square")
    args = parser.parse_args()
    case = open_case(args)
    attack = f"autoattack(steps={args.steps}, queries={args.queries})"
    found = apart(
        args,
        {
            "classwise": partial(by_classwise, attack=attack),
            "torchattacks": partial(by_torchattacks, steps=args.steps, queries=args.queries),
        },
        args.repeat,
    )
    ours, theirs = found["classwise"], found["torchattacks"]
    faster = ratios(theirs, ours)
    content: dict[str, Any] = {
        **{name: {**timed.record(), **timed.value.record(case)} for name, timed in found.items()},
        "faster_by": faster,
        "robust_here_alone": differences(case, ours.value, theirs.value),
        "robust_there_alone": differences(case, theirs.value, ours.value),
    }
    path = save(args, case, "full", {"steps": args.steps, "queries": args.queries, **content})
    print(title(case, path))
    rows = [(name, int(timed.value.robust.sum()), timed, timed.value.passes) for name, timed in found.items()]
    print(table(("contender", "robust", "CPU s", "forward + forward-and-backward images"), rows))
    print(f"classwise is faster by {spread(faster, '.2f')}.")
    for name in ("robust_here_alone", "robust_there_alone"):
        print(f"- {name.replace('_', ' ')}: {content[name] or 'no image'}")
    print("\nPart by part (seconds: wall time here, CPU time there):\n")
    pairs = zip(ours.value.parts, theirs.value.parts, strict=False)
    keys = ("attacked", "broken", "seconds")
    parts = [
        (there["name"], *(f"{round(part[key], 2):,}" for part in (here, there) for key in keys))
        for here, there in pairs
    ]
    print(table(("part", *(f"{key} {who}" for who in ("here", "there") for key in keys)), parts))


if __name__ == "__main__":
    main()
