"""The property test in the README is the one in the examples, and it passes as it stands there."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES_MAX = 12


def read_block(readme: str) -> str:
    """The first fenced block of Python that uses Hypothesis."""
    blocks = [block.partition("```")[0] for block in readme.split("```python\n")[1:]]
    return next(block for block in blocks if "from hypothesis import" in block)


def test_the_property_test_of_the_readme_passes_as_it_stands(tmp_path):
    block = read_block((ROOT / "README.md").read_text(encoding="utf-8"))
    copy = tmp_path / "test_own.py"
    copy.write_text(block, encoding="utf-8")

    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(copy)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_it_is_twelve_lines_and_the_same_as_in_the_examples():
    block = read_block((ROOT / "README.md").read_text(encoding="utf-8"))

    example = (ROOT / "docs" / "examples" / "property_test.py").read_text(encoding="utf-8")
    assert example.endswith(block)
    assert len([line for line in block.splitlines() if line.strip()]) <= LINES_MAX
