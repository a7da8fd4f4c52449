"""Runs a program that draws with matplotlib, and reports each figure that it shows.

The daemon starts `python3 -u -c BOOT arguments...`, whose few lines read this file from descriptor 0, a socket, and run it with two names defined:
`channel`, a private copy of that socket, and `read(n)`, which reads exactly n bytes from it. The program itself comes next on the socket: length
(4 bytes, big endian) and source. Charts go back the same way: length and JSON, whose members are those of the contract's section 7.3. Nothing
of this passes through the program's standard output.
"""

import base64
import decimal
import io
import json
import linecache
import math
import os
import sys
import traceback
import types
import warnings

FILE = "<target_code>"
PID = os.getpid()


def report(chart):
    # A child that the program forked shares the channel but must not speak on it.
    if os.getpid() != PID:
        return
    payload = json.dumps(chart, allow_nan=False).encode()
    frame = memoryview(len(payload).to_bytes(4, "big") + payload)
    while frame:
        frame = frame[os.write(channel, frame):]


# --- Values: only what the clients' schema takes.


def number(value):
    """A finite float, or None."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def numbers(values):
    return [n for n in map(number, values) if n is not None]


def decimal_text(value):
    """A number as decimal digits: 10, 2.5, never 1e+22."""
    value = number(value)
    if value is None:
        return None
    text = format(decimal.Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def points(xs, ys):
    pairs = ((number(x), number(y)) for x, y in zip(xs, ys))
    return [[x, y] for x, y in pairs if x is not None and y is not None]


def present(**members):
    """The members that are known."""
    return {name: value for name, value in members.items() if value is not None}


# --- Axes.


def describe_axis(axis):
    """Ticks, their labels and the kind of scale."""
    ticks = [number(tick) for tick in axis.get_ticklocs()]
    labels = [label.get_text() for label in axis.get_ticklabels()]
    scale = axis.get_scale()
    if is_date_axis(axis):
        kept = [tick for tick in ticks if tick is not None]
        return kept, [dates.num2date(tick).isoformat() for tick in kept], "datetime"
    if scale == "linear" and ticks and ticks == list(range(len(ticks))):
        if len(labels) == len(ticks) and labels != [str(i) for i in range(len(ticks))] and not numeric(labels):
            scale = "categorical"
    return [tick for tick in ticks if tick is not None], labels, scale


def numeric(labels):
    """Whether these are just the numbers 0, 1, 2 … in whatever format."""
    try:
        return [float(label.replace("\N{MINUS SIGN}", "-")) for label in labels] == list(range(len(labels)))
    except ValueError:
        return False


def is_date_axis(axis):
    kinds = (dates.DateFormatter, dates.AutoDateFormatter, dates.ConciseDateFormatter)
    return isinstance(axis.get_major_formatter(), kinds)


def label_at(axis, position, reach):
    """The label of the tick at a position, or the position itself."""
    nearest = None
    for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels()):
        distance = abs(tick - position)
        if label.get_text() and distance <= reach and (nearest is None or distance < nearest[0]):
            nearest = (distance, label.get_text())
    return nearest[1] if nearest else decimal_text(position)


def is_ignored(axes):
    """Colour bars, and subplots that were made but not drawn on."""
    if getattr(axes, "_colorbar", None) is not None or axes.get_label() == "<colorbar>":
        return True
    return not (axes.has_data() or axes.get_title() or axes.tables)


def is_grid_line(line):
    xs, ys = line.get_xdata(orig=False), line.get_ydata(orig=False)
    return len(xs) == 2 and (xs[0] == xs[1] or ys[0] == ys[1])


def kind_of(axes):
    """What an axes shows, by what was drawn on it; texts and shadows do not count."""
    drawn = [
        artist
        for artist in [*axes.lines, *axes.patches, *axes.collections, *axes.images]
        if not isinstance(artist, patches.Shadow)
    ]

    def all_are(artists, kind):
        return bool(artists) and all(isinstance(artist, kind) for artist in artists)

    if all_are(drawn, lines.Line2D):
        return "line"
    if all_are(drawn, (lines.Line2D, patches.PathPatch)):
        return "box_and_whisker"
    drawn = [artist for artist in drawn if not (isinstance(artist, lines.Line2D) and is_grid_line(artist))]
    if all_are(drawn, collections.PathCollection):
        return "scatter"
    if all_are(drawn, patches.Rectangle):
        return "bar"
    if all_are(drawn, patches.Wedge):
        return "pie"
    return "unknown"


# --- Elements, by kind of chart. Each gives the elements and whether the chart lies on its side.


def line_elements(axes):
    drawn = [line for line in axes.lines if not is_grid_line(line)]
    return [
        {"label": str(line.get_label()), "points": points(line.get_xdata(orig=False), line.get_ydata(orig=False))}
        for line in drawn
    ], False


def scatter_elements(axes):
    elements = []
    for collection in axes.collections:
        offsets = collection.get_offsets()
        # Masked points are not drawn; as NaN they are left out.
        offsets = offsets.astype(float).filled(math.nan) if hasattr(offsets, "filled") else offsets
        elements.append({"label": str(collection.get_label()), "points": points(*zip(*offsets)) if len(offsets) else []})
    return elements, False


def bar_elements(axes):
    elements, lying = [], False
    for container in axes.containers:
        bars = [bar for bar in container if isinstance(bar, patches.Rectangle)]
        if not bars:
            continue
        heights = {bar.get_height() for bar in bars}
        orientation = getattr(container, "orientation", None) or ("horizontal" if len(heights) == 1 else "vertical")
        lying = lying or orientation == "horizontal"
        for bar in bars:
            if orientation == "horizontal":
                axis, value, thick, start = axes.yaxis, bar.get_width(), bar.get_height(), bar.get_y()
            else:
                axis, value, thick, start = axes.xaxis, bar.get_height(), bar.get_width(), bar.get_x()
            # Bars of a group stand beside their tick.
            label = label_at(axis, start + thick / 2, max(abs(thick) / 2, 0.5))
            elements.append(present(label=label, group=str(container.get_label()), value=decimal_text(value)))
    return elements, lying


def pie_elements(axes):
    wedges = [patch for patch in axes.patches if isinstance(patch, patches.Wedge)]
    texts = [text.get_text() for text in axes.texts]
    if len(texts) == 2 * len(wedges):
        # Labels and percentages take turns.
        texts = texts[::2]
    elements = []
    for index, wedge in enumerate(wedges):
        own = str(wedge.get_label())
        label = own if own and not own.startswith("_") else (texts[index] if index < len(texts) else "")
        angle = number(abs(wedge.theta2 - wedge.theta1))
        elements.append(present(label=label, angle=angle, radius=number(wedge.r)))
    return elements, False


def box_elements(axes):
    drawn = [
        (list(line.get_xdata(orig=False)), list(line.get_ydata(orig=False)), line.get_linestyle() in ("None", "", " "))
        for line in axes.lines
    ]
    outlines = [patch.get_path().vertices for patch in axes.patches if isinstance(patch, patches.PathPatch)]
    lying = any(is_lying(outline, drawn) for outline in outlines)
    if lying:
        drawn = [(ys, xs, dots) for xs, ys, dots in drawn]
        outlines = [[(y, x) for x, y in outline] for outline in outlines]
    axis = axes.yaxis if lying else axes.xaxis
    return [box_element(outline, drawn, axis) for outline in outlines], lying


def is_lying(outline, drawn):
    """Whether the median line of this box stands upright."""
    left, right, low, high = bounds(outline)
    for xs, ys, dots in drawn:
        inside = len(xs) == 2 and not dots and left <= min(xs) and max(xs) <= right and low <= min(ys) and max(ys) <= high
        if inside and xs[0] != xs[1]:
            return False
        if inside and ys[0] != ys[1]:
            return True
    return False


def bounds(outline):
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    return min(xs), max(xs), min(ys), max(ys)


def box_element(outline, drawn, axis):
    left, right, low, high = bounds(outline)
    centre, slack = (left + right) / 2, (high - low) * 1e-9
    median, ends, dots_at = None, [], []
    for xs, ys, dots in drawn:
        if not xs or min(xs) < left or max(xs) > right:
            continue
        if dots:
            dots_at.extend(y for x, y in zip(xs, ys) if abs(x - centre) <= abs(right - left) / 100)
        elif len(xs) == 2 and ys[0] == ys[1] and low - slack <= ys[0] <= high + slack:
            median = ys[0] if median is None or low < ys[0] < high else median
        elif len(xs) == 2 and xs[0] == xs[1]:
            ends.extend(ys)
    least = min(ends) if ends else None
    most = max(ends) if ends else None
    outliers = [y for y in dots_at if (least is None or y < least) or (most is None or y > most)]
    return present(
        label=label_at(axis, centre, max(abs(right - left) / 2, 0.5)),
        min=number(least),
        first_quartile=number(low),
        median=number(median),
        third_quartile=number(high),
        max=number(most),
        outliers=numbers(outliers),
    )


ELEMENTS = {
    "line": line_elements,
    "scatter": scatter_elements,
    "bar": bar_elements,
    "pie": pie_elements,
    "box_and_whisker": box_elements,
}

# --- Figures.


def describe_axes(axes):
    kind = kind_of(axes)
    elements, lying = ELEMENTS[kind](axes) if kind in ELEMENTS else ([], False)
    x_label, y_label = axes.get_xlabel(), axes.get_ylabel()
    if lying:
        x_label, y_label = y_label, x_label
    chart = {"type": kind, "title": axes.get_title(), "x_label": x_label, "y_label": y_label, "elements": elements}
    if kind != "pie":
        chart["x_ticks"], chart["x_tick_labels"], chart["x_scale"] = describe_axis(axes.xaxis)
        chart["y_ticks"], chart["y_tick_labels"], chart["y_scale"] = describe_axis(axes.yaxis)
    return chart


def describe(figure):
    drawn = [axes for axes in figure.axes if not is_ignored(axes)]
    title = figure.get_suptitle() if hasattr(figure, "get_suptitle") else ""
    if not drawn:
        return {"type": "unknown", "title": title, "elements": []}
    if len(drawn) == 1:
        chart = describe_axes(drawn[0])
        chart["title"] = chart["title"] or title
        return chart
    inner = [describe_axes(axes) for axes in drawn]
    members = ("type", "title", "x_label", "y_label")
    return {
        "type": "composite_chart",
        "title": title,
        "elements": [{name: chart[name] for name in members} for chart in inner],
    }


def render(figure):
    """The figure as a small PNG."""
    image = io.BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight", dpi=100)
    try:
        from PIL import Image

        small = io.BytesIO()
        Image.open(image).save(small, format="PNG", optimize=True, compress_level=9)
        return small.getvalue()
    except ImportError:
        return image.getvalue()


def on_show(*args, **kwargs):
    for figure_number in pyplot.get_fignums():
        figure = pyplot.figure(figure_number)
        png = render(figure)
        if png in reported:
            continue
        reported.add(png)
        try:
            chart = describe(figure)
        except Exception:
            # A figure of a kind nobody thought of is still an image.
            chart = {"type": "unknown", "elements": []}
        chart["png"] = base64.b64encode(png).decode()
        report(chart)
    with warnings.catch_warnings():
        # There is no screen, and that is as it should be.
        warnings.filterwarnings("ignore", message=".*non-interactive.*")
        original_show(*args, **kwargs)
    pyplot.close("all")


def run(source):
    program = types.ModuleType("__main__")
    program.__file__ = FILE
    sys.modules["__main__"] = program
    linecache.cache[FILE] = (len(source), None, source.splitlines(True), FILE)
    try:
        exec(compile(source, FILE, "exec", dont_inherit=True), program.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        summary = traceback.TracebackException(type(error), error, trace)
        summary.stack = traceback.StackSummary.from_list([frame for frame in summary.stack if frame.filename == FILE])
        sys.stderr.write("".join(summary.format()))
        sys.stderr.flush()
        sys.exit(1)


reported = set()
sys.argv[0] = "-"
code = read(int.from_bytes(read(4), "big")).decode()
try:
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import collections, dates, lines, patches, pyplot

    original_show = pyplot.show
    pyplot.show = on_show
except ImportError:
    # Then the program will find out by itself.
    pass
run(code)
