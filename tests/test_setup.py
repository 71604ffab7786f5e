"""What is installed is what the locks name, it works without a compiler, and a machine that lacks something says so."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = {name: ROOT / f".ci/locks/{name}.lock" for name in ("build", "run", "dev", "fuzz", "train", "zk")}
JS = Path("testnet/bench/js")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PIN = re.compile(
    r"^([A-Za-z0-9_.-]+)==([^ ]+) ; ([^\\]+)\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def read_lock(name: str) -> dict[str, set[str]]:
    """The versions a lock holds of each package."""
    pins: dict[str, set[str]] = {}
    for package, pinned, _, _ in PIN.findall(LOCKS[name].read_text("utf-8")):
        pins.setdefault(canonicalize_name(package), set()).add(pinned)
    return pins


def list_declared(lock: str) -> list[Requirement]:
    """What pyproject.toml asks for and this lock or an earlier one must hold."""
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    declared = {
        "build": groups["build"] + PROJECT["build-system"]["requires"],
        "run": project["dependencies"] + project["optional-dependencies"]["testnet"],
        "dev": groups["dev"] + project["optional-dependencies"]["test"],
        "fuzz": groups["fuzz"],
        "train": project["optional-dependencies"]["train"],
        "zk": project["optional-dependencies"]["zk"],
    }
    return [Requirement(text) for text in declared[lock]]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_pins_with_hashes_and_nothing_else(lock: str) -> None:
    text = LOCKS[lock].read_text("utf-8")

    assert [line for line in PIN.sub("", text).splitlines() if line and not line.startswith("#")] == []
    assert "://" not in text
    assert len(read_lock(lock)) > 5 or set(read_lock(lock)) <= {"atheris", "ezkl"}


def test_each_lock_only_adds_to_the_ones_before() -> None:
    names = [name for lock in LOCKS for name in read_lock(lock)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_keep_up_with_the_project(lock: str) -> None:
    pins = {name: pinned for each in LOCKS for name, pinned in read_lock(each).items()}

    behind = [
        str(wanted)
        for wanted in list_declared(lock)
        if not all(wanted.specifier.contains(pinned) for pinned in pins.get(canonicalize_name(wanted.name), {"none"}))
    ]

    assert behind == [], "run `make lock`"


def test_what_runs_here_is_what_the_locks_name() -> None:
    pins = {name: pinned for lock in ("build", "run", "dev") for name, pinned in read_lock(lock).items()}

    assert {name: version(name) for name, pinned in pins.items() if version(name) not in pinned} == {}


# docs/decisions/0001: libp2p asks for a fastecdsa that needs a compiler and gets one that does not.


def test_libp2p_still_asks_for_the_fastecdsa_we_replace() -> None:
    wanted = [Requirement(text) for text in requires("libp2p") or [] if text.startswith("fastecdsa")]

    # When this fails, libp2p has moved: the override, --no-deps and the decision may go.
    assert [str(each.specifier) for each in wanted] == ["==2.3.2"]
    assert version("fastecdsa") == "4.0.0"


def test_a_p256_key_made_by_libp2p_signs_and_verifies_with_the_replaced_fastecdsa() -> None:
    from fastecdsa import ecdsa
    from libp2p.crypto import ecc, key_exchange

    pair = ecc.create_new_key_pair("P-256")
    secret, point = pair.private_key.impl, pair.public_key.impl  # type: ignore[attr-defined]
    independent = ec.derive_private_key(secret, ec.SECP256R1())

    r, s = ecdsa.sign(b"a message", secret)
    theirs = decode_dss_signature(independent.sign(b"a message", ec.ECDSA(hashes.SHA256())))

    numbers = independent.public_key().public_numbers()
    assert (numbers.x, numbers.y) == (point.x, point.y)
    independent.public_key().verify(encode_dss_signature(r, s), b"a message", ec.ECDSA(hashes.SHA256()))
    assert ecdsa.verify(theirs, b"a message", point)
    assert not ecdsa.verify((r, s), b"another message", point)
    assert callable(key_exchange.create_ephemeral_key_pair)


def test_writing_p256_keys_is_what_the_replaced_fastecdsa_cannot_do_for_libp2p() -> None:
    from libp2p.crypto import ecc

    pair = ecc.create_new_key_pair("P-256")

    # Version 4 made these instance methods and renamed export_key. Only SECIO calls them, which our hosts never offer.
    with pytest.raises(TypeError):
        pair.public_key.to_bytes()
    with pytest.raises(AttributeError):
        pair.private_key.to_bytes()


def test_our_hosts_never_reach_fastecdsa() -> None:
    script = """
import fastecdsa.ecdsa, fastecdsa.keys, fastecdsa.encoding.sec1 as sec1, trio, libp2p.crypto.ecc as ecc

def reached(*arguments, **named):
    raise SystemExit("fastecdsa was reached")

