"""The errors a user of Atomstream can see.

AtomstreamError
+-- ConfigError      an option or a combination of options that cannot work
+-- ModelError       a model that is unknown, damaged or not fit for this machine
|   +-- DeviceError  a GPU that does not answer any more, or never did
+-- FrameError       a frame that cannot be processed; carries the reason it is counted under
+-- FileError        a file that cannot be read or written

Each message says what was expected, what came, and what to do.
"""


class AtomstreamError(Exception):
    """Base of every error that is told to the user in one line."""


class ConfigError(AtomstreamError):
    """An option or a combination of options that cannot work."""


class ModelError(AtomstreamError):
    """A model that is unknown, damaged or not fit for this machine."""


class DeviceError(ModelError):
    """A GPU that does not answer any more, or never did."""


class FileError(AtomstreamError):
    """A file that cannot be read or written."""


class FrameError(AtomstreamError):
    """A frame that cannot be processed.

    ``reason`` is the label it is counted under, for example ``"no_sampling"``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def one_line(error: BaseException) -> str:
    """What a library says, without its line ends."""
    return " ".join(str(error).split())
