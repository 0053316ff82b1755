"""`replaybank study run minatar`: MinAtar's own DQN, with its replay buffer and without.

The agent is that of the MinAtar repository (github.com/kenjyoung/MinAtar, examples/dqn.py at 3f078e5; Young & Tian
2019, arXiv 1903.03176). Its settings there, and here:

- Network: 16 filters of 3x3 at stride 1, 128 units, the six actions; ReLU; torch's own initial weights. The games are
  asked for with all six actions, sticky actions (0.1) and the ramp of difficulty.
- Learning: an update each frame on the mean Huber loss (1), one-step targets of the target network (not Double DQN),
  discount .99; centred RMSProp, step size 2.5e-4, decay and momentum .95, .01 in the denominator; the target network
  is replaced every 1000 updates.
- With replay: 100,000 transitions, batches of 32. For the first 5000 frames actions are uniformly random and nothing is
  learnt, then epsilon falls from 1 to .1 over 100,000 frames. The reference draws a batch without repetition and begins
  to learn two frames later; neither is done here.
- Without replay (its flag `--replayoff`): each update sees the latest transition only (batch 1); the target network
  stays. Learning and the fall of epsilon begin with the first frame.

An update with replay sees 32 times as many samples as one without. The third condition, `recent`, is our control for
that: the latest 32 transitions at each update; learning begins once there are 32.

Published are curves: README.md, section "Results", figure img/results.gif, the mean of 30 runs. The numbers behind them
are not in the repository, so that the values below are read off the figure, at 1, 2 and 4.9 million frames. A curve
there is a moving mean over training episodes (examples/plot_return.py; the length of its window is not told). Here a
run's return at a frame is the mean over the training episodes that ended in the 50,000 frames before it. Between the
published frames nothing is interpolated: a study of fewer than a million frames leaves the claims about values
undecided, and its figure shows the value at a million for orientation.

The preset `small` (200,000 frames) has expected values of its own: what this project's longer runs returned at that
frame. A run of fewer frames, from 100,000 on, is the beginning of a longer one with the same seed; below that epsilon
falls over all of them. Interrupted, a run goes on with `--resume` from its last checkpoint (at most 50,000 frames back
after a crash, none after Ctrl-C) and ends with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replaybank.study import plots, stats
from replaybank.study.agents import Condition, jobs_of, run_agents
from replaybank.study.base import Findings, Job, Record, Runs, Study, Table
from replaybank.study.claims import Claim, Outcome, Verdict, decide, decide_within
from replaybank.study.configs import check_at_least_one, check_names
from replaybank.study.dqn import DQNConfig
from replaybank.study.environments import make_env
from replaybank.study.performance import Difference, cell, performances, plain_interval, rounded
from replaybank.study.stats import Interval

CONDITIONS = {"replay": "uniform", "online": "online", "recent": "recent"}
"""Each condition's memory."""
DEFINITIONS = {
    "replay": "batches of 32, drawn uniformly from the latest 100,000 transitions",
    "online": "no replay: each update sees the latest transition (batch 1)",
    "recent": "each update sees the latest 32 transitions: as many samples as with replay",
}
PUBLISHED: dict[str, dict[str, dict[int, float]]] = {
    "Breakout": {
        "replay": {1_000_000: 9.2, 2_000_000: 9.7, 4_900_000: 10.1},
        "online": {1_000_000: 3.9, 2_000_000: 4.0, 4_900_000: 4.3},
    },
    "Asterix": {
        "replay": {1_000_000: 6.8, 2_000_000: 14.4, 4_900_000: 16.8},
        "online": {1_000_000: 4.7, 2_000_000: 5.2, 4_900_000: 5.4},
    },
}
"""Mean return by game, condition and frames; read off the figure of 30 runs."""
MARGIN = 0.1
"""Share of a published value within which ours is the same: what can be read off a figure, and 30 runs' own error."""
WINDOW = 50_000
"""Frames before a point over whose episodes its return is the mean."""
_FIGURE = "MinAtar's repository, README.md, section Results (img/results.gif), 30 runs"
_START, _EXPLORATION, _BATCH = 5000, 100_000, 32

