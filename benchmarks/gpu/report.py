"""From the events of a run to one JSON file and one page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import atomic_path

PASSED, FAILED, ERROR, NOT_RUN = "passed", "failed", "error", "not run"
STATUSES = (PASSED, FAILED, ERROR, NOT_RUN)
PARTLY = "passed in part"  # of a part: the rest was not run
Event = Mapping[str, Any]


def item_report(name: str, events: Sequence[Event]) -> dict[str, Any]:
    """Return name, status, seconds, figures, checks and notes of one item.

    It has passed if it came to its end, no check failed, and it measured or checked something. What it could not run is
    listed under `not_run` and changes nothing else.
    """
    by_kind: dict[str, list[Event]] = {}
    for event in events:
        by_kind.setdefault(event["event"], []).append(event)

    def strip(kind: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in e.items() if k not in ("event", "part", "item")} for e in by_kind.get(kind, [])]

    checks, figures = strip("check"), strip("figure")
    missing = [f"{e['name']}: {e['why']}" for e in strip("unavailable")]
    status, message = NOT_RUN, next((e["why"] for e in strip("not run")), "the run ended before it")
    if "error" in by_kind:
        status, message = ERROR, strip("error")[0]["text"]
    elif any(not check["ok"] for check in checks):
        status, message = FAILED, "; ".join(f"{c['name']} ({c['text']})" for c in checks if not c["ok"])
    elif "end" in by_kind and (checks or "machine" in by_kind or (figures and not missing)):
        status, message = PASSED, ""
    elif missing:
        message = "; ".join(missing)
    seconds = by_kind["end"][0]["seconds"] if "end" in by_kind else None
    notes = [event["text"] for event in strip("note")]
    return {
        "name": name, "status": status, "message": message, "seconds": seconds, "figures": figures, "checks": checks,
        "not_run": missing, "notes": notes,
    }  # fmt: skip


def part_status(items: Iterable[Mapping[str, Any]]) -> str:
    """Return the worst status of the items; `passed` only if all of them were run, with all that they hold."""
    items = list(items)
    found = {item["status"] for item in items}
    worst = next((status for status in (ERROR, FAILED, PASSED) if status in found), NOT_RUN)
    whole = NOT_RUN not in found and not any(item["not_run"] for item in items)
    return PARTLY if worst == PASSED and not whole else worst


def make_report(
    parts: Sequence[tuple[str, str, Sequence[str]]], events: Sequence[Event], **head: Any
) -> dict[str, Any]:
    """Return the content of the JSON file.

    Args:
        parts: name, title and names of the items.
        events: what was written, in order.
        **head: further entries, such as the options.
    """
    found = []
    for name, title, items in parts:
        own = [event for event in events if event.get("part") == name]
        reports = [item_report(item, [event for event in own if event["item"] == item]) for item in items]
        found.append({"name": name, "title": title, "status": part_status(reports), "items": reports})
    machine = next((event["facts"] for event in events if event["event"] == "machine"), {})
    everything = [item for part in found for item in part["items"]]
    count = {status: sum(item["status"] == status for item in everything) for status in STATUSES}
    return {"format": 1, **head, "machine": machine, "count": count, "parts": found}


def has_failed(report: Mapping[str, Any]) -> bool:
    """Return whether a check failed or an item ended with an error."""
    return bool(report["count"][FAILED] or report["count"][ERROR])


# Page -----------------------------------------------------------------------------------------------------------------
def cell(value: Any) -> str:
    """Return a value as text of a Markdown table; numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows as a Markdown table, with the columns of all of them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return [*lines, *("| " + " | ".join(cell(row.get(key, "")) for key in columns) + " |" for row in rows), ""]


def figure_tables(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table for each name of figures, one row a figure."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        for figure in item["figures"]:
            title = f"{figure['name']}, {figure['unit']}" if figure["unit"] else figure["name"]
            row = {**figure["labels"], "median": figure["median"]}
            if figure["repeats"] > 1:
                row |= {"least": figure["min"], "most": figure["max"], "repeats": figure["repeats"]}
            groups.setdefault(title, []).append(row)
    return [line for title, rows in groups.items() for line in (f"**{title}**", "", *table(rows))]


def make_page(report: Mapping[str, Any]) -> str:
    """Return the page of a report, Markdown."""
    machine, count = report["machine"], report["count"]
    lines = [f"# GPU acceptance: {machine.get('device', 'unknown device')}", ""]
    if report["tiny"]:
        lines += ["**A rehearsal with tiny models: it shows that the checks run, and says nothing about speed.**", ""]
    lines += [", ".join(f"{number} {status}" for status, number in count.items()) + " (items).", ""]
    facts = {key: value for key, value in machine.items() if key != "packages"} | machine.get("packages", {})
    lines += table([{"": key, "value": value} for key, value in facts.items()]) if facts else []
    lines += table(
        [
            {"part": part["title"], "status": part["status"]}
            | {status: sum(item["status"] == status for item in part["items"]) for status in count}
            for part in report["parts"]
        ]
    )
    bad = [(p, i) for p in report["parts"] for i in p["items"] if i["status"] in (FAILED, ERROR)]
    lines += ["## Failed", ""]
    lines += [f"- {p['title']}, {i['name']}: {i['status']}: {cell(i['message'])}" for p, i in bad] or ["Nothing."]
    lines += ["", "## Not run", ""]
    missing = [(p, i) for p in report["parts"] for i in p["items"] if i["status"] == NOT_RUN]
    lines += [f"- {p['title']}, {i['name']}: {cell(i['message'])}" for p, i in missing]
    some = [(p, i, why) for p in report["parts"] for i in p["items"] if i["status"] != NOT_RUN for why in i["not_run"]]
    lines += [f"- {p['title']}, {i['name']}: {cell(why)}" for p, i, why in some]
    lines += [] if missing or some else ["Nothing."]
    for part in report["parts"]:
        lines += ["", f"## {part['title']}", ""]
        lines += figure_tables(part["items"])
        checks = [{**check, "ok": "yes" if check["ok"] else "NO"} for item in part["items"] for check in item["checks"]]
        lines += table(checks) if checks else []
        lines += [f"- {cell(note)}" for item in part["items"] for note in item["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def save_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write gpu.json and gpu.md."""
    for name, text in (("gpu.json", json.dumps(report, indent=1) + "\n"), ("gpu.md", make_page(report))):
        with atomic_path(folder / name) as tmp:
            tmp.write_text(text, encoding="utf-8")
