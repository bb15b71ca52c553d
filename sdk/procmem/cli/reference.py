"""The text of docs/cli.md, made from `--help`: `python -m procmem.cli.reference > docs/cli.md`."""

from __future__ import annotations

import click

from procmem.cli import main

_WIDTH = 80


def reference() -> str:
    """The help of every command, as one Markdown document."""
    context = _context(main, "procmem", None)
    parts = [
        "# The command line",
        "Made from `procmem --help` by `python -m procmem.cli.reference > docs/cli.md`.",
        "Results go to stdout, progress and warnings to stderr. `--json` gives one JSON document, "
        "in which ids are text,\nbecause many JSON readers keep only 53 bits of a number. Exit "
        "codes: 0 done, 1 failed, 2 misuse, 130 interrupted.",
        _block(main, context),
    ]
    for name in main.list_commands(context):
        command = main.commands[name]
        inner = _context(command, name, context)
        parts += [f"## procmem {name}", _block(command, inner)]
    return "\n\n".join(parts) + "\n"


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        **command.context_settings,
    )


def _block(command: click.Command, context: click.Context) -> str:
    return f"```\n{command.get_help(context).rstrip()}\n```"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
