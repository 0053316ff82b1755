"""Many machines, one memory: replay shards on Ray.

On the machine that starts it all::

    cluster = ReplayCluster(shards=4, capacity=1_000_000, schema=rb.schema_of(env), sampler=rb.Prioritized())

In each actor, to which the cluster was handed::

    with cluster.writer() as writer:
        writer.add(obs, action, reward, next_obs, terminated, truncated)

In the learner::

    reader = cluster.reader()
    for batch in reader.batches(256, prefetch=4):
        reader.update_priorities(batch.indices, td_error, wait=False)

Actors, placement, restarts, object store and metrics are Ray's. Who can reach a Ray cluster can run anything on it:
docs/ray-security.md says what that means.
"""

from replaybank.extras import of_extra

with of_extra("ray"):
    import ray as _ray  # noqa: F401

from replaybank.ray.cluster import ReplayCluster, attach
from replaybank.ray.config import Checkpoint, ClusterOptions
from replaybank.ray.limiter import RateLimit
from replaybank.ray.outbox import Flushed
from replaybank.ray.reader import Reader
from replaybank.ray.updates import PriorityReport
from replaybank.ray.writer import Writer

__all__ = [
    "Checkpoint",
    "ClusterOptions",
    "Flushed",
    "PriorityReport",
    "RateLimit",
    "Reader",
    "ReplayCluster",
    "Writer",
    "attach",
]
