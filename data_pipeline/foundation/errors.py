"""The two ways a command can end badly, each with one message for a person."""


class UserError(Exception):
    """A mistake that the user can mend: a config key, a path, a batch that doesn't divide. Exit code 2.

    The message names the thing, says why it can't be taken, and what to do instead.
    """

    exit_code = 2


class Failure(Exception):
    """Something broke that the user didn't ask for: a damaged file, a dead rank, a full disk. Exit code 1."""

    exit_code = 1


class ToldElsewhere(Exception):
    """Another process of the same run has failed and told the user; this one only ends with the same exit code."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


EXIT_STOPPED_EARLY = 75
"""`EX_TEMPFAIL`: stopped with a good checkpoint; the same command goes on from there."""


def printable(text: str) -> str:
    """Return a text on one line, with escapes for what a terminal would obey or can't show."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


EXIT_HUNG = 69
"""`EX_UNAVAILABLE`: a process of the run hangs, or is gone; start all of them again. No code that launchers take for
done, stopped or a mistake, so those that restart what has failed do it."""
