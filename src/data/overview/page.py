"""inspect.html: one page that shows all that was found. No script, no network; the pictures lie beside it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from src.data.overview.duplicate_sheet import MAX_GROUPS
from src.data.overview.findings import HELD_OUT, LEFT_OUT, TRAIN, CaptionTokens, Findings, ImageFinding
from src.data.records import Problem

# A page of ten thousand lines is read by nobody; inspect.json has all.
MAX_LINES = 500
_MAX_TEXT = 600

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1c1c1e; background: #fff;
  margin: 0 auto; padding: 32px 28px 80px; max-width: 1180px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 44px 0 10px; }
code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.soft { color: #6b6b70; } p { margin: 6px 0; max-width: 80ch; }
.verdict { border-left: 6px solid #2c8a57; background: #eef7f1; padding: 10px 16px; margin: 18px 0; }
.verdict.bad { border-color: #c2301c; background: #fcefec; }
dl { display: flex; flex-wrap: wrap; gap: 12px 34px; margin: 18px 0; } dl div { min-width: 76px; }
dt { color: #6b6b70; font-size: 13px; } dd { margin: 0; font-size: 22px; }
ul { padding-left: 22px; margin: 8px 0; } li { margin: 4px 0; overflow-wrap: anywhere; }
.must { color: #fff; background: #c2301c; border-radius: 3px; padding: 1px 6px; font-size: 12px; }
table { border-collapse: collapse; margin: 8px 0; } th { color: #6b6b70; font-weight: normal; }
td, th { text-align: left; vertical-align: top; padding: 4px 18px 4px 0; border-bottom: 1px solid #dcdce0; }
td:first-child { min-width: 150px; max-width: 330px; } td:last-child { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; } summary { cursor: pointer; }
img { max-width: 100%; height: auto; } .sheet { border: 1px solid #dcdce0; margin: 12px 0; display: block; }
.charts { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 8px 20px; }
.charts img { width: 560px; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Addresses of the pictures, relative to the page.

    Attributes:
        sheets: Pages of the contact sheet.
        num_shown: Images on them.
        duplicates: The sheet of duplicates, if there are any.
        sizes: Charts of sizes and shapes.
        tokens: The chart of token counts, if tokens were counted.
    """

    sheets: list[str]
    num_shown: int
    duplicates: str | None
    sizes: list[str]
    tokens: str | None


