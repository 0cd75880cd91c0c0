"""The stories that this trainer can tell, and where the others are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.stories import changes
from benchmarks.stories.trainers import LearnerChange, RolloutChange

FIRST = 4
"""Consumed step from which a change is in force that does not begin with the run."""
STEPS = 8
TASKS = "benchmarks/stories/tasks.py"
# A small run of the example: what is asked is whether a change is seen, not what it does to the policy.
SMALL = (
    f"steps={STEPS}", "algorithm.prompts_per_step=8", "algorithm.samples_per_prompt=8", "learner.lr=2e-4",
    "probe.every=0", "probe.final_size=64", "probe.size=64", "checkpoints.at_end=false", "report.at_end=false",
    "preflight.mode=off", "guard.mode=observe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Story:
    """A story: what was wrong in somebody's training, how it is told here, and what must be found.

    Attributes:
        name: of the story.
        thread: where it is told: repository and number.
        broken: what was wrong, as a sentence without a full stop.
        found: signals of which the sentence of the alarm must name one, which tell where it is wrong; empty where the
            run must end with an error.
        codes: names that the guard may give it.
        task: of the run.
        settings: of both runs.
        broken_settings: of the broken run alone.
        learner: the change of the learner.
        rollout: the change of the rollout actors.
        first: first affected step; of a reward function the first that draws a problem on which it errs, by the seed.
        within: steps from there to the alarm, 1 for the same step.
        error: a part of the error that ends the run; empty where it goes on.
    """

    name: str
    thread: str
    broken: str
    found: tuple[str, ...]
    codes: tuple[str, ...]
    task: str = "addition"
    settings: tuple[str, ...] = ()
    broken_settings: tuple[str, ...] = ()
    learner: type[LearnerChange] | None = None
    rollout: type[RolloutChange] | None = None
    first: int = FIRST
    within: int = 1
    error: str = ""

    @property
    def twin(self) -> tuple[str, ...]:
        """What the repaired run depends on: stories with the same have one."""
        return (self.task, *self.settings)


# A third of the sums has three digits, which with the end of the answer are four tokens.
_SHORT = ("task.token_scale=0.6",)
_FAILING = ("background.tool_failures=0.03", "rollout.tool_retries=0")

STORIES: tuple[Story, ...] = (
    Story(
        "rewards_of_others", "verl#2185",
        "dynamic batching sorts the sequences and not their rewards, so that rewards belong to other samples",
        ("sample_mismatch_rate",), ("CA-3",), learner=changes.ShuffledRewards,
    ),
    Story(
        "base_weights", "huggingface/trl#5312",
        "after its sleep the engine generates with the base model's weights again",
        ("weights_mismatch",), ("OD-2",), rollout=changes.BaseWeights,
    ),
    Story(
        "nan_reward", "modelscope/ms-swift#8123",
        "a reward function returns NaN now and then",
        ("verifier_error_rate",), ("VERIFIER",), task=f"{TASKS}:PaysAtOnce",
        broken_settings=(f"task.name={TASKS}:PaysNan",), first=3,
    ),
    Story(
        "limit_too_low", "huggingface/trl#5697",
        "a default limit of tokens cuts off nearly all answers, and nothing is learnt",
        ("truncated_rate",), ("TE-3",),
        broken_settings=("task.token_scale=0.4",), first=1, within=5,
    ),
    Story(
        "hidden_truncation", "verl#7823",
        "the share of answers that a limit cuts off is reported as 0",
        ("termination_mismatch_rate",), ("TE-3",), settings=_SHORT, rollout=changes.HiddenTruncation,
    ),
    Story(
        "rejected_in_baseline", "verl PR#6362",
        "samples that must not train still count in the mean reward of their group",
        ("advantage_error",), ("CA-2",), task="calculator", settings=_FAILING,
        learner=changes.RejectedInBaseline,
    ),
    Story(
        "engine_upgraded", "verl-omni#280",
        "after an upgrade engine and trainer compute different models",
        (), (), rollout=changes.OtherNorm, first=1, error="sync.parity_max_gap",
    ),
    Story(
        "overflow", "Soup#342", "half precision overflows, and every loss from there on is infinite",
        ("loss", "grad_norm"), ("NUMERICAL",), learner=changes.Overflow,
    ),
    Story(
        "wrong_old_logprobs", "OpenRLHF#931", "log-probs of the old policy are wrong, and ratios reach 5e8",
        ("ratio_max",), ("OD-1",), learner=changes.WrongOldLogprobs,
    ),
    Story(
        "failures_graded", "NeMo Gym PR#2410, PR#2015", "failures of the infrastructure are graded as wrong answers",
        ("valid_rate",), ("RF-2", "TE-1", "UNKNOWN"), task="calculator", settings=_FAILING,
        rollout=changes.FailuresGraded,
    ),
    Story(
        "slow_reward", "verl#1696, slime#1562", "a reward function waits for a service that hangs",
        ("verifier_error_rate",), ("VERIFIER",), task=f"{TASKS}:PaysAtOnce",
        settings=("verifier.timeout_s=1",), broken_settings=(f"task.name={TASKS}:PaysLate",), first=2,
    ),
    Story(
        "first_of_group", "PipelineRL PR#54", "advantages come from the first rollout of a group only",
        ("advantage_error",), ("CA-2",), learner=changes.FirstOfGroup,
    ),
    Story(
        "lost_group", "slime PR#2238", "groups that have finished are lost on the way to the learner",
        ("sample_mismatch_rate",), ("CA-3",), learner=changes.LostGroup,
    ),
)  # fmt: skip
"""Told in real actors, each with a repaired twin."""

ELSEWHERE: Mapping[str, str] = {
    "huggingface/trl PR#6427": "a default reward of 0: `tests/unit/preflight/test_rewards.py`",
    "huggingface/trl#5697": "the same limit, before the first step: `tests/unit/cli/test_preflight.py`",
    "ToRL#27": "a sandbox whose address is a placeholder: `tests/unit/cli/test_preflight.py`",
    "pytorch/rl#4188, open-r1#450": "state missing in a checkpoint: `tests/integration/test_preflight.py`",
    "tinker-cookbook PR#848": "answers of a single token: `tests/integration/test_learner.py`",
}
"""Stories that are told by a check before the run, or by a test of their own."""

UNTOLD: Mapping[str, str] = {
    "SkyRL#1870": "this trainer has no correction of the rollout's log-probs yet that could be without effect",
    "Megatron-LM#4168": "no mixture of experts runs here",
    "verl#1066, open-r1#257, ZeroSearch#23, Trinity-RFT#176, rllm#143, DeepSpeedExamples#556": (
        "statistical: the families of FaultBench that they belong to are scored there"
    ),
}
"""Stories that are not told, and why."""
