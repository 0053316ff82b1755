"""A cluster of shards is one buffer: what goes in, what is drawn and with which probability, and what it refuses."""

from __future__ import annotations

import itertools
import pickle
import time

import numpy as np
import pytest
import ray
from scipy import stats

import replaybank as rb
from replaybank.ray import Checkpoint, ClusterOptions, RateLimit, ReplayCluster, attach, ids

pytestmark = pytest.mark.usefixtures("ray_session")
SCHEMA = {"obs": ("float32", (3,)), "action": "int64"}
names = (f"test-{n}" for n in itertools.count())


def made(shards=2, capacity=1000, schema=SCHEMA, **given):
    options = {"streams": 8, "timeout": 90.0, "name": next(names), **given.pop("options", {})}
    return ReplayCluster(shards, capacity, schema, options=ClusterOptions(**options), **given)


def step(i, length=10):
    """Transition i of a stream of episodes, recognisable by its numbers."""
    obs = np.array([i, i * 2, i % length], np.float32)
    following = np.array([i + 1, i * 2 + 2, i % length + 1], np.float32)
    last = i % length == length - 1
    return obs, i, float(i), following, last and i % (2 * length) == length - 1, last


def feed(writer, numbers, **given):
    for i in numbers:
        writer.add(*step(i), **given)


def contents(cluster, tmp_path):
    """What each shard holds, by its number."""
    cluster.save()
    return {int(path.name[-4:]): rb.ReplayBuffer.load(path) for path in sorted(tmp_path.glob("shard-????"))}


def live(buffer):
    added = buffer.stats()["added"]
    return np.arange(added - len(buffer), added)


def assert_consistent(batch):
    assert (batch.next_obs[:, 0] == batch.obs[:, 0] + 1).all()
    assert (batch.action == batch.obs[:, 0]).all()
    assert (batch.reward == batch.obs[:, 0]).all()


# ---- what goes in ----


def test_what_a_writer_adds_is_what_the_same_calls_on_a_buffer_give(tmp_path):
    """Adds with and without a mask, extends, ends, of 3 streams, in packets of 7: the same ids, links and segments."""
    rng = np.random.default_rng(0)
    one = rb.ReplayBuffer(500, SCHEMA, streams=3)
    with made(shards=1, capacity=500, checkpoint=tmp_path, options={"streams": 3}) as cluster:
        writer = cluster.writer(streams=3, flush_size=7)
        obs = rng.integers(0, 2, (3, 3)).astype(np.float32)
        for _ in range(300):
            kind = rng.choice(["add", "mask", "extend", "end"], p=[0.6, 0.2, 0.1, 0.1])
            n = int(rng.integers(0, 12)) if kind == "extend" else 3
            following = rng.integers(0, 2, (n, 3)).astype(np.float32)
            before = obs if n == 3 else rng.integers(0, 2, (n, 3)).astype(np.float32)
            values = (
                before,
                rng.integers(0, 5, n),
                rng.normal(size=n),
                following,
                rng.random(n) < 0.1,
                rng.random(n) < 0.1,
            )
            given = {"mask": rng.random(3) < 0.5} if kind in ("mask", "end") else {}
            if kind == "extend":
                given = {"stream": int(rng.integers(3))}
            for target in (one, writer):
                if kind == "end":
                    target.end(given["mask"])
                elif kind == "extend":
                    target.extend(*values, **given)
                else:
                    target.add(*values, **given)
            obs = following if n == 3 else obs
        flushed = writer.flush()
        there = contents(cluster, tmp_path)[0]
        assert flushed == (one.stats()["added"], 0, 0, 0)
        assert len(there) == len(one)
        there.check_valid()
        for view in (rb.Transition(), rb.NStep(4, 0.9)):
            mine, theirs = one.read(live(one), view), there.read(live(there), view)
            assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine.keys())  # noqa: SIM118
        assert [s.ids.tolist() for s in one.segments()] == [s.ids.tolist() for s in there.segments()]
        writer.close()


