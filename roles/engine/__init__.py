"""Runs models: in worker processes for nodes (`pool`), in place for the simulator (`inline`)."""

import os

# Since 1.29 onnxruntime reports what it loads to its makers unless told not to before it is imported: from a thread and
# a file of its own, neither of which the sandbox could bind any more.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
