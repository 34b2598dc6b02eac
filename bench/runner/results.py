"""Computes the results from the samples, and writes results.json and results.md."""

import json
from statistics import median

from . import growth
from .text import number


def _range(values):
    return [min(values), max(values)]


def summarise(figure, rounds):
    """Returns the result of a figure. `rounds` has a dict from method or peer to Sample for each round. The ratio is
    taken within each round, where both methods ran close together. The median of these ratios counts, so that a machine
    that slows down for a while does not decide."""
    def values(method):
        return [samples[method].value for samples in rounds if method in samples]

    result = {"id": figure.id, "title": figure.title, "unit": figure.unit, "more_is_better": figure.more_is_better,
              "target": figure.target, "ratio_target": figure.ratio or None, "raw": None, "drover": None, "ratio": None,
              "met": None, "raw_is": figure.label("raw"),
              "others": {}, "peers": {}, "costs": {}, "note": figure.note, "rounds": len(rounds)}
    sizes = {s["drover"].counters.get("size", figure.size) for s in rounds if "drover" in s}
    if sizes and sizes != {figure.size}:
        result["title"] += f" (measured with {number(max(sizes))} only)"
    in_series = {method for series in figure.series for method in series.sizes}
    for method in figure.methods:
        if not values(method):
            continue
        middle = median(values(method))
        if method in ("raw", "drover"):
            result[method], result[f"{method}_range"] = middle, _range(values(method))
        elif method not in in_series:
            result["others"][figure.label(method)] = {"value": middle, "range": _range(values(method))}
        counters = {}
        for samples in rounds:
            for name, value in (samples[method].counters if method in samples else {}).items():
                counters.setdefault(name, []).append(value)
        if counters and method in ("raw", "drover"):
            result["costs"][method] = {name: median(found) for name, found in counters.items()}
    ratios = _ratios(rounds, "raw")
    if ratios:
        result["ratio"], result["ratio_range"], result["ratios"] = median(ratios), _range(ratios), len(ratios)
        best = "p90" if figure.more_is_better else "p10"
        deciles = [s["drover"].counters[best] / s["raw"].counters[best] for s in rounds
                   if "drover" in s and "raw" in s and s["drover"].counters.get(best) and s["raw"].counters.get(best)]
        if deciles:  # other processes disturb these least
            result["ratio_best"] = median(deciles)

    fair = _ratios(rounds, "threads")
    if fair:
        result["fair"], result["fair_range"], result["fair_is"] = median(fair), _range(fair), figure.label("threads")
    result["growth"] = growth.summarise(figure, rounds)

    for name in sorted({name for samples in rounds for name in samples} - set(figure.methods)):
        note = next((s[name].note for s in rounds if name in s), "")
        result["peers"][name] = {"value": median(values(name)), "range": _range(values(name)), "note": note}
    result["missed"] = _missed(figure, result)
    if result["drover"] is not None and figure.target:
        result["met"] = not result["missed"]
    return result


def _ratios(rounds, baseline):
    """Of drover to the baseline in each round that has both."""
    both = [(s["drover"].value, s[baseline].value) for s in rounds if "drover" in s and baseline in s]
    return [drover / other for drover, other in both if other]


def _missed(figure, result):
    """Returns the reasons why the target is not met."""
    if result["drover"] is None:
        return ["nothing was measured"]
    missed = []
    more = figure.more_is_better
    if figure.ratio:
        if result["ratio"] is None:
            missed.append("there is no ratio")
        elif (result["ratio"] < figure.ratio) if more else (result["ratio"] > figure.ratio):
            missed.append(f"{result['ratio']:.2f} x {figure.label('raw')}")
    if figure.fair:
        if result.get("fair") is None:
            missed.append(f"there is no ratio to {figure.label('threads')}")
        elif result["fair"] > figure.fair:
            missed.append(f"{result['fair']:.2f} x {figure.label('threads')}")
    if figure.value and result["drover"] > figure.value:
        missed.append(f"{number(result['drover'])} {figure.unit}")
    for method, bound in figure.bounds.items():
        other = result["others"].get(figure.label(method))
        if other is None:
            missed.append(f"{figure.label(method)} was not measured")
        elif other["value"] > bound:
            missed.append(f"{figure.label(method)} {number(other['value'])} {figure.unit}")
    for limit in figure.limits:
        counters = result["costs"].get("drover", {})
        if not limit.holds(counters):
            found = f" ({number(counters[limit.counter])})" if limit.counter in counters else ""
            missed.append(f"not {limit.text}{found}")
    for name, peer in result["peers"].items():
        if not any(prefix == "*" or name.startswith(prefix) for prefix in figure.ahead_of):
            continue
        ahead = result["drover"] / peer["value"] if more else peer["value"] / result["drover"]
        if ahead <= figure.ahead_by:
            missed.append(f"behind {name}" if ahead <= 1 else f"{ahead:.1f} x ahead of {name}")
    return missed


