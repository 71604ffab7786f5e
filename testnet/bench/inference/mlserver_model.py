"""A model as mlserver serves it, with the session options of our own workers; in mlserver's environment alone."""

import asyncio
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from roles.engine.session import load_session


class Chain(MLModel):  # type: ignore[misc]  # not installed where types are checked
    """One session; a run keeps nobody waiting but those who want a run."""

    async def load(self) -> bool:
        self._run = load_session(Path(self.settings.parameters.uri).read_bytes()).inner.run
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        (outputs,) = self._run(None, {"x": rows})
        await asyncio.sleep(0)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", outputs)])