def test_nested_fields_extras_and_frames_arrive_whole():
    schema = {"obs": {"camera": ("uint8", (6, 6)), "speed": "float32"}, "action": "int64", "log_prob": "float32"}
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (21, 6, 6)).astype(np.uint8)
    view = rb.FrameStack(3, adds="frames")
    with made(shards=2, schema={"obs": ("uint8", (6, 6)), "action": "int64"}, view=view) as cluster:
        writer, reader = cluster.connect()
        for t in range(20):
            writer.add(frames[t], t, float(t), frames[t + 1], t == 19, False)
        writer.flush()
        batch = reader.sample(64)
        for row, t in enumerate(batch.action):
            want = frames[[max(t - 2, 0), max(t - 1, 0), t]]
            assert (np.asarray(batch.obs[row]).reshape(want.shape) == want).all() or view.axis != 0
            assert (batch.reward[row] == t).all()
    with made(shards=1, schema=schema) as cluster:
        writer, reader = cluster.connect()
        for t in range(20):
            obs, following = ({"camera": frames[i], "speed": i} for i in (t, t + 1))
            writer.add(obs, t, float(t), following, False, False, log_prob=-t)
        writer.flush()
        batch = reader.sample(64)
        assert (batch.obs["camera"] == frames[batch.action]).all()
        assert (batch.next_obs["camera"] == frames[batch.action + 1]).all()
        assert (batch.log_prob == -batch.action).all()


def test_a_writer_sends_by_size_and_by_time():
    with made(shards=1) as cluster:
        writer, reader = cluster.connect()
        feed(writer, range(3))
        deadline = time.monotonic() + 20
        while writer.stats().acknowledged < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert writer.stats() == (3, 0, 0, 0)  # nobody called flush
        assert reader.size() == 3
        slow = cluster.writer(flush_size=4, flush_seconds=1000.0)
        feed(slow, range(4))
        while slow.stats().acknowledged < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        feed(slow, range(4, 6))
        time.sleep(0.3)
        assert slow.stats() == (4, 2, 0, 0)
        assert slow.close() == (6, 0, 0, 0)
        assert reader.size() == 9


def test_what_cannot_be_added_is_refused_and_changes_nothing():
    with made(shards=1, sampler=rb.Prioritized()) as cluster, cluster.writer() as writer:
        good = step(0)
        with pytest.raises(ValueError, match="obs: expected shape"):
            writer.add(np.zeros(4), *good[1:])
        with pytest.raises(ValueError, match="reward: expected finite"):
            writer.add(*good[:2], np.nan, *good[3:])
        with pytest.raises(ValueError, match="td_error: expected finite"):
            writer.add(*good, td_error=np.inf)
        with pytest.raises(ValueError, match="unknown field 'colour'"):
            writer.add(*good, colour=1)
        with pytest.raises(ValueError, match="mask: expected bool"):
            writer.add(*good, mask=np.ones(2, bool))
        with pytest.raises(ValueError, match="stream: expected 0 to 0"):
            writer.extend(*(np.array([x]) for x in good), stream=1)
        assert writer.flush() == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="this writer is closed"):
        writer.add(*good)


def test_writers_go_to_the_emptiest_shard_and_give_their_streams_back():
    with made(shards=3, options={"streams": 2}) as cluster:
        writers = [cluster.writer() for _ in range(6)]
        for writer in writers:
            feed(writer, range(2))
            writer.flush()
        full = cluster.writer(timeout=1.0)
        feed(full, range(1))
        with pytest.raises(TimeoutError, match=r"no shard has 1 free streams|shard . is full"):
            full.flush()
        writers[0].close()
        assert full.flush(20).acknowledged == 1
        for writer in [*writers, full]:
            writer.close()


# ---- what is drawn ----


def batched(numbers):
    columns = zip(*(step(i) for i in numbers), strict=True)
    return [np.array(column) for column in columns]


