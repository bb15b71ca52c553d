"""A command's help as a page of the documentation; `python docs/make_cli.py` writes the pages."""

from __future__ import annotations

import click

_WIDTH = 80


def reference(group: click.Group, name: str) -> str:
    """The help of a group and of all of its commands, as one Markdown document.

    Args:
        group: of commands.
        name: that people call it by.
    """
    context = _context(group, name, None)
    parts = [
        f"# The command `{name}`",
        f"Made from `{name} --help` by `python docs/make_cli.py`.",
        "Results go to stdout, progress and warnings to stderr; with `--json`, where there is one, "
        "as one JSON document,\nin which ids are text, because many JSON readers keep only 53 bits "
        "of a number. Exit codes: 0 done, 1 failed,\n2 misuse, 130 interrupted.",
        _block(group, context),
    ]
    for own in group.list_commands(context):
        command = group.commands[own]
        inner = _context(command, own, context)
        parts += [f"## {name} {own}", _block(command, inner)]
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
