"""`doctor`: looks at an app's connections and settings, and says what is wrong, why, and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from celeriac.bin.options import Shared, command, friendly_errors

#: Exit codes: all is well, something should be looked at, something does not work.
_CODES = {"ok": 0, "info": 0, "warning": 1, "error": 2}
_MARKS = {"ok": ("ok", "green"), "info": ("--", None), "warning": ("!!", "yellow"), "error": ("EE", "red")}


@command(name="doctor")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-t", "--timeout", type=click.FloatRange(min=0), default=1.0, show_default=True,
              help="Seconds that workers have for an answer.")  # fmt: skip
def main(shared: Shared, /, as_json: bool, timeout: float) -> None:
    """Check the app's connections, settings, queues and clocks.

    Exit code 0 when all is well, 1 when something should be looked at, 2 when something does not work. Passwords are
    not shown.
    """
    from celeriac.bin.checks import examine

    app = shared.load_app()
    with friendly_errors():
        from celeriac.app.find_app import import_tasks

        import_tasks(app)
        findings = list(examine(app, timeout))
    code = max((_CODES[finding.level] for finding in findings), default=0)
    if as_json:
        click.echo(json.dumps({"exit_code": code, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            if finding.level in ("ok", "info") and shared.quiet:
                continue
            mark, colour = _MARKS[finding.level]
            mark = mark if shared.no_color else click.style(mark, fg=colour)
            click.echo(f"{mark} {finding.about}: {finding.text}")
            if finding.advice:
                click.echo(f"   {finding.advice}")
        counts = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
        shared.error(f"{counts['error']} errors, {counts['warning']} warnings.")
    raise SystemExit(code)
