"""Two policies without a mistake, and many with one each; `policy_sentences` has what each is answered."""

import random
import threading
import time
from typing import Any

from rftfm_ray import Decision, Levers, Outcome, PolicyContext, Remedy

GOOD = Remedy("slow_down", Levers(lr_scale=0.5))
WAIT = Decision(None, "nothing to do")


def decided(ctx: PolicyContext, remedy: Remedy = GOOD, reason: str = "too fast") -> Decision:
    """The remedy once, and then nothing."""
    return WAIT if ctx.tried else Decision(remedy, reason)


class Polite:
    """Nothing is wrong with this one."""

    def decide(self, ctx: PolicyContext) -> Any:
        """One remedy, and then a person."""
        return decided(ctx)


def hold_back(ctx: PolicyContext) -> Decision:
    """Nothing is wrong with this function either: it counts, and is content in the end."""
    state = (("tries", int(dict(ctx.state).get("tries", 0)) + 1),)
    return Decision(None if len(ctx.tried) == 3 else GOOD, "slowly", state)


class NoDecide:
    """The method has another name."""

    def choose(self, ctx: PolicyContext) -> Any:
        """Never called."""
        return WAIT


class NeedsArguments(Polite):
    """Its constructor wants a rate."""

    def __init__(self, rate: float) -> None:
        self.rate = rate


class NoContext:
    """The context is not taken."""

    def decide(self) -> Any:
        """Called with a context."""
        return WAIT


class Coroutine:
    """Nobody awaits it."""

    async def decide(self, ctx: PolicyContext) -> Any:
        """Returns a coroutine."""
        return WAIT


NUMBER = 3


class Locked(Polite):
    """A lock cannot be sent anywhere."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Raises:
    """Knows two codes."""

    def decide(self, ctx: PolicyContext) -> Any:
        """Fails for the others."""
        return Decision(None, {"RF-1": "wait", "RF-2": "wait"}[ctx.diagnosis.code])


class Nothing:
    """Forgets to return."""

    def decide(self, ctx: PolicyContext) -> Any:
        """Returns None."""
        decided(ctx)


class BareRemedy:
    """Returns the remedy itself."""

    def decide(self, ctx: PolicyContext) -> Any:
        """Not a decision."""
        return GOOD


class NoReason(Polite):
    """Does not say why."""

    def decide(self, ctx: PolicyContext) -> Any:
        """An empty reason."""
        return decided(ctx, reason=" ")


class OutOfBounds(Polite):
    """Ten times the learning rate."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A lever has bounds."""
        return decided(ctx, Remedy("faster", Levers(gamma=10.0)))


class Fraction(Polite):
    """Half a retry."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A lever that counts."""
        return decided(ctx, Remedy("retry", Levers(tool_retries=1.5)))  # type: ignore[arg-type]


class UnknownLever(Polite):
    """There is no such lever."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A misspelt one."""
        return decided(ctx, Remedy("slow", Levers(learning_rate=0.5)))  # type: ignore[call-arg]


class UnknownSignal(Polite):
    """There is no such signal."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A misspelt one."""
        return decided(ctx, reason=f"the reward is {ctx.signal('reward_men')[-1]}")


class ChangesNothing(Polite):
    """Means to wait."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A remedy without a lever."""
        return decided(ctx, Remedy("wait"))


class SameAgain(Polite):
    """Would go back into the same fault."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A rollback alone."""
        return decided(ctx, Remedy("back", rollback=True))


class SkipsOnly(Polite):
    """Leaves out batches of a run that is not rolled back."""

    def decide(self, ctx: PolicyContext) -> Any:
        """Skipping belongs to a rollback."""
        return decided(ctx, Remedy("skip", Levers(lr_scale=0.5), skip_batches=2))


class AsksAboutNothing(Polite):
    """Asks a person without a proposal."""

    def decide(self, ctx: PolicyContext) -> Any:
        """There is nothing to approve."""
        return Decision(None, "what now?", ask=True)


class ListAsState(Polite):
    """Keeps a list in the state of its decision."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A state is pairs of plain values."""
        return Decision(None, "wait", (("seen", [1, 2]),))  # type: ignore[arg-type]


class Hangs(Polite):
    """Waits for something that never comes."""

    def decide(self, ctx: PolicyContext) -> Any:
        """Longer than any limit here."""
        time.sleep(20)
        return WAIT


class NeverEnds:
    """Always has another remedy."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A new name each time."""
        return Decision(Remedy(f"slow_{len(ctx.tried)}", Levers(lr_scale=0.5)), "slower")


class NeedsPast(Polite):
    """Takes a snapshot for granted."""

    def decide(self, ctx: PolicyContext) -> Any:
        """There may be none."""
        return decided(ctx, reason=f"the last snapshot is of step {max(ctx.snapshots)}")


