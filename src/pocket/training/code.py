"""A digest of source code: a stage is not gone on with, or called done, after its code has changed."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def code_digest(*files: str) -> str:
    """A digest of Python files that comments and layout do not change.

    Args:
        files: relative to the repository.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(ast.dump(ast.parse((ROOT / file).read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:16]