BENEFIT = Claim(
    "replay", "replay ends above no replay (batch 1): Breakout 9.2 against 3.9 at a million frames", _FIGURE
)
VALUES = {
    name: Claim(
        f"value {name}",
        f"{name} has the published return, to within {MARGIN:.0%}, at the last published frame count that it reaches",
        _FIGURE,
    )
    for name in ("replay", "online")
}
SMALL_FRAMES = 200_000
MEASURED: dict[str, dict[str, Interval]] = {
    "Breakout": {"replay": Interval(5.92, 5.65, 6.16), "online": Interval(2.53, 2.16, 2.74)}
}
"""What the preset `small` is held against: this project's own runs at its frames, game and condition."""
OURS = {
    name: Claim(
        f"small {name}",
        f"at {SMALL_FRAMES:,} frames {name} returns what this project measured there (nothing is published)",
        "studies/minatar of this project, 5 seeds; the intervals meet",
    )
    for name in ("replay", "online")
}
OLD = Claim(
    "old experience",
    "it is the old experience, not the number of samples: replay ends above the latest 32 transitions",
    "Mnih et al. 2015, Methods: learning from consecutive samples is inefficient; not measured by Young & Tian",
)


@dataclass(frozen=True)
class MinAtarConfig:
    """What `replaybank study run minatar` runs."""

    env: str = "Breakout"
    """the game: Breakout or Asterix"""
    frames: int = 1_000_000
    """frames of each run; with fewer than 100,000 the exploration of the reference is cut to the run"""
    conditions: tuple[str, ...] = ("replay", "online")
    """which to train: replay, online (the latest transition), recent (the latest 32)"""
    together: int = 3
    """seeds that train in lock step in one process"""

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        check_names("env", (self.env,), tuple(PUBLISHED))
        check_names("conditions", self.conditions, tuple(CONDITIONS))
        check_at_least_one(frames=self.frames, together=self.together)
        make_env(env_id(self)).close()


SMALL = MinAtarConfig(frames=SMALL_FRAMES)


# ---- what is run ---------------------------------------------------------------------


def env_id(config: MinAtarConfig) -> str:
    """The game with all six actions, as the reference has it; v1 would leave out those without effect."""
    return f"MinAtar/{config.env}-v0"


def condition(config: MinAtarConfig, name: str) -> Condition:
    """The reference's settings with that memory."""
    replay = name == "replay"
    batch = 1 if name == "online" else _BATCH
    dqn = DQNConfig(
        learning_rate=2.5e-4,
        final_learning_rate=2.5e-4,
        gamma=0.99,
        batch_size=batch,
        capacity=100_000,
        hidden=(),
        network="conv",
        optimizer="rmsprop",
        double=False,
        target_period=1000,
        learning_starts=_START if replay else batch,
        epsilon_start=1.0,
        exploration_starts=_START if replay else 0,
        epsilon_end=0.1,
        exploration_fraction=min(1.0, _EXPLORATION / config.frames),
    )
    return Condition(name, env_id(config), config.frames, CONDITIONS[name], dqn)


def jobs(config: MinAtarConfig, seeds: Sequence[int]) -> list[Job]:
    """Every condition; the runs with the larger batch, which take longest, first."""
    conditions = [condition(config, name) for name in config.conditions]
    return sorted(jobs_of(conditions, seeds, config.together), key=lambda job: job.condition == "online")


# ---- what was found ------------------------------------------------------------------


def return_at(record: Record, frame: int) -> float:
    """Mean return of the episodes that ended in the `WINDOW` frames up to `frame`; NaN if none did."""
    ends = np.asarray(record["episodes"]["step"])
    within = (ends > frame - WINDOW) & (ends <= frame)
    return float(np.mean(np.asarray(record["episodes"]["return"])[within])) if within.any() else float("nan")


def returns_at(runs: Runs, name: str, frame: int) -> dict[int, float]:
    """That of each finished run of a condition, in the order of the seeds."""
    return {seed: return_at(record, frame) for seed, record in sorted(runs.get(name, {}).items())}


def points(config: MinAtarConfig) -> list[int]:
    """The frame counts that are told: some on the way, that of the preset `small`, those published, and the last."""
    told = {50_000, 100_000, SMALL_FRAMES, 500_000, *(frame for by in PUBLISHED[config.env].values() for frame in by)}
    return sorted({frame for frame in told if frame < config.frames} | {config.frames})


