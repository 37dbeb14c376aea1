"""What the command line reports in one line."""


class InputError(ValueError):
    """The data or the options do not allow what is asked; the message is one line for the user."""