def verdict(result):
    if result["met"] is None:
        return "no target" if result["drover"] is not None else "not measured"
    return "met" if result["met"] else "**not met**: " + ", ".join(result["missed"])


def cost_text(costs):
    parts = []
    if "cpu_us" in costs:
        parts.append(f"{costs['cpu_us']:.3g} us")
        if "worker_cpu_us" in costs:
            parts[-1] += f" + {costs['worker_cpu_us']:.3g} us"
    else:
        parts.append("")
    parts.append(f"{costs['allocations']:.3g}" if "allocations" in costs else "")
    return parts


def _ratio(value, span=None):
    """1.21 (1.18..1.30)"""
    if value is None:
        return ""
    return f"{value:.2f}" + (f" ({span[0]:.2f}..{span[1]:.2f})" if span and span[0] != span[1] else "")


def _row(result):
    others = [f"{name} {number(p['value'])}" for name, p in {**result["peers"], **result["others"]}.items()]
    if result.get("fair") is not None:
        others.insert(0, f"{_ratio(result['fair'], result['fair_range'])} x {result['fair_is']}")
    cells = [result["id"], f"{result['title']}, {result['unit']}", number(result["raw"]), number(result["drover"]),
             _ratio(result["ratio"], result.get("ratio_range")), _ratio(result.get("ratio_best")),
             str(result["rounds"]), result["target"], verdict(result), ", ".join(others)]
    return "| " + " | ".join(cells) + " |"


def markdown(results, run):
    machine = run["machine"]
    lines = ["# Results", "",
             f"{machine['date']}, {machine['processor']}, {machine['cores']} cores (pinned to {machine['pinned_to']}), "
             f"Linux {machine['kernel']}, {machine['compiler']}, Asio {machine['asio']}, load {machine['load_before']} "
             f"before the run. {run['mode'].capitalize()} of {run['rounds']} rounds. raw and drover are medians over "
             "the rounds. The ratio is drover / raw within a round: the median, and in parentheses the smallest and "
             "the largest of all rounds. `best` is the ratio of the best deciles. results.json has all ranges.", "",
             "| figure | | raw | drover | ratio (range) | best | rounds | target | met | peers and prototypes |",
             "|---|---|---:|---:|---:|---:|---:|---|---|---|"]
    lines += [_row(result) for result in results]
    lines += growth.markdown(results)
    lines += ["", "## Costs of one operation", "", "CPU time is that of the parent + that of the worker, with the "
              "kernel's part. Allocations are calls of operator new in the calling thread.", "",
              "| figure | method | CPU time | allocations |", "|---|---|---:|---:|"]
    for r in results:
        for method, costs in r["costs"].items():
            text = cost_text(costs)
            if any(text):
                lines.append(f"| {r['id']} | {r['raw_is'] if method == 'raw' else method} | " + " | ".join(text) + " |")
    lines += ["", "## How each figure is measured", ""]
    for note in dict.fromkeys(r["note"] for r in results if r["note"]):
        lines.append(f"* {', '.join(r['id'] for r in results if r['note'] == note)}: {note}")
    notes = {name: p["note"] for r in results for name, p in r["peers"].items() if p["note"]}
    lines += [f"* {name}: {note}" for name, note in sorted(notes.items())]
    lines += [f"* {line}" for line in run["left_out"]]
    return "\n".join(lines) + "\n"


def write(folder, results, run):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({**run, "figures": results}, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(results, run))
