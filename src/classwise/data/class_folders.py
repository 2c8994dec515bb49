"""Which pictures of a folder belong to which class and split, without a guess that nobody sees."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classwise.errors import InputError

SPLITS = ("train", "val", "test")
ANNOTATIONS = "val_annotations.txt"
"""Table of Tiny-ImageNet: file, class and box of each picture in ``images/`` beside it."""

_CALLED = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_NOT_CLASSES = re.compile(r"\.|(__MACOSX|@eaDir|lost\+found|\$RECYCLE\.BIN|System Volume Information)$")
_NO_CLASS = ("images", "imgs", "img", "pictures", "photos", "jpegimages")
_RUBBISH = re.compile(r"\.|(thumbs\.db|desktop\.ini)$", re.IGNORECASE)
_LISTS = ("classes.txt", "class_names.txt", "wnids.txt")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
_UNREAD = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jfif", ".npy", ".svg", ".raw", ".dng", ".exr")
_NAMED = 3  # names that a message lists


@dataclass(frozen=True)
class Labelled:
    """Pictures with their classes.

    Attributes:
        paths: one file a picture.
        y: class number of each (N,) int64.
        classes: name of each class.
        split: whose pictures they are.
        remark: what is to be said of how they were read, in words.
    """

    paths: tuple[Path, ...]
    y: Tensor
    classes: tuple[str, ...]
    split: str
    remark: str


def labelled_split(directory: Path, split: str, subset: bool = False, order: str = "text") -> Labelled:
    """Read ``directory/<split>/<class>/**``, or ``directory/<class>/**`` for the test split alone.

    Numbers agree between splits: they are those of the training classes. Pictures called "val" serve as test images
    where there are none.

    Args:
        directory: the data set.
        split: "train", "val" or "test"; folders may be called training, valid, validation or testing.
        subset: whether the split may lack classes of the training split.
        order: in which classes are numbered: "text" as torchvision does, "number", or a file that lists them.

    Raises:
        InputError: no such split, pictures without class folders, or classes that the training split does not have.
    """
    parts = _parts(directory)
    if not parts and split == "test":
        _refuse_flat(directory)
        names = sorted(class_folders(directory))
        return _read(directory, names, _ordered(names, order, directory), "test", directory)
    chosen, note = _chosen(directory, parts, split)
    root = parts[chosen]
    own = _classes_of(root)
    known = sorted({name for part in _reference(parts) for name in _classes_of(part)})
    _refuse_other_classes(root, own, known, "train" if "train" in parts else "other splits", subset)
    labelled = _read(root, own, _ordered(known, order, directory), chosen, directory)
    return (
        labelled
        if not note
        else Labelled(labelled.paths, labelled.y, labelled.classes, chosen, _joined(note, labelled.remark))
    )


def labelled_files(root: Path) -> tuple[list[Path], Tensor, tuple[str, ...]]:
    """List the pictures in ``root/<class>/**``, in the order of torchvision's ImageFolder, hidden ones left out.

    Returns:
        Image files, the class number of each (N,) int64, and the class names in order.

    Raises:
        InputError: there is no image.
    """
    classes = tuple(sorted(class_folders(root)))
    if not classes:
        raise InputError(f"{root} holds no class folders; lay the images out as {root}/<class>/*.png.")
    files = [pictures(root / name)[0] for name in classes]
    if not any(files):
        raise InputError(f"{root} holds class folders but no images; lay them out as {root}/<class>/*.png.")
    number = torch.tensor([k for k, paths in enumerate(files) for _ in paths])
    return [path for paths in files for path in paths], number, classes


def class_folders(directory: Path) -> list[str]:
    """Return the names of the folders that may be classes, sorted: neither hidden nor left there by a system."""
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not _NOT_CLASSES.match(entry.name))


def pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the pictures anywhere below a folder, and the files of other kinds; hidden ones and rubbish left out.

    Raises:
        InputError: a symbolic link leads back to a folder around it.
    """
    by_suffix: dict[str, list[Path]] = {}
    other = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _NOT_CLASSES.match(name)]
        if len(Path(root).parts) > len(folder.parts) and _within_itself(Path(root), folder):
            raise InputError(f"{root} is a link to a folder that it lies in; remove it.")
        names = [name for name in sorted(files) if not _RUBBISH.match(name)]
        by_suffix[root] = [Path(root, name) for name in names if name.lower().endswith(_PICTURES)]
        other += [Path(root, name) for name in names if not name.lower().endswith(_PICTURES)]
    return [path for root in sorted(by_suffix) for path in by_suffix[root]], other


def _within_itself(folder: Path, top: Path) -> bool:
    return folder.is_symlink() and (top.resolve().is_relative_to(folder.resolve()))


def _parts(directory: Path) -> dict[str, Path]:
    """Return the folder of each split; a class may be called "train", so one of a split has folders inside."""
    parts: dict[str, Path] = {}
    for name in class_folders(directory):
        split = _CALLED.get(name.casefold())
        if split is None or not class_folders(directory / name):
            continue
        if split in parts:
            raise InputError(f"{directory} holds both {parts[split].name} and {name}; keep the one that is meant.")
        parts[split] = directory / name
    return parts


def _chosen(directory: Path, parts: dict[str, Path], split: str) -> tuple[str, str]:
    """Return which split serves as the one asked for, and what to say of it."""
    unlabelled = [name for name, part in parts.items() if _unlabelled(part)]
    if split in parts and split not in unlabelled:
        return split, ""
    bare = parts.get(split) or _bare(directory, split)
    if split == "test" and "val" in parts and "val" not in unlabelled:
        return "val", "test pictures have no labels, so those of val stand for them" if bare else ""
    if bare:
        raise InputError(_flat(bare))
    there = f"it has only {', '.join(parts)}" if parts else "it has no folder of splits"
    raise InputError(f"{directory} has no {split} images: {there}; lay them out as {split}/<class>/*.png.")


def _bare(directory: Path, split: str) -> Path | None:
    """Return the folder of a split that holds pictures, but no folders."""
    named = [directory / name for name in class_folders(directory) if _CALLED.get(name.casefold()) == split]
    return next((folder for folder in named if not class_folders(folder) and pictures(folder)[0]), None)


def _reference(parts: dict[str, Path]) -> list[Path]:
    """Return the folders whose classes are those of the data: that of the training split, else all with labels."""
    return [parts["train"]] if "train" in parts else [part for part in parts.values() if not _unlabelled(part)]


def _unlabelled(part: Path) -> bool:
    return _is_flat(part) and not _has_table(part)


def _is_flat(part: Path) -> bool:
    names = class_folders(part)
    return len(names) == 1 and names[0].casefold() in _NO_CLASS


def _flat(folder: Path) -> str:
    return (
        f"{folder} holds pictures but no class folders, so their labels are not known; lay them out as "
        f"{folder}/<class>/*.png."
    )


def _refuse_flat(directory: Path) -> None:
    """Refuse folders that are splits or mere containers, and would be read as classes."""
    names = class_folders(directory)
    if names and all(name.casefold() in (*_CALLED, *_NO_CLASS) for name in names):
        raise InputError(_flat(directory / names[0]))
    if len(names) == 1 and (inside := _parts(directory / names[0])):
        raise InputError(
            f"{directory} holds one folder, {names[0]}, and that has {', '.join(inside)}; give --data-dir "
            f"{directory / names[0]}."
        )


def _classes_of(part: Path) -> list[str]:
    if _has_table(part):
        return sorted({name for _, name in _annotated(part)})
    return class_folders(part)


def _annotated(part: Path) -> list[tuple[str, str]]:
    """Read the table beside a flat folder: file and class, separated by tabs."""
    table = part / ANNOTATIONS
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    short = next((number for number, row in enumerate(rows, start=1) if len(row) < 2), None)
    if short is not None or not rows:
        raise InputError(f"Line {short or 1} of {table} must hold file and class, separated by a tab.")
    return [(row[0], row[1].strip()) for row in rows]


def _refuse_other_classes(root: Path, own: Sequence[str], known: Sequence[str], where: str, subset: bool) -> None:
    """Refuse a split whose classes are not those of the training split."""
    extra = [name for name in own if name not in known]
    if extra:
        raise InputError(
            f"{root} has {_some('class', extra)}, which {where} does not have; give it the classes of {where}."
        )
    lacking = [name for name in known if name not in own]
    if lacking and not subset:
        raise InputError(
            f"{root} lacks {_some('class', lacking)} of {where}; make the folders, which may be empty, or say that a "
            "part of the classes is meant: folder(subset=True)."
        )
    once: dict[str, str] = {}
    for name in known:
        if once.setdefault(name.strip().casefold(), name) != name:
            raise InputError(f"{root.parent} has classes {once[name.strip().casefold()]!r} and {name!r}; rename one.")


def _some(what: str, names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"the {what + ('es' if len(names) > 1 else '')} {listed}{more}"


def _ordered(names: Sequence[str], order: str, directory: Path) -> tuple[tuple[str, ...], str]:
    """Return the classes in the order in which they are numbered, and a remark where another order is likely."""
    text = tuple(sorted(names))
    decimal = bool(text) and all(name.isdecimal() for name in text)
    if order == "number":
        if not decimal:
            raise InputError(f"The class folders of {directory} are not all numbers; leave order='number' out.")
        return tuple(sorted(text, key=int)), "classes in the order of their numbers"
    if order != "text":
        listed = _listed(directory / order)
        if set(listed) != set(text):
            strange = sorted(set(listed) ^ set(text))
            raise InputError(f"{directory / order} and the class folders differ in {_some('class', strange)}.")
        return listed, f"classes in the order of {order}"
    if decimal and sorted(text, key=int) != list(text):
        return text, f"classes in the order of their names as text ({', '.join(text[:4])} …), not of order='number'"
    for file in _LISTS:
        if (directory / file).is_file() and set(listed := _listed(directory / file)) == set(text) and listed != text:
            return text, f"classes in the order of their names, as in torchvision, not of order={file!r}"
    return text, ""


def _listed(file: Path) -> tuple[str, ...]:
    """Read class names, one a line."""
    if not file.is_file():
        raise InputError(f"There is no file {file} to order the classes by; write order='text', 'number' or a file.")
    return tuple(dict.fromkeys(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()))


def _read(
    root: Path, own: Sequence[str], numbered: tuple[tuple[str, ...], str], split: str, directory: Path
) -> Labelled:
    """List the pictures of each class, or those of the table, and say what was left out."""
    classes, remark = numbered
    labelled, left = (_of_table(root), []) if _has_table(root) else _of_folders(root, own)
    number = {name: k for k, name in enumerate(classes)}
    y = torch.tensor([number[name] for _, name in labelled])
    return Labelled(tuple(path for path, _ in labelled), y, classes, split, _joined(remark, *left))


def _has_table(part: Path) -> bool:
    return (part / ANNOTATIONS).is_file() and _is_flat(part)


def _of_folders(root: Path, own: Sequence[str]) -> tuple[list[tuple[Path, str]], list[str]]:
    labelled_files(root)  # which says what is wrong where there is nothing
    files = {name: pictures(root / name) for name in own}
    stray = [path for path in sorted(root.iterdir()) if path.is_file() and path.suffix.lower() in _PICTURES]
    unread = [path for _, others in files.values() for path in others if path.suffix.lower() in _UNREAD]
    left = []
    if empty := [name for name in own if not files[name][0]]:
        left.append(f"no pictures in {_some('class', empty)}")
    if stray:
        left.append(f"{_counted(stray, 'picture')} outside class folders left out, such as {stray[0].name}")
    if unread:
        left.append(f"{_counted(unread, 'file')} of kinds not read, such as {unread[0].relative_to(root)}")
    return [(path, name) for name in own for path in files[name][0]], left


def _of_table(root: Path) -> list[tuple[Path, str]]:
    folder = root / class_folders(root)[0]
    labelled = [(folder / file, name) for file, name in _annotated(root)]
    missing = [path for path, _ in labelled if not path.is_file()]
    if missing:
        more = len(missing) - 1
        raise InputError(f"{missing[0]} is missing, with {more} others that {ANNOTATIONS} lists; restore them.")
    unlisted = set(pictures(folder)[0]) - {path for path, _ in labelled}
    if unlisted:
        raise InputError(f"{min(unlisted)} is not in {ANNOTATIONS}, so its class is not known; list it, or remove it.")
    return labelled


def _counted(paths: Sequence[Path], what: str) -> str:
    return f"{len(paths):,} {what}{'s' if len(paths) > 1 else ''}"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
