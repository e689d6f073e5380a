"""What README shows of other libraries runs; the rest of it is a doctest of `make test`."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(import .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_examples_are_found() -> None:
    assert any("fastrnn.torch.accelerate" in block for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[1])
def test_examples_run(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, str(README), "exec"), {})  # noqa: S102 - our own
    promised = re.findall(r"print\(.*\)\s+# (.*)", block)
    assert capsys.readouterr().out.splitlines() == promised
