"""The errors this package raises on purpose."""


class SageError(Exception):
    """Base of all errors raised on purpose; the message names the value, the rule and the way out."""


class SettingsError(SageError, ValueError):
    """A setting or argument has no such name or value, or does not go with what is there."""


class InputError(SageError):
    """Events cannot be used: a column is missing, of a wrong type or not finite."""


class WeightsError(SageError):
    """A file in the weights folder is missing, damaged, of another version or not plausible."""


class EngineError(SageError):
    """The network cannot run: no GPU, or a native library or torch that is missing, foreign or broken."""


class TimeLimitError(SageError):
    """There is no time left for a measurement."""


class ChildError(SageError):
    """Work in a process of its own failed, or was stopped for time or memory."""


class FitError(SageError):
    """A fit gave no usable minimum or interval."""
