"""The page of the explorer: one HTML file that carries its data and makes no requests."""

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..version import __version__

HERE = Path(__file__).parent


def page(data: dict[str, Any]) -> str:
    """The HTML page of what `Explorer.explore` returns."""
    # Inside a script element only `<` can end it.
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return render(
        HERE / "page.html", data=data, json=Markup(content), style=style(), script=script(), version=__version__
    )


def render(path: Path, **values: Any) -> str:
    """A template with its values, which are escaped unless they are Markup; an undefined name is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, keep_trailing_newline=True)
    return environment.from_string(path.read_text(encoding="utf-8")).render(**values)


def style() -> Markup:
    """The style sheet, for this page and the server's."""
    return Markup((HERE / "explorer.css").read_text(encoding="utf-8"))


def script() -> Markup:
    """The script that defines `explore(data, element)`, for this page and the server's."""
    return Markup((HERE / "explorer.js").read_text(encoding="utf-8"))