def render_page(findings: Findings, pictures: Pictures) -> str:
    """The page. Whatever comes from the dataset, captions and file names, is escaped."""
    title = f"Dataset {findings.title}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft"><code>{escape(str(findings.folder))}</code></p>',
        _verdict(findings.problems),
        _figures(findings),
        *_problems(findings.problems),
        *_warnings(findings.warnings),
        *_sheets(findings, pictures),
        *_duplicates(findings, pictures),
        *_section("Sizes and shapes", _charts(pictures.sizes) if pictures.sizes else []),
        *_section("Captions", _captions(findings.tokens, pictures.tokens)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _verdict(problems: Sequence[Problem]) -> str:
    if not problems:
        return '<p class="verdict">No problems: this dataset can be trained on.</p>'
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    if all(problem.is_skippable for problem in problems):
        then = "Mend them, or set <code>dataset.on_problem=skip</code> to train without these images."
    else:
        then = "Those that are marked must be mended before training."
    return f'<p class="verdict bad"><b>{count}.</b> {then}</p>'


def _figures(findings: Findings) -> str:
    figures = {
        "images": len(findings.images),
        "to train on": findings.num_of_side(TRAIN),
        "held out": findings.num_of_side(HELD_OUT),
        "left out": findings.num_of_side(LEFT_OUT),
        "with problems": sum(bool(image.problems) for image in findings.images),
        "groups of duplicates": len(findings.duplicates),
    }
    if findings.tokens is not None:
        figures["captions too long"] = len(findings.tokens.lost)
    cells = [f"<div><dt>{name}</dt><dd>{number:,}</dd></div>" for name, number in figures.items()]
    return f"<dl>{''.join(cells)}</dl>"


def _problems(problems: Sequence[Problem]) -> list[str]:
    marks = any(problem.is_skippable for problem in problems)
    lines = []
    for problem in problems[:MAX_LINES]:
        mark = ' <span class="must">must be mended</span>' if marks and not problem.is_skippable else ""
        lines.append(f"<code>{escape(problem.file)}</code>: {escape(problem.message)}{mark}")
    return _section("Problems", _listed(lines, len(problems)) if lines else [])


def _warnings(warnings: Sequence[str]) -> list[str]:
    lines = [escape(warning) for warning in warnings[:MAX_LINES]]
    return _section("Warnings", _listed(lines, len(warnings)) if lines else [])


def _sheets(findings: Findings, pictures: Pictures) -> list[str]:
    if not pictures.sheets:
        return []
    total = len(findings.images)
    note = "The split is that of training"
    if any(image.problems for image in findings.images):
        note += " without the images that have problems"
    lines = [f'<p class="soft">{note}.</p>']
    if pictures.num_shown < total:
        lines.append(
            f"<p>{pictures.num_shown:,} of {total:,} images: those with problems, then a fixed choice of the "
            "others. <code>inspect.max_images</code> sets how many.</p>"
        )
    lines += [_picture(name, f"Contact sheet, page {n}") for n, name in enumerate(pictures.sheets, start=1)]
    return _section("Contact sheet", [*lines, *_as_text(findings.images)])


def _as_text(images: Sequence[ImageFinding]) -> list[str]:
    """The captions again: to search and copy, and for letters that no font of the pictures has."""
    rows = [
        f"<tr><td><code>{escape(image.name)}</code></td><td>{image.side or ''}</td>"
        f"<td>{'<br>'.join(escape(_cut(caption)) for caption in image.captions)}</td></tr>"
        for image in images[:MAX_LINES]
    ]
    return [
        "<details><summary>Captions as text</summary>",
        "<table><tr><th>image</th><th>side</th><th>caption</th></tr>",
        *rows,
        "</table>",
        *_more(len(images) - len(rows)),
        "</details>",
    ]


def _duplicates(findings: Findings, pictures: Pictures) -> list[str]:
    lines = []
    if not findings.has_near:
        lines.append(
            "<p>Only exact copies were looked for. <code>dataset.near_duplicates=always</code> finds near "
            "ones, too.</p>"
        )
    if pictures.duplicates is None:
        if findings.has_near:
            lines.append("<p>None.</p>")
        return _section("Duplicates", lines)
    lines.append('<p class="soft">A group stays on one side of the split.</p>')
    if len(findings.duplicates) > MAX_GROUPS:
        lines.append(f"<p>The {MAX_GROUPS} largest of {len(findings.duplicates):,} groups.</p>")
    lines.append(_picture(pictures.duplicates, "Groups of duplicates"))
    names = [
        ", ".join(f"<code>{escape(image.name)}</code>" for image in group.images[:20])
        + (f" and {len(group.images) - 20} more" if len(group.images) > 20 else "")
        for group in findings.duplicates[:MAX_GROUPS]
    ]
    return _section("Duplicates", [*lines, *_listed(names, len(findings.duplicates))])


def _captions(tokens: CaptionTokens | None, chart: str | None) -> list[str]:
    if tokens is None:
        return ["<p>Tokens were not counted: the warnings say why.</p>"]
    lines = [] if chart is None else _charts([chart])
    if not tokens.lost:
        return [*lines, f"<p>All captions fit into {tokens.room}.</p>"]
    rows = [
        f'<tr><td><code>{escape(lost.name)}</code></td><td class="number">{lost.num_tokens}</td>'
        f"<td>{escape(_cut(lost.text))}</td></tr>"
        for lost in tokens.lost[:MAX_LINES]
    ]
    return [
        *lines,
        f"<p>{len(tokens.lost):,} of {len(tokens.counts):,} captions do not fit into {tokens.room}. "
        "The text encoder does not see their ends:</p>",
        '<table><tr><th>image</th><th class="number">tokens</th><th>not seen</th></tr>',
        *rows,
        "</table>",
        *_more(len(tokens.lost) - len(rows)),
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} … ({len(text):,} letters)"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"<h2>{title}</h2>", *lines] if lines else []


def _listed(lines: Sequence[str], total: int) -> list[str]:
    return ["<ul>", *(f"<li>{line}</li>" for line in lines), "</ul>", *_more(total - len(lines))]


def _more(number: int) -> list[str]:
    return [f"<p>{number:,} more in <code>inspect.json</code>.</p>"] if number > 0 else []


def _charts(names: Iterable[str]) -> list[str]:
    return ['<div class="charts">', *(f'<img src="{escape(name)}" alt="Chart">' for name in names), "</div>"]


def _picture(name: str, description: str) -> str:
    address = escape(name)
    return f'<a href="{address}"><img class="sheet" src="{address}" alt="{escape(description)}"></a>'
