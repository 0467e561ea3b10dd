"""Errors a user can cure. Everything else that escapes is a bug and keeps its traceback."""


class UserError(ValueError):
    """Bad input: the message names the file or field, the value, and what was expected.

    Command-line entry points print the message alone and exit with status 2.
    """