for module, name in ((ecc, "ECCPublicKey"), (ecc, "ECCPrivateKey"), (ecc, "create_new_key_pair"),
                     (fastecdsa.keys, "gen_private_key"), (fastecdsa.keys, "get_public_key"),
                     (fastecdsa.ecdsa, "sign"), (fastecdsa.ecdsa, "verify"), (sec1, "SEC1Encoder")):
    setattr(module, name, reached)

from p2p.doors import HostLimits
from p2p.host import open_host

def opened(seed):
    return open_host(bytes([seed]) * 32, "127.0.0.1", 0, HostLimits(), *[lambda *what: None] * 3)

async def meet():
    async with trio.open_nursery() as nursery, opened(1) as one, opened(2) as two:
        nursery.start_soon(one.accept_forever)
        with trio.fail_after(20):
            met = await two.dial(one.node, one.addresses)
        nursery.cancel_scope.cancel()
    print("met" if met else "missed")

trio.run(meet)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert (run.stdout, run.returncode) == ("met\n", 0), run.stderr


def test_every_js_package_has_a_pin_and_a_hash() -> None:
    wanted = json.loads((ROOT / JS / "package.json").read_text("utf-8"))["dependencies"]
    packages = json.loads((ROOT / JS / "package-lock.json").read_text("utf-8"))["packages"]

    assert packages.pop("")["dependencies"] == wanted
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert not any("resolved" in package for package in packages.values())  # whatever registry npm is told of


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """A checkout in a folder with a space in its name, and `bin`: the few programs of a machine without Python."""
    checkout = tmp_path / "a checkout"
    (checkout / ".ci").mkdir(parents=True)
    shutil.copytree(ROOT / ".ci/locks", checkout / ".ci/locks")
    shutil.copy(ROOT / ".ci/setup", checkout / ".ci/setup")
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / JS).mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / JS / name, checkout / JS / name)
    (tmp_path / "bin").mkdir()
    for name in ("cat", "cut", "dirname", "flock", "mkdir", "rm", "sed", "sh", "sha256sum", "uname"):
        where = shutil.which(name)
        assert where is not None
        (tmp_path / "bin" / name).symlink_to(where)
    return tmp_path


def run_setup(machine: Path, tier: str = "dev", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(machine / "a checkout/.ci/setup"), tier],
        env={"PATH": str(machine / "bin"), "HOME": str(machine), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def place_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('sh')}\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def test_a_machine_without_python_gets_one_clear_line(bare_machine: Path) -> None:
    ended = run_setup(bare_machine)

    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "set-up: needs Python 3.11, 3.12 or 3.13 and found none. On Debian or Ubuntu: apt install python3 python3-venv"
    ]
    assert not (bare_machine / "a checkout/.venv").exists()


def test_a_python_without_venv_gets_one_clear_line(bare_machine: Path) -> None:
    place_program(
        bare_machine / "bin/python3",
        'case "$*" in *"import ensurepip"*) exit 1 ;; *print*) echo 3.12 ;; esac',
    )

    ended = run_setup(bare_machine)

    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "set-up: Python 3.12 is here, but its venv module is not. On Debian or Ubuntu: apt install python3.12-venv"
    ]


def test_a_python_named_by_hand_must_fit(bare_machine: Path) -> None:
    place_program(bare_machine / "bin/python2", "exit 1")

    ended = run_setup(bare_machine, ROLEMESH_PYTHON="python2")

    assert (ended.returncode, ended.stderr) == (
        1,
        "set-up: ROLEMESH_PYTHON=python2 is not a Python 3.11, 3.12 or 3.13\n",
    )


def place_recording_python(machine: Path) -> Path:
    """A `python3` whose venvs record what they are asked to do in `calls`; `broken` makes its pip fail."""
    recorder = f"""echo "$@" >>'{machine}/calls'
case "$*" in
*" venv "*) for last; do :; done; mkdir -p "$last/bin"; cat "$0" >"$last/bin/python"
    cat "$0" >"$last/bin/rolemesh"; {shutil.which("chmod")} +x "$last/bin/python" "$last/bin/rolemesh" ;;
*install*) [ ! -e '{machine}/broken' ] ;;
esac"""
    place_program(machine / "bin/python3", recorder)
    return machine / "calls"


def test_set_up_installs_with_hashes_once_and_then_only_compares(bare_machine: Path) -> None:
    calls = place_recording_python(bare_machine)

    first = run_setup(bare_machine)
    installs = [line for line in calls.read_text().splitlines() if " install " in line]
    calls.unlink()
    second = run_setup(bare_machine)
    lesser = run_setup(bare_machine, "run")

    assert first.returncode == 0, first.stderr
    assert all("--no-deps" in line and "--no-build-isolation" in line for line in installs)
    locked = [line for line in installs if "--editable" not in line]
    assert len(locked) == 3
    assert all("--require-hashes" in line and "--only-binary :all:" in line for line in locked)
    assert (second.returncode, second.stdout, lesser.returncode, lesser.stdout) == (0, "", 0, "")
    assert not calls.exists()


