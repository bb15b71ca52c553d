"""The command `procmem`: one file per command, all thin over the library.

Promises, for every command: results on stdout, progress and warnings on stderr; `--json` gives one
stable JSON document; exit code 0 done, 1 failed, 2 misuse, 130 interrupted; an error is one line
that says what to do. Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import click

from procmem.cli.add import add
from procmem.cli.classify import classify
from procmem.cli.delete import delete
from procmem.cli.demo import demo
from procmem.cli.doctor import doctor
from procmem.cli.embed import embed
from procmem.cli.evaluate import evaluate
from procmem.cli.exchange import export_command, import_command
from procmem.cli.group import ErrorGroup
from procmem.cli.influence import influence
from procmem.cli.match import match
from procmem.cli.migrate import migrate
from procmem.cli.neighbors import neighbors
from procmem.cli.options import global_options
from procmem.cli.revoke import apply_command, revoke
from procmem.cli.segment import segment
from procmem.cli.share import address, receive, share
from procmem.cli.stats import stats
from procmem.cli.verify import verify


class _InOrder(ErrorGroup):
    """Lists the commands in the order in which a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="procmem")
@global_options
def main(**_shared: str | None) -> None:
    """A visual memory that stays on this device and can forget exactly.

    Try it:  procmem demo

    Use it:  procmem add PHOTOS/  and then  procmem classify new.jpg

    The options below may stand before or after the command.
    """


for _command in (
    demo,
    add,
    classify,
    neighbors,
    influence,
    segment,
    match,
    delete,
    stats,
    verify,
    export_command,
    import_command,
    address,
    share,
    receive,
    revoke,
    apply_command,
    migrate,
    embed,
    evaluate,
    doctor,
):
    main.add_command(_command)
