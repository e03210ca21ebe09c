"""Speak to the control plane over HTTP. The only room that imports httpx.

Lives here: `api` for people (the CLI's verbs as typed calls), `link` for daemons (enrol, watch,
report, renew over mutual TLS), and how their failures are told apart.
Does not live here: what an answer means (cli, daemon), when to try again (daemon), the messages
themselves (schemas.views, schemas.wire) and TLS contexts (security).
Data flow: cli, daemon -> here -> the control plane; its answers come back as typed values.
"""
