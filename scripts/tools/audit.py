"""Run ``pip-audit`` on this environment, and say so where it could look nothing up.

``pip-audit`` calls an environment sound of which it found no package at all, and ends with 1 both
for a vulnerability and for what stops it: its JSON tells.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

NOT_AUDITED = "not audited: no vulnerability service knows the packages, or none can be reached"


def main(program: str | None = None) -> None:
    """Print what was found; exit with 1 for a vulnerability, 0 where none is known or can be."""
    program = program or str(Path(sys.executable).with_name("pip-audit"))
    command = [program, "--format", "json", "--skip-editable", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        print(f"{NOT_AUDITED}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return
    known = [one for one in packages if "skip_reason" not in one]
    bad = [
        f"{one['name']} {one['version']}: {each['id']}, fixed in "
        f"{', '.join(each['fix_versions']) or 'no version'}"
        for one in known
        for each in one["vulns"]
    ]
    if bad:
        sys.exit("\n".join(["known vulnerabilities:", *bad]))
    skipped = len(packages) - len(known)
    print(
        f"{len(known)} packages have no known vulnerability, {skipped} could not be looked up"
        if known
        else NOT_AUDITED
    )


if __name__ == "__main__":
    main()
