"""Draws SVG charts: one of bars for each figure, a second one of lines for a figure of growth, and an overview."""

import math
from html import escape

from .text import chart_name, number

WIDTH, ROW, BAR, TOP = 820, 34, 20, 78
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STYLE = """
 .paper{fill:#fff} .frame{fill:none;stroke:#e3e6ea} .title{fill:#14181f;font-size:17px;font-weight:650}
 .text{fill:#333a45;font-size:13px} .faint{fill:#77808e;font-size:12px}
 .value{fill:#14181f;stroke:#fff;stroke-width:4;paint-order:stroke;font-size:13px;font-weight:600;
  font-variant-numeric:tabular-nums}
 .grid{stroke:#e9ecf0} .drover{fill:#0f766e} .raw{fill:#94a3b8} .peer{fill:#d9b48f} .other{fill:#cbd5e1}
 .range{stroke:#14181f;stroke-opacity:.45;stroke-width:1.5}
 .line-drover{fill:none;stroke:#0f766e;stroke-width:2.5} .line-raw{fill:none;stroke:#94a3b8;stroke-width:2}
 .target{stroke:#dc2626;stroke-width:2} .missed{fill:#dc2626} .met{fill:#0f766e} .me{font-weight:700}
 @media (prefers-color-scheme: dark){
 .paper{fill:#12161c} .frame{stroke:#2a313b} .title,.value{fill:#f1f4f8} .value{stroke:#12161c}
 .text{fill:#c9d0da} .faint{fill:#8a94a3}
 .grid{stroke:#232a33} .drover{fill:#2dd4bf} .raw{fill:#64748b} .peer{fill:#b08457} .other{fill:#475569}
 .line-drover{stroke:#2dd4bf} .line-raw{stroke:#64748b}
 .range{stroke:#f1f4f8} .target{stroke:#f87171} .missed{fill:#f87171} .met{fill:#2dd4bf}}
"""


class Scale:
    """Maps a number to an x coordinate. Logarithmic if the numbers span more than a decade."""

    def __init__(self, values, left, right):
        low, high = min(values), max(values)
        self.left, self.right = left, right
        self.log = low > 0 and high / low > 10
        if self.log:
            self.low = 10 ** math.floor(math.log10(low) - 0.15)  # so that the shortest bar is visible
            self.high = high
        else:
            self.low, self.high = 0.0, high or 1.0

    def __call__(self, value):
        if self.log:
            part = math.log10(max(value, self.low) / self.low) / math.log10(self.high / self.low)
        else:
            part = value / self.high
        return self.left + part * (self.right - self.left)

    def ticks(self):
        if self.log:
            decade = self.low
            while decade <= self.high:
                yield decade
                decade *= 10
            return
        step = 10 ** math.floor(math.log10(self.high))
        for smaller in (1, 2, 5):
            if self.high / (step / smaller) >= 3:
                step /= smaller
                break
        count = 0
        while count * step <= self.high * 1.0001:
            yield count * step
            count += 1


def _text(x, y, text, css, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _document(height, body, title):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'font-family="{FONT}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="10"/>'
            f'<rect class="frame" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>'
            + "".join(body) + "</svg>\n")


def _bar(scale, y, value, css):
    width = max(2.0, scale(value) - scale.left)
    return f'<rect class="{css}" x="{scale.left}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3"/>'


def _whisker(scale, y, span):
    if not span or span[0] == span[1]:
        return ""
    middle = y + BAR / 2
    start, end = scale(span[0]), min(scale(span[1]), scale.right + 8)
    return (f'<path class="range" fill="none" d="M{start:.1f} {middle - 4}v8M{start:.1f} {middle}H{end:.1f}'
            f'M{end:.1f} {middle - 4}v8"/>')


def figure_chart(result):
    rows = [("drover", result["drover"], result.get("drover_range"), "drover")]
    if result["raw"] is not None:
        rows.append((result["raw_is"], result["raw"], result.get("raw_range"), "raw"))
    rows += [(name, o["value"], o["range"], "other") for name, o in result["others"].items()]
    rows += [(name, p["value"], p["range"], "peer") for name, p in result["peers"].items()]
    rows.sort(key=lambda row: row[1], reverse=result["more_is_better"])

    longest = max(len(row[0]) for row in rows)
    left = 28 + min(300, max(110, 7.2 * longest))
    scale = Scale([row[1] for row in rows], left, WIDTH - 110)
    height = TOP + ROW * len(rows) + 58
    bottom = TOP + ROW * len(rows)
    direction = "more is better" if result["more_is_better"] else "less is better"
    body = [_text(24, 34, f"{result['id']}  {result['title']}", "title"),
            _text(24, 56, f"{result['unit']}, {direction}{', logarithmic scale' if scale.log else ''}", "faint")]
    for tick in scale.ticks():
        x = scale(tick)
        body.append(f'<path class="grid" d="M{x:.1f} {TOP - 6}V{bottom}"/>')
        body.append(_text(x, bottom + 16, number(tick) or "0", "faint", "middle"))
    for index, (name, value, span, css) in enumerate(rows):
        y = TOP + ROW * index + (ROW - BAR) / 2 - 4
        body.append(_text(left - 10, y + 15, name, "text me" if css == "drover" else "text", "end"))
        body.append(_bar(scale, y, value, css))
        body.append(_whisker(scale, y, span))
        beyond = max(scale(value), min(scale(span[1]), scale.right + 8) if span else 0)
        body.append(_text(beyond + 8, y + 15, number(value), "value"))
    if result["target"]:
        verdict = "met" if result["met"] else "missed: " + ", ".join(result["missed"])
        body.append(_text(24, height - 16, f"Target: {result['target']}", "faint"))
        body.append(_text(WIDTH - 24, height - 16, verdict, f"faint {'met' if result['met'] else 'missed'}", "end"))
    return _document(height, body, f"{result['id']}: {result['title']}")


