"""The gateway's side of the counter, put together: who may, what came from where, what leaves, and how much."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from loket.approvals import OwnerApprovals
from loket.confidential import Confidential
from loket.config import Config
from loket.contracts import Policy, Principal, Provider
from loket.findings import Findings
from loket.home import Home
from loket.kernel.counter import Counter
from loket.kernel.registry import Registry
from loket.labelling import Labelling
from loket.leaving import Leaving
from loket.limits import HomeMeter, home_meter
from loket.marking import Marking
from loket.policy import HomePolicy, approved_rule, narrower
from loket.providers.vault import FileVault
from loket.roles import Users
from loket.stores import Stores
from loket.tokens import BiscuitTokens


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands around the counter, and the counter."""

    users: Users
    policy: HomePolicy
    approvals: OwnerApprovals
    labelling: Labelling
    leaving: Leaving
    limits: HomeMeter
    tokens: BiscuitTokens
    counter: Counter


def make_gate(
    home: Home,
    config: Config,
    stores: Stores,
    registry: Registry,
    *,
    vault: FileVault,
    llm: Provider,
    agents: Callable[[], Collection[str]],
    on_leak: Callable[[str, Mapping[str, str]], None],
    now: Callable[[], float],
    policy: Policy | None = None,
) -> Gate:
    """Put it together. `policy` stands in the place of the home's, for benchmarks; `on_leak` hears of canaries."""
    users = Users(stores.users, now)
    own = HomePolicy(home.policies, registry.all, members=users.standing, now=now)
    leaving = Leaving(
        config.redaction,
        vault_values=vault.values,
        key=vault.master.subkey("canaries"),
        agents=agents,
        cloud=lambda: bool(getattr(llm, "leaves", True)),
        on_leak=on_leak,
    )
    limits = home_meter(
        config,
        stores.database,
        stores.journal,
        now=now,
        roles_of=lambda principal: _roles(users, principal),
        cost_of=_dearest(llm),
    )
    findings = Findings(registry, stores.grants)
    labelling = Labelling(findings, Marking(Confidential(config.confidential)), findings.wants)
    approvals = _approvals(config, stores, registry, own, now)
    tokens = BiscuitTokens(now)
    counter = Counter(
        meter=limits,
        registry=registry,
        grants=stores.grants,
        policy=policy or own,
        labeller=labelling,
        tokens=tokens,
        journal=stores.journal,
        obligations=leaving.obligations(),
        approvals=approvals,
        now=now,
    )
    return Gate(users, own, approvals, labelling, leaving, limits, tokens, counter)


def _approvals(
    config: Config, stores: Stores, registry: Registry, policy: HomePolicy, now: Callable[[], float]
) -> OwnerApprovals:
    return OwnerApprovals(
        stores.database.approvals,
        stores.journal,
        capability=lambda name: registry.find(name).capability,
        rule=approved_rule,
        narrower=narrower,
        save_rule=policy.save_rule,
        now=now,
        timeout_s=config.approval_timeout_h * 3600,
        headless=config.approval_headless == "deny",
        most_open=config.approval_open,
    )


def _roles(users: Users, principal: Principal) -> Collection[str]:
    return users.standing(principal).roles


def _dearest(llm: Provider) -> Callable[[str, int], float | None]:
    """The most US dollars that so many tokens can cost with the models there are; None where nobody knows."""

    def cost(_capability: str, tokens: int) -> float | None:
        settings = getattr(llm, "settings", None)
        if settings is None:
            return None
        return tokens * max((max(one.price_in, one.price_out) for one in settings.ordered()), default=0.0) / 1e6

    return cost
