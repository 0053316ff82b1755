"""The command `replaybank`. Importing this is cheap; what a command needs is imported when it runs."""

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from replaybank.study import SettingError

_STUDY = "'replaybank[study]'"
_EXTRAS = {"inspect": "'replaybank[inspect]'", "top": "'replaybank[ray]'"}  # of commands that need no study
_PACKAGES = dict.fromkeys(
    ("tyro", "rich", "torch", "gymnasium", "scipy", "matplotlib", "tensorboard", "minatar", "Box2D"), _STUDY
) | {"wandb": "wandb", "plotly": "'replaybank[inspect]'", "ray": "'replaybank[ray]'"}

_HELP = """usage: replaybank COMMAND [flags]

  compare            train one DQN with several memories, and see what the memory changes
  study list         the experiments there are
  study run NAME     run one; NAME --help shows its flags
  study plot DIR     judge and draw a study again from its files
  figures            draw the ideas behind replay
  inspect PATH       look inside a saved buffer
  top                watch a cluster of replay shards on Ray

Each command explains its flags with --help; --version says which replaybank this is."""

_HELP_STUDY = "usage: replaybank study COMMAND [flags]\n\n" + "\n".join(
    line for line in _HELP.splitlines() if line.startswith("  study ")
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return its exit status.

    0: done. 1: a setting that cannot work, or a package that is missing. 2: flags that cannot be read. 130: Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        remedy = _EXTRAS.get(given[0], _PACKAGES[package])
        return _fail(f"this command needs the package {package}: pip install {remedy}")
    except SettingError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_HELP)
        return 0 if given else 2
    if given == ["--version"]:
        from replaybank import __version__

        print(f"replaybank {__version__}")
        return 0
    for words, command in _COMMANDS.items():
        if given[: len(words)] == list(words):
            return command(given[len(words) :])
    if given[0] == "study" and given[1:] in ([], ["-h"], ["--help"]):
        print(_HELP_STUDY)
        return 0 if given[1:] else 2
    known = [" ".join(words) for words in _COMMANDS]
    word = " ".join(given[: 1 + (given[0] == "study")])
    guess = "".join(f" (did you mean {name}?)" for name in get_close_matches(word, known, n=1))
    print(f"replaybank: {word!r} is no command{guess}; expected one of {', '.join(known)}", file=sys.stderr)
    return 2


def _compare(given: list[str]) -> int:
    return _run_study("compare", given, "replaybank compare")


def _study_list(given: list[str]) -> int:
    from replaybank.study.catalog import list_studies

    _cli(list_studies, "replaybank study list", given)
    return 0


def _study_run(given: list[str]) -> int:
    from replaybank.study.catalog import NAMES

    if not given or given[0] in ("-h", "--help"):
        print(f"usage: replaybank study run NAME [flags]\n\nNAME: one of {', '.join(NAMES)}")
        return 0 if given else 2
    return _run_study(given[0], given[1:], f"replaybank study run {given[0]}")


def _study_plot(given: list[str]) -> int:
    import tyro

    from replaybank.study.runner import plot_study

    def plot(folder: Annotated[Path, tyro.conf.Positional]) -> int:
        """Judge and draw a study again from the files of its runs.

        Args:
            folder: where the study left them
        """
        return plot_study(folder)

    return int(_cli(plot, "replaybank study plot", given))


def _figures(given: list[str]) -> int:
    from replaybank.study.figures import figures

    def draw(out: Path = Path("figures")) -> int:
        """Draw the ideas behind replay as five pictures, PNG and SVG, and print each file's name.

        Files of the same names are replaced.

        Args:
            out: the folder of the pictures, made if it is not there
        """
        return figures(out)

    return int(_cli(draw, "replaybank figures", given))


def _inspect(given: list[str]) -> int:
    from replaybank.inspection.command import inspect_command

    return int(_cli(inspect_command, "replaybank inspect", given))


def _top(given: list[str]) -> int:
    from replaybank.ray.top import top_command

    return int(_cli(top_command, "replaybank top", given))


def _run_study(name: str, given: list[str], prog: str) -> int:
    import tyro

    from replaybank.study.catalog import study as find
    from replaybank.study.runner import RunSettings, run_study

    study = find(name)
    preset, rest = _preset(given, list(study.presets))
    config = study.presets[preset] if preset else study.config()

    def run(config: Any, settings: Any) -> int:
        return run_study(study, config, settings)

    flat = tyro.conf.arg(name="")
    run.__annotations__ = {"config": Annotated[study.config, flat], "settings": Annotated[RunSettings, flat]}
    run.__defaults__ = (config, RunSettings(study.seeds))
    run.__doc__ = (
        f"{study.question}\n\nResults go to runs/{name}. Ctrl-C keeps what has finished; --resume goes on.\n"
        "For a quick look: --seeds 2 (verdicts need at least five)."
    )
    if study.presets:
        run.__doc__ += f"\n--preset NAME, where NAME is one of {', '.join(study.presets)}: other defaults."
    return int(_cli(run, prog, rest))


def _preset(given: list[str], known: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--preset`, which decides what the other flags' defaults are, and the other arguments."""
    for place, word in enumerate(given):
        name, equals, value = word.partition("=")
        if name == "--preset":
            value = value if equals else (given[place + 1 : place + 2] or ["nothing"])[0]
            if value not in known:
                expected = f"one of {', '.join(known)}" if known else "none: this study has no presets"
                raise SettingError(f"--preset: expected {expected}, given {value}")
            return value, given[:place] + given[place + 1 + (not equals) :]
    return None, given


def _cli(function: Callable[..., Any], prog: str, given: list[str]) -> Any:
    import tyro

    return tyro.cli(function, prog=prog, args=given, config=(tyro.conf.FlagCreatePairsOff,))


def _fail(message: str) -> int:
    print(f"replaybank: {message}", file=sys.stderr)
    return 1


_COMMANDS: dict[tuple[str, ...], Callable[[list[str]], int]] = {
    ("compare",): _compare,
    ("study", "list"): _study_list,
    ("study", "run"): _study_run,
    ("study", "plot"): _study_plot,
    ("figures",): _figures,
    ("inspect",): _inspect,
    ("top",): _top,
}


if __name__ == "__main__":
    sys.exit(main())
