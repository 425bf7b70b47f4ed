"""The names of the topics and of the schema subjects."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topics:
    """The topic names of one ledger, each with the ledger's prefix.

    Subjects in the registry carry no prefix: ledgers that share a broker share their schemas.
    """

    prefix: str = ""

    @property
    def intents(self) -> str:
        return f"{self.prefix}payments.intents"

    @property
    def journal(self) -> str:
        return f"{self.prefix}ledger.journal"

    @property
    def relay(self) -> str:
        return f"{self.prefix}ledger.relay"

    @property
    def quarantine(self) -> str:
        return f"{self.prefix}payments.quarantine"

    @property
    def breaks(self) -> str:
        return f"{self.prefix}ledger.breaks"

    @property
    def frame(self) -> str:
        return f"{self.prefix}ledger.frame"

    @property
    def checkpoints(self) -> str:
        return f"{self.prefix}audit.checkpoints"

    @property
    def outbox(self) -> str:
        """The positions of the outbox's relay."""
        return f"{self.prefix}outbox.relay"

    def name_events(self, family: str) -> str:
        """Return the topic of a family's events."""
        return f"{self.prefix}{family}.events"

    def group(self, agent: str) -> str:
        """Return the consumer group of an agent, such as ledgerline-posting."""
        return f"{self.prefix}ledgerline-{agent}"


# subject -> (schema file under avro/, compatibility level)
SUBJECTS: dict[str, tuple[str, str]] = {
    "payments.intents-value": ("payments/payment_intent.avsc", "BACKWARD_TRANSITIVE"),
    "payments.quarantine-value": ("payments/quarantined.avsc", "FULL_TRANSITIVE"),
    "ledger.journal-value": ("ledger/journal_record.avsc", "FULL_TRANSITIVE"),
    "ledger.frame-value": ("ledger/frame_fact.avsc", "FULL_TRANSITIVE"),
    "ledger.relay-value": ("ledger/relay_checkpoint.avsc", "FULL_TRANSITIVE"),
    "ledger.breaks-value": ("reconciliation/break.avsc", "FULL_TRANSITIVE"),
    "audit.checkpoints-value": ("audit/audit_checkpoint.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.ScheduleCreated": ("schedule/schedule_created.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.ScheduleChanged": ("schedule/schedule_changed.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.SchedulePaused": ("schedule/schedule_paused.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.ScheduleResumed": ("schedule/schedule_resumed.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.ScheduleEnded": ("schedule/schedule_ended.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.OccurrenceSent": ("schedule/occurrence_sent.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.OccurrencePosted": ("schedule/occurrence_posted.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.OccurrenceRefused": ("schedule/occurrence_refused.avsc", "FULL_TRANSITIVE"),
    "schedule.events-ledgerline.schedule.OccurrenceSkipped": ("schedule/occurrence_skipped.avsc", "FULL_TRANSITIVE"),
    "notification.events-ledgerline.notification.WebhookDisabled": (
        "notification/webhook_disabled.avsc",
        "FULL_TRANSITIVE",
    ),
}
