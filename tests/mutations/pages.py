"""Pages over HTTP, and what the operator says. Issue 3, "A safe host"."""

from tests.mutations.mutation import Mutation

CONFIG = ("tests/roles/test_config.py",)
HEALTH = ("tests/roles/test_health.py",)
WATCH = ("tests/roles/test_watch.py",)

MUTATIONS = (
    Mutation(
        "roles/config.py",
        "(may_be_public or address.is_loopback)",
        "True",
        CONFIG,
        "pages are served on loopback alone",
    ),
    Mutation(
        "roles/health.py",
        "is_alive = vital.turn_s <= TURN_S_MAX",
        "is_alive = True",
        HEALTH,
        "/livez fails when the loop hangs",
    ),
    Mutation(
        "roles/health.py", "status = 503 if failed else 200", "status = 200", HEALTH, "/readyz fails when a check does"
    ),
    Mutation("roles/health.py", '"rolemesh_bans"', '"rolemesh_banned"', HEALTH, "names of metrics are pinned"),
    Mutation(
        "roles/health.py",
        'refused = [({"reason": reason}, count)',
        'refused = [({"reason": reason, "peer": reason}, count)',
        HEALTH,
        "no metric is labelled by peer",
    ),
    Mutation(
        "roles/watch.py",
        "refused=self.net.refusals(),",
        "refused={link.node.hex(): 1 for link in links},",
        WATCH,
        "no metric names a peer, whatever label it hides in",
    ),
    Mutation(
        "roles/http_server.py",
        "if self._open >= CONNECTIONS_MAX:",
        "if False:",
        HEALTH,
        "pages have only so many callers at once",
    ),
    Mutation(
        "roles/http_server.py",
        "with trio.move_on_after(REQUEST_S_MAX), contextlib",
        "with trio.move_on_after(3_600), contextlib",
        HEALTH,
        "who says nothing does not keep a page's slot",
    ),
    Mutation(
        "roles/http_server.py",
        "max_incomplete_event_size=REQUEST_BYTES_MAX",
        "max_incomplete_event_size=10**9",
        HEALTH,
        "a request for a page is bounded",
    ),
    Mutation("roles/http_server.py", 'if request.method != b"GET":', "if False:", HEALTH, "pages are only read"),
    Mutation(
        "roles/health.py",
        'Check("peers", peers >= least,',
        'Check("peers", True,',
        HEALTH,
        "a node without peers is not ready",
    ),
    Mutation("roles/control.py", "path.chmod(0o600)", "pass", WATCH, "only the owner may speak to a node"),
    Mutation(
        "roles/watch.py",
        ('guard.ban(subject, _parse_ban_s(request.get("for_s")) * 1_000, str(request.get("reason", "by hand")))'),
        "pass",
        WATCH,
        "`peers ban` bans",
    ),
    Mutation(
        "roles/watch.py",
        '_parse_ban_s(request.get("for_s")) * 1_000,',
        '_parse_ban_s(request.get("for_s")),',
        WATCH,
        "`peers ban --for` counts seconds",
    ),
    Mutation(
        "roles/watch.py",
        ('            case "peers.allow":\n                guard.allow(subject)'),
        ('            case "peers.allow":\n                pass'),
        WATCH,
        "`peers allow` lifts a ban and vouches",
    ),
    Mutation(
        "roles/watch.py",
        ('            case "peers.forget":\n                guard.forget(subject)'),
        ('            case "peers.forget":\n                pass'),
        WATCH,
        "`peers forget` takes back what was said",
    ),
    Mutation(
        "roles/watch.py",
        '"direction": "inbound" if link.is_inbound else "outbound",',
        '"direction": "inbound",',
        WATCH,
        "`peers ls` says who dialled",
    ),
    Mutation(
        "roles/watch.py",
        '"faults": round(guard.bans.get_faults(link.node, now_ms), 1),',
        '"faults": 0.0,',
        WATCH,
        "`peers ls` says what peers did",
    ),
    Mutation(
        "roles/watch.py",
        "            await net.guard.changed.wait()",
        "            await trio.sleep_forever()",
        WATCH,
        "a ban is on disk at once",
    ),
    Mutation(
        "roles/watch.py",
        ("            await _save_peers(plan, net.remember())\n\n\nasync"),
        ("            pass\n\n\nasync"),
        WATCH,
        "what is known of peers is written down when the node ends",
    ),
    Mutation(
        "roles/equipment.py",
        "memory=read_peers(plan.directory),",
        "",
        WATCH,
        "what was known of peers is read when the node starts",
    ),
)
