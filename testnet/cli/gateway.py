"""`rolemesh gateway`: the network over HTTP, for programs that speak Open Inference Protocol v2 or OpenAI's API."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli import gateway_key
from testnet.cli.arguments import Json, Network, open_network
from testnet.cli.output import CommandError, ExitCode, Output
from testnet.cli.passphrases import PassphraseFile, open_with_passphrase

if TYPE_CHECKING:
    from roles.client import Client
    from roles.gateway.run import Plan

LISTEN = "127.0.0.1:8080"

app = App(
    name="gateway",
    help="The network over HTTP, for programs that speak Open Inference Protocol v2 or OpenAI's API.",
    help_epilogue="Examples:\n\n  rolemesh gateway run\n\n  curl http://127.0.0.1:8080/v2/models/digits\n\n"
    "  rolemesh gateway key add web --limit 20 --data ./wallet\n\n"
    "  rolemesh gateway run --data ./wallet --listen 0.0.0.0:8080",
)
app.command(gateway_key.app)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh gateway run\n\n"
    "  rolemesh gateway run --network .rolemesh/dev-42 --listen 127.0.0.1:0 --json\n\n"
    "  rolemesh gateway run --data ./wallet --timeout 10s\n\n"
    "  rolemesh gateway run --data ./owner --app chat"
)
def run(
    *,
    network: Network = None,
    data: Annotated[Path | None, Parameter(name="--data")] = None,
    listen: str = LISTEN,
    timeout: str = "30s",
    require_key: Annotated[bool, Parameter(negative="")] = False,
    serves: Annotated[str, Parameter(name="--app")] = "",
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Serve the network over HTTP until Ctrl-C or SIGTERM, and pay for what is asked.

    /v2 speaks Open Inference Protocol v2 with raw tensors, /v1 OpenAI's completions with models that make text; /livez,
    /readyz and /metrics tell how it is. Each answer names its receipt. X-Verify says how an answer is checked (none,
    spot, quorum), X-Max-Fee what it may cost, in grains.

    Parameters
    ----------
    data
        Data directory of the client that asks and pays; a client of the network's own unless given.
    listen
        Address and port; port 0 for any. On a loopback address every program on this machine may spend the client's
        money; beyond it, only whoever holds a key (`rolemesh gateway key add`) or, with --app, shows a pass.
    timeout
        How long a request may take: 30s, 500ms, 1m; at most 2m.
    require_key
        Ask for a key on a loopback address too: behind a proxy that others reach.
    serves
        An app on the ledger, whose owner or server this client is: only who shows a pass to it is answered
        (`X-App-Pass: rmp_…`), as often as the pass allows, and what that was used for is reported to the ledger.
    """
    from roles.gateway.run import Plan
    from testnet.cli.infer import open_running, read_timeout

    output = Output(json)
    place = read_listen(listen, may_be_public=True)
    timeout_s = read_timeout(timeout) / 1_000
    if data is not None and not (data / "node.json").is_file():
        hint = "make one with `rolemesh node init --role client`, or leave --data out"
        raise CommandError("no_node", f"no node in {data}", hint, ExitCode.CONFIG)
    directory = data if data is not None else open_running(*open_network(network))
    passphrase = open_with_passphrase(directory, output, passphrase_file)
    output.note(f"joining as the client in {directory}; Ctrl-C ends it")
    _serve(Plan(directory, place, timeout_s, passphrase, require_key, serves), output)


def _serve(plan: "Plan", output: Output) -> None:
    import trio

    from protocol.keys import format_account
    from roles.gateway.run import run_until_signal
    from testnet.ask import LOG_NAME, logging_to

    def announce(url: str, client: "Client") -> None:
        account = format_account(client.node.plan.keys.account.public)
        output.say(f"listening: OpenAI {url}/v1, Open Inference Protocol {url}/v2; {account} pays")
        output.give(
            {"url": url, "openai": f"{url}/v1", "oip": f"{url}/v2", "directory": plan.directory, "account": account}
        )

    with logging_to(plan.directory / LOG_NAME):
        trio.run(run_until_signal, plan, announce)
    output.note("the gateway has ended")


def read_listen(text: str, may_be_public: bool = False) -> tuple[str, int]:
    """An address and port, of loopback unless others may reach it. Raises CommandError."""
    from roles.config import parse_http

    try:
        return parse_http(text, may_be_public)
    except ValueError as error:
        raise CommandError("bad_address", str(error), f"write it like {LISTEN}", ExitCode.USAGE) from error
