"""What a gateway adds to a request, beside the Python client over the same node."""
