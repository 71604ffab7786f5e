"""Write docs/spec/messages.md: `python docs/spec/generate.py`."""

import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import protocol
from protocol.spec import find_types, format_spec


def build_page() -> str:
    """The text of the page, from every module of `protocol`."""
    names = [module.name for module in pkgutil.walk_packages(protocol.__path__, "protocol.")]
    return format_spec(find_types(map(import_module, names)), inspect.getsource)


if __name__ == "__main__":
    Path(__file__).with_name("messages.md").write_text(build_page(), encoding="utf-8")
