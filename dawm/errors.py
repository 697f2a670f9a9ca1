"""The one exception that is the user's to mend: a sentence with file, key, what was expected and what was found."""


class InputError(Exception):
    """Bad input. The command line prints the sentence and exits with status 2."""


class DivergedError(InputError):
    """A training whose numbers left all bounds; its last good checkpoint stays."""
