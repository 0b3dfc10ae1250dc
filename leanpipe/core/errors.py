"""The one error that a person can cause."""


class UserError(Exception):
    """One sentence for the person who started the run: what is wrong, where, and what to do about it.

    It is never retried, and shown without a traceback.
    """
