"""The errors a user meets: raised anywhere in the library, printed as one line by the command line."""


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a column, a rule, a config value. Exit code 2.

    The message names the value, the limit and the remedy.
    """


class RunError(RuntimeError):
    """A run that began well failed on its way: a training that diverged, a server that did not answer. Exit code 1."""