def judge(config: MinAtarConfig, runs: Runs) -> Findings:
    """The return at some frame counts beside the published one, and the paired differences at the end."""
    names = [name for name in config.conditions if runs.get(name)]
    differences = [
        pair for pair in (_difference(config, runs, "replay", other) for other in ("online", "recent")) if pair
    ]
    verdicts = [_verdict(config, pair) for pair in differences]
    if config.frames == SMALL_FRAMES:
        verdicts += [_ours(config, runs, name) for name in names if name in MEASURED.get(config.env, {})]
    verdicts += [_value(config, runs, name) for name in names if name in VALUES]
    title = f"MinAtar {config.env}, {config.frames:,} frames: return of the training episodes"
    definitions = tuple((name, DEFINITIONS[name]) for name in names)
    return Findings(
        tables=(
            Table("The conditions differ in their memory and batch only", ("condition", "what it is"), definitions),
            _table(title, config, runs, names),
        ),
        verdicts=tuple(verdicts),
        notes=(
            "Paired seeds: the same initial weights, environment seeds and exploration dice in every condition.",
            f"Return at a frame: mean over the training episodes (epsilon-greedy) that ended in the {WINDOW:,} frames "
            "before it, per seed. In brackets: 95% bootstrap interval over seeds.",
            f"Published: {_FIGURE}, read off the figure. Nothing is interpolated between its frame counts.",
        ),
        summary=_summary(config, runs, names, differences),
        rows=tuple(_rows(config, runs, names)),
    )


def _verdict(config: MinAtarConfig, pair: Difference) -> Verdict:
    claim = BENEFIT if pair.reference == "online" else OLD
    return Verdict(claim, decide(pair.interval, "above", seeds=pair.seeds), f"at {config.frames:,} frames {pair}")


def _difference(config: MinAtarConfig, runs: Runs, name: str, reference: str) -> Difference | None:
    ours, theirs = (returns_at(runs, which, config.frames) for which in (name, reference))
    pairs = sorted(ours.keys() & theirs.keys())
    if not pairs:
        return None
    interval = stats.paired_difference([ours[seed] for seed in pairs], [theirs[seed] for seed in pairs])
    return Difference(name, reference, interval, len(pairs))


def _value(config: MinAtarConfig, runs: Runs, name: str) -> Verdict:
    """Undecided, too, before the first published frame count."""
    published = PUBLISHED[config.env][name]
    reached = [frame for frame in published if frame <= config.frames]
    frame = max(reached, default=config.frames)
    returns = list(returns_at(runs, name, frame).values())
    interval = stats.bootstrap_interval(returns)
    ours = f"{_line(interval)} at {frame:,} frames with {len(returns)} seeds"
    if not reached:
        first = min(published)
        evidence = f"{ours}; the first published value is {published[first]} at {first:,} frames"
        return Verdict(VALUES[name], "undecided", evidence)
    low, high = (1 - MARGIN) * published[frame], (1 + MARGIN) * published[frame]
    outcome = decide_within(interval, low, high, seeds=len(returns))
    return Verdict(VALUES[name], outcome, f"{ours}; published {published[frame]}")


def _ours(config: MinAtarConfig, runs: Runs, name: str) -> Verdict:
    """Reproduced where the two intervals meet."""
    measured, returns = MEASURED[config.env][name], list(returns_at(runs, name, config.frames).values())
    interval = stats.bootstrap_interval(returns)
    meets = interval.low <= measured.high and interval.high >= measured.low
    enough = len(returns) >= stats.SEEDS_FOR_A_CLAIM
    outcome: Outcome = "undecided" if not enough else "reproduced" if meets else "not reproduced"
    evidence = f"{_line(interval)} with {len(returns)} seeds; measured before {_line(measured)}"
    return Verdict(OURS[name], outcome, evidence)


def _line(interval: Interval) -> str:
    return cell(interval).replace("\n", " ")


