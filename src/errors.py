"""Errors that a user can act on. Everything else that is raised is a defect of ours."""

from collections.abc import Sequence


class UserError(ValueError):
    """Something the user can mend. The message says what is wrong, where, and how to fix it, in one line."""


class FullDiskError(UserError):
    """A disk, or what a quota leaves of it, cannot hold what is to be written. Waiting may help."""


class DatasetProblems(UserError):
    """All problems found in a dataset, listed at once so that one pass over the files mends them."""

    def __init__(self, heading: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))
