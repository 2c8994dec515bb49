"""Files as they are written and read: whole or not at all, locked, bounded in size, without anybody's paths."""

from classwise.files.locks import held, owned
from classwise.files.writing import (
    refuse_unwritable,
    remove_leftovers,
    sha256,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "held",
    "owned",
    "refuse_unwritable",
    "remove_leftovers",
    "sha256",
    "write_bytes",
    "write_json",
    "write_text",
]