def _decades(values):
    """The powers of ten that enclose the values. A single value gets a decade of its own."""
    low = math.floor(math.log10(min(values)) + 1e-9)
    high = math.ceil(math.log10(max(values)) - 1e-9)
    return low, max(high, low + 1)


def growth_chart(result):
    """Lines over the size, with logarithmic axes. A line that is flat is a cost that does not grow."""
    series, axis = result["growth"]["series"], result["growth"]["axis"]
    left, right, bottom = 84, WIDTH - 40, TOP + 250
    sizes = [size for one in series for size, *_ in one["points"]]
    values = [value for one in series for _, _, span in one["points"] for value in span]
    x_low, x_high = math.log10(min(sizes)), math.log10(max(max(sizes), min(sizes) * 2))
    y_low, y_high = _decades(values)

    def x(size):
        return left + 36 + (math.log10(size) - x_low) / (x_high - x_low) * (right - left - 60)

    def y(value):
        return bottom - (math.log10(value) - y_low) / (y_high - y_low) * (bottom - TOP)

    body = [_text(24, 34, f"{result['id']}  {result['title']}", "title"),
            _text(24, 56, f"{result['unit']}, by {axis}; both scales are logarithmic", "faint")]
    for decade in range(y_low, y_high + 1):
        at = y(10.0**decade)
        body.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
        body.append(_text(left - 10, at + 4, number(10.0**decade), "faint", "end"))
    for size in sorted(set(sizes)):
        body.append(_text(x(size), bottom + 18, number(size), "faint", "middle"))
    for index, one in enumerate(series):
        css = "drover" if index == 0 else "raw"
        path = "".join(f"{'L' if at else 'M'}{x(size):.1f} {y(value):.1f}"
                       for at, (size, value, _) in enumerate(one["points"]))
        body.append(f'<path class="line-{css}" d="{path}"/>')
        for size, value, (low, high) in one["points"]:
            body.append(f'<path class="range" d="M{x(size):.1f} {y(low):.1f}V{y(high):.1f}"/>')
            body.append(f'<circle class="{css}" cx="{x(size):.1f}" cy="{y(value):.1f}" r="4"/>')
            body.append(_text(x(size), y(value) - 9, number(value), "value", "middle"))
        body.append(f'<rect class="{css}" x="{left + 220 * index}" y="{bottom + 34}" width="12" height="12" rx="2"/>')
        body.append(_text(left + 220 * index + 20, bottom + 45, one["name"], "text"))
    return _document(bottom + 62, body, f"{result['id']}: {result['title']}, by {axis}")


def overview_chart(found):
    """The cost of each figure as a multiple of raw: drover / raw, or raw / drover if more is better."""
    rows = []
    for r in found:
        if not r["ratio"] or not r["ratio_target"]:
            continue
        cost = 1 / r["ratio"] if r["more_is_better"] else r["ratio"]
        rows.append((f"{r['id']}  {r['title']}", cost, r["met"]))
    if not rows:
        return None
    left = 430
    scale = Scale([row[1] for row in rows] + [1.0], left, WIDTH - 90)
    bottom = TOP + ROW * len(rows)
    body = [_text(24, 34, "drover beside plain system calls", "title"),
            _text(24, 56, "cost as a multiple of the baseline of the same run, less is better"
                  + (", logarithmic scale" if scale.log else ""), "faint")]
    one = scale(1.0)
    body.append(f'<path class="target" stroke-dasharray="4 4" d="M{one:.1f} {TOP - 8}V{bottom}"/>')
    for index, (name, cost, met) in enumerate(rows):
        y = TOP + ROW * index + (ROW - BAR) / 2 - 4
        body.append(_text(left - 10, y + 15, name, "text", "end"))
        body.append(_bar(scale, y, cost, "drover" if met else "missed"))
        body.append(_text(scale(cost) + 8, y + 15, f"{cost:.2f}", "value"))
    body.append(_text(one, bottom + 16, "1 = the baseline", "faint", "middle"))
    body.append(_text(24, bottom + 36, "Red bars miss their target.", "faint"))
    return _document(bottom + 50, body, "drover beside plain system calls")


def write(folder, found):
    charts = folder / "charts"
    charts.mkdir(parents=True, exist_ok=True)
    for result in found:
        if result["drover"] is not None:
            (charts / f"{chart_name(result['id'])}.svg").write_text(figure_chart(result))
        if result["growth"]:
            (charts / f"{chart_name(result['id'])}-growth.svg").write_text(growth_chart(result))
    overview = overview_chart(found)
    if overview:
        (charts / "overview.svg").write_text(overview)