@pytest.fixture(scope="module")
def unequal(ray_session):
    """Three shards with 200, 500 and 900 transitions of quite different priorities, and one buffer with all of them."""
    rng = np.random.default_rng(3)
    sampler = rb.Prioritized(alpha=0.7, beta=0.5, weight_norm="buffer")
    cluster = made(shards=3, capacity=3000, sampler=sampler, seed=0)
    one = rb.ReplayBuffer(3000, SCHEMA, sampler=rb.Prioritized(alpha=0.7, beta=0.5, weight_norm="buffer"), seed=0)
    errors = rng.exponential(size=1600) * np.repeat([10, 0.1, 1], [200, 500, 900])
    writers = [cluster.writer() for _ in range(3)]  # all stay: so each goes to another shard
    for writer, begin, end in zip(writers, (0, 200, 700), (200, 700, 1600), strict=True):
        writer.extend(*batched(range(begin, end)), td_error=errors[begin:end])
        writer.flush()
    one.extend(*batched(range(1600)))
    one.update_priorities(np.arange(1600), errors)
    with cluster:
        yield cluster, one


def test_probabilities_and_weights_are_those_of_one_buffer(unequal):
    cluster, one = unequal
    reader = cluster.reader()
    assert reader.size() == len(one) == 1600
    chances = one.sampler.probability_of(np.arange(1600))
    weights = (1600 * chances) ** -0.5
    weights /= weights.max()
    seen = set()
    for n in (1, 7, 256, 4096):
        batch = reader.sample(n)
        assert_consistent(batch)
        np.testing.assert_allclose(batch.probabilities, chances[batch.action], rtol=1e-12)
        np.testing.assert_allclose(batch.weights, weights[batch.action], rtol=1e-5)
        assert (np.diff(ids.split(batch.indices).shards) >= 0).all()  # stratified: one shard's range after the other
        seen.update(zip(batch.indices.tolist(), batch.action.tolist(), strict=True))
    assert len({index for index, _ in seen}) == len({action for _, action in seen}) == len(seen)


def test_draws_are_those_of_one_buffer(unequal):
    """10^5 draws. Batches are stratified and vary less than a multinomial; a chi-square is then on the safe side.

    It sees, with probability 0.99, half of all transitions being drawn 6% too often and the others too rarely: the
    noncentrality of that, n * 0.06^2 = 360, moves a chi-square of 1599 degrees of freedom by 6.4 of its deviations.
    """
    cluster, one = unequal
    reader = cluster.reader(seed=1)
    counts = np.zeros(1600)
    for _ in range(25):
        counts += np.bincount(reader.sample(4000).action, minlength=1600)
    expected = one.sampler.probability_of(np.arange(1600)) * counts.sum()
    rare = expected < 5
    found = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    statistic = ((found - wanted) ** 2 / wanted).sum()
    assert stats.chi2.sf(statistic, len(found) - 1) > 1e-3
    # And that it can fail: were shards drawn from by their size, it would be out of all proportion.
    by_size = np.repeat([200, 500, 900], [200, 500, 900]) / 1600
    shares = np.add.reduceat(expected, [0, 200, 700]) / counts.sum()
    wrong = expected * by_size / np.repeat(shares, [200, 500, 900])
    assert ((found[:-1] - wrong[~rare]) ** 2 / wrong[~rare]).sum() > 10 * statistic


def test_batches_are_what_sample_gives(unequal):
    cluster, one = unequal
    reader = cluster.reader(seed=2)
    chances = one.sampler.probability_of(np.arange(1600))
    with reader.batches(300, prefetch=3) as batches:
        for batch in itertools.islice(batches, 20):
            assert len(batch) == 300
            assert_consistent(batch)
            np.testing.assert_allclose(batch.probabilities, chances[batch.action], rtol=1e-12)
    assert next(batches, None) is None
    assert reader.stats()["batches"] == 20
    with pytest.raises(ValueError, match="batches: prefetch: expected 0 to 1000"):
        reader.batches(3, prefetch=-1)


