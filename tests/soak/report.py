"""What a run has to say: one table, and whatever must not happen."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.soak.audit import Finding

_SHOWN = 5
_EVENTS_SHOWN = 12
_LATE_SECONDS = 10.0


@dataclass
class Outcome:
    """The figures of a run, and its findings."""

    title: str
    writes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    converged_seconds: list[float] = field(default_factory=list)
    slowest: Finding | None = None
    slowest_seconds: float = 0
    sweep_found: float = 0
    sweeping_processes: int = 0
    troubles: Sequence[str] = ()

    def number(self, kind: str) -> int:
        """How many findings there are of a kind."""
        return sum(finding.kind == kind for finding in self.findings)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, stale or applied twice, and nobody gave up."""
        return not self.findings and bool(self.converged_seconds)

    def table(self) -> str:
        """All figures, one a line."""
        kinds = ", ".join(f"{name} {number}" for name, number in sorted(self.faults.items()))
        took = [f"{seconds:.1f} s" for seconds in self.converged_seconds]
        converged = f"after {len(took)} rounds, within {', '.join(took) or 'no time'}"
        if self.slowest:
            converged += f"; the slowest was {self.slowest.client}"
        lines = {
            "changes committed": f"{self.writes['changes']:,} in {self.writes['committed']:,} transactions",
            "transactions rolled back": f"{self.writes['rolled back']:,}",
            "refused by the database": f"{self.writes['refused']:,}, and {self.writes['cut off']:,} cut off",
            "faults": f"{self.faults.total()}: {kinds}",
            "connects": f"{self.seen['connects']:,}",
            "resumes": f"{self.seen['resumes']:,}",
            "resyncs": f"{self.seen['resyncs']:,}",
            "polls": f"{self.seen['polls']:,} with news",
            "events applied": f"{self.seen['applied']:,}",
            "duplicates recognised": f"{self.seen['recognised']:,}",
            "back across an epoch": f"{self.seen['back across an epoch']:,}",
            "lost": str(self.number("lost")),
            "stale applied": str(self.number("stale")),
            "duplicates applied": str(self.number("duplicate")),
            "clients that gave up": str(self.number("ended")),
            "converged": converged,
            "sweep_found_total": f"{self.sweep_found:.0f} in {self.sweeping_processes} processes",
            "troubles in the log": str(len(self.troubles)),
        }
        width = max(map(len, lines))
        return "\n".join([self.title, *(f"  {name:<{width}}  {value}" for name, value in lines.items())])

    def details(self) -> str:
        """The first findings of each kind: which client, which row, what it has, what is stored, what it heard last.

        Also what the last client heard until it knew everything, if that took it long.
        """
        chosen = [
            finding
            for kind in ("ended", "stale", "duplicate", "lost")
            for finding in [each for each in self.findings if each.kind == kind][:_SHOWN]
        ]
        late = [self.slowest] if self.slowest and self.is_good and self.slowest_seconds > _LATE_SECONDS else []
        told = [_text(replace(finding, kind="late")) for finding in late] + [_text(finding) for finding in chosen]
        return "\n\n".join([*told, *(f"log: {line[:500]}" for line in self.troubles[:_SHOWN])])


def _text(finding: Finding) -> str:
    about = [event for event in finding.events if finding.row and finding.row in event]
    last = [*about, "...", *finding.events[-_EVENTS_SHOWN:]]
    return "\n".join([
        f"{finding.kind}: {finding.client}, row {finding.row}",
        f"  has     {finding.shown}",
        f"  stored  {finding.stored}",
        *(f"    {event}" for event in last),
    ])  # fmt: skip
