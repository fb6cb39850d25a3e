"""The one writer: a study as a self-contained HTML page, a Markdown summary, a JSON file, PNG files and lines for a terminal."""

import html
import io
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bitsample_llm.report.study import Picture, Study, Table

TERMINAL_WIDTH = 100
TIP = "tip: "  # what the gid of an artist begins with whose text a reader sees on hover

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #555; --line: #ddd; --accent: #0072B2; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 76rem; margin: 0 auto; padding: 1.25rem; }
.question { color: var(--soft); margin: 0; }
h1 { font-size: 1.6rem; line-height: 1.3; max-width: 54rem; margin: .3rem 0 1.2rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p, ul, figcaption { max-width: 50rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; margin: 1rem 0 1.5rem; }
.numbers > div { border-top: 3px solid var(--accent); padding: .5rem 0; }
.value { font-size: 1.7rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.detail, .note { color: var(--soft); font-size: .9rem; }
.answer { display: grid; gap: 0 3rem; }
@media (min-width: 66rem) { .answer { grid-template-columns: minmax(0, 44rem) minmax(0, 1fr); } }
figure { margin: 1.5rem 0; }
figure svg { display: block; width: 100%; max-width: 60rem; height: auto; }
figure.main svg { max-width: 44rem; }
.tip:hover { stroke-opacity: 1; stroke-width: 2; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { vertical-align: bottom; font-weight: 600; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
footer { color: var(--soft); font-size: .875rem; margin-top: 2rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
"""


# ---- HTML ------------------------------------------------------------------------------------------------------------


def inline_svg(figure: Figure, name: str, alternative: str) -> str:
    """A figure as SVG to stand in a page: ids of its own, an alternative text, and titles for artists whose gid is a tip."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(rf'<g id="{TIP}([^"]*)">', r'<g class="tip"><title>\1</title>', svg)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alternative)}" ', 1)


def _html_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _html_of_table(table: Table) -> str:
    """The table, which scrolls sideways on a narrow screen, its note and its definitions."""
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in table.rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows[1:])
    note = f"<p class='note'>{html.escape(table.note)}</p>" if table.note else ""
    rows = f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    return rows + note + _html_list(table.definitions)


def _html_of_picture(picture: Picture, svg: str, kind: str = "") -> str:
    return f"<figure class='{kind}'>{svg}<figcaption>{html.escape(picture.caption)}</figcaption></figure>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def html_page(study: Study, svg_by_name: dict[str, str]) -> str:
    """The page: what was found, the numbers and the figure that show it, how to read it, then the details, folded."""
    numbers = "".join(
        f"<div><div class='value'>{html.escape(headline.value)}</div><div>{html.escape(headline.meaning)}</div>"
        f"<div class='detail'>{html.escape(headline.detail)}</div></div>"
        for headline in study.headlines
    )
    details = []
    if study.claims:
        details.append(_folded("Claims and verdicts", _html_of_table(claims_table(study))))
    details += [_folded(table.title, _html_of_table(table)) for table in study.tables]
    details += [_folded(picture.title, _html_of_picture(picture, svg_by_name[picture.name])) for picture in study.pictures]
    main = _html_of_picture(study.main, svg_by_name[study.main.name], "main") if study.main else ""
    found = f"<h2>What was found</h2>{_html_list(study.sentences)}" if study.sentences else ""
    left_out = f"<h2>Left out</h2>{_html_list(study.left_out)}" if study.left_out else ""
    more = f"<h2>Details</h2>{''.join(details)}" if details else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(study.title)}</title><style>{STYLE}</style></head><body>
<p class="question">{html.escape(study.question)}</p>
<h1>{html.escape(study.answer)}</h1>
<div class="numbers">{numbers}</div>
<div class="answer">{main}
<div><h2>How to read this</h2><p>{html.escape(study.how_to_read)}</p>
{found}</div></div>
<h2>{html.escape(study.table.title)}</h2>{_html_of_table(study.table)}
{left_out}
{more}
<footer><p>{html.escape(study.provenance)}</p></footer>
</body></html>
"""


def claims_table(study: Study) -> Table:
    """The claims as text."""
    is_numbered = any(claim.number is not None for claim in study.claims)
    rows = [[*["claim"] * is_numbered, "question or claim", "verdict", "estimate", "n", "statistic"]]
    for claim in study.claims:
        numbered = [str(claim.number or "")] * is_numbered
        rows.append([*numbered, claim.text, claim.verdict, claim.estimate.text(), str(claim.estimate.n), claim.statistic])
    return Table("Claims and verdicts", rows, "Brackets hold the 95 % interval.")


# ---- Markdown and terminal -------------------------------------------------------------------------------------------


def _markdown_cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first being the heading."""
    lines = ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text for a terminal, the first being the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_page(study: Study) -> str:
    """The same in Markdown, with the figures as files next to it."""
    tables = [study.table, *([claims_table(study)] if study.claims else []), *study.tables]
    lines = [f"# {_markdown_cell(study.title)}", "", _markdown_cell(study.answer), ""]
    lines += [f"- {_markdown_cell(sentence)}" for sentence in study.sentences]
    for table in tables:
        lines += ["", f"## {_markdown_cell(table.title)}", "", markdown_table(table.rows), "", _markdown_cell(table.note)]
        lines += [f"- {_markdown_cell(line)}" for line in table.definitions]
    for picture in study.all_pictures:
        title = _markdown_cell(picture.title)
        lines += ["", f"## {title}", "", f"![{title}](figures/{picture.name}.png)", "", _markdown_cell(picture.caption)]
    if study.left_out:
        lines += ["", "## Left out", "", *[f"- {_markdown_cell(line)}" for line in study.left_out]]
    return "\n".join([*lines, "", _markdown_cell(study.provenance), ""])


def terminal_text(study: Study, path: str) -> str:
    """What was compared, the answer, three findings, and where the page is; at most `TERMINAL_WIDTH` columns."""
    told = [study.answer, *study.sentences][:4]
    wrapped = ["\n".join(textwrap.wrap(line, TERMINAL_WIDTH, subsequent_indent="  ")) for line in told]
    tables = [line for table in study.terminal or [study.table] for line in (aligned_table(table.rows), "")]
    return "\n".join([*tables, *wrapped, "", f"report: {path}"])


# ---- files -----------------------------------------------------------------------------------------------------------


def write_page(study: Study, output_dir: Path, page: str = "report", results: str = "results") -> Path:
    """Write report.html, summary.md, results.json (or as `page` and `results` name them) and figures/*.png; the path of the page."""
    figures_dir = output_dir / "figures"
    figures_dir.mkdir(parents=True, exist_ok=True)
    svg_by_name = {}
    for picture in study.all_pictures:
        figure = picture.draw()
        figure.savefig(figures_dir / f"{picture.name}.png", dpi=120)
        svg_by_name[picture.name] = inline_svg(figure, picture.name, f"{picture.title} {picture.caption}")
        plt.close(figure)
    content = {"claims": [claim.fields() for claim in study.claims], **study.results}
    content |= {"left_out": list(study.left_out), "provenance": study.provenance}
    (output_dir / f"{results}.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    (output_dir / "summary.md").write_text(markdown_page(study))
    path = output_dir / f"{page}.html"
    path.write_text(html_page(study, svg_by_name))
    return path
