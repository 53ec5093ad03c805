# SPDX-License-Identifier: GPL-3.0-or-later
"""Of a scenario's log, steps and failures are shown, and no refusal that was asked for."""

import scenario_log

LOG = """INFO     [tamper > discovery] scenario test matrix: side_effect tamper.yml, verify refused.yml
INFO     [default > create] Executing
INFO     [default > create] Executed: Skipped (Skipping, instances already created.)
INFO     [tamper > side_effect] Executing
PLAY [A boot file changes] ****
TASK [Ask for a key] ****
fatal: [host1]: FAILED! =>
    msg: refused
...ignoring

TASK [Change the initrd] ****
changed: [host1]
INFO     [tamper > side_effect] Executed: Successful
INFO     [tamper > verify] Executing
TASK [Host is refused] ****
FAILED - RETRYING: [host1]: Host is refused (2 retries left).
[ERROR]: Task failed: it was attested
fatal: [host1]: FAILED! =>
    msg: attested

PLAY RECAP ****
ERROR    [tamper > verify] Executed: Failed"""


def test_steps_are_timed_by_name() -> None:
    times = iter([0.0, 1.0, 3.5, 4.0, 10.0, 20.0, 21.0])
    steps = scenario_log.Steps(lambda: next(times))
    assert [said for said in map(steps.line, LOG.splitlines()) if said] == [
        "--- default: create: skipped, 2.5 s",
        "    A boot file changes",
        "--- tamper: side_effect tamper.yml: successful, 6.0 s",
        "--- tamper: verify refused.yml: failed, 1.0 s",
    ]


def test_tasks_that_failed_are_kept_whole_and_forgiven_ones_are_not() -> None:
    failures = scenario_log.Failures()
    for line in LOG.splitlines():
        failures.line(line)
    (task,) = failures.last(5)
    assert task.startswith("TASK [Host is refused]")
    assert "msg: attested" in task


def test_long_failure_is_cut() -> None:
    failures = scenario_log.Failures()
    for line in ["TASK [x]", "fatal: [a]: FAILED! =>", *["    line"] * 500]:
        failures.line(line)
    (task,) = failures.last(1)
    assert len(task.splitlines()) == scenario_log.SHOWN_LINES
