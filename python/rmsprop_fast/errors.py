"""The error of data and options that cannot be used."""


class InputError(ValueError):
    """The data or the options do not allow what is asked; the message is one line for the user."""
