"""Minari: datasets of whole episodes into a buffer, and a buffer's whole episodes into a dataset.

    dataset = minari.load_dataset("mujoco/hopper/expert-v0")
    buffer = from_minari(dataset, view=rb.NStep(3, gamma=0.99), seed=0)

    report = to_minari(buffer, "cartpole/replay-v0", env="CartPole-v1", author="A. Name")

Datasets lie where `MINARI_DATASETS_PATH` says. `pip install "replaybank[minari]"` brings what their HDF5 files need:
h5py, and Pillow, which Minari uses, also where no image is a JPEG, and does not ask for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from replaybank.buffer import ReplayBuffer
from replaybank.extras import of_extra
from replaybank.schema import Leaf, Node, Schema, schema_of
from replaybank.views.transition import Transition

with of_extra("minari"):
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage import get_dataset_path

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from replaybank.segments import Segment


class MinariReport(NamedTuple):
    """What `to_minari` wrote, and what it did not.

    `dataset` has `episodes` episodes, `steps` steps together. Not in it are those of which the buffer no longer holds
    the first step (`dropped_heads`) or does not hold the end (`dropped_unfinished`): `dropped_steps` steps together.
    """

    dataset: minari.MinariDataset
    episodes: int
    steps: int
    dropped_heads: int
    dropped_unfinished: int
    dropped_steps: int


def from_minari(
    dataset: minari.MinariDataset | Iterable[minari.EpisodeData],
    capacity: int | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
    **settings: Any,
) -> ReplayBuffer:
    """A buffer of all episodes of `dataset`, in its order, in stream 0; `settings` are those of `ReplayBuffer`.

    `dataset`: a Minari dataset (choose episodes with its `filter_episodes`) or an iterable of `EpisodeData`.
    `capacity`: all steps where None; where it is less, the last ones stay.
    `schema`: where None, `schema_of` the dataset's spaces (so float64 becomes float32), or inferred from an iterable's
    first episode. Extra fields of a given schema are read from the infos of that name (entry t + 1 belongs to step t,
    entry 0 to the reset); other infos are not kept.

    An episode that ends with neither flag is stored as truncated: that is where its data end, and its last step
    bootstraps from its final observation.

    Raises ValueError where there is no step, or an episode of T steps has not T + 1 observations; TypeError for a space
    without a fixed shape, and for the id of a dataset.
    """
    if isinstance(dataset, str):
        raise TypeError(f"dataset: expected a dataset, minari.load_dataset({dataset!r}), given its id")
    if isinstance(dataset, minari.MinariDataset):
        if schema is None:
            schema = schema_of((dataset.observation_space, dataset.action_space))
        if capacity is None:
            capacity = _some(dataset.total_steps)
    elif capacity is None:
        dataset = list(dataset)
        capacity = _some(sum(len(episode) for episode in dataset))
    buffer = ReplayBuffer(capacity, schema, **settings)
    for episode in dataset:
        if len(episode):
            _add(buffer, episode)
    return buffer


def to_minari(
    buffer: ReplayBuffer,
    dataset_id: str,
    env: str | gymnasium.Env[Any, Any] | EnvSpec | None = None,
    observation_space: gymnasium.Space[Any] | None = None,
    action_space: gymnasium.Space[Any] | None = None,
    *,
    truncate_unfinished: bool = False,
    **metadata: Any,
) -> MinariReport:
    """Writes the whole episodes of `buffer`, in the order of their first steps, as a new local Minari dataset.

    `dataset_id`: a new one, as Minari spells ids. `observation_space` and `action_space` are those of `env` (its id,
    its spec or itself, one that is not vectorised) where they are not given. `metadata` goes to
    `minari.create_dataset_from_buffers`: author, description, code_permalink, …; Minari warns of each that is missing.
    `truncate_unfinished` writes episodes that have not ended as truncated at their newest step.

    Nothing is lost: values are written as they are stored, whatever the buffer's view; images as they are, not as JPEG.
    Extra fields become infos of their names, with T + 1 entries: entry t + 1 belongs to step t, entry 0 is zero.
    `from_minari(report.dataset, schema=buffer.schema)` gives the same transitions again, byte for byte. Episodes that
    are not whole are left out and counted.

    Nothing may be added to the buffer meanwhile. Raises ValueError or TypeError, and writes nothing, where the id is
    malformed or taken, the spaces are missing or not those of the fields, or there is no whole episode.
    """
    schema = buffer.schema
    segments = list(buffer.segments())
    headless = [segment for segment in segments if not segment.whole]
    unfinished = [segment for segment in segments if segment.whole and not segment.ended and not truncate_unfinished]
    whole = [segment for segment in segments if segment.whole and (segment.ended or truncate_unfinished)]
    if schema is None or not whole:
        raise ValueError(
            f"to_minari: no whole episode in the buffer: {len(headless)} lack their head, {len(unfinished)} their end"
        )
    observation_space, action_space = _spaces(env, observation_space, action_space)
    _require_fit(schema, schema_of((observation_space, action_space)))
    _require_free(dataset_id)
    try:
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            _episodes(buffer, schema, whole),  # one after the other: all at once would be a second buffer
            env=env,
            observation_space=observation_space,
            action_space=action_space,
            data_format="hdf5",
            jpeg_encoding=False,
            **metadata,
        )
    except BaseException:
        shutil.rmtree(get_dataset_path(dataset_id), ignore_errors=True)  # half a dataset would pass for a whole one
        raise
    return MinariReport(
        dataset, len(whole), _steps(whole), len(headless), len(unfinished), _steps(headless) + _steps(unfinished)
    )


def _some(steps: int) -> int:
    if not steps:
        raise ValueError("from_minari: the dataset holds no steps")
    return steps


def _add(buffer: ReplayBuffer, episode: minari.EpisodeData) -> None:
    steps = len(episode)
    truncated = np.array(episode.truncations, bool)
    truncated[-1] |= not episode.terminations[-1]

    def observations(window: slice) -> Any:
        def cut(stored: Any) -> Any:
            if len(stored) != steps + 1:
                raise ValueError(
                    f"episode {episode.id}: expected {steps + 1} observations for {steps} steps, given {len(stored)}"
                )
            return stored[window]

        return _mapped(cut, episode.observations)

    schema = buffer.schema
    infos: Mapping[str, Any] = episode.infos or {}
    extras = {name: schema.fields[name] for name in schema.extras if name in infos} if schema is not None else {}
    buffer.extend(
        observations(slice(None, -1)),
        episode.actions,
        episode.rewards,
        observations(slice(1, None)),
        episode.terminations,
        truncated,
        **{name: _of_infos(node, infos[name]) for name, node in extras.items()},
    )


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of every array of a nested field."""
    if isinstance(value, dict):
        return {name: _mapped(function, child) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(function, child) for child in value)
    return function(value)


