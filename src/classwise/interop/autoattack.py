"""A class with the constructor and methods of fra31/auto-attack, for scripts that use it.

``from classwise.interop.autoattack import AutoAttack`` in place of ``from autoattack import AutoAttack``. What differs
is mended on purpose: the model is attacked in eval mode and put back; every class count works; the result depends
neither on ``bs`` nor on the clock, since ``seed=None`` means 0 and every image draws its own random numbers; a run with
``state_path`` resumes; and an image counts as broken only if its candidate is inside the ball and misclassified again.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from classwise import files
from classwise.attacks import build
from classwise.attacks.autoattack import members
from classwise.attacks.base import Attack, predict
from classwise.classifier import as_module
from classwise.errors import InputError
from classwise.judging import forward, judging
from classwise.memory import freed_memory_kept
from classwise.models.checkpoint import weights_sha256
from classwise.noise import Noise
from classwise.registry import unknown
from classwise.threat import ThreatModel, parse_eps, parse_norm

_KNOWN = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
_ROUNDING = 1e-6  # that resizing may leave a pixel outside [0, 1] by; it is clipped


class AutoAttack:
    """AutoAttack on tensors, with the interface of the released package.

    Args:
        model: a module or a function, [0, 1] in, logits out.
        norm: "Linf", "L2" or "L1".
        eps: radius in [0, 1] pixel units.
        seed: of the attacks; None is 0, not the clock.
        verbose: whether to print accuracies while they are measured.
        attacks_to_run: names, for ``version="custom"``: apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square.
        version: "standard", "plus", "rand" or "custom".
        is_tf_model: TensorFlow models are refused.
        device: where to compute; that of the model if None.
        log_path: file that the printed lines are appended to.

    Raises:
        InputError: an unknown version, attack or norm, or a TensorFlow model.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: torch.device | str | None = None,
        log_path: Path | str | None = None,
    ) -> None:
        if is_tf_model:
            raise InputError("TensorFlow models are not supported; wrap a PyTorch model.")
        self.model = as_module(model)
        self.threat = ThreatModel(parse_norm(norm), parse_eps(eps))
        self.seed = 0 if seed is None else seed
        self.verbose, self.device = verbose, device
        self.log_path = None if log_path is None else Path(log_path)
        self.attacks: Mapping[str, Attack] = _attacks(version, attacks_to_run, self.threat)

    @freed_memory_kept()
    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: Path | str | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attack with each attack in turn the images that survived those before.

        Args:
            x_orig: images (N, C, H, W) in [0, 1].
            y_orig: labels (N,).
            bs: images attacked at once; does not change the result.
            return_labels: also return the predicted classes (N,).
            state_path: file that progress is kept in; an interrupted run with the same settings goes on from there.

        Returns:
            x_adv (N, C, H, W) on the CPU, the image itself where nothing broke it; with labels if asked.

        Raises:
            InputError: pixels that are not in [0, 1], labels that do not fit, or a state file of another run.
        """
        x, y = _checked(x_orig, y_orig)
        state = _State(x.clone(), torch.zeros(len(x), dtype=torch.bool), [])
        path, identity = None if state_path is None else Path(state_path), self._identity(x, y)
        with judging(self.model, self._where):
            right = self._predicted(x, y, bs) == y
            self._say(f"initial accuracy: {right.float().mean():.2%}")
            if not state.restore(path, identity):
                state.robust = right
            start = time.perf_counter()
            for name, attack in self.attacks.items():
                if name in state.done:
                    continue
                self._attack(attack, name, x, y, state, bs)
                state.done.append(name)
                state.save(path, identity)
                accuracy, spent = state.robust.float().mean(), time.perf_counter() - start
                self._say(f"robust accuracy after {name.upper()}: {accuracy:.2%} (total time {spent:.1f} s)")
            self._say(f"robust accuracy: {state.robust.float().mean():.2%}")
            return self._returned(state.x_adv, y, bs, return_labels)

    @freed_memory_kept()
    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Attack all images with each attack by itself; returns what each found, by name."""
        x, y = _checked(x_orig, y_orig)
        results: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
        with judging(self.model, self._where):
            right = self._predicted(x, y, bs) == y
            for name, attack in self.attacks.items():
                state = _State(x.clone(), right.clone(), [])
                self._attack(attack, name, x, y, state, bs)
                self._say(f"robust accuracy by {name.upper()}: {state.robust.float().mean():.2%}")
                results[name] = self._returned(state.x_adv, y, bs, return_labels)
        return results

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Return the share of images that are classified right, in eval mode."""
        x, y = _checked(x_orig, y_orig)
        with judging(self.model, self._where):
            return float((self._predicted(x, y, bs) == y).float().mean())

    def _attack(self, attack: Attack, name: str, x: Tensor, y: Tensor, state: _State, bs: int) -> None:
        """Attack what is robust so far, and keep the candidates that break it."""
        noise = Noise(self.seed, torch.arange(len(x))).fold(name)
        for positions in torch.split(state.robust.nonzero().squeeze(1), bs):
            clean, label = self._moved(x[positions]), self._moved(y[positions])
            x_adv = attack(self.model, clean, label, noise=noise.select(positions))
            broken = self.threat.contains(x_adv, clean) & (predict(forward(self.model, x_adv), label) != label)
            where = positions[broken.cpu()]
            state.x_adv[where], state.robust[where] = x_adv[broken].cpu(), False

    def _predicted(self, x: Tensor, y: Tensor, bs: int) -> Tensor:
        """Return the predicted class of every image, (N,) on the CPU."""
        parts = zip(torch.split(x, bs), torch.split(y, bs), strict=True)
        return torch.cat([predict(forward(self.model, self._moved(a)), self._moved(b)).cpu() for a, b in parts])

    def _returned(self, x_adv: Tensor, y: Tensor, bs: int, labels: bool) -> Tensor | tuple[Tensor, Tensor]:
        return (x_adv, self._predicted(x_adv, y, bs)) if labels else x_adv

    @property
    def _where(self) -> torch.device | str:
        return self.device or next(self.model.parameters(), torch.zeros(())).device

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(self._where)

    def _identity(self, x: Tensor, y: Tensor) -> str:
        digest = hashlib.sha256(repr((weights_sha256(self.model), self.seed, list(self.attacks.values()))).encode())
        digest.update(x.numpy().tobytes())
        digest.update(y.numpy().tobytes())
        return digest.hexdigest()

    def _say(self, line: str) -> None:
        if self.verbose:
            sys.stdout.write(line + "\n")
        if self.log_path is not None:
            with self.log_path.open("a", encoding="utf-8") as log:
                log.write(line + "\n")


class _State:
    """What a run knows so far: the adversarial images, who is robust, and which attacks are done."""

    def __init__(self, x_adv: Tensor, robust: Tensor, done: list[str]) -> None:
        self.x_adv, self.robust, self.done = x_adv, robust, done

    def save(self, path: Path | None, identity: str) -> None:
        if path is not None:
            content = io.BytesIO()
            torch.save({"identity": identity, **vars(self)}, content)
            files.write_bytes(path, content.getvalue())

    def restore(self, path: Path | None, identity: str) -> bool:
        """Take up the file at ``path``, and tell whether there was one."""
        if path is None or not path.exists():
            return False
        try:
            stored = torch.load(path, weights_only=True)
            owner = stored.pop("identity")
        except Exception as error:
            raise InputError(f"{path} is no state of an attack; delete it to start anew.") from error
        if owner != identity:
            raise InputError(f"{path} belongs to another model, data or settings; choose another state_path.")
        vars(self).update(stored)
        return True


def _attacks(version: str, names: Sequence[str], threat: ThreatModel) -> Mapping[str, Attack]:
    if version == "custom":
        wrong = next((name for name in names if name not in _KNOWN), None)
        if wrong is not None or not names:
            raise InputError(unknown("attack", str(wrong), list(_KNOWN)))
        return {name: next(iter(build([name], threat).values())) for name in names}
    if version not in ("standard", "plus", "rand"):
        raise InputError(f"Unknown version {version!r}: use standard, plus, rand or custom.")
    if version == "rand":
        texts = {"autoattack-rand": "autoattack-rand"}
    else:
        texts = {text.partition("(")[0]: text for text in members(version)}
    return {name: next(iter(build([text], threat).values())) for name, text in texts.items()}


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and labels on the CPU, or say what is wrong with them."""
    x, y = x.detach().cpu().float(), y.detach().cpu().long()
    if x.dim() != 4 or y.shape != x.shape[:1] or not len(x):
        raise InputError(f"Give images (N, C, H, W) with labels (N,), not {tuple(x.shape)} with {tuple(y.shape)}.")
    if not (float(x.min()) >= -_ROUNDING and float(x.max()) <= 1 + _ROUNDING):
        raise InputError(
            f"The images reach from {float(x.min()):.3g} to {float(x.max()):.3g}; give pixels in [0, 1], with "
            "normalisation inside the model."
        )
    return x.clamp(0, 1), y