def test_a_batch_goes_to_torch_from_one_shard_and_from_many(unequal):
    torch = pytest.importorskip("torch")
    cluster, _ = unequal
    batch = cluster.reader().sample(512)
    tensors = batch.to_torch()
    assert torch.equal(tensors.obs, torch.from_numpy(np.array(batch.obs)))
    assert torch.equal(tensors.indices, torch.from_numpy(np.array(batch.indices)))
    with made(shards=1) as single:
        writer, reader = single.connect()
        writer.extend(*batched(range(100)))
        writer.flush()
        alone = reader.sample(20_000)
        assert not alone.obs.flags.writeable  # as it lies in the object store
        tensors = alone.to_torch()
        assert torch.equal(tensors.indices, torch.from_numpy(np.array(alone.indices)))
        assert torch.equal(tensors.obs[:, 0], torch.from_numpy(alone.action.astype(np.float32)))


def test_uniform_draws_do_not_tell_the_shard_by_their_place():
    with made(shards=2, seed=3) as cluster:
        writers = [cluster.writer() for _ in range(2)]
        for writer in writers:
            writer.extend(*batched(range(100)))
            writer.flush()
        shards = ids.split(cluster.reader().sample(2000).indices).shards
        changes = np.count_nonzero(np.diff(shards))
        assert 850 < changes < 1150  # of 1,999 with probability 1/2 each: within 6.7 deviations
        for writer in writers:
            writer.close()


def test_without_replacement_nothing_comes_twice():
    with made(shards=2, sampler=rb.Uniform(replace=False)) as cluster:
        writers = [cluster.writer() for _ in range(2)]
        for writer, n in zip(writers, (30, 50), strict=True):
            writer.extend(*batched(range(n)))
            writer.flush()
        reader = cluster.reader()
        assert len(set(reader.sample(80).indices.tolist())) == 80
        with pytest.raises(ValueError, match="expected at most 80 transitions without replacement, asked for 81"):
            reader.sample(81)


# ---- priorities ----


def test_priorities_go_to_where_they_belong_and_old_ids_are_stale():
    with made(shards=2, capacity=100, sampler=rb.Prioritized(alpha=1.0)) as cluster:
        writers = [cluster.writer() for _ in range(2)]
        for number, writer in enumerate(writers):
            writer.extend(*batched(range(100 * number, 100 * number + 50)))
            writer.flush()
        reader = cluster.reader()
        batch = reader.sample(500)
        first = dict(zip(batch.action.tolist(), batch.indices.tolist(), strict=True))
        assert len(first) == 100
        indices = np.array(list(first.values()))
        wanted = np.array(list(first)) + 1.0
        assert reader.update_priorities(indices, wanted) == (100, 0, 0)
        again = reader.sample(200)
        np.testing.assert_allclose(again.probabilities, (again.action + 1) / wanted.sum(), rtol=1e-5)
        writers[0].extend(*batched(range(1000, 1020)))  # 20 of the first shard's 50 leave
        writers[0].flush()
        assert reader.update_priorities(indices, wanted) == (80, 20, 0)
        assert reader.update_priorities(indices, wanted, wait=False) is None
        reader.close()
        counts = reader.stats()
        assert (counts["updated"], counts["stale"], counts["untold"]) == (260, 40, 0)


def test_what_cannot_be_updated_is_refused_and_changes_nothing():
    with made(shards=2, sampler=rb.Prioritized()) as cluster:
        writer, reader = cluster.connect()
        feed(writer, range(10))
        writer.flush()
        batch = reader.sample(4)
        with pytest.raises(ValueError, match="td_error: expected finite numbers, given nan at position 2"):
            reader.update_priorities(batch.indices, [1.0, 1.0, np.nan, 1.0])
        with pytest.raises(ValueError, match="expected one an index"):
            reader.update_priorities(batch.indices, [1.0])
        with pytest.raises(ValueError, match="-1 was never given out"):
            reader.update_priorities([-1], [1.0])
        with pytest.raises(ValueError, match="was never given out"):
            reader.update_priorities(batch.indices[:1] + 10**6, [1.0])
        assert reader.stats()["updated"] == 0


def test_beta_is_the_readers(unequal):
    cluster, one = unequal
    reader = cluster.reader()
    reader.sampler.beta = 0.0
    assert (reader.sample(64).weights == 1).all()
    assert cluster.reader().sampler.beta == 0.5


