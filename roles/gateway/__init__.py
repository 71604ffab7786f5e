"""The network over HTTP, in the APIs that programs speak already: Open Inference Protocol v2, and OpenAI's."""
