"""The report's pictures. matplotlib is a tool of development and imported here alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from favor.errors import MissingDependencyError

from .summary import COLUMNS, Row
from .variants import VARIANTS

_PANELS = ("all", "picture", "sound", "binding")
_OURS, _OTHER = "#1f5f8b", "#8fb3cc"


def draw_bars(table: Sequence[Row], path: Path) -> None:
    """A bar for every variant, four measures side by side; the dashed line is ``full``."""
    plt = _pyplot()
    figure, panels = plt.subplots(
        1, len(_PANELS), figsize=(14, 0.38 * len(table) + 1.3), sharey=True, layout="constrained"
    )
    places = range(len(table))
    for panel, name in zip(panels, _PANELS):
        values = [row.values[name] for row in table]
        panel.barh(
            places,
            [value.mean for value in values],
            xerr=[value.half or 0.0 for value in values],
            color=[_OURS if row.variant == "full" else _OTHER for row in table],
            error_kw={"ecolor": "#333333", "elinewidth": 1, "capsize": 2},
        )
        for row in table:
            if row.variant == "full":
                panel.axvline(row.values[name].mean, color=_OURS, linestyle="--", linewidth=1)
        panel.set_title(COLUMNS[name])
        panel.set_xlabel("share told right, 95 % interval over seeds")
        panel.set_xlim(0, 1)
    panels[0].set_yticks(places, [row.title for row in table])
    panels[0].invert_yaxis()
    _save(figure, path)


def draw_lambda(table: Sequence[Row], path: Path) -> bool:
    """Score and collapse over the weight of the diversity loss; nothing where there is only one weight."""
    plt = _pyplot()
    base = VARIANTS["full"].connector
    weights = {
        VARIANTS[row.variant].connector["diversity_weight"]: row
        for row in table
        if VARIANTS[row.variant].connector | {"diversity_weight": base["diversity_weight"]} == base
        and VARIANTS[row.variant].without is None
    }
    if len(weights) < 2:
        return False
    chosen = sorted(weights)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axes, names in ((left, _PANELS), (right, ("query_cosine",))):
        for name in names:
            values = [weights[weight].values[name] for weight in chosen]
            axes.errorbar(
                range(len(chosen)),
                [value.mean for value in values],
                yerr=[value.half or 0.0 for value in values],
                marker="o",
                capsize=2,
                label=COLUMNS[name],
            )
        axes.set_xticks(range(len(chosen)), [f"{weight:g}" for weight in chosen])
        axes.set_xlabel("diversity lambda")
    left.set_ylabel("share told right")
    left.legend(frameon=False)
    right.set_ylabel("cosine between queries")
    _save(figure, path)
    return True


def _save(figure: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)  # type: ignore[attr-defined]
    _pyplot().close(figure)


def _pyplot():  # type: ignore[no-untyped-def]  # matplotlib is not there where types are checked without it
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed", allowed="an environment with the extra dev", advice="Run ./install.sh"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
