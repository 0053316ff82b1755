"""The command `replaybank`. Importing this is cheap; what a subcommand needs is imported when it runs."""

import sys
from collections.abc import Sequence
from typing import Annotated

from replaybank.study import SettingError

_STUDY_PACKAGES = {"tyro", "rich", "torch", "gymnasium", "scipy", "matplotlib", "tensorboard"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return its exit status.

    0: done. 1: a setting that cannot work, or a package that is missing. 2: flags that cannot be read. 130: Ctrl-C.
    """
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _STUDY_PACKAGES:
            raise
        return _fail(f"this command needs the package {package}: pip install 'replaybank[study]'")
    except SettingError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    import tyro

    from replaybank.study.compare import compare
    from replaybank.study.runs import CompareConfig

    commands = tyro.extras.SubcommandApp()

    @commands.command(name="compare")
    def _(config: Annotated[CompareConfig, tyro.conf.arg(name="")]) -> int:
        """Train the same DQN with four memories, seed by paired seed, and report what the memory changes.

        Results go to runs/compare/ENV: results.csv, config.json, summary.json, learning_curves.png.
        Ctrl-C keeps what has finished; --resume goes on.
        """
        return compare(config)

    return int(commands.cli(prog="replaybank", args=arguments, config=(tyro.conf.FlagCreatePairsOff,)))


def _fail(message: str) -> int:
    print(f"replaybank: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
