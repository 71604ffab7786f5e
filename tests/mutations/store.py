"""What a store keeps, gives and fetches. Issue 6, "Store"."""

from tests.mutations.mutation import Mutation

RECEIVING = ("tests/roles/store/test_receiving.py",)
GATHERING = ("tests/roles/test_gathering.py",)
SERVER = ("tests/roles/test_block_server.py",)
COLLECTING = ("tests/roles/store/test_collecting.py",)
FILES = ("tests/roles/store/test_import_export.py",)

MUTATIONS = (
    Mutation(
        "roles/store/receiving.py",
        "bad = [cid for cid, data in blocks if compute_digest(data) != cid.digest]",
        "bad: list[Cid] = []",
        RECEIVING,
        "a block is hashed before it is written",
    ),
    Mutation(
        "roles/store/receiving.py",
        "if largest > self._store.bytes_max:",
        "if False:",
        RECEIVING,
        "what is larger than the quota is refused at its root",
    ),
    Mutation(
        "roles/store/receiving.py",
        "known = self._store.index.touch(self._put, [cid.digest for cid in cids], get_now_ms())",
        "known: set[bytes] = set()",
        RECEIVING,
        "what is here is not asked for again",
    ),
    Mutation(
        "roles/store/receiving.py",
        "if reception is not None and is_useless:",
        "if reception is not None:",
        RECEIVING,
        "what came before it was given up stays for the next try",
    ),
    Mutation(
        "roles/store/files.py",
        "if compute_digest(data) != digest:",
        "if False:",
        (*RECEIVING, *FILES, *COLLECTING),
        "a damaged block is never given",
    ),
    Mutation(
        "roles/store/collecting.py",
        "if changed != store.index.get_pins_changed():",
        "if changed == -1:",
        COLLECTING,
        "a pin made while a collection goes on is marked",
    ),
    Mutation(
        "roles/store/index.py",
        '"SELECT digest, size FROM blocks WHERE put NOT IN (SELECT id FROM puts) "',
        '"SELECT digest, size FROM blocks WHERE 1 "',
        (*COLLECTING, *RECEIVING),
        "a collection takes nothing of a put that goes on",
    ),
    Mutation(
        "roles/gathering.py",
        'steps += self._bar(peer, provider, f"sent other bytes than {bad[0]}")',
        "provider.has_lied = False",
        GATHERING,
        "who sends other bytes is blamed and left alone",
    ),
    Mutation(
        "roles/gathering.py",
        "if asked.is_late or now_ms - asked.since_ms < limit_ms or not self._has_others(asked):",
        "if True:",
        GATHERING,
        "what a slow peer was asked for is asked of others",
    ),
    Mutation(
        "roles/gathering.py",
        "provider.window = min(ASKS_MAX, provider.window + 1)",
        "provider.window = provider.window + 1",
        GATHERING,
        "one peer has only so many want-lists to answer",
    ),
    Mutation(
        "roles/gathering.py",
        "if want.dag_bytes is not None and held.dag_bytes != want.dag_bytes:",
        "if False:",
        GATHERING,
        "a node that lies about what is below it is not followed",
    ),
    Mutation(
        "roles/gathering.py",
        "if want.depth + 1 >= DEPTH_MAX:",
        "if False:",
        GATHERING,
        "folders inside each other are not followed without end",
    ),
    Mutation(
        "roles/gathering.py",
        "if self._rounds == ROUNDS_MAX:",
        "if False:",
        GATHERING,
        "what nobody has is given up",
    ),
    Mutation(
        "roles/block_server.py",
        "self._queues[peer] = queue  # behind all others",
        "self._queues[peer] = queue\n                self._queues.move_to_end(peer, last=False)",
        SERVER,
        "each peer is answered in its turn",
    ),
    Mutation(
        "roles/block_server.py",
        "if taken >= PER_PEER_MAX or self._waiting >= WAITING_MAX:",
        "if self._waiting >= WAITING_MAX:",
        SERVER,
        "one peer has only so many want-lists here",
    ),
    Mutation(
        "roles/block_server.py",
        "if sum(map(len, blocks)) + len(data) > bytes_max:",
        "if False:",
        RECEIVING,
        "an answer is no larger than it may be",
    ),
)
