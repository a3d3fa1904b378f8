"""The one exception of the harness."""

from __future__ import annotations


class UsageError(ValueError):
    """Something outside the harness is wrong: a file, an argument or the submission.

    The message names the value, the rule and the way out, so that it can be shown without a traceback. It is a
    ``ValueError`` because a submission may catch that: the official loader raises it from ``get_train_set``.

    Attributes:
        exit_code: What a script returns: 2 for wrong input, 1 for a submission that failed.
        details: Longer text for the log, for example the submission's own traceback.
    """

    def __init__(self, message: str, *, exit_code: int = 2, details: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details
