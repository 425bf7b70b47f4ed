"""The exceptions of the embedded stack.

::

    EmbeddedError        a part cannot do what was asked
    +-- CancelledError   it was told to give up, because another part failed or the user pressed Ctrl-C
"""

from domain.errors import LedgerlineError


class EmbeddedError(LedgerlineError):
    """An embedded part cannot do what was asked; the message is one sentence that says what to do."""


class CancelledError(EmbeddedError):
    """A part gave up its start because the start of the whole stack was given up."""
