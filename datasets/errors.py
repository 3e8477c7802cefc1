"""The one exception that means "the user gave us something we cannot use"."""


class InputError(ValueError):
    """Bad input, found before any model is loaded.

    The message is one line that names the key or file and the remedy. The
    harness prints it and ends with exit code 2.
    """
