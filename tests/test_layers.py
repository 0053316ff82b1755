"""The house: who may import whom. `PLAN` is the plan, read from the ground up; a new module needs a place in it."""

import ast
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import replaybank

ROOT = Path(replaybank.__file__).parent


class Floor(NamedTuple):
    """Modules (patterns, without `replaybank.`), the floors they stand on, and the packages they import."""

    modules: str
    on: str = ""
    packages: str = ""


# A floor stands on those named, all of which come before it: so no import points up. Floors that do not name one
# another know nothing of one another: samplers never see data (rows, views), views never see priorities (samplers).
# What a function imports when it is called counts; what points up for types alone is in `FOR_TYPES`.
PLAN = {
    "errors of imports": Floor("extras"),
    "kernels": Floor("kernels"),
    "values": Floor("convert schema arguments", on="kernels", packages="numpy gymnasium"),  # `schema_of` of its spaces
    "tools": Floor("parts memory saving samplers.state", packages="numpy"),
    "files": Floor("files pages manifest storage", on="errors of imports", packages="numpy zstandard"),
    "rows": Floor(
        "stacking layout pool budget rows segments held usage snapshot salvage",
        on="kernels values tools files",
        packages="numpy",
    ),
    "batch": Floor("tensors batch", on="errors of imports, kernels", packages="numpy torch"),
    "samplers": Floor("samplers samplers.*", on="kernels values tools", packages="numpy"),
    "views": Floor("views views.*", on="kernels values tools rows batch", packages="numpy"),
    "checkpoint": Floor(
        "plain generator checkpoint restore", on="kernels values files rows samplers views", packages="numpy"
    ),
    "prefetch": Floor("movers prefetch", on="errors of imports, kernels, batch", packages="torch"),
    "pages": Floor(
        "inspection inspection.report inspection.histograms inspection.fields inspection.episodes inspection.use "
        "inspection.overview inspection.tables inspection.plots inspection.page inspection.terminal",
        on="errors of imports, values, rows, samplers, checkpoint",
        packages="numpy plotly rich",
    ),
    "buffer": Floor(
        "buffer",
        on="kernels values tools files rows batch samplers views checkpoint prefetch pages",
        packages="numpy",
    ),
    "recorder": Floor("recorder", on="buffer", packages="numpy gymnasium"),
    "public": Floor("replaybank", on="tools values files rows batch samplers views buffer recorder"),
    "twins": Floor("reference", on="kernels rows", packages="numpy"),
    "torch": Floor("torch", on="public, errors of imports", packages="numpy torch"),
    "jax": Floor("jax", on="public, errors of imports", packages="numpy jax"),
    "shared": Floor("shared shared.*", on="public twins", packages="numpy"),
    "sb3, cleanrl": Floor(
        "adapters adapters.storage adapters.sb3 adapters.cleanrl",
        on="public, errors of imports",
        packages="numpy torch gymnasium stable_baselines3",
    ),
    "tianshou": Floor(
        "adapters.tianshou adapters.tianshou_episodes", on="public, errors of imports", packages="numpy tianshou h5py"
    ),
    "minari": Floor("adapters.minari", on="public, errors of imports", packages="numpy gymnasium minari"),
    "rllib": Floor("adapters.rllib", on="public", packages="numpy ray tree"),
    "errors of commands": Floor("study"),
    "ray": Floor("ray ray.*", on="public, errors of imports, errors of commands", packages="numpy ray rich"),
    "inspect": Floor("inspection.command", on="public, pages, errors of commands", packages="rich"),
    "study": Floor(
        "study.*",
        on="public, errors of commands, ray",
        packages="numpy scipy matplotlib torch gymnasium minatar tyro rich wandb ray",  # ray: `shards` starts its own
    ),
    "cli": Floor("cli __main__", on="public, errors of commands, study, inspect, ray", packages="tyro"),
}
# Floors on "public" take names of `replaybank.__all__`, from where they are defined, and of other modules these.
LOWER = {
    "torch": "buffer convert",  # the module, since its own class has the name of the buffer's
    "jax": "convert",
    # A writer checks what it is given as the buffer does, and gives its rows to the kernels.
    "shared": "kernels _native arguments convert rows stacking",
    "sb3, cleanrl": "samplers.base samplers.schedule views.base schema rows stacking",
    "tianshou": "samplers.base views.base schema",
    "minari": "schema",
    "rllib": "arguments buffer rows samplers.base samplers.importance",
    # Likewise; and a batch of several shards is put together in one block, as a view does.
    "ray": "kernels arguments convert parts files rows schema samplers.base samplers.share views.base views.gather "
    "batch buffer prefetch",
    "inspect": "manifest plain",
    "study": "samplers.base samplers.importance views.base",
}
# Imports for types alone that point up, or across: no cycle at run time.
FOR_TYPES = {
    ("budget", "samplers.base"),  # it keeps rows and a sampler in so many bytes; rows know what they cost
    ("budget", "rows"),
    ("rows", "held"),  # `hold` takes what `Held.of` another one's rows gave
    ("usage", "rows"),
    ("buffer", "inspection.page"),  # `plot` makes one
    ("inspection.overview", "buffer"),
    ("study.base", "study.claims"),
}


class Import(NamedTuple):
    module: str
    name: str | None
    for_types: bool


