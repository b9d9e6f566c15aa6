"""The error of this package."""


class KernelError(RuntimeError):
    """A backend that is not available or was called with arguments it cannot serve; one sentence for the user."""
