"""The guard: monitor, controller, and the independent checks that they judge by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from rftfm_ray.config.hook import Hook
from rftfm_ray.config.sections import Cadence, Count, Float, Integer, Seconds, Section
from rftfm_ray.types import GuardMode
from rftfm_ray.verdicts import Family


def _off(value: object) -> object:
    # To YAML 1.1 a bare off is false.
    return GuardMode.OFF.value if value is False else value


class GuardConfig(Section):
    """Monitor and controller."""

    mode: Annotated[GuardMode, BeforeValidator(_off)] = GuardMode.OBSERVE
    """`off`; `observe`: detect and diagnose; `advise`: decide and journal too; `act`: carry it out."""
    act_on: tuple[Family, ...] = (Family.TE, Family.NUMERICAL, Family.SYNC)
    """Families of faults that `act` may remedy; a list replaces the default. `RF`: rewards, `PG`: generation,
    `OD`: optimisation, `CA`: credit, `TE`: tools and environment, `NUMERICAL`: values that are not finite, `SYNC`:
    stale weights, `UNKNOWN`: faults without a name. The playbook has remedies in all but SYNC and UNKNOWN;
    there only a policy of your own acts."""
    policy: str | None = None
    """`playbook`, `adaptive_kl`, `hold_and_ask`, or your own as `file.py:Class`, `module:Class` or with a function in
    place of the class; null: the playbook. `rftfm policies list` says what each does, docs/policies.md how to write
    one."""
    policy_timeout_s: Seconds = 1.0
    """Longest time that one call of a policy may take, with reading what it keeps."""
    fallback: Literal["playbook", "none"] = "playbook"
    """What decides where your policy fails, is late or asks for what is out of bounds."""
    verdict_timeout_s: Seconds = 10.0
    """Longest wait for a verdict at a step's boundary; a later one takes effect at the next."""
    warmup_steps: Annotated[Integer, Field(ge=3)] = 5
    """Steps that the run's own reference is taken from before telemetry is judged."""
    false_alarm_steps: Annotated[Integer, Field(ge=100)] = 1_000
    """Healthy steps to one false alarm of the whole guard; thresholds are set for half as many alarms."""
    profile: str | None = None
    """What healthy runs look like, a file of `rftfm profile fit`; null: a run is compared with its own past and
    the shipped values of its kind. So are signals that another configuration moves, such as another `learner.lr`."""
    diagnosis: str | None = None
    """What names faults, a file of `rftfm faultbench teach`; null: the shipped one, which knows the shipped tasks."""
    detectors: tuple[str, ...] = ()
    """Your detectors beside the shipped ones, each as `module:Class` or `file.py:Class`."""
    regrade_rate: Annotated[Float, Field(ge=0, le=1)] = 0.25
    """Share of trajectories that the trusted verifier grades again, chosen by a hash; 0: none."""
    regrade_noise: Annotated[Float, Field(gt=0, lt=0.05)] = 0.001
    """Share of verdicts in which an honest reward channel and the trusted verifier may disagree."""
    verify_steps: Annotated[Integer, Field(ge=1, le=200)] = 6
    """Steps over which a remedy must show that it works."""
    verify_timeout_steps: Annotated[Integer, Field(ge=1, le=250)] = 30
    """Steps under a remedy after which a person is asked where held-out accuracy or the harm could not be judged; never
    fewer than `guard.verify_steps`, and best several times `probe.every`."""
    cooldown_steps: Cadence = 2
    """Steps after a remedy in which no other one is begun for the same incident."""
    budget: Cadence = 4
    """Remedies per family of faults in a run."""
    return_after: Annotated[Integer, Field(ge=1, le=200)] = 5
    """Clean steps before a lever goes a step back to its nominal value, and between such steps."""
    on_give_up: Literal["continue", "halt"] = "continue"
    """What happens when no remedy is left: train on, or write a checkpoint and end with exit code 3."""
    on_harm: Literal["fail", "warn"] = "fail"
    """What a run does at its end that was never updated, ends far below its start or its best held-out accuracy, whose
    last probe could not be graded, that leaves an incident escalated, given up or open, or has lost its guard: say so
    and end with exit code 4, or only say so."""
    on_lost: Literal["stop", "continue"] | None = None
    """What happens when monitor or controller cannot be brought back: write a checkpoint and end with exit code 5, or
    train on unguarded; null: `stop` in mode `act`, `continue` in the others."""
    pause_timeout_s: Seconds | None = None
    """Longest time that an advised remedy may wait for `rftfm approve` or `rftfm reject` while the run trains on; then
    it writes a checkpoint and ends with exit code 6. null: it trains on, however long nobody answers."""
    on_incident: Hook | None = None
    """What is told of incidents: a URL (http:// or https://) that gets a POST, or a command, split like a shell's words
    and run without a shell, that reads standard input. Both get one JSON object an event, without sample texts."""
    buffer: Count = 256
    """Reports that may wait for the monitor; beyond them the run waits, so none is dropped."""


class ChannelsConfig(Section):
    """Independent checks of rewards, tools, observations and weights, made beside training; none with `guard.mode=off`.

    What they ask reaches no trajectory.
    """

    golden_every: Cadence = 5
    """Steps between golden sets: known-right and known-wrong responses put to the live reward channel; 0: never."""
    golden_size: Annotated[Integer, Field(ge=2)] = 8
    """Held-out problems of a golden set; each gives one known-right and one known-wrong response."""
    replay_rate: Annotated[Float, Field(ge=0, le=1)] = 0.125
    """Share of trajectories whose turns are put to the task's own environment again, chosen by a hash; 0: none."""
    known_calls_every: Cadence = 5
    """Steps between recorded tool calls, with known answers, to the tool instance that is asked first; 0: never."""
    known_calls: Count = 4
    """Recorded calls at a time; there are no more of them than golden problems whose reference makes a call."""
    fingerprint_every: Cadence = 1
    """Model versions between comparisons of the weights that vLLM serves with the learner's; 0: never."""
    update_replay_every: Cadence = 5
    """Steps between updates that are made again, on a sample of the weights at the declared rate, to see by what factor
    the weights have moved; 0: never."""
