"""The one exception that is meant for the person at the keyboard."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one or two plain sentences: which file (or column, or flag), what is
    wrong with it, and what to do. It is shown without a traceback.
    """