# ---- how fast either side may go ----


def test_readers_wait_for_writers_and_writers_for_readers_and_are_told_why():
    limit = RateLimit(2.0, min_size=100, tolerance=400)
    with made(shards=2, samples_per_insert=limit) as cluster:
        writer = cluster.writer(flush_size=50, pending=150, timeout=2.0)
        reader = cluster.reader()
        with pytest.raises(TimeoutError, match="0 of 100 transitions inserted that must be there"):
            reader.sample(64, timeout=0.3)
        writer.extend(*batched(range(100)))
        writer.flush()
        for _ in range(6):  # 384 samples ahead
            reader.sample(64)
        with pytest.raises(TimeoutError, match=r"samples are 384 ahead, 400 are allowed.*24 more inserts let 64"):
            reader.sample(64, timeout=0.3)
        writer.extend(*batched(range(100, 150)))
        writer.flush()
        reader.sample(64, timeout=10)
        for begin, end in ((150, 300), (300, 450), (450, 500)):  # inserts are 352 ahead then: 448 were sampled
            writer.extend(*batched(range(begin, end)))
            writer.flush()
        writer.extend(*batched(range(500, 600)))
        with pytest.raises(TimeoutError, match=r"100 transitions are not acknowledged within 1 s; .*inserts are"):
            writer.flush(1.0)
        rate = cluster.stats()["rate_limit"]
        assert 300 < rate["ahead"] <= 400
        assert rate["waiting_to_insert"] == 1
        with pytest.raises(
            TimeoutError, match=r"no room for 100 more within 2 s: 100 of 150 transitions wait; .*inserts"
        ):
            writer.extend(*batched(range(100)))
        for _ in range(3):
            reader.sample(64)
        assert writer.flush(20).pending == 0
        writer.close()


def test_leave_that_came_to_nothing_is_given_back():
    """All priorities are 0: nothing can be drawn, and nothing was."""
    sampler = rb.Prioritized(epsilon=0.0)
    with made(shards=1, sampler=sampler, samples_per_insert=RateLimit(4.0, min_size=50, tolerance=1000)) as cluster:
        writer, reader = cluster.connect()
        writer.extend(*batched(range(50)), td_error=np.zeros(50))
        writer.flush()
        for _ in range(20):
            with pytest.raises(ValueError, match="every priority in all 1 shards is 0"):
                reader.sample(100, timeout=20)
        deadline = time.monotonic() + 20
        while cluster.stats()["rate_limit"]["ahead"] < 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert cluster.stats()["rate_limit"]["ahead"] == 0
        writer.close()


def test_a_writer_that_has_to_wait_is_not_taken_for_dead():
    limit = RateLimit(1.0, min_size=100, tolerance=400)
    with made(shards=1, samples_per_insert=limit, options={"writer_timeout": 1.0}) as cluster:
        writer = cluster.writer(flush_size=50)
        writer.extend(*batched(range(500)))
        writer.flush()
        writer.extend(*batched(range(500, 550)))  # 50 too far ahead
        time.sleep(3.5)
        assert cluster.stats()["writers"] == 1
        assert cluster.stats()["writers_died"] == 0
        cluster.reader().sample(64)
        assert writer.flush().acknowledged == 550
        assert len(cluster.reader().sample(16).obs) == 16
        writer.close()


def test_batches_keep_the_rate(ray_session):
    with made(shards=2, samples_per_insert=RateLimit(4.0, min_size=100, tolerance=1000)) as cluster:
        writer, reader = cluster.connect()
        writer.extend(*batched(range(100)))
        writer.flush()
        with reader.batches(64, prefetch=2, timeout=0.5) as batches, pytest.raises(TimeoutError, match="samples are"):
            list(batches)
        taken = reader.stats()["batches"]
        assert taken in range(12, 16)  # 15 of 64 are 960; some were on their way
        assert cluster.stats()["rate_limit"]["ahead"] >= -1000


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (RateLimit(1.0, min_size=2000), "min_size must be at most the capacity, 1,000"),
        (RateLimit(8.0, min_size=100, tolerance=100), "tolerance must be at least"),
    ],
)
def test_a_rate_that_must_stand_still_is_refused_when_it_is_built(limit, message):
    with pytest.raises(ValueError, match=message):
        made(samples_per_insert=limit)


