"""All audits of one certificate: which wait, which are counted. A function of the events, taken in their order."""

from __future__ import annotations

from datetime import datetime

from miner.live_risk.audit_events import AuditEvent, Drawn, Labelled, Said, Summed, TermsSet, WaitingAudit
from stage1.monitor.audit import Audit, needs_label
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms, after_audit


class AuditBook:
    """The audits of one certificate.

    An event that was taken already changes nothing when it is taken again.

    Args:
        state: before the first event.
        terms: before the first event.

    Attributes:
        state: of the audits that are counted.
        terms: that hold.
        waiting: audits that are not counted, by number, in the order of their requests.
        next_number: of the next audit.
    """

    def __init__(self, state: MonitorState, terms: MonitorTerms) -> None:
        self.state = state
        self.terms = terms
        self.waiting: dict[int, WaitingAudit] = {}
        self.next_number = 1

    def take(self, event: AuditEvent) -> None:
        """Take one event, and count every audit that need not wait any longer."""
        if isinstance(event, Drawn):
            if event.number >= self.next_number:
                self.waiting[event.number] = WaitingAudit(drawn=event)
                self.next_number = event.number + 1
        elif isinstance(event, TermsSet):
            self.terms = event.terms
            if not self.state.audits:
                self.state = MonitorState.fresh(self.state.certificate, event.terms)
        elif isinstance(event, Summed):
            self.state, self.terms, self.next_number = event.state, event.terms, event.next_number
            self.waiting = {one.drawn.number: one for one in event.waiting}
        elif (known := self.waiting.get(event.number)) is not None:
            if isinstance(event, Said) and known.said is None:
                self.waiting[event.number] = known.model_copy(update={"said": event})
            elif isinstance(event, Labelled) and known.label is None:
                self.waiting[event.number] = known.model_copy(update={"label": event.label})
        self._count(event.at)

    def summed(self, at: datetime) -> Summed:
        """Everything so far, as one event."""
        waiting = tuple(self.waiting.values())
        return Summed(at=at, state=self.state, terms=self.terms, waiting=waiting, next_number=self.next_number)

    def unasked(self) -> Drawn | None:
        """The oldest audit that Stage-2 has not been asked about and nobody has labelled."""
        return next((one.drawn for one in self.waiting.values() if one.said is None and one.label is None), None)

    def unlabelled(self, *, has_stage2: bool = True) -> list[WaitingAudit]:
        """Audits that wait for a person, the oldest first.

        Args:
            has_stage2: whether Stage-2 is asked first; if not, all that it has not been asked about wait for people.
        """
        waiting = [one for one in self.waiting.values() if one.label is None]
        return [one for one in waiting if self._asks(one) or (one.said is None and not has_stage2)]

    def flagged(self) -> list[WaitingAudit]:
        """Those of them that Stage-2 contradicts."""
        return [one for one in self.unlabelled() if one.said is not None and self._contradicts(one)]

    def _contradicts(self, one: WaitingAudit) -> bool:
        said = None if one.said is None else one.said.label
        hits = self.terms.shares.all_hits
        return needs_label(self.terms.risk, one.drawn.exit_label, said, confirm_hits=hits)

    def _asks(self, one: WaitingAudit) -> bool:
        return one.said is not None and (one.drawn.label_drawn or self._contradicts(one))

    def _count(self, at: datetime) -> None:
        """Count the oldest audits that are settled; a later one waits for all before it."""
        while self.waiting:
            one = next(iter(self.waiting.values()))
            if one.label is None and (one.said is None or self._asks(one)):
                return
            self.state = after_audit(self.state, self._settled(one), self.terms, at=at)
            del self.waiting[one.drawn.number]

    def _settled(self, one: WaitingAudit) -> Audit:
        drawn, said = one.drawn, None if one.said is None else one.said.label
        least = drawn.label_share or 1.0
        if said is None or self._contradicts(one):
            return Audit(drawn.exit_label, drawn.share, said, one.label, least_label_share=least)
        # Nobody was asked for what is labelled all the same: whoever chose it may have had a reason.
        label = one.label if drawn.label_drawn else None
        return Audit(drawn.exit_label, drawn.share, said, label, drawn.label_share, least)
