"""Every error of the project, in one small flat hierarchy; the exit status of each is in its docstring.

`Over` stands apart: it is no error but the way an ended execution leaves its threads, so it derives from
BaseException, as trio.Cancelled does, and code under test must let it pass.
"""


class StressvmError(Exception):
    """The root; never raised itself."""


class UsageError(StressvmError):
    """The caller's mistake (exit 2): the message names the value and the remedy."""


class ReplayDiverged(StressvmError):  # noqa: N818 - the field's word for it
    """A replay did not do what was recorded (exit 5): step, expected and actual are in the message."""


class InternalError(StressvmError):
    """A fault of stressvm's own (exit 3)."""


class Panic(StressvmError):  # noqa: N818 - the kernels' word for it
    """The modelled kernel's own assertion failed: the execution ends here, with the stack of the thread."""


class Over(BaseException):
    """The execution has ended; raised in its threads, at every kernel operation, so that they unwind."""