def test_sizes_that_would_stand_still_are_refused_where_they_are_first_said():
    with made(samples_per_insert=RateLimit(1.0, min_size=100, tolerance=200)) as cluster:
        with pytest.raises(ValueError, match=r"10,000 a sample.*tolerance must be at least"):
            cluster.reader().sample(10_000)
        with pytest.raises(ValueError, match=r"5,000 transitions an insert.*tolerance must be at least"):
            cluster.writer(flush_size=5_000)


# ---- more shards, and fewer ----


def test_a_shard_that_is_added_takes_part(tmp_path):
    with made(shards=1, sampler=rb.Prioritized()) as cluster:
        first, reader = cluster.connect()
        feed(first, range(50))
        first.flush()
        assert reader.size() == 50
        assert cluster.add_shard() == 1
        second = cluster.writer()
        feed(second, range(50, 100))
        second.flush()
        deadline = time.monotonic() + 20
        while reader.size() < 100 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert set(ids.split(reader.sample(100).indices).shards.tolist()) == {0, 1}
        assert cluster.stats()["capacity"] in (1000, 2000)  # as of its last report
        first.close()
        second.close()


def test_a_shard_is_drained_without_losing_what_it_holds(tmp_path):
    sampler = rb.Prioritized(alpha=1.0)
    with made(shards=3, capacity=900, sampler=sampler, checkpoint=tmp_path, options={"streams": 4}) as cluster:
        writers = [cluster.writer() for _ in range(3)]
        for number, writer in enumerate(writers):
            numbers = range(1000 * number, 1000 * number + 100)
            writer.extend(*batched(numbers), td_error=np.array(numbers) + 1.0)
            writer.flush()
        reader = cluster.reader()
        old = reader.sample(300)
        assert cluster.drain(1) == 100
        now = {}
        for number, buffer in contents(cluster, tmp_path).items():
            buffer.check_valid()
            batch = buffer.read(live(buffer))
            assert_consistent(batch)
            for action, priority in zip(batch.action, buffer.sampler.priority_of(live(buffer)), strict=True):
                assert action not in now
                now[int(action)] = priority
            lengths = [len(segment.ids) for segment in buffer.segments()]
            assert set(lengths) == {10}  # episodes stay in one piece
            assert number != 1
        assert now == {i: pytest.approx(i + 1.0, rel=1e-5) for base in (0, 1000, 2000) for i in range(base, base + 100)}
        gone = ids.split(old.indices).shards == 1
        time.sleep(1.5)  # the reader looks for who is there once a second
        report = reader.update_priorities(old.indices, np.ones(300))
        assert (report.updated, report.stale) == (int((~gone).sum()), int(gone.sum()))
        for writer in writers:  # one of them has to go elsewhere
            feed(writer, range(5000, 5005))
            assert writer.flush() == (105, 0, 0, 0)
            writer.close()
        assert reader.size() == 315
        time.sleep(1.5)
        found = cluster.stats()
        assert (found["inserted"], found["lost"], found["size"]) == (315, 0, 315)
        assert not (tmp_path / "shard-0001").exists()


def test_what_is_drained_pushes_nothing_out():
    """100 transitions go to two shards that have room for 60 each."""
    with made(shards=3, capacity=300) as cluster:
        writers = [cluster.writer() for _ in range(3)]
        for writer, n in zip(writers, (100, 40, 40), strict=True):
            writer.extend(*batched(range(n)))
            writer.flush()
        assert cluster.drain(0) == 100
        assert cluster.reader().size() == 180


