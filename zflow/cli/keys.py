"""`zflow keys`: the keys with which the processes of a run know one another over tcp.

Decides what is shown of them: public keys alone.
"""

from pathlib import Path

import click

from zflow.cli.output import show_json
from zflow.net.keys import KeyFolder, new_folder
from zflow.net.keys import rotate as rotate_folder

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="One object on stdout.")


@click.group()
def keys() -> None:
    """Make, show and renew the keys of a run over tcp.

    DIR is a folder that only its user can read. Whoever runs stages needs stages.seed, epoch and
    public.json of it; the coordinator needs coordinator.key too; a person who gives orders needs
    operator.key and public.json, one who only looks reader.key and public.json.

    \b
    Example:
      zflow keys new ~/.zflow-keys
      zflow keys show ~/.zflow-keys
      zflow keys rotate ~/.zflow-keys
    """


@keys.command()
@folder_argument
@json_option
def new(folder: Path, as_json: bool) -> None:
    """Make the folder with new keys; refused if there is something already.

    \b
    Example:
      zflow keys new ~/.zflow-keys
    """
    made = new_folder(folder)
    if not as_json:
        click.echo(f"made {folder}; copy what a machine needs over a safe way", err=True)
    _show(made, as_json)


@keys.command()
@folder_argument
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show the epoch and the public keys. Secret ones are never shown.

    \b
    Example:
      zflow keys show ~/.zflow-keys --json
    """
    _show(KeyFolder(folder), as_json)


@keys.command()
@folder_argument
@json_option
def rotate(folder: Path, as_json: bool) -> None:
    """Give every slot a new key from its next start on; its last one is accepted meanwhile.

    Copy `epoch` to the other machines, then restart the stages one after the other, each of them
    before the next rotation: after that one, a process that still has the key before the last is
    refused, and so is whoever has stolen it.

    \b
    Example:
      zflow keys rotate ~/.zflow-keys
    """
    _show(rotate_folder(folder), as_json)


def _show(folder: KeyFolder, as_json: bool) -> None:
    epoch, people = folder.public()
    if as_json:
        show_json({"epoch": epoch, "public_keys": people})
        return
    click.echo(f"epoch        {epoch}")
    for name, key in people.items():
        click.echo(f"{name:<12} {key}")
