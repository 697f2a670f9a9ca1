"""Exceptions that end a command with a sentence."""


class InputError(Exception):
    """Bad input, the user's to mend: file, key, what was expected, what was found. Exit status 2."""


class StoppedError(Exception):
    """A training that was told to end (SIGTERM) and left a checkpoint to go on from. Exit status 143, as in shells."""


class DivergedError(InputError):
    """A training whose numbers left all bounds; its last good checkpoint stays."""