def test_a_shard_is_drained_only_where_there_is_room():
    with made(shards=2, capacity=200) as cluster:
        writers = [cluster.writer() for _ in range(2)]
        for writer in writers:
            writer.extend(*batched(range(80)))
            writer.flush()
        with pytest.raises(ValueError, match="shard 0 holds 80 transitions, and the others have room for 20"):
            cluster.drain(0)
        with pytest.raises(ValueError, match="shard: expected one of 0, 1, given 7"):
            cluster.drain(7)
        feed(writers[0], range(80, 90))
        assert writers[0].flush().acknowledged == 90
        cluster.add_shard()
        assert cluster.drain(0) == 90
        assert cluster.reader().size() == 170
    with made(shards=1) as cluster, pytest.raises(ValueError, match="the last one"):
        cluster.drain(0)


def test_a_shard_that_will_not_come_back_is_forgotten_and_counted():
    with made(shards=2) as cluster:
        writers = [cluster.writer() for _ in range(2)]
        for writer in writers:
            writer.extend(*batched(range(40)))
            writer.flush()
        time.sleep(1.5)  # it has reported by then
        assert cluster.forget(0) == 40
        for writer in writers:
            feed(writer, range(5))
        assert [writer.flush() for writer in writers] == [(45, 0, 0, 40), (45, 0, 0, 0)]
        assert cluster.reader().size() == 50
        assert cluster.stats()["lost"] == 40


# ---- handles ----


def test_a_cluster_is_found_by_its_name_and_sent_to_tasks():
    with made(shards=1) as cluster:
        with pytest.raises(ValueError, match=f"expected one of .*{cluster.name}.*given 'nobody'"):
            attach("nobody")
        with pytest.raises(RuntimeError, match=f"there is a cluster {cluster.name!r} already"):
            made(options={"name": cluster.name})

        given = [batched(range(begin, begin + 5)) for begin in (10, 20)]

        @ray.remote
        def write(handle, values):
            with handle.writer() as writer:
                writer.extend(*values)
            return writer.stats()

        done = ray.get([write.remote(cluster, values) for values in given])
        assert [one.acknowledged for one in done] == [5, 5]
        again = pickle.loads(pickle.dumps(attach(cluster.name)))
        assert again.reader().size() == 10
        for part in cluster.connect():
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(part)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shards": 0}, "shards: expected 1 to 4096, given 0"),
        ({"capacity": 1}, "capacity: expected 2 to"),
        ({"schema": None}, "schema: expected what transitions are made of"),
        ({"sampler": rb.RankPrioritized()}, "sampler: expected one whose probabilities add up over shards"),
        ({"samples_per_insert": -1.0}, "samples_per_insert must be a finite number > 0"),
        ({"options": {"shard_timeout": 0}}, "shard_timeout must be seconds > 0"),
        ({"seed": -1}, "seed: expected 0"),
    ],
)
def test_what_cannot_be_made_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        made(**given)


# ---- checkpoints ----


def test_a_cluster_goes_on_from_its_checkpoint(tmp_path):
    given = {"shards": 2, "sampler": rb.Prioritized(alpha=1.0)}
    with made(**given, checkpoint=tmp_path) as cluster:
        writers = [cluster.writer() for _ in range(2)]
        for writer in writers:
            writer.extend(*batched(range(50)), td_error=np.arange(50) + 1.0)
            writer.close()
        assert cluster.save() == 100
        old = cluster.reader().sample(50)
    with pytest.raises(ValueError, match=r"holds one of 2 shards already; go on with it \(resume=True\)"):
        made(**given, checkpoint=tmp_path)
    resume = Checkpoint(tmp_path, resume=True)
    with pytest.raises(ValueError, match="is of 2 shards, given shards=3"):
        made(shards=3, checkpoint=resume)
    with pytest.raises(ValueError, match="is of a shard with capacity 500"):
        made(**given, capacity=100, checkpoint=resume)
    with made(**given, checkpoint=resume) as cluster:
        reader = cluster.reader()
        assert reader.size() == 100
        batch = reader.sample(200)
        np.testing.assert_allclose(batch.probabilities, (batch.action + 1) / (2 * 1275), rtol=1e-5)
        # Ids of before mean the same transitions as ever.
        assert reader.update_priorities(old.indices, np.ones(50)).updated == 50
        with cluster.writer() as writer:
            feed(writer, range(10))
        assert reader.size() == 110
