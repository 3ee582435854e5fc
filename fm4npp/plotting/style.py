"""What all pictures share: matplotlib, imported when one is drawn, their look, and files that come whole or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fm4npp.errors import ConfigurationError, FM4NPPError
from fm4npp.files import atomic_path

# Without these the file would hold the time at which it was written.
METADATA: dict[str, dict[str, Any]] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": "#606060",
    "axes.linewidth": 0.7,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "svg.hashsalt": "fm4npp",
    "svg.fonttype": "none",  # text stays text
}
INK = "#202020"


def draw(output: str | Path, figure: Callable[[Any], Any]) -> Path:
    """Draw a picture into a file; the same picture gives the same bytes.

    Args:
        output: file to write; its suffix .png, .pdf or .svg decides the format.
        figure: matplotlib to a finished figure.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
    """
    output = Path(output)
    suffix = output.suffix.lower()
    if suffix not in METADATA:
        raise ConfigurationError(f"{output}: no picture format {suffix!r}; choose {', '.join(METADATA)}")
    matplotlib = _matplotlib()
    with matplotlib.rc_context(), atomic_path(output) as temporary:
        matplotlib.rcdefaults()  # whatever the user has set, the picture looks the same
        matplotlib.rcParams.update(STYLE)
        figure(matplotlib).savefig(temporary, metadata=METADATA[suffix], format=suffix[1:])
    return output


def new_figure(matplotlib: Any, width: float, height: float) -> Any:
    """An empty figure of this size in inches, that is not known to pyplot."""
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=150, layout="constrained")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def check() -> None:
    """Whether pictures can be drawn, before anything slow.

    Raises:
        FM4NPPError: if matplotlib is not installed.
    """
    _matplotlib()


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.collections
        import matplotlib.figure
        import matplotlib.lines
        import matplotlib.ticker
    except ImportError as error:
        raise FM4NPPError(
            f"the picture needs matplotlib, which cannot be imported ({error}); pip install fm4npp[plot]"
        ) from error
    return matplotlib
