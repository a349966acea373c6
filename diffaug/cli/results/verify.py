"""`diffaug verify`: is the pool as it was written?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from diffaug.cli.options import json_option, print_result, quoted, study_argument
from diffaug.errors import DamagedError


@click.command()
@study_argument
@json_option
def command(study: Path, as_json: bool) -> None:
    """Compare every byte of the pool of STUDY with what was written; exit 3 and name each file that differs."""
    from diffaug.synthesis.pool.pool import verify_pool

    problems = verify_pool(study)
    results = {"problems": [asdict(problem) for problem in problems]}
    if not problems:
        print_result("verify", as_json, study=study, results=results, next_step=f"diffaug evaluate {quoted(study)}")
        return
    fix = f"restore these files from a copy, or make the pool again: diffaug generate {quoted(study)} --overwrite"
    if as_json:
        failure = {
            "status": "error",
            "exit_code": DamagedError.exit_code,
            "message": "the pool was changed",
            "fix": fix,
        }
        click.echo(json.dumps({"schema_version": 1, "command": "verify", **failure, "results": results}))
    lines = [f"{problem.what}: {problem.file}" for problem in problems]
    click.echo("\n".join([*lines, f"error: {len(problems)} files are not as written", f"  fix:   {fix}"]), err=True)
    sys.exit(DamagedError.exit_code)
