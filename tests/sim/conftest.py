from testnet.pytest_plugin import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
