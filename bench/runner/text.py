"""How results look in text."""


def number(value):
    """Formats a number with three digits, for people."""
    if value is None:
        return ""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def chart_name(figure_id):
    """The file name of a figure's chart, without the extension."""
    return figure_id.replace("/", "-")
