"""A storage node that accepts leases and does not care for them: what it has lost it does not fetch again."""

from roles.role import Effect, Event, Gather, Record
from roles.storage import Storage


class Forgetful(Storage):
    """Fetches a blob once. Says `blob.neglected` where an honest node would mend it."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        if not any(isinstance(effect, Record) and effect.name == "audit.lacking" for effect in effects):
            return effects
        kept: list[Effect] = [effect for effect in effects if not isinstance(effect, Gather)]
        return [*kept, Record("blob.neglected")]
