"""Connections to PostgreSQL and what its failures mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from mycelial.kernel.secret import Secret
from mycelial.sdk.errors import NotYet, Permanent, PluginError, Transient
from mycelial.sdk.kit.adbc import Session, Translate

if TYPE_CHECKING:
    from mycelial.sdk.plugin import Context


def connect(config: Any, ctx: Context, purpose: str) -> Session:
    """Open a session with settings that keep values exact. Raises: PolicyDenied, Transient,
    Permanent."""
    from adbc_driver_postgresql import _driver_path

    ctx.check_host(config.host, config.port)
    password = ctx.secret(config.password) if config.password else None
    where = f"{config.user}@{config.host}:{config.port}/{config.database}"
    session = Session(
        {"driver": _driver_path(), "uri": _uri(config, password, purpose)},
        translator(where, password),
    )
    try:
        calls = (f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS)
        session.execute(f"SELECT {', '.join(calls)}")
    except BaseException:
        session.close()
        raise
    return session


_SETTINGS = (
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "iso_8601"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("synchronous_commit", "on"),
    # A worker that hangs in a transaction must not hold its locks for ever.
    ("idle_in_transaction_session_timeout", "5min"),
    # Notices about objects that exist are noise on a daemon's stderr.
    ("client_min_messages", "warning"),
)


def _uri(config: Any, password: Secret | None, purpose: str) -> str:
    options = {
        "host": config.host,
        "port": str(config.port),
        "user": config.user,
        "sslmode": config.sslmode,
        "connect_timeout": str(config.connect_timeout),
        "application_name": f"mycelial {purpose}",
        "client_encoding": "UTF8",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
    }
    if password is not None:
        options["password"] = password.reveal()
    if config.sslrootcert:
        options["sslrootcert"] = config.sslrootcert
    return f"postgresql:///{quote(config.database, safe='')}?{urlencode(options, quote_via=quote)}"


LOST = "MYC-PG-010"
"""The code of a connection that is gone."""


def translator(where: str, password: Secret | None) -> Translate:
    """Return what makes our errors of libpq's; the password never gets through (I11)."""

    def translate(message: str, sqlstate: str | None) -> PluginError:
        text = password.scrub(message) if password else message
        if password and (escaped := quote(password.reveal(), safe="")) in text:
            text = text.replace(escaped, Secret.MASK)
        return classify(_tidy(text), sqlstate or "", where)

    return translate


def _tidy(message: str) -> str:
    """Keep the server's own words: the rest is the driver talking about itself."""
    for marker in ("ERROR:  ", "FATAL:  "):
        if marker in message:
            message = message.split(marker, 1)[1]
            break
    head = message.split(". SQLSTATE:")[0]
    return " ".join(head.split())[:600]


_RULES = (
    "the rows break a rule of the table: clean them with a transform, drop the rule, "
    "or use mode: upsert for keys that come again"
)
_BY_STATE: tuple[tuple[str, type[PluginError], str, str], ...] = (
    ("57014", Transient, "MYC-PG-012", ""),
    ("57P0", Transient, LOST, ""),
    ("25P03", Transient, LOST, ""),
    ("08", Transient, LOST, ""),
    ("53100", NotYet, "MYC-PG-013", "free space on the server; it goes on from the last commit"),
    ("53", Transient, "MYC-PG-014", "the server is out of connections or memory; it is retried"),
    ("40", Transient, "MYC-PG-015", ""),
    ("55P03", Transient, "MYC-PG-015", ""),
    ("28", Permanent, "MYC-PG-020", "check user, password and pg_hba.conf"),
    ("3D", NotYet, "MYC-PG-021", "check `database`"),
    ("42501", Permanent, "MYC-PG-022", "GRANT what is missing to the role"),
    ("42P01", NotYet, "MYC-PG-023", "check `table`, its schema and spelling"),
    ("3F", NotYet, "MYC-PG-023", "create the schema, or check its spelling"),
    ("42703", Permanent, "MYC-PG-024", "check the column's spelling, or plan again"),
    ("42", Permanent, "MYC-PG-025", "check `query`"),
    ("23", Permanent, "MYC-PG-026", _RULES),
    ("22", Permanent, "MYC-PG-027", "a value does not fit its column: cast or clean it"),
)  # fmt: skip
_BY_TEXT: tuple[tuple[str, type[PluginError], str, str], ...] = (
    ("password authentication failed", Permanent, "MYC-PG-020", "check user and password"),
    ("no password supplied", Permanent, "MYC-PG-020", "give `password: {secret: name}`"),
    ("no pg_hba.conf entry", Permanent, "MYC-PG-020", "let this host in by pg_hba.conf"),
    ("certificate verify failed", Permanent, "MYC-PG-020", "check sslmode and sslrootcert"),
    ("does not exist", Permanent, "MYC-PG-021", "check the name's spelling"),
    ("permission denied", Permanent, "MYC-PG-022", "GRANT what is missing to the role"),
    ("could not extend file", NotYet, "MYC-PG-013", "free space on the server"),
    ("No space left on device", NotYet, "MYC-PG-013", "free space on the server"),
    ("canceling statement", Transient, "MYC-PG-012", ""),
    ("invalid input syntax", Permanent, "MYC-PG-027", "a value does not fit its type"),
    ("out of range", Permanent, "MYC-PG-027", "a value does not fit its type"),
    ("division by zero", Permanent, "MYC-PG-027", "fix the query"),
    ("nanoarrow call failed", Permanent, "MYC-PG-028", "this is a defect; please report it"),
)


_ABSENT = re.compile(r'(?:database|relation|schema) "[^"]*" does not exist')


def classify(text: str, sqlstate: str, where: str) -> PluginError:
    """Return the error for a server's message. Without a code or known words, it is the network."""
    what = f"{text} (at {where}{f', SQLSTATE {sqlstate}' if sqlstate else ''})"
    if not sqlstate and _ABSENT.search(text):  # a failed connection has no SQLSTATE
        return NotYet("MYC-PG-021", what, fix="create it, or check the name's spelling")
    table = _BY_STATE if sqlstate else _BY_TEXT
    for mark, kind, code, fix in table:
        if sqlstate.startswith(mark) if sqlstate else mark in text:
            return kind(code, what, fix=fix)
    if sqlstate:
        return Permanent("MYC-PG-029", what, fix="see the message")
    return Transient(LOST, what, fix="check host, port and that the server is up")
