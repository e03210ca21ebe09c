"""Who may speak, and what may be believed.

Lives here: the certificate authority and TLS contexts, join and admin tokens, signatures over
assignment sets, secret providers.
Does not live here: storage of tokens and revocations, and the HTTP layer that asks these questions.
Data flow: key files and bytes from the network -> identities, verified values, or a refusal.

What a daemon imports (tls, tokens, secrets) is standard library only; `signing` loads the Ed25519
part of cryptography when it is called, `ca` loads X.509 when it is called.
"""
