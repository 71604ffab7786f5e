"""What can go wrong with a server that runs a model. None of it is ever taken for a result."""

from roles.engine.errors import EngineError


class BackendDown(EngineError):
    """The server is not there, or not to be relied on now: ask another node."""

    code = "backend_down"


class BackendFailed(EngineError):
    """The server broke off, or said that it failed."""

    code = "backend_failed"


class BackendRefused(EngineError):
    """The server takes no such request (status 4xx)."""

    code = "backend_refused"


class BadAnswer(EngineError):
    """The server answered with what this model cannot give."""

    code = "bad_answer"


class Unfit(EngineError):
    """What the server says of its model is not what the model is."""

    code = "backend_unfit"
