"""What a run with --app shows: an app is registered, served by a gateway, a pass to it bought, used up and counted."""

import json
import threading
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.ledger.app_records import Tier
from protocol.types import GRAINS_PER_ROLE
from testnet.cli.ledger import read_state
from testnet.cli.node_orders import find_height, submit

if TYPE_CHECKING:
    import numpy as np

    from testnet.launch import Launcher, Program

APP, TITLE = "demo", "the model under load, three requests at a time"
TIER = Tier("hour", 2 * GRAINS_PER_ROLE, 0, 3_600_000, 3)
FEE_BP = 1_000
LISTEN = ("127.0.0.1", 0)
GATEWAY = "app-gateway"
LOOK_S = 0.5
ANSWER_S_MAX = 30.0


class Storefront:
    """One pass from its app's registration to the last request under it. `tick` never waits: it goes on by one step.

    `statuses` is what each request was answered with, once all are: as many as the pass allows, and one more.
    """

    def __init__(self, launcher: "Launcher", owner: Path, buyer: Path, model: str, row: "np.ndarray[Any, Any]") -> None:
        self._launcher = launcher
        self._owner = owner
        self._buyer = buyer
        self._model = model
        self._row = row
        self._token = ""
        self._left = [self._register, self._open, self._buy, self._use, self._look]
        self._look_s = 0.0  # when to look again
        self._program: Program | None = None
        self._user: threading.Thread | None = None
        self._answers: list[int] = []
        self.statuses: tuple[int, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether what was asked for is on the ledger."""
        return not self._left

    def tick(self) -> None:
        """Go one step on, if it is time. Raises CommandError when the ledger refuses an order."""
        if self._left and time.monotonic() >= self._look_s:
            self._look_s = time.monotonic() + LOOK_S
            if self._left[0]():
                self._left.pop(0)
                self._token = ""

    def _register(self) -> bool:
        from protocol.ledger.apps import RegisterApp
        from roles.keystore import get_key_path, read_public
        from testnet.gateway_program import plan_gateway

        if not self._token:
            self._program = plan_gateway(self._launcher.directory, LISTEN, APP, GATEWAY)
            server = read_public(get_key_path(Path(self._program.arguments[0]), "account"))
            self._token = submit(self._owner, RegisterApp(APP, TITLE, (TIER,), (server,), FEE_BP))
            return False
        return find_height(self._owner, self._token, "an app") is not None

    def _open(self) -> bool:
        """When the buyer's node has the app, others have it too."""
        if APP not in read_state(self._buyer)[0].apps:
            return False
        assert self._program is not None
        self._launcher.start([self._program])
        return True

    def _buy(self) -> bool:
        from protocol.ledger.apps import BuyPass

        if not self._token:
            self._token = submit(self._buyer, BuyPass(APP, TIER, 1))
            return False
        return find_height(self._buyer, self._token, "a pass") is not None

    def _use(self) -> bool:
        """A thread asks, since an answer takes longer than a tick may."""
        from testnet.gateway_program import read_place

        if self._user is None:
            url = read_place(self._launcher.directory, GATEWAY)
            shown = make_token(self._buyer) if url else ""
            if shown:
                self._user = threading.Thread(target=self._ask_all, args=(url, shown), daemon=True)
                self._user.start()
            return False
        if self._user.is_alive():
            return False
        self.statuses = tuple(self._answers)
        return True

    def _look(self) -> bool:
        return read_state(self._owner)[0].apps[APP].requests >= self.statuses.count(HTTPStatus.OK)

    def _ask_all(self, url: str, shown: str) -> None:
        headers = {"X-App-Pass": shown, "Content-Type": "application/json"}
        status, described = fetch(f"{url}/v2/models/{self._model}", headers)
        if status != HTTPStatus.OK:
            self._answers.append(status)
            return
        row = {"shape": [1, *self._row.shape], "data": self._row.ravel().tolist()}
        body = json.dumps({"inputs": [{**json.loads(described)["inputs"][0], **row}]}).encode()
        for _ in range(TIER.quota + 1):
            self._answers.append(fetch(f"{url}/v2/models/{self._model}/infer", headers, body)[0])


def make_token(buyer: Path) -> str:
    """The token for the pass of a test network's node; empty while its ledger has none."""
    from protocol.ledger.apps import compute_pass_key
    from protocol.ledger.genesis import compute_chain_id
    from protocol.proofs.pass_file import format_token, sign_statement
    from roles.config import read_genesis
    from roles.keystore import get_place, read_key

    genesis = read_genesis(buyer)
    chain = compute_chain_id(genesis)
    account = read_key(buyer, "account", get_place(chain, genesis.name))
    held = read_state(buyer)[0].passes.get(compute_pass_key(APP, account.public))
    return "" if held is None else format_token(sign_statement(chain, held, account, held.until_ms))


def fetch(url: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of an answer; 0 when there is none."""
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S_MAX) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""
