"""The process that turns commits into duties and shows what became of them.

Lives here: the fleet controller (its loop), the roster of daemons and their open watches, the use
cases, the HTTP API for people and for daemons, the one server file, the data directory.
Does not live here: decisions (reconciler), manifests (schemas), git (gitops), SQL (storage),
certificates (security), pages (webui).
Data flow: commit -> controller -> store -> watch streams -> daemons; reports -> roster -> views.
Everything asynchronous runs on one loop; blocking work runs on the named threads of `threads`.
"""
