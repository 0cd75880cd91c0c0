"""Reaches a run through its cluster: its controller actor puts requests into the box that the driver looks into."""

from __future__ import annotations

import logging
import os

import ray
from ray.actor import ActorHandle

from rftfm_ray.actors.placement import NAMESPACE
from rftfm_ray.errors import AnswerError, NotTakenError
from rftfm_ray.incidents.requests import Reply, Request

ADDRESS = "RAY_ADDRESS"
ANSWER_S = 60.0


class ClusterBox:
    """The request box of a run whose directory is out of reach. The same methods as `telemetry.requests.RequestBox`.

    Args:
        controller: of the run.
    """

    def __init__(self, controller: ActorHandle) -> None:
        self._controller = controller

    def post(self, request: Request) -> None:
        """Put a request where the run takes it."""
        self._call("post", request)

    def reply_to(self, request: str) -> Reply | None:
        """The reply to a request; None before there is one."""
        reply = self._call("reply_to", request)
        return reply if isinstance(reply, Reply) else None

    def withdraw(self, request: str) -> bool:
        """Take a request back; whether nobody had taken it."""
        return bool(self._call("withdraw", request))

    def _call(self, method: str, argument: object) -> object:
        try:
            return ray.get(getattr(self._controller, method).remote(argument), timeout=ANSWER_S)
        except ray.exceptions.RayError as error:
            raise NotTakenError(
                f"The controller of the run cannot be reached ({type(error).__name__}): the run has ended, or the "
                "controller is being replaced; see `ray list actors`."
            ) from None


def cluster_box(run: str) -> ClusterBox:
    """The request box of the run of that name in the cluster that RAY_ADDRESS names.

    Raises:
        AnswerError: when the cluster cannot be joined, or no such run goes on there.
    """
    address = os.environ.get(ADDRESS, "")
    if address.startswith(("http://", "https://")):
        raise AnswerError(
            f"{ADDRESS}={address} takes jobs alone: answer from inside of the cluster, with `ray job submit -- rftfm "
            "approve RUN INCIDENT` (or reject)."
        )
    try:
        ray.init(address=address, namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises, there is no cluster
        text = " ".join(str(error).split())[:300]
        raise AnswerError(f"Cannot reach the cluster at {ADDRESS}={address}: {text}.") from None
    try:
        return ClusterBox(ray.get_actor(f"{run}/controller-0", namespace=NAMESPACE))
    except ValueError:
        raise AnswerError(
            f"No run {run!r} with a guard goes on in the cluster at {address}, and there is no run directory of that "
            "name here; `ray list actors` names the runs."
        ) from None
