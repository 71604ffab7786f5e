"""What the faults of a run did to its traffic: answers meanwhile, the longest pause, how soon it went on afterwards."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from testnet.events import Tally
from testnet.report import Report

FAULTS_SHOWN = 20


def add_faults(report: Report, tally: Tally) -> None:
    """A line for each fault of the run; all of them stand in the fields."""
    attested_ms = sorted(tally.released_ms.values())
    found = [measure_fault(fault, attested_ms) for fault in tally.faults.values()]
    for fault in found[:FAULTS_SHOWN]:
        report.add("fault", format_fault(fault))
    if len(found) > FAULTS_SHOWN:
        report.add("", f"and {len(found) - FAULTS_SHOWN} more in the report")
    if found:
        report.fields["faults"] = found


def measure_fault(fault: Mapping[str, Any], attested_ms: Sequence[int]) -> dict[str, Any]:
    """Traffic during and after one fault. `attested_ms` are the times at which requests were attested, sorted.

    `pause_ms` is the longest stretch without an answer that began before its end; `recovery_ms` the time from its end
    to the next answer, None if there was none, or if it never ended.

    >>> found = measure_fault({"fault": "stall-0", "time_ms": 10, "ended_ms": 30}, [5, 12, 14, 41, 50])
    >>> found["answered"], found["pause_ms"], found["recovery_ms"]
    (2, 27, 11)
    """
    start_ms, end_ms = int(fault["time_ms"]), int(fault["ended_ms"])
    until_ms = end_ms or max([start_ms, *attested_ms[-1:]])
    first, last = bisect_left(attested_ms, start_ms), bisect_left(attested_ms, until_ms)
    times = [start_ms, *attested_ms[first : last + 1]]
    if last == len(attested_ms):
        times.append(until_ms)
    told = {key: value for key, value in fault.items() if key not in ("time_ms", "node", "name", "ended_ms")}
    return {
        **told,
        "started_ms": start_ms,
        "ended_ms": end_ms or None,
        "answered": last - first,
        "pause_ms": max((after - before for before, after in pairwise(times)), default=0),
        "recovery_ms": attested_ms[last] - end_ms if end_ms and last < len(attested_ms) else None,
    }


def format_fault(fault: Mapping[str, Any]) -> str:
    """One line for people."""
    lasted = f"{(fault['ended_ms'] - fault['started_ms']) / 1_000:.1f} s" if fault["ended_ms"] else "to the end"
    recovery = fault["recovery_ms"]
    after = "no request after it" if recovery is None else f"the next {recovery / 1_000:.1f} s after its end"
    return (
        f"{fault['fault']} ({fault['kind']}, {lasted}): {fault['answered']} attested meanwhile, "
        f"longest pause {fault['pause_ms'] / 1_000:.1f} s, {after}"
    )
