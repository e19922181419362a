"""Data tracked by DVC: what a .dvc file promises, whether it is there, and bringing it from the remote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.data.fetch_http import FetchError
from src.files import md5_file

if TYPE_CHECKING:
    from dvc.repo import Repo

_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """One output of a .dvc file. `digest` is the MD5 of the file, or of the folder's listing (".dir")."""

    target: Path
    output: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """How the files found differ from the files promised, by name below the output."""

    missing: list[str]
    changed: list[str]
    extra: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether all that was promised is there, whatever else is."""
        return not self.missing and not self.changed


def read_dvc_file(target: Path) -> Tracked:
    """Reads what a .dvc file with one output promises.

    Raises:
        FetchError: no such file, or it is not one this project can check.
    """
    import yaml

    try:
        content = yaml.safe_load(target.read_text(encoding="utf-8"))
        (out,) = content["outs"]
        digest, output = out["md5"], out["path"]
    except OSError as error:
        raise FetchError(f"cannot read {target}: {error.strerror}.") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise FetchError(f"{target} is not a .dvc file with one tracked output.") from error
    if out.get("hash") != "md5":
        raise FetchError(f"{target} was written by DVC 2. Renew it: dvc add {output}")
    return Tracked(target=target, output=(target.parent / output).resolve(), digest=str(digest))


@contextmanager
def _repository(root: Path) -> Iterator[Repo]:
    from dvc.repo import Repo

    # A copy without git (an unpacked archive of the project) has the remote and works as well.
    no_scm = not any((folder / ".git").exists() for folder in (root, *root.parents))
    # Waits while another process of ours or the user's own dvc holds the repository.
    repository = Repo(str(root), config={"core": {"no_scm": no_scm}}, _wait_for_lock=True)
    try:
        yield repository
    finally:
        repository.close()


def _listing(repository: Repo, tracked: Tracked) -> dict[str, str] | None:
    """MD5 by name for all files of the output, or None while the listing is not in DVC's cache."""
    if not tracked.digest.endswith(".dir"):
        return {"": tracked.digest}
    path = Path(repository.cache.local.oid_to_path(tracked.digest))
    if not path.exists():
        return None
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))}


def files_below(path: Path) -> dict[str, Path]:
    """All files of a folder by relative name ("" for a single file), hidden litter of desktops left out."""
    if path.is_file():
        return {"": path}
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return {name: file for name, file in found.items() if not file.name.startswith((".DS_Store", "._"))}


def _compare(output: Path, wanted: dict[str, str]) -> Differences:
    found = files_below(output)
    return Differences(
        missing=sorted(wanted.keys() - found.keys()),
        changed=sorted(
            name for name in wanted.keys() & found.keys() if md5_file(found[name]) != wanted[name]
        ),
        extra=sorted(found.keys() - wanted.keys()),
    )


def few(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name or "the file" for name in names[:_NAMED]) + more


def verify(tracked: Tracked, *, root: Path) -> list[str] | None:
    """The names of the promised files when all are there with the promised content, else None."""
    if not tracked.output.exists():
        return None
    with _repository(root) as repository:
        wanted = _listing(repository, tracked)
    return sorted(wanted) if wanted is not None and _compare(tracked.output, wanted).is_whole else None


def pull(tracked: Tracked, *, root: Path) -> list[str]:
    """Fetches from the default remote into DVC's cache and from there what is missing; returns the names.

    Nothing of the user's is overwritten: changed files, and files of his own where others are missing, are
    left as they are and refused.

    Raises:
        FetchError: with DVC's reason, or naming the files in the way.
    """
    try:
        with _repository(root) as repository:
            repository.fetch(targets=[str(tracked.target)])
            wanted = _listing(repository, tracked)
            if wanted is None:
                raise FetchError(f"the remote holds no {tracked.digest}, which {tracked.target.name} names.")
            state = _compare(tracked.output, wanted)
            if state.changed:
                raise FetchError(
                    f"{few(state.changed)} changed in {tracked.output}. "
                    f"`dvc checkout --force {tracked.target}` restores what was, "
                    f"`dvc add {tracked.output}` keeps the change."
                )
            if state.missing and state.extra:
                raise FetchError(
                    f"{few(state.missing)} missing in {tracked.output}, and DVC would remove files of your "
                    f"own there ({few(state.extra)}). Move those away."
                )
            if state.missing:
                repository.checkout(targets=[str(tracked.target)])
            if not _compare(tracked.output, wanted).is_whole:
                raise FetchError(f"{tracked.output} is still not what {tracked.target.name} names.")
            return sorted(wanted)
    except FetchError:
        raise
    except Exception as error:  # DVC, its file systems and its databases raise errors of many families.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FetchError(reason[:400]) from error