def _of_infos(node: Node, stored: Any) -> Any:
    """A field as its schema nests it; Minari gives the parts of a tuple in infos back by name."""
    if isinstance(node, Leaf):
        return stored[1:]
    if isinstance(node, dict):
        return {name: _of_infos(child, stored[name]) for name, child in node.items()}
    return tuple(_of_infos(child, stored[f"_index_{i}"]) for i, child in enumerate(node))


def _spaces(
    env: Any, observation_space: gymnasium.Space[Any] | None, action_space: gymnasium.Space[Any] | None
) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    if observation_space is not None and action_space is not None:
        return observation_space, action_space
    if env is None:
        raise ValueError("to_minari: expected env, or both observation_space and action_space")
    made = env if hasattr(env, "step") else gymnasium.make(env)
    if observation_space is None:  # not `or`: an empty Dict or Tuple is false
        observation_space = made.observation_space
    if action_space is None:
        action_space = made.action_space
    if made is not env:
        made.close()
    return observation_space, action_space


def _require_fit(held: Schema, offered: Schema) -> None:
    """ValueError where fields are not those of the spaces, or cannot be written."""
    holds, offers = (
        {leaf.name: leaf for leaf in schema.leaves if leaf.path[0] in ("obs", "action")} for schema in (held, offered)
    )
    for name in holds | offers:
        ours, theirs = holds.get(name), offers.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape or not _can_hold(theirs, ours):
            raise ValueError(f"to_minari: {name}: the buffer holds {_described(ours)}, the space {_described(theirs)}")
    for leaf in held.leaves:
        if any("/" in part for part in leaf.path):
            raise ValueError(f'to_minari: {leaf.name}: Minari cannot read names with a "/" again; rename the field')


def _can_hold(space: Leaf, field: Leaf) -> bool:
    return np.can_cast(field.dtype, space.dtype, "same_kind")


def _described(leaf: Leaf | None) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype} of shape {leaf.shape}"


def _require_free(dataset_id: str) -> None:
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):  # Minari's own error for a missing version speaks of int()
        raise ValueError(
            "dataset_id: expected name-v0 or namespace/name-v0, with a namespace of at least two letters, given "
            f"{dataset_id!r}"
        ) from None
    if get_dataset_path(dataset_id).exists():
        raise ValueError(f"dataset_id: there is a dataset {dataset_id!r} already; choose another name or version")


def _episodes(buffer: ReplayBuffer, schema: Schema, segments: Iterable[Segment]) -> Iterator[EpisodeBuffer]:
    view = Transition()  # single steps, whatever the buffer's own view makes of them
    for segment in segments:
        steps = buffer.read(segment.ids, view=view)
        truncated = np.array(steps.truncated)
        truncated[-1] |= not segment.ended
        last = _mapped(lambda array: array[-1:], steps.next_obs)
        yield EpisodeBuffer(
            observations=_joined(steps.obs, last),
            actions=steps.action,
            rewards=steps.reward,
            terminations=steps.terminated,
            truncations=truncated,
            infos={name: _joined(_mapped(_zero, steps[name]), steps[name]) for name in schema.extras} or None,
        )


def _joined(first: Any, second: Any) -> Any:
    """Two nested fields, one behind the other."""
    if isinstance(first, dict):
        return {name: _joined(child, second[name]) for name, child in first.items()}
    if isinstance(first, tuple):
        return tuple(_joined(*children) for children in zip(first, second, strict=True))
    return np.concatenate([first, second])


def _zero(array: Any) -> Any:
    return np.zeros_like(array[:1])


def _steps(segments: Sequence[Segment]) -> int:
    return sum(len(segment.ids) for segment in segments)
