"""A verdict is float32 and eval mode, however coarse products of matrices were asked for outside."""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from tests.odd_models import Odd, images, votes
from torch import Tensor, nn

from classwise import ThreatModel, evaluate
from classwise.attacks.pgd import PGD
from classwise.runtime.inference import judging

# Ways to ask for coarse products of float32 matrices, by PyTorch's newer switches and by its older ones.
COARSE = [
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high')",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cudnn.allow_tf32 = True",
    "torch.backends.cudnn.allow_tf32 = False",
]
SWITCHES = """
import json, os, sys, torch
from classwise.runtime.inference import exact_float32

def switches():
    backends = torch.backends
    parts = {"cuda.matmul": backends.cuda.matmul, "cudnn.conv": backends.cudnn.conv, "cudnn.rnn": backends.cudnn.rnn}
    parts |= {name: getattr(backends.mkldnn, name) for name in ("matmul", "conv", "rnn")}
    newer = {name: part.fp32_precision for name, part in parts.items()}
    older = [torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32]
    older.append(lambda: backends.cuda.matmul.allow_tf32)
    return newer, [said(switch) for switch in older]

def said(switch):
    try:
        return switch()
    except RuntimeError:
        return "mixed"

for asked in sys.argv[1:]:
    if not os.fork():
        exec(asked)
        before = switches()
        with exact_float32():
            inside = switches()
        print(json.dumps([asked, before, inside, switches()]), flush=True)
        os._exit(0)
    os.wait()
"""


def test_coarse_products_are_switched_off_and_put_back_however_they_were_asked_for() -> None:
    """Each in a process of its own: some switches cannot be put back once another kind was used."""
    done = subprocess.run([sys.executable, "-c", SWITCHES, *COARSE], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [asked for asked, *_ in found] == COARSE
    for asked, before, (newer, older), after in found:
        assert set(newer.values()) == {"ieee"}, asked
        assert older == ["highest", False, False], asked
        assert before == after, asked


def test_a_model_is_judged_in_float32_and_eval_mode_whatever_is_switched_on() -> None:
    model, seen = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train(), list[tuple[torch.dtype, bool]]()
    model.register_forward_hook(lambda module, _, out: seen.append((out.dtype, module.training)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with judging(model, "cpu"):
            model(torch.rand(2, 4))
        model(torch.rand(2, 4))
    assert seen == [(torch.float32, False), (torch.bfloat16, True)]


def test_scripts_and_models_that_make_float64_the_default_type_change_no_figure() -> None:
    def forward(model: Odd, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return votes(model.weight * x)

    def margins(model: Odd) -> list[float]:
        found = evaluate(model.eval(), images(4), {"attack": PGD(ThreatModel("Linf", 0.05), steps=5)}).outcomes
        return [round(float(margin), 5) for margin in found.margins["attack"]]

    expected, before = margins(Odd(lambda model, x: votes(model.weight * x))), torch.get_default_dtype()
    model = Odd(forward)
    for default in (torch.float64, torch.float32):
        try:
            torch.set_default_dtype(default)
            assert margins(model) == expected
            assert torch.get_default_dtype() == default
        finally:
            torch.set_default_dtype(before)
