"""The errors a user meets: raised anywhere in the library, printed as one line by the command line."""

MOST_CHARACTERS = 2_000


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a column, a rule, a config value. Exit code 2.

    The message names the value, the limit and the remedy. Of one that foreign input has made too long the middle goes.
    """

    def __init__(self, message: str) -> None:
        if len(message) > MOST_CHARACTERS:
            half = MOST_CHARACTERS // 2 - 2
            message = f"{message[:half]} … {message[-half:]}"
        super().__init__(message)


class RunError(RuntimeError):
    """A run that began well failed on its way: a training that diverged, a server that did not answer. Exit code 1."""
