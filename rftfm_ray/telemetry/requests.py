"""The request box of a run: files below the run directory in which a person answers decisions that wait.

A run takes requests at its step boundaries. Files work from another process, on shared storage, and while the
controller is being replaced; they survive all of them. The controller actor only hands a request on to this box, for
those who reach the cluster and not the directory.

    requests/ID.json     a request that nobody has taken
    requests/ID.taken    the run has taken it
    requests/ID.reply    what became of it
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from rftfm_ray.errors import RecordError
from rftfm_ray.files import PRIVATE_DIR, write_atomic
from rftfm_ray.incidents.requests import Reply, Request, read_reply, read_request, to_json

FOLDER = "requests"
POSTED, TAKEN, REPLIED = ".json", ".taken", ".reply"


class RequestBox:
    """Requests to one run and the replies to them.

    Args:
        run_dir: of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER

    def post(self, request: Request) -> None:
        """Put a request where the run takes it.

        Raises:
            RecordError: when it cannot be written.
        """
        try:
            self._folder.mkdir(mode=PRIVATE_DIR, exist_ok=True)
            write_atomic(self._path(request.id, POSTED), to_json(request))
        except OSError as error:
            raise RecordError(f"{self._folder} cannot be written ({error.strerror}); make room, or check it.") from None

    def take(self) -> tuple[Request, ...]:
        """Requests that nobody has taken, oldest first; each is given once. What is no request is taken and dropped."""
        try:
            posted = [path for path in self._folder.iterdir() if path.suffix == POSTED and path.name[0] != "."]
        except OSError:
            return ()
        requests = []
        for path in posted:
            # A request that was withdrawn meanwhile is gone.
            with contextlib.suppress(OSError):
                taken = path.rename(path.with_suffix(TAKEN))
                request = read_request(taken.read_bytes())
                if request is not None and request.id == path.stem:
                    requests.append(request)
        return tuple(sorted(requests, key=lambda request: (request.time_s, request.id)))

    def reply(self, reply: Reply) -> None:
        """Leave the reply to a taken request, as far as the disk lets it: who asked can read the journal."""
        with contextlib.suppress(OSError):
            write_atomic(self._path(reply.request, REPLIED), to_json(reply))

    def reply_to(self, request: str) -> Reply | None:
        """The reply to a request; None before there is one."""
        try:
            return read_reply(self._path(request, REPLIED).read_bytes())
        except OSError:
            return None

    def withdraw(self, request: str) -> bool:
        """Take a request back; whether nobody had taken it."""
        try:
            self._path(request, POSTED).unlink()
        except OSError:
            return False
        return True

    def _path(self, request: str, suffix: str) -> Path:
        return self._folder / f"{request}{suffix}"
