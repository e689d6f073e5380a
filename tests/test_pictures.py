"""The pictures of the documents: drawn by docs/pictures.py, and all of them shown."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_pictures", DOCS / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PICTURES = load()


@pytest.mark.parametrize("name", PICTURES.GRAPHS)
def test_files_are_what_the_script_draws(name: str) -> None:
    drawn = PICTURES.draw(PICTURES.GRAPHS[name])
    assert (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8") == drawn
    root = ET.fromstring(drawn)
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= width - w
        assert 0 <= y <= height - h


def test_every_picture_is_shown() -> None:
    shown = re.findall(r"\]\(pictures/(.*?)\.svg\)", (DOCS / "paradigms.md").read_text("utf-8"))
    assert sorted(shown) == sorted(PICTURES.GRAPHS)
    assert sorted(path.stem for path in (DOCS / "pictures").glob("*.svg")) == sorted(shown)
