"""The root of the errors that people are shown.

LedgerlineError            one sentence that says what is wrong and what to do
  ops.embedded.EmbeddedError   an embedded part cannot be started
  producers.encoding.SchemaError   the registry lacks a schema or refuses one
"""


class LedgerlineError(Exception):
    """An outage or a mistake of use, in one sentence for people; the command line prints it and exits with 1."""


class Outage(LedgerlineError):
    """What the process needs is away or not ready yet: waiting may help, and agents wait."""
