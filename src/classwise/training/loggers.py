"""Loggers beside ``log.jsonl``: TensorBoard, Weights & Biases and MLflow, by Fabric's own logger and Lightning's.

Each is an extra of the package, imported only where it is asked for.
"""

from __future__ import annotations

from pathlib import Path

from lightning_fabric.loggers.logger import Logger

from classwise import registry
from classwise.errors import InputError
from classwise.registry import register


def build(text: str, directory: Path) -> list[Logger]:
    """Build loggers by name, with settings in parentheses, separated by commas; "" for none.

    Args:
        text: such as ``tensorboard, wandb(project='mine')``.
        directory: the run's folder, where all of them keep their files unless told otherwise.

    Raises:
        InputError: an unknown name, a setting that a logger does not take, or its package is not installed.
    """
    return [_installed(part, directory) for part in registry.split(text)]


def _installed(text: str, directory: Path) -> Logger:
    try:
        made: Logger = registry.build("logger", text, directory)
    except ModuleNotFoundError as error:
        name = registry.parse(text)[0]
        raise InputError(f"The logger {name} is not installed; run pip install 'classwise[{name}]'.") from error
    return made


@register("logger", "tensorboard", source="lightning_fabric.loggers.TensorBoardLogger")
def tensorboard(directory: Path, name: str = "tensorboard") -> Logger:
    """TensorBoard, in the folder `tensorboard` of the run."""
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(directory, name=name)


@register("logger", "wandb", source="pytorch_lightning.loggers.WandbLogger")
def wandb(directory: Path, project: str = "classwise", name: str | None = None, id: str | None = None) -> Logger:
    """Weights & Biases; with WANDB_MODE=offline in the folder `wandb` of the run."""
    from pytorch_lightning.loggers import WandbLogger
    from wandb.errors import Error

    directory.mkdir(parents=True, exist_ok=True)  # W&B writes elsewhere when the folder is missing
    made = WandbLogger(save_dir=directory, project=project, name=name or directory.name, id=id)
    try:
        _ = made.experiment  # logs in, which would else be refused in the middle of things
    except Error as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"Weights & Biases refuses the run ({reason}); run wandb login, or set WANDB_MODE=offline to keep it here."
        ) from error
    logger: Logger = made
    return logger


@register("logger", "mlflow", source="pytorch_lightning.loggers.MLFlowLogger")
def mlflow(
    directory: Path,
    experiment_name: str = "classwise",
    run_name: str | None = None,
    run_id: str | None = None,
    tracking_uri: str | None = None,
) -> Logger:
    """MLflow; without a tracking_uri in the file `mlflow.db` of the run."""
    from pytorch_lightning.loggers import MLFlowLogger

    directory.mkdir(parents=True, exist_ok=True)
    where = tracking_uri or f"sqlite:///{directory / 'mlflow.db'}"
    made: Logger = MLFlowLogger(experiment_name, run_name or directory.name, tracking_uri=where, run_id=run_id)
    return made
