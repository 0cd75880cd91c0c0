"""`rftfm`: the command line. One file per command; errors are one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer

from rftfm_ray.cli.answer import approve, reject
from rftfm_ray.cli.config import config
from rftfm_ray.cli.diagnose import diagnose
from rftfm_ray.cli.drill import drill
from rftfm_ray.cli.faultbench import faultbench
from rftfm_ray.cli.faults import faults
from rftfm_ray.cli.journal import journal
from rftfm_ray.cli.model import model
from rftfm_ray.cli.plans import list_plans
from rftfm_ray.cli.policies import policies
from rftfm_ray.cli.preflight import preflight
from rftfm_ray.cli.profile import profile
from rftfm_ray.cli.report import report
from rftfm_ray.cli.status import status
from rftfm_ray.cli.streams import lasting
from rftfm_ray.cli.train import KeysAreNoOptions, train
from rftfm_ray.cli.warmstart import warmstart
from rftfm_ray.errors import RftfmError, SignalInterrupt, StoppedError

app = typer.Typer(
    name="rftfm",
    help="Reinforcement fine-tuning on Ray that notices when it goes wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rftfm_ray {version('rftfm_ray')}")
        raise typer.Exit


@app.callback()
def _options(
    shown: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reinforcement fine-tuning on Ray that notices when it goes wrong."""
    del shown


app.command(cls=KeysAreNoOptions)(train)
app.command(cls=KeysAreNoOptions)(preflight)
app.command(cls=KeysAreNoOptions)(drill)
app.command()(status)
app.command()(journal)
app.command()(approve)
app.command()(reject)
app.command()(report)
app.command()(diagnose)
app.command()(config)
app.command()(warmstart)
app.command()(model)
app.add_typer(profile, name="profile")
app.add_typer(faults, name="faults")
policies.command("plans")(list_plans)
app.add_typer(policies, name="policies")
app.add_typer(faultbench, name="faultbench")


def run_guarded(command: Callable[[], None]) -> int:
    """Run a command; its exit code. The framework's own errors become one line on standard error."""
    try:
        command()
    except StoppedError as error:
        # `rftfm train` has said it, while the run was ending.
        return error.exit_code
    except RftfmError as error:
        print(f"rftfm: {error}", file=lasting(sys.stderr))
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        ended = interrupt if isinstance(interrupt, SignalInterrupt) else SignalInterrupt(signal.SIGINT)
        print(f"rftfm: ended by {ended.name}.", file=lasting(sys.stderr))
        return ended.exit_code
    return 0


def main() -> None:
    """Entry point of the `rftfm` script."""
    # Process managers end a command with SIGTERM; it leaves as it does after Ctrl-C. A run takes the signals over.
    signal.signal(signal.SIGTERM, _interrupt)
    # `nohup` has it ignored.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _interrupt)
    # standalone_mode=False would swallow typer's own usage errors; it exits with 2 by itself.
    code = run_guarded(app)
    # Their reader may have ended before the command.
    lasting(sys.stdout).flush()
    lasting(sys.stderr).flush()
    os._exit(code) if code else sys.exit(0)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    raise SignalInterrupt(signum)
