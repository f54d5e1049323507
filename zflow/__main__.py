"""`python -m zflow` is the command `zflow`."""

from zflow.cli.main import main

if __name__ == "__main__":
    main(prog_name="zflow")
