"""What can go wrong, as one tree.

TrustboundError
├── InputError                  what came in cannot be used: message = required · came · what to do
├── ModelError                  the model under test raised: message = what · in which step, on which rows · what to do
│   └── BackwardError           … in its backward pass alone: it can be asked, but not for gradients
├── UnsupportedError            a sound request that this method cannot serve (named layer, norm, access)
├── MissingDependencyError      an optional package is needed: the message names the extra to install
├── EngineError                 work cannot be carried out where it was to be: workers die, no cluster answers
├── RecordError                 a run directory cannot be read, written or continued
└── UnsoundError                a certified point was broken: a defect of trustbound, never of the user
"""


class TrustboundError(Exception):
    """Base of every error that trustbound raises on purpose."""


class InputError(TrustboundError, ValueError):
    """Input that cannot be used; raised before the first model call wherever it can be seen there."""


class ModelError(TrustboundError, RuntimeError):
    """The model under test raised an exception of its own, which is this one's cause."""


class UnsupportedError(TrustboundError):
    """A sound request that the chosen method cannot serve, refused by name."""


class BackwardError(ModelError, UnsupportedError):
    """The model under test raised in its backward pass: whoever needs no gradients can go on."""


class MissingDependencyError(TrustboundError, ImportError):
    """An optional dependency is not installed."""


class EngineError(TrustboundError, RuntimeError):
    """Work cannot be carried out where it was to be: no cluster answers, or workers die of it."""


class RecordError(TrustboundError):
    """A run directory that cannot be read, written or continued."""


class UnsoundError(TrustboundError):
    """An adversarial example lies inside a region that a certificate had proven empty of them."""
