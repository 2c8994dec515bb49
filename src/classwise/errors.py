"""The one exception for everything a user can mend."""


class InputError(ValueError):
    """Bad input, said in one sentence that names what was wrong and what to do.

    The command line prints the sentence and exits with status 2; a traceback appears only with ``--debug``.
    """
