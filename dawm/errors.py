"""Exceptions that end a command with a sentence."""


class InputError(Exception):
    """Bad input, the user's to mend: file, key, what was expected, what was found. Exit status 2.

    Always one line, and nothing that a terminal would obey: names in it may come from anybody's file.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence))


class StoppedError(Exception):
    """A training that was told to end (SIGTERM) and left a checkpoint to go on from. Exit status 143, as in shells."""


class DivergedError(InputError):
    """A training whose numbers left all bounds; its last good checkpoint stays."""


def one_line(error: BaseException) -> str:
    """What a library's error says, without its line breaks."""
    return " ".join(str(error).split())
