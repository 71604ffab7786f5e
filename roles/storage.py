"""Keeps what others put: its blocks, like those of every node, are served by the node itself (`block_server`)."""

from roles.role import Effect, Event, Role


class Storage(Role):
    name = "storage"

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        return []
