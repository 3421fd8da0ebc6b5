"""What is never to be read in a log, whatever fails."""

import asyncio
import json
import subprocess
import sys

import pytest
from sqlalchemy import bindparam, text

from homeserver.storage.engine import Database, ReadTx

# In a process of its own: who configures logs does so for the whole process.
_FAILING = """
import logging, sys
from homeserver.http import failures
from homeserver.kit import logs

logs.configure("info", json=sys.argv[1] == "json")

def check(password):
    token = "syt_" + password[::-1]
    raise ValueError("The check failed.")

def fail():
    held = {"the key": "".join(["hunter", "2"])}
    try:
        check(held["the key"])
    except ValueError as error:
        raise ExceptionGroup("Several failed.", [error]) from error

try:
    fail()
except ExceptionGroup as error:
    logs.report(error)
    failures.answer(error)
    logging.getLogger("a.library").error("It failed.", exc_info=True)
"""


@pytest.mark.trust("S7")
@pytest.mark.parametrize("shape", ["json", "text"])
def test_a_traceback_shows_where_and_no_values(shape: str) -> None:
    ended = subprocess.run([sys.executable, "-c", _FAILING, shape], capture_output=True, text=True, check=True)
    log = ended.stderr
    assert "hunter2" not in log
    assert "syt_" not in log.replace('token = "syt_" + password[::-1]', "")
    for said in ("background work failed", "The request failed.", "It failed.", "The check failed.", "check"):
        assert said in log
    if shape == "json":
        lines = [json.loads(line) for line in log.splitlines()]
        assert len(lines) == 3
        assert {frame["name"] for frame in lines[0]["exception"][0]["frames"]} >= {"fail"}


@pytest.mark.trust("S7")
async def test_an_error_of_the_database_does_not_show_values(database_url: str) -> None:
    def read(tx: ReadTx) -> None:
        tx.connection.execute(text("SELECT missing FROM nowhere WHERE x = :x").bindparams(bindparam("x", "hunter2")))

    async with Database.open(database_url) as database:
        [problem] = await asyncio.gather(database.read(read), return_exceptions=True)
    assert "nowhere" in str(problem)
    assert "hunter2" not in str(problem)