def test_a_set_up_that_broke_off_starts_from_nothing_again(bare_machine: Path) -> None:
    calls = place_recording_python(bare_machine)
    (bare_machine / "broken").touch()

    broken = run_setup(bare_machine)
    (bare_machine / "broken").unlink()
    calls.unlink()
    repaired = run_setup(bare_machine)

    assert (broken.returncode, "pip failed" in broken.stderr) == (1, True)
    assert repaired.returncode == 0, repaired.stderr
    assert "-m venv --clear" in calls.read_text()


@pytest.mark.parametrize("changed", [".ci/locks/run.lock", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed(bare_machine: Path, changed: str) -> None:
    calls = place_recording_python(bare_machine)
    run_setup(bare_machine)
    calls.unlink()
    with (bare_machine / "a checkout" / changed).open("a") as file:
        file.write("# one more line\n")

    assert run_setup(bare_machine).returncode == 0
    assert "--editable" in calls.read_text()
    assert "venv --clear" not in calls.read_text()


def test_a_checkout_that_moved_is_set_up_again(bare_machine: Path) -> None:
    calls = place_recording_python(bare_machine)
    run_setup(bare_machine)
    calls.unlink()
    os.rename(bare_machine / "a checkout", bare_machine / "elsewhere")
    os.mkdir(bare_machine / "a checkout")
    os.rename(bare_machine / "elsewhere", bare_machine / "a checkout/inner")

    ended = subprocess.run(
        [str(bare_machine / "a checkout/inner/.ci/setup"), "dev"],
        env={"PATH": str(bare_machine / "bin"), "HOME": str(bare_machine)},
        capture_output=True,
        timeout=60,
    )

    assert ended.returncode == 0
    assert "venv --clear" in calls.read_text()


def place_node(machine: Path, version: str = "20.1.0") -> Path:
    """A Node.js of that version, and an npm that records what it is asked; `offline` makes it fail."""
    place_program(machine / "bin/node", f"[ {version.split('.')[0]} -ge 20 ]")
    place_program(
        machine / "bin/npm",
        f"""echo "$@" >>'{machine}/npm-calls'; [ ! -e '{machine}/offline' ] && mkdir -p "$3/node_modules" """,
    )
    return machine / "npm-calls"


def test_set_up_installs_the_js_packages_once_where_node_is_there(bare_machine: Path) -> None:
    place_recording_python(bare_machine)
    calls = place_node(bare_machine)

    first = run_setup(bare_machine)
    installs = calls.read_text().splitlines()
    calls.unlink()
    second = run_setup(bare_machine)

    assert first.returncode == 0, first.stderr
    assert len(installs) == 1
    assert installs[0].startswith(f"ci --prefix {JS} --ignore-scripts ")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert not calls.exists()


def test_a_changed_js_lock_is_installed(bare_machine: Path) -> None:
    place_recording_python(bare_machine)
    calls = place_node(bare_machine)
    run_setup(bare_machine)
    calls.unlink()
    with (bare_machine / "a checkout" / JS / "package-lock.json").open("a") as file:
        file.write("\n")

    assert run_setup(bare_machine).returncode == 0
    assert calls.read_text().startswith("ci ")


def test_nodes_alone_need_no_js_packages(bare_machine: Path) -> None:
    place_recording_python(bare_machine)
    calls = place_node(bare_machine)

    assert run_setup(bare_machine, "run").returncode == 0
    assert not calls.exists()


def test_an_npm_that_fails_is_loud_and_stops_nothing(bare_machine: Path) -> None:
    place_recording_python(bare_machine)
    calls = place_node(bare_machine)
    (bare_machine / "offline").touch()

    failed = run_setup(bare_machine)
    (bare_machine / "offline").unlink()
    again = run_setup(bare_machine)

    assert failed.returncode == 0
    assert "NO TESTS AGAINST js-libp2p: npm failed" in failed.stderr
    assert (bare_machine / "a checkout/.venv/bin/rolemesh").exists()
    assert (again.returncode, again.stderr, len(calls.read_text().splitlines())) == (0, "", 2)


@pytest.mark.parametrize("version", [None, "18.20.0"])
def test_without_a_fitting_node_set_up_says_what_will_be_missing(bare_machine: Path, version: str | None) -> None:
    place_recording_python(bare_machine)
    if version is not None:
        place_node(bare_machine, version)

    ended = run_setup(bare_machine)

    assert ended.returncode == 0
    assert "NO TESTS AGAINST js-libp2p: they need Node.js 20 or later with npm" in ended.stdout
    assert not (bare_machine / "npm-calls").exists()
