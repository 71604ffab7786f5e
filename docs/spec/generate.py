"""Write docs/spec/messages.md: `python docs/spec/generate.py`, from the root of the repository."""

from pathlib import Path

from protocol.spec import format_spec

if __name__ == "__main__":
    Path(__file__).with_name("messages.md").write_text(format_spec(), encoding="utf-8")
