"""Parts that connectors share: type tables, SQL dialects, write modes, journaled file commits."""