class Writes(Polite):
    """Writes into its context."""

    def decide(self, ctx: PolicyContext) -> Any:
        """By force."""
        object.__setattr__(ctx, "budget_left", 0)
        return decided(ctx)


class Remembers:
    """Keeps a count where nobody else sees it."""

    def __init__(self) -> None:
        self.asked = 0

    def decide(self, ctx: PolicyContext) -> Any:
        """Another answer every time."""
        self.asked += 1
        return decided(ctx, Remedy("slow", Levers(lr_scale=max(0.01, 1 / (1 + self.asked)))))


class Random:
    """Tosses a coin."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A rate by chance."""
        return decided(ctx, Remedy("slow", Levers(lr_scale=random.uniform(0.1, 0.9))))


class ByHash:
    """Goes by the hash of a text, which is another one in every process."""

    def decide(self, ctx: PolicyContext) -> Any:
        """A rate by hash."""
        return decided(ctx, Remedy("slow", Levers(lr_scale=0.1 + (hash(ctx.diagnosis.code) % 1000) / 2000)))


class ObserveTakesNothing(Polite):
    """The outcome is not taken."""

    def observe(self) -> None:
        """Called with an outcome."""


class ObserveRaises(Polite):
    """Knows two outcomes."""

    def observe(self, outcome: Outcome) -> None:
        """Fails for the others."""
        {"resolved": 1, "mitigated": 2}[outcome.kind]


class StateWithoutLoad(Polite):
    """Saves and never loads."""

    def state_dict(self) -> dict[str, Any]:
        """A state for nobody."""
        return {}


class StateIsSet(Polite):
    """Keeps a set."""

    def state_dict(self) -> Any:
        """JSON has no sets."""
        return {"seen": {"RF-1"}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Never reached."""


class StateHasNumbersAsKeys(StateIsSet):
    """Keys would come back as text."""

    def state_dict(self) -> Any:
        """Counts by number."""
        return {"by_incident": {1: 2}}


class StateIsNaN(StateIsSet):
    """JSON has no NaN."""

    def state_dict(self) -> Any:
        """Nothing measured."""
        return {"best": float("nan")}


class StateGrows(StateIsSet):
    """Keeps every outcome."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def observe(self, outcome: Outcome) -> None:
        """Add one more."""
        self.seen.append(f"{outcome.code} {outcome.remedy} {outcome.kind} {outcome.reason}")

    def state_dict(self) -> Any:
        """All of them."""
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All of them again."""
        self.seen = list(state["seen"])


class LoadsNothing(Polite):
    """Forgets to load."""

    def __init__(self) -> None:
        self.asked = 0

    def decide(self, ctx: PolicyContext) -> Any:
        """Counts, and decides without the count."""
        self.asked += 1
        return decided(ctx)

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Leaves the count."""


class HalfAState(LoadsNothing):
    """Decides by a count that it does not save."""

    def decide(self, ctx: PolicyContext) -> Any:
        """The count decides."""
        self.asked += 1
        return decided(ctx, Remedy("slow", Levers(lr_scale=max(0.01, 1 / (1 + self.asked)))))

    def state_dict(self) -> dict[str, Any]:
        """Not the count."""
        return {"version": 1}


class MetricIsText(Polite):
    """Measures in words."""

    def metrics(self) -> Any:
        """Not a number."""
        return {"mood": "good"}


class MetricHasBadName(Polite):
    """Its name is no name of a metric."""

    def metrics(self) -> Any:
        """A blank in it."""
        return {"my metric": 1.0}


class SecondRaises:
    """Fails once its first remedy has not helped."""

    def decide(self, ctx: PolicyContext) -> Any:
        """The second remedy is looked up by a name that does not exist."""
        if any(tried.remedy == GOOD.name for tried in ctx.tried):
            return {"slowdown": GOOD}[GOOD.name]
        return decided(ctx)


class SecondOutOfBounds:
    """Its second remedy goes too far."""

    def decide(self, ctx: PolicyContext) -> Any:
        """Far beyond the bounds."""
        if [tried.remedy for tried in ctx.tried] == [GOOD.name]:
            return Decision(Remedy("faster", Levers(lr_scale=1e9)), "more of it")
        return decided(ctx)


class Misspelt(Polite):
    """Wants to know of outcomes."""

    def observes(self, outcome: Outcome) -> None:
        """Never called."""


class TruthValue(Polite):
    """A truth value for a lever."""

    def decide(self, ctx: PolicyContext) -> Any:
        """Freezes by a truth value."""
        return decided(ctx, Remedy("stop", Levers(freeze_policy=True)))
