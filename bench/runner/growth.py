"""The results of figures of growth: a value for each size."""

from statistics import median

from .text import chart_name, number


def summarise(figure, rounds):
    """Returns the points of each series: size, median, range. None if there are fewer than two sizes."""
    found = []
    for series in figure.series:
        points = {}
        for method, size in series.sizes.items():
            samples = [s[method] for s in rounds if method in s]
            if samples:  # a quick run may measure a smaller size than the nominal one, and then the same one twice
                size = samples[0].counters.get("size", size)
                values = [sample.value for sample in samples]
                points.setdefault(size, [size, median(values), [min(values), max(values)]])
        found.append({"name": series.name, "points": [points[size] for size in sorted(points)]})
    found = [series for series in found if len(series["points"]) > 1]
    drawable = found and all(low > 0 for series in found for _, _, (low, _) in series["points"])
    return {"axis": figure.axis, "series": found} if drawable else None


def markdown(results):
    grown = [result for result in results if result["growth"]]
    if not grown:
        return []
    lines = ["", "## Growth", "", "Each number is the median over the rounds at one size.", ""]
    for result in grown:
        chart = f"[{result['id']}](charts/{chart_name(result['id'])}-growth.svg)"
        lines += [f"{chart}, {result['title']}, {result['unit']}", ""]
        sizes = sorted({size for series in result["growth"]["series"] for size, *_ in series["points"]})
        lines += ["| " + result["growth"]["axis"] + " | " + " | ".join(number(size) for size in sizes) + " |",
                  "|---|" + "---:|" * len(sizes)]
        for series in result["growth"]["series"]:
            values = {size: value for size, value, _ in series["points"]}
            lines.append(f"| {series['name']} | " + " | ".join(number(values.get(size)) for size in sizes) + " |")
        lines.append("")
    return lines[:-1]
