"""Charts of code that is run: each kind with its numbers, from the matplotlib of the sandbox image."""

from __future__ import annotations

SETUP = "import matplotlib.pyplot as plt, numpy as np, datetime as dt\n"


def drawn(daemon, code: str) -> list[dict]:
    """The charts of a program, and that nothing else came of it."""
    answer = daemon.post("/process/code-run", {"code": SETUP + code, "language": "python"}, timeout=100).json()
    assert (answer["exitCode"], answer["result"]) == (0, ""), answer
    charts = answer["artifacts"]["charts"]
    for chart in charts:
        assert chart["png"].startswith("iVBORw0KGgo"), "a PNG"
        assert None not in chart.values(), chart
    return charts


def test_lines_and_scatters(daemon):
    line, scatter = drawn(
        daemon,
        """
plt.plot([1, 2, 3], [1, float('nan'), 9], label='a'); plt.axhline(5)
plt.title('T'); plt.xlabel('X'); plt.ylabel('Y'); plt.yscale('log'); plt.grid(); plt.show()
plt.scatter([1, 2], [3, 4], label='s'); plt.show()
""",
    )
    assert [line[key] for key in ("type", "title", "x_label", "y_label", "x_scale", "y_scale")] == ["line", "T", "X", "Y", "linear", "log"]
    assert line["elements"] == [{"label": "a", "points": [[1.0, 1.0], [3.0, 9.0]]}]
    assert (scatter["type"], scatter["elements"]) == ("scatter", [{"label": "s", "points": [[1.0, 3.0], [2.0, 4.0]]}])


def test_bars_either_way(daemon):
    upright, lying, grouped = drawn(
        daemon,
        """
plt.bar(['a', 'b'], [1, 2.5], label='g'); plt.xlabel('X'); plt.show()
plt.barh(['a', 'b'], [1, 1e22]); plt.xlabel('X'); plt.ylabel('Y'); plt.show()
plt.bar(np.arange(2) - 0.2, [1, 2], 0.4, label='p'); plt.bar(np.arange(2) + 0.2, [3, float('nan')], 0.4, label='q')
plt.xticks([0, 1], ['u', 'v']); plt.show()
""",
    )
    assert upright["elements"] == [{"label": "a", "group": "g", "value": "1"}, {"label": "b", "group": "g", "value": "2.5"}]
    assert (upright["type"], upright["x_scale"], upright["x_tick_labels"]) == ("bar", "categorical", ["a", "b"])
    assert (lying["x_label"], lying["y_label"], lying["elements"][1]["value"]) == ("Y", "X", "10000000000000000000000")
    assert [(bar["label"], bar["group"]) for bar in grouped["elements"]] == [("u", "p"), ("v", "p"), ("u", "q"), ("v", "q")]
    assert "value" not in grouped["elements"][3], "NaN is left out"


def test_pies_and_boxes(daemon):
    pie, boxes, lying = drawn(
        daemon,
        """
plt.pie([1, 3], labels=['a', 'b'], autopct='%d%%', shadow=True); plt.show()
d = [1, 2, 3, 4, 5, 20]
plt.boxplot([d, [2, 3, 4]], patch_artist=True, tick_labels=['m', 'n']); plt.ylabel('Y'); plt.show()
plt.boxplot([d], patch_artist=True, orientation='horizontal', tick_labels=['m']); plt.xlabel('X'); plt.show()
""",
    )
    assert (pie["type"], pie["elements"]) == ("pie", [{"label": "a", "angle": 90.0, "radius": 1.0}, {"label": "b", "angle": 270.0, "radius": 1.0}])
    expected = {"label": "m", "min": 1.0, "first_quartile": 2.25, "median": 3.5, "third_quartile": 4.75, "max": 5.0, "outliers": [20.0]}
    assert (boxes["type"], boxes["elements"][0]) == ("box_and_whisker", expected)
    assert (boxes["elements"][1]["label"], boxes["elements"][1]["median"]) == ("n", 3.0)
    assert (lying["elements"], lying["y_label"]) == ([expected], "X")


def test_composites_and_what_is_none_of_these(daemon):
    both, image, empty, line = drawn(
        daemon,
        """
fig, axes = plt.subplots(1, 3); fig.suptitle('S'); axes[0].plot([1, 2, 3], [1, 2, 3]); axes[0].set_title('L')
axes[1].bar(['a', 'b'], [1, 2]); axes[1].set_xlabel('X'); plt.show()
im = plt.imshow(np.eye(3)); plt.colorbar(im); plt.title('I'); plt.show()
plt.figure(); plt.show()
plt.plot([1, 2, 3]); plt.show(); plt.plot([1, 2, 3]); plt.show()
""",
    )
    assert (both["type"], both["title"]) == ("composite_chart", "S")
    assert both["elements"] == [
        {"type": "line", "title": "L", "x_label": "", "y_label": ""},
        {"type": "bar", "title": "", "x_label": "X", "y_label": ""},
    ]
    assert (image["type"], image["title"], image["elements"]) == ("unknown", "I", [])
    assert (empty["type"], line["type"]) == ("unknown", "line"), "the same picture is told once"


def test_output_is_only_what_the_program_wrote(daemon):
    code = f"{SETUP}print('no newline', end='')\nplt.plot([1, 2])\nplt.show()\nprint('|after')\nraise SystemExit(5)"
    answer = daemon.post("/process/code-run", {"code": code, "language": "python"}, timeout=100).json()
    assert (answer["result"], answer["exitCode"]) == ("no newline|after\n", 5)
    assert answer["artifacts"]["charts"][0]["type"] == "line"