def _table(title: str, config: MinAtarConfig, runs: Runs, names: Sequence[str]) -> Table:
    """A row for each frame count, two columns a condition: ours and the published."""
    columns = ["frames"]
    for name in names:
        columns += [f"{name}\n{len(runs[name])} seeds", *(["published\n30 runs"] if name in VALUES else [])]
    rows = []
    for frame in points(config):
        row = [f"{frame:,}"]
        for name in names:
            row.append(_line(stats.bootstrap_interval(list(returns_at(runs, name, frame).values()))))
            if name in VALUES:
                row.append(str(PUBLISHED[config.env][name].get(frame, "")))
        rows.append(tuple(row))
    return Table(title, tuple(columns), tuple(rows))


def _summary(
    config: MinAtarConfig, runs: Runs, names: Sequence[str], differences: Sequence[Difference]
) -> dict[str, Any]:
    conditions = {
        name: {
            "definition": DEFINITIONS[name],
            "seeds": len(runs[name]),
            "return_at": {
                str(frame): {
                    **plain_interval(stats.bootstrap_interval(list(returns_at(runs, name, frame).values()))),
                    "published": PUBLISHED[config.env].get(name, {}).get(frame),
                }
                for frame in points(config)
            },
        }
        for name in names
    }
    return {
        "env": env_id(config),
        "frames": config.frames,
        "conditions": conditions,
        "paired_differences": {f"{d.name} - {d.reference}": plain_interval(d.interval) for d in differences},
    }


def _rows(config: MinAtarConfig, runs: Runs, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"condition": name, "seed": seed, "frames": frame, "return": rounded(value)}
        for name in names
        for frame in points(config)
        for seed, value in returns_at(runs, name, frame).items()
    ]


# ---- the figure ----------------------------------------------------------------------


def draw(config: MinAtarConfig, runs: Runs) -> Mapping[str, Figure]:
    """The learning curves with the published values, and each seed's return at the end."""
    found = performances({name: runs[name] for name in config.conditions if runs.get(name)}, config.frames, None)
    figure = Figure(figsize=(8, 3.8))
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    plots.learning_curves(left, {name: each.curve for name, each in found.items()})
    for name in found:
        _published(left, name, PUBLISHED[config.env].get(name, {}), config.frames)
    left.set_xlabel("frames per seed")
    finals = {name: list(returns_at(runs, name, config.frames).values()) for name in found}
    plots.final_returns(right, finals, {name: stats.bootstrap_interval(values) for name, values in finals.items()})
    right.set_ylabel(f"return in the last {WINDOW:,} frames")
    seeds = max(each.seeds for each in found.values())
    title = f"MinAtar {config.env}: the same DQN with and without replay"
    subtitle = f"mean over {seeds} paired seeds; bands and bars: 95% bootstrap interval over seeds; dots: one seed each"
    plots.caption(figure, title, subtitle, {name: DEFINITIONS[name] for name in found})
    return {"learning_curves": figure}


def _published(ax: Axes, name: str, by_frame: Mapping[int, float], frames: int) -> None:
    """Rings at the published values that are reached; where none is, a line at the height of the first."""
    colour = plots.COLOURS[name]
    for frame, value in by_frame.items():
        if frame <= frames:
            ax.scatter(
                [frame], [value], s=64, facecolors="white", edgecolors=colour, linewidths=2, zorder=5, clip_on=False
            )
            _note(ax, f"published: {value:g}", frame, value)
    if by_frame and min(by_frame) > frames:
        first = min(by_frame)
        ax.axhline(by_frame[first], color=colour, linewidth=1.2, linestyle=(0, (2, 3)))
        _note(ax, f"{name}, published at {first:,} frames: {by_frame[first]:g}", 0.99 * frames, by_frame[first])


def _note(ax: Axes, text: str, frame: float, value: float) -> None:
    """Above and left of the place."""
    ax.annotate(
        text,
        (frame, value),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right",
        fontsize=plots.TEXT,
        color=plots.INK,
    )


STUDY = Study(
    name="minatar",
    question="what does MinAtar's DQN lose without its replay buffer, and does it learn what was published?",
    claims=(BENEFIT, OLD, *VALUES.values(), *OURS.values()),
    config=MinAtarConfig,
    seeds=5,
    jobs=jobs,
    run=run_agents,
    judge=judge,
    draw=draw,
    presets={"small": SMALL},
)
