"""A class with the constructor, attributes and methods of fra31/auto-attack, for scripts that use it.

``from classwise.interop.autoattack import AutoAttack`` in place of ``from autoattack import AutoAttack``. The attacks
and their settings are those of commit a392200 there, also where a script sets them after the constructor
(:mod:`classwise.interop.released`). What differs on purpose is the table in docs/autoattack.md.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classwise.attacks import Attack, predict
from classwise.attacks.base import described
from classwise.errors import InputError
from classwise.evaluation.preflight import PREFLIGHT_IMAGES, preflight
from classwise.interop.evaluation_state import EvaluationState
from classwise.interop.released import (
    APGDAttack,
    APGDAttackTargeted,
    FABAttack,
    Model,
    ReleasedSettings,
    SquareAttack,
    chosen_device,
)
from classwise.metrics.autoattack import version
from classwise.models.checkpoint import weights_sha256
from classwise.models.fingerprint import fingerprint, refuse_changed
from classwise.noise import Noise
from classwise.registry import unknown
from classwise.runtime.classifier import as_classifier, as_module
from classwise.runtime.inference import forward, judging
from classwise.runtime.memory import freed_memory_kept
from classwise.threat import ThreatModel, parse_eps, parse_norm

__all__ = ["AutoAttack", "EvaluationState", "Logger"]

_KNOWN = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "custom": (),
}
_PRINTED = 16  # images that say what the model computes
_ROUNDING = 1e-6  # that resizing may leave a pixel outside [0, 1] by; it is clipped


class Logger:
    """Writes lines to the terminal and appends them to a file.

    Attributes:
        log_path: that file; None for no file.
    """

    def __init__(self, log_path: Path | str | None = None) -> None:
        self.log_path = log_path

    def log(self, str_to_log: str, *, aloud: bool = True) -> None:
        """Write a line; to the file alone unless ``aloud``."""
        if aloud:
            sys.stdout.write(f"{str_to_log}\n")
        if self.log_path is not None:
            with Path(self.log_path).open("a", encoding="utf-8") as log:
                log.write(f"{str_to_log}\n")


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

    Attributes:
        apgd, apgd_targeted, fab, square: settings of the attacks; each has ``perturb``.
        attacks_to_run: names of the attacks, in their order; may be assigned.
        seed, verbose: as above; may be assigned.
        logger: writes the lines.

    Raises:
        InputError: an unknown version, attack or norm, attacks beside a version of its own, or a TensorFlow model.
    """

    def __init__(
        self,
        model: Model,
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
        self.is_tf_model = is_tf_model
        threat = ThreatModel(parse_norm(norm), parse_eps(eps))
        self.seed, self.verbose, self.logger = seed, verbose, Logger(log_path)
        self.attacks_to_run: list[str] = list(attacks_to_run)
        shared = {"model": model, "norm": threat.norm, "eps": threat.eps, "device": device, "seed": seed}
        self.apgd = APGDAttack(**shared, n_restarts=5, logger=self.logger)  # type: ignore[arg-type]
        self.apgd_targeted = APGDAttackTargeted(**shared, logger=self.logger)  # type: ignore[arg-type]
        self.fab = FABAttack(**shared, n_restarts=5)  # type: ignore[arg-type]
        self.square = SquareAttack(**shared)  # type: ignore[arg-type]
        self._model, self._norm, self._eps, self._device = model, str(threat.norm), threat.eps, device
        self._version = "custom"
        if attacks_to_run and version in _VERSIONS and version != "custom":
            raise InputError("attacks_to_run will be overridden unless you use version='custom'.")
        _check_names(self.attacks_to_run)
        self.version = version

    def __setattr__(self, name: str, value: object) -> None:
        if not hasattr(self, "_version") or hasattr(self, name):
            object.__setattr__(self, name, value)
        else:
            raise InputError(f"AutoAttack has no setting {name!r}, so it would be ignored.")

    @property
    def model(self) -> Model:
        """The model; assigning another gives it to every attack."""
        return self._model

    @model.setter
    def model(self, value: Model) -> None:
        self._model = value
        self._spread("model", value)

    @property
    def norm(self) -> str:
        """Norm of the threat; assigning another gives it to every attack."""
        return self._norm

    @norm.setter
    def norm(self, value: str) -> None:
        self._norm = parse_norm(value)
        self._spread("norm", self._norm)

    @property
    def epsilon(self) -> float:
        """Radius of the threat; assigning another gives it to every attack."""
        return self._eps

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        self._eps = parse_eps(value)
        self._spread("eps", self._eps)

    @property
    def device(self) -> torch.device | str | None:
        """Where to compute; that of the model if None. Assigning another gives it to every attack."""
        return self._device

    @device.setter
    def device(self, value: torch.device | str | None) -> None:
        self._device = value
        self._spread("device", value)

    @property
    def version(self) -> str:
        """Name of the version; assigning another sets its attacks and their settings."""
        return self._version

    @version.setter
    def version(self, value: str) -> None:
        if value not in _VERSIONS:
            raise InputError(f"Unknown version {value!r}: use standard, plus, rand or custom.")
        self._version = value
        if value != "custom":
            self.set_version(value)

    @property
    def is_tf_model(self) -> bool:
        """False: TensorFlow models are refused."""
        return False

    @is_tf_model.setter
    def is_tf_model(self, value: bool) -> None:
        if value:
            raise InputError("TensorFlow models are not supported; wrap a PyTorch model.")

    @property
    def log_path(self) -> Path | str | None:
        """File that the printed lines are appended to; None for none."""
        return self.logger.log_path

    @log_path.setter
    def log_path(self, value: Path | str | None) -> None:
        self.logger.log_path = value

    def set_version(self, version: str = "standard") -> None:
        """Set the attacks of a version and their settings.

        Raises:
            InputError: another version than standard, plus and rand.
        """
        if version not in _VERSIONS or version == "custom":
            raise InputError(f"There is no version {version!r} to set: use standard, plus or rand.")
        self._say(f"setting parameters for {version} version")
        self._version, self.attacks_to_run = version, list(_VERSIONS[version])
        self.apgd.eot_iter = 20 if version == "rand" else 1
        self.apgd.n_restarts = 5 if version == "plus" or (version, self.norm) == ("standard", "L1") else 1
        if version == "rand":
            return
        self.fab.n_restarts = 5 if version == "plus" else 1
        self.apgd_targeted.n_restarts, self.fab.n_target_classes, self.square.n_queries = 1, 9, 5000
        sparse = (version, self.norm) == ("standard", "L1")
        self.apgd_targeted.n_target_classes = 5 if sparse else 9
        self.apgd.use_largereps = self.apgd_targeted.use_largereps = sparse

    def get_logits(self, x: Tensor) -> Tensor:
        """Return what the model returns."""
        logits: Tensor = self.model(x)
        return logits

    def get_seed(self) -> int:
        """Return the seed in use: 0 where none was given."""
        return 0 if self.seed is None else self.seed

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
            state_path: file that progress is kept in, as ``autoattack.state`` reads it, with the images in a second
                file beside it; an interrupted run with the same settings goes on from there.

        Returns:
            x_adv (N, C, H, W) on the device of the images, the image itself where nothing broke it; with labels if
            asked.

        Raises:
            InputError: pixels that are not in [0, 1], labels that do not fit, no attack, or a state file of another
                run, or of a model that computed something else with the same weights.
        """
        x, y = _checked(x_orig, y_orig, bs)
        attacks = self._attacks()
        path = None if state_path is None else Path(state_path)
        with judging(self._module, self._where):
            state = self._begin(path, x, y, attacks)
            left = [name for name in attacks if name not in state.run_attacks]
            self._introduce(attacks, left)
            if state.run_attacks:
                self._say(f"{', '.join(state.run_attacks)} was/were already run.")
            self._preflight(x, y, bs)
            self._start(state, x, y, bs)
            if path is not None:
                state.to_disk(path)
            start = time.perf_counter()
            for name in left:
                assert state.robust is not None
                if not state.robust.any():
                    break
                self._attack(attacks[name], name, x, y, state, bs)
                state.run_attacks.append(name)
                if path is not None:
                    state.to_disk(path)
                accuracy, spent = state.robust_accuracy, time.perf_counter() - start
                self._say(f"robust accuracy after {name.upper()}: {accuracy:.2%} (total time {spent:.1f} s)")
            assert state.x_adv is not None
            self._say(_extent(self.norm, state.x_adv, x))
            self._say(f"robust accuracy: {state.robust_accuracy:.2%}")
            return self._returned(state.x_adv, x_orig, y_orig, bs, return_labels)

    @freed_memory_kept()
    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Attack all images with each attack by itself; returns what each found, by name."""
        x, y = _checked(x_orig, y_orig, bs)
        attacks = self._attacks()
        results: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
        self._introduce(attacks, list(attacks))
        with judging(self._module, self._where):
            self._preflight(x, y, bs)
            right = self._predicted(x, y, bs) == y
            for name, attack in attacks.items():
                start = time.perf_counter()
                state = EvaluationState((name,), robust=right.clone(), x_adv=x.clone())
                self._attack(attack, name, x, y, state, bs, aloud=False)
                accuracy, spent = state.robust_accuracy, time.perf_counter() - start
                self._say(f"robust accuracy by {name.upper()} \t {accuracy:.2%} \t (time attack: {spent:.1f} s)")
                assert state.x_adv is not None
                results[name] = self._returned(state.x_adv, x_orig, y_orig, bs, return_labels)
        return results

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Return the share of images that are classified right, in eval mode."""
        x, y = _checked(x_orig, y_orig, bs)
        with judging(self._module, self._where):
            accuracy = float((self._predicted(x, y, bs) == y).float().mean())
        self._say(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _attacks(self) -> dict[str, Attack]:
        """Return the attacks that the settings stand for now.

        Raises:
            InputError: none was named, an unknown one was, or a setting is outside its range.
        """
        if not len(self.attacks_to_run):
            raise InputError("No attack is named; assign for example attacks_to_run = ['apgd-ce', 'fab'].")
        _check_names(self.attacks_to_run)
        attacks: dict[str, Attack] = {}
        for name in self.attacks_to_run:
            # As there: a run decides on the loss of APGD and the targets of FAB, whatever they were set to.
            if name in ("apgd-ce", "apgd-dlr"):
                self.apgd.loss = name.removeprefix("apgd-")
            self.fab.targeted = name == "fab-t"
            restarts = self.fab.n_restarts
            if name == "fab-t":
                self.fab.n_restarts = 1
            attacks[name] = self._settings(name).attack()
            self.fab.n_restarts = restarts
        return attacks

    def _settings(self, name: str) -> ReleasedSettings:
        if name == "apgd-t":
            return self.apgd_targeted
        return self.apgd if name.startswith("apgd") else self.fab if name.startswith("fab") else self.square

    def _begin(self, path: Path | None, x: Tensor, y: Tensor, attacks: Mapping[str, Attack]) -> EvaluationState:
        """Return the state of a run that starts, or of the one that a file tells of."""
        identity = "" if path is None else self._identity(x, y, attacks)
        function = {} if path is None else self._function(x)
        if path is None or not path.exists():
            state = EvaluationState(tuple(attacks), x_adv=x.clone(), identity=identity, function=function)
            if path is not None:
                state.to_disk(path)
                self._say(f"Created state in {path}")
            return state
        state = EvaluationState.from_disk(path)
        other = state.identity not in ("", identity) or (state.robust is not None and len(state.robust) != len(x))
        other |= state.x_adv is not None and (state.x_adv.shape, state.x_adv.dtype) != (x.shape, x.dtype)
        if other or set(state.attacks_to_run) != set(attacks):
            raise InputError(f"{path} belongs to another model, data or settings; choose another state_path.")
        refuse_changed(state.function, function, f"{path} holds the run", "choose another state_path")
        self._say(f"Restored state from {path}")
        if state.x_adv is None:  # the released package keeps no images
            self._say("Only the adversarial examples of this run are going to be returned.")
        state.x_adv = x.clone() if state.x_adv is None else state.x_adv
        state.identity, state.function = identity, function
        return state

    def _start(self, state: EvaluationState, x: Tensor, y: Tensor, bs: int) -> None:
        """Count the clean images that are right, unless the state knows them, and say what is robust at the start."""
        if state.robust is None:
            state.robust = self._predicted(x, y, bs) == y
            state.clean_accuracy = state.robust_accuracy
            self._say(f"initial accuracy: {state.clean_accuracy:.2%}")
        else:
            self._say(f"initial clean accuracy: {state.clean_accuracy:.2%}")
            self._say(f"robust accuracy at the time of restoring the state: {state.robust_accuracy:.2%}")

    def _attack(
        self, attack: Attack, name: str, x: Tensor, y: Tensor, state: EvaluationState, bs: int, aloud: bool = True
    ) -> None:
        """Attack what is robust so far, and keep the candidates that break it."""
        assert state.robust is not None
        assert state.x_adv is not None
        model = as_module(self._settings(name).model)
        noise = Noise(self.get_seed(), torch.arange(len(x))).fold(name)
        left = state.robust.nonzero().squeeze(1)
        batches = torch.split(left, bs) if len(left) else ()
        for number, positions in enumerate(batches, 1):
            clean, label = self._moved(x[positions]), self._moved(y[positions])
            x_adv = attack(model, clean, label, noise=noise.select(positions))
            broken = attack.threat.contains(x_adv, clean) & (predict(forward(model, x_adv), label) != label)
            where = positions[broken.cpu()]
            state.x_adv[where], state.robust[where] = x_adv[broken].cpu(), False
            if aloud:
                summary = f"{len(where)} out of {len(positions)} successfully perturbed"
                self._say(f"{name} - {number}/{len(batches)} - {summary}")

    def _introduce(self, attacks: Mapping[str, Attack], left: Sequence[str]) -> None:
        """Say which attacks are left to run, and whether a setting was changed that the version does not leave open."""
        self._say(f"using {self.version} version including {', '.join(left)}.")
        ensemble = {"kind": "Ensemble", "attacks": [described(attack) for attack in attacks.values()]}
        if self.version not in ("custom", version({"attack": ensemble})):
            self._say(f"warning: the settings were changed, so this is not AutoAttack {self.version}.")

    def _preflight(self, x: Tensor, y: Tensor, bs: int) -> None:
        """Pass a few images first, and say where the model is no function of one image."""
        some = slice(0, max(2, min(PREFLIGHT_IMAGES, bs)))
        for flag in preflight(self._module, self._moved(x[some]), self._moved(y[some]), (), min(bs, len(x))).flags:
            self._say(f"warning ({flag.flag}): {flag.message}")

    def _predicted(self, x: Tensor, y: Tensor, bs: int) -> Tensor:
        """Return the predicted class of every image, (N,) on the CPU."""
        parts = zip(torch.split(x, bs), torch.split(y, bs), strict=True)
        return torch.cat([predict(forward(self._module, self._moved(a)), self._moved(b)).cpu() for a, b in parts])

    def _returned(
        self, x_adv: Tensor, x_orig: Tensor, y_orig: Tensor, bs: int, labels: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        back = x_adv.to(x_orig.device)
        if not labels:
            return back
        return back, self._predicted(x_adv, y_orig.detach().cpu().long(), bs).to(y_orig.device)

    @property
    def _module(self) -> nn.Module:
        return as_module(self._model)

    @property
    def _where(self) -> torch.device:
        return chosen_device(self._module, self._device)

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(self._where)

    def _spread(self, name: str, value: object) -> None:
        for settings in (self.apgd, self.apgd_targeted, self.fab, self.square):
            setattr(settings, name, value)

    def _identity(self, x: Tensor, y: Tensor, attacks: Mapping[str, Attack]) -> str:
        identity = (weights_sha256(self._module), self.get_seed(), list(attacks.values()))
        digest = hashlib.sha256(repr(identity).encode())
        digest.update(x.numpy().tobytes())
        digest.update(y.numpy().tobytes())
        return digest.hexdigest()

    def _function(self, x: Tensor) -> dict[str, Any]:
        """Return what the model computes, which its weights alone do not say, for JSON."""
        evenly = torch.linspace(0, len(x) - 1, min(_PRINTED, len(x))).long()
        mark = fingerprint(as_classifier(self._module), self._moved(x[evenly]))
        return {"the model": mark and mark.record}

    def _say(self, line: str) -> None:
        self.logger.log(line, aloud=self.verbose)


def _extent(norm: str, x_adv: Tensor, x: Tensor) -> str:
    """Return the line that the released package ends with, on the size of the perturbations."""
    size = ThreatModel(parse_norm(norm), 0.0).distance(x_adv, x).max()
    return (
        f"max {norm} perturbation: {size:.5f}, nan in tensor: {int(x_adv.isnan().sum())}, "
        f"max: {x_adv.max():.5f}, min: {x_adv.min():.5f}"
    )


def _check_names(names: Sequence[str]) -> None:
    wrong = next((name for name in names if name not in _KNOWN), None)
    if wrong is not None:
        raise InputError(unknown("attack", str(wrong), list(_KNOWN)))


def _checked(x: Tensor, y: Tensor, bs: int) -> tuple[Tensor, Tensor]:
    """Return images and labels on the CPU, or say what is wrong with them."""
    x, y = x.detach().cpu().float(), y.detach().cpu().long()
    if bs < 1:
        raise InputError(f"bs = {bs} is no number of images to attack at once; give at least 1.")
    if x.dim() != 4 or y.shape != x.shape[:1] or not len(x):
        raise InputError(f"Give images (N, C, H, W) with labels (N,), not {tuple(x.shape)} with {tuple(y.shape)}.")
    if not (float(x.min()) >= -_ROUNDING and float(x.max()) <= 1 + _ROUNDING):
        raise InputError(
            f"The images reach from {float(x.min()):.3g} to {float(x.max()):.3g}; give pixels in [0, 1], with "
            "normalisation inside the model."
        )
    return x.clamp(0, 1), y