def name_of(path: Path) -> str:
    """`samplers.uniform`; of a package its own name, and `replaybank` for the whole."""
    parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
    return ".".join(parts) or "replaybank"


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_in(tree: ast.AST, for_types: bool = False) -> Iterator[Import]:
    """All imports, also those within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            assert node.level == 0, "imports are absolute"
            yield from (Import(node.module, alias.name, for_types) for alias in node.names)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in node.body:
                yield from imports_in(ast.Module([inner], []), True)
            for inner in node.orelse:
                yield from imports_in(ast.Module([inner], []), for_types)
        else:
            yield from imports_in(node, for_types)


IMPORTS = {name: list(imports_in(ast.parse(path.read_text()))) for name, path in MODULES.items()}
# The public names, which it imports for types, are loaded from there on first use.
IMPORTS["replaybank"] = [found._replace(for_types=False) for found in IMPORTS["replaybank"]]


def ours(found: Import) -> str | None:
    """Which of our modules an import names; None where it is another's."""
    if found.module.partition(".")[0] != "replaybank":
        return None
    whole = f"{found.module}.{found.name}".removeprefix("replaybank.")
    module = found.module.removeprefix("replaybank.")
    return whole if whole in MODULES or whole == "_native" else module


def places_of(module: str) -> list[str]:
    """Its floors: the one that names it, or those whose pattern takes it in."""
    named = [floor for floor, (modules, *_) in PLAN.items() if module in modules.split()]
    return named or [
        floor for floor, (modules, *_) in PLAN.items() if any(fnmatchcase(module, m) for m in modules.split())
    ]


def on(floor: str) -> set[str]:
    """The floors it stands on."""
    said = PLAN[floor].on
    return {name.strip() for name in (said.split(",") if "," in said or said in PLAN else said.split())}


def wrong_imports(module: str, imports: Iterable[Import]) -> list[str]:
    """What a module imports and should not, in words."""
    (floor,) = places_of(module)
    wrong = []
    for found in imports:
        target = ours(found)
        if target is None:
            package = found.module.partition(".")[0]
            if package not in sys.stdlib_module_names and package not in PLAN[floor].packages.split():
                wrong += [] if found.for_types and package == "matplotlib" else [f"{module}: package {found.module}"]
        elif target == "_native":
            wrong += [] if floor == "kernels" or target in LOWER.get(floor, "").split() else [f"{module}: _native"]
        else:
            (below,) = places_of(target)
            lower = floor in LOWER and target in LOWER[floor].split()
            public = "public" in on(floor) and (found.name in replaybank.__all__ or target == "replaybank")
            typed = found.for_types and (module, target) in FOR_TYPES
            if not (below == floor or below in on(floor) or lower or public or typed):
                wrong.append(f"{module} ({floor}): {found.name} of {target} ({below})")
    return wrong


def test_every_module_has_one_place_in_the_plan():
    misplaced = {module: places for module in MODULES if len(places := places_of(module)) != 1}
    assert not misplaced, "a module without a place, or with two: say in PLAN where it stands"
    gone = [
        name for floor in PLAN.values() for name in floor.modules.split() if "*" not in name and name not in MODULES
    ]
    assert not gone, "the plan names modules that are not there"


def test_floors_stand_on_those_before_them():
    before: set[str] = set()
    for floor in PLAN:
        assert on(floor) <= before, f"{floor} stands on what comes after it"
        before.add(floor)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert wrong_imports(module, IMPORTS[module]) == []


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a cycle; none where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def graph_of(imports: dict[str, list[Import]]) -> dict[str, set[str]]:
    """Which of our modules each module imports, those within functions too, but not those for types."""
    return {
        module: {target for found in all_of if (target := ours(found)) is not None and not found.for_types}
        for module, all_of in imports.items()
    }


def test_there_is_no_cycle_of_imports():
    assert cycle_in(graph_of(IMPORTS)) == []


def test_the_plan_allows_nothing_that_nobody_does():
    """Else it says less than is so: what is no longer imported goes out of the plan."""
    packages: set[tuple[str, str]] = set()
    lower: set[tuple[str, str]] = set()
    floors: set[tuple[str, str]] = set()
    for_types: set[tuple[str, str]] = set()
    for module, imports in IMPORTS.items():
        (floor,) = places_of(module)
        for found in imports:
            target = ours(found)
            if target is None:
                packages.add((floor, found.module.partition(".")[0]))
            elif found.for_types:
                for_types.add((module, target))
            else:
                lower.add((floor, target))
                if target != "_native":
                    floors.add((floor, places_of(target)[0]))
                if found.name in replaybank.__all__ or target == "replaybank":
                    floors.add((floor, "public"))
    assert {(floor, name) for floor, plan in PLAN.items() for name in plan.packages.split()} <= packages
    assert {(floor, name) for floor, names in LOWER.items() for name in names.split()} <= lower
    assert {(floor, below) for floor in PLAN for below in on(floor)} <= floors
    assert for_types >= FOR_TYPES


def test_what_is_wrong_is_found():
    """The rules themselves: each of these was allowed by nobody."""

    def found(module: str, code: str) -> list[str]:
        return wrong_imports(module, imports_in(ast.parse(code)))

    assert found("samplers.uniform", "from replaybank.views.nstep import NStep")
    assert found("samplers.uniform", "from replaybank.rows import Rows")
    assert found("views.nstep", "def f():\n    from replaybank.samplers.base import Sampler")
    assert found("views.nstep", "if True:\n    import replaybank.buffer")
    assert found("kernels", "from replaybank.convert import as_field")
    assert found("schema", "from replaybank.rows import Rows")
    assert found("rows", "from replaybank.buffer import ReplayBuffer")
    assert found("rows", "if TYPE_CHECKING:\n    from replaybank.buffer import ReplayBuffer")
    assert found("adapters.sb3", "from replaybank.restore import load")
    assert found("adapters.sb3", "import ray")
    assert found("study.dqn", "from replaybank.rows import Rows")
    assert found("buffer", "import torch")
    assert not found("study.dqn", "from replaybank.buffer import ReplayBuffer")
    assert places_of("a_new_module") == []
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})
