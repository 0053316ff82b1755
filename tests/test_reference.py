"""The reference has every public name, and every docstring in it says what each parameter is. Read from the source."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "replaybank"
PAGES = ROOT / "docs" / "reference"
MODULES = (
    "replaybank",
    "replaybank.torch",
    "replaybank.jax",
    "replaybank.shared",
    "replaybank.ray",
    "replaybank.inspection",
    "replaybank.inspection.report",
    "replaybank.cli",
    "replaybank.study",
    "replaybank.study.base",
    "replaybank.study.claims",
    "replaybank.study.stats",
    "replaybank.samplers.share",
    *sorted(f"replaybank.adapters.{file.stem}" for file in (SOURCE / "adapters").glob("[!_]*.py")),
)
# What a user brings a part of their own with; and what users of studies run them with.
MORE = (
    "replaybank.samplers.base.Sampler",
    "replaybank.views.base.View",
    "replaybank.study.runner.RunSettings",
    "replaybank.study.runner.run_study",
    "replaybank.study.runner.plot_study",
)
# Modules without `__all__` have helpers, too, that only replaybank calls.
INNER = {
    "replaybank.torch": {"tensors_of", "mover", "ToDevice", "SideStream"},
    "replaybank.adapters.storage": {"VecStorage", "view_of", "global_seed", "obs_shape", "action_dim", "reshaped"},
    "replaybank.adapters.tianshou_episodes": {"Episodes"},
}
PROTOCOLS = ("replaybank.samplers.share.Divisible", "replaybank.samplers.base.Sampler", "replaybank.views.base.View")

Definition = ast.ClassDef | ast.FunctionDef


@cache
def module(name: str) -> tuple[ast.Module, dict[str, ast.stmt]]:
    path = SOURCE.parent / name.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text())
    found: dict[str, ast.stmt] = {}
    guarded = [part for statement in tree.body if isinstance(statement, ast.If) for part in statement.body]
    for statement in (*guarded, *tree.body):  # guarded: what a checker imports at once, and others on first use
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            found |= {(alias.asname or alias.name): statement for alias in statement.names}
    return tree, found


@cache
def definition(qualified: str) -> Definition:
    """The class or function, wherever the module that is named here has it from."""
    owner, _, name = qualified.rpartition(".")
    statement = module(owner)[1][name]
    if isinstance(statement, ast.ImportFrom):
        return definition(f"{statement.module}.{name}")
    assert isinstance(statement, ast.ClassDef | ast.FunctionDef)
    return statement


def listed(name: str) -> list[str]:
    tree, found = module(name)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    own = [key for key, node in found.items() if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [key for key in own if not key.startswith("_") and key not in INNER.get(name, ())]


PUBLIC = [f"{name}.{key}" for name in MODULES for key in listed(name)] + list(MORE)


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    """The public methods and properties (of a property: its getter)."""
    found: dict[str, ast.FunctionDef] = {}
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            found.setdefault(part.name, part)
    return found


def parameters(node: ast.FunctionDef) -> list[str]:
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")] + [
        extra.arg for extra in (given.vararg, given.kwarg) if extra
    ]


def fields(node: ast.ClassDef) -> list[str]:
    """Of a dataclass or a NamedTuple the fields that have no text of their own below them."""
    record = any("dataclass" in ast.unparse(part) for part in node.decorator_list) or any(
        "NamedTuple" in ast.unparse(base) for base in node.bases
    )
    return [
        part.target.id
        for part, after in zip(node.body, [*node.body[1:], None], strict=True)
        if record and isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
        if not part.target.id.startswith("_")
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]


def text_of(reference: str, owner: str) -> str:
    """What stands at what a docstring refers to: a method of its own class, or `Class`, `Class.method`."""
    name, _, method = reference.partition(".")
    own = definition(owner)
    if isinstance(own, ast.ClassDef) and not method and name in methods(own):
        return ast.get_docstring(methods(own)[name]) or ""
    named = [qualified for qualified in PUBLIC if qualified.rpartition(".")[2] == name]
    near = [qualified for qualified in named if qualified.split(".")[:2] == owner.split(".")[:2]]
    for qualified in (*near, *named):
        node = definition(qualified)
        known = methods(node) if isinstance(node, ast.ClassDef) else {}
        if not method:
            return ast.get_docstring(node) or ""
        if method in known:
            return ast.get_docstring(known[method]) or ""
    return ""


def says(text: str, owner: str) -> str:
    """A docstring, with those that it sends the reader to: "as `add` does", "as in `Schema.of`", "see `Writer`"."""
    for _ in range(2):
        for reference in re.findall(r"(?:\b[Aa]s|[Ss]ee|those of)(?: in| by)?(?: a)? `(?:rb\.)?([\w.]+)`", text):
            there = text_of(reference, owner)
            text += "" if there in text else there
    return text


def unnamed(names: list[str], text: str) -> list[str]:
    return [name for name in names if not re.search(rf"(?<!\w){name}(?!\w)", text)]


def verb(name: str) -> str:
    """The docstring of a sampler's or view's verb, which its protocol gives for all of them."""
    found = (methods(definition(protocol)).get(name) for protocol in PROTOCOLS)  # type: ignore[arg-type]
    return next((ast.get_docstring(node) or "" for node in found if node is not None), "")


@cache
def directives() -> set[str]:
    return {name for page in PAGES.glob("*.md") for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference(name):
    assert name in directives() or name.rpartition(".")[0] in directives()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_and_method_has_a_docstring(name):
    node = definition(name)
    assert ast.get_docstring(node)
    if isinstance(node, ast.ClassDef):
        assert not [key for key, method in methods(node).items() if not (ast.get_docstring(method) or verb(key))]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_named_where_it_is_documented(name):
    node = definition(name)
    own = says(ast.get_docstring(node) or "", name)
    if isinstance(node, ast.FunctionDef):
        assert not unnamed(parameters(node), own)
        return
    made = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    own += (ast.get_docstring(made) or "") if made else ""
    assert not unnamed(parameters(made) if made else fields(node), own)
    missing = {
        key: unnamed(parameters(method), says(ast.get_docstring(method) or "", name) + verb(key))
        for key, method in methods(node).items()
        if not (method.returns and ast.unparse(method.returns) == "NoReturn")  # it only says that it cannot
    }
    assert not {key: names for key, names in missing.items() if names}


def test_the_reference_names_nothing_that_is_gone():
    for name in directives():
        if name not in MODULES:
            owner, _, key = name.rpartition(".")
            assert key in module(owner)[1] or isinstance(definition(owner), ast.ClassDef)
