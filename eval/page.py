"""Pieces of the plan's page: HTML tables, figures that travel inside the file, and the page itself."""

import base64
import html
import io

from matplotlib.figure import Figure

from bitsample_llm.report.page import aligned_table

__all__ = ["aligned_table", "html_figure", "html_page", "html_table"]


def data_uri(figure: Figure) -> str:
    """A figure as an SVG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def html_table(rows: list[list[str]]) -> str:
    """Rows as an HTML table that scrolls sideways on a narrow screen."""
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def html_figure(figure: Figure, title: str, sentence: str) -> str:
    """A figure under its title, with the sentence below it and both as its alternative text."""
    alternative = html.escape(f"{title} {sentence}")
    return f"<figure><h2>{title}</h2><img alt='{alternative}' src='{data_uri(figure)}'><figcaption>{sentence}</figcaption></figure>"


def html_page(title: str, body: str) -> str:
    """A self-contained page."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 0 auto; padding: 1rem; }}
img {{ max-width: 100%; height: auto; }}
figure {{ margin: 2.5rem 0; }}
figcaption {{ max-width: 48rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }}
th {{ vertical-align: bottom; white-space: normal; min-width: 5.5rem; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""
