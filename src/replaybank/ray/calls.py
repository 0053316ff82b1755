"""Calls of Ray's actors that end within their time, and say what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RaySystemError

Key = TypeVar("Key")

# What a call of an actor ends with where the actor, its machine or the way there is the matter, not what it was asked.
GONE = (RayActorError, ObjectLostError, RaySystemError, GetTimeoutError, ConnectionError)


def answer(ref: Any, seconds: float, what: str) -> Any:
    """What a call gives; raises TimeoutError, with `what`, where that takes longer or the actor does not come back."""
    try:
        return ray.get(ref, timeout=max(seconds, 0.0))
    except GetTimeoutError:
        raise TimeoutError(f"{what}: no answer within {seconds:.3g} s") from None
    except RayActorError as error:
        raise TimeoutError(f"{what}: {reason(error)}") from None


def answers(refs: Mapping[Key, Any], seconds: float) -> tuple[dict[Key, Any], dict[Key, str]]:
    """What several calls gave within so many seconds, and of the others why not.

    Raises what a call itself raised.
    """
    if not refs:
        return {}, {}
    ray.wait(list(refs.values()), num_returns=len(refs), timeout=max(seconds, 0.0), fetch_local=True)
    found, failed = {}, {}
    for key, ref in refs.items():
        try:
            found[key] = ray.get(ref, timeout=0)
        except GetTimeoutError:
            failed[key] = f"no answer within {seconds:.3g} s"
        except GONE as error:
            failed[key] = reason(error)
    return found, failed


def ready(ref: Any) -> bool:
    """Whether a call has ended, well or not."""
    return bool(ray.wait([ref], timeout=0, fetch_local=False)[0])


def reason(error: BaseException) -> str:
    """The first line of an error of Ray's, which may have many."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
