"""Which places this machine looks up secrets in, and the look-up for one spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mycelial.daemon.config import DaemonConfig
from mycelial.daemon.policy import secret_names
from mycelial.schemas.desired import PipelineSpec
from mycelial.security.secrets import (
    EnvSecrets,
    FileSecrets,
    FolderSecrets,
    SecretProvider,
    resolve,
)

DEFAULT_PREFIX = "MYCELIAL_SECRET_"


class SecretsOfSpec:
    """Resolves the secrets that a spec refers to, and no others.

    Called at each start of a worker, so a rotated value is found without a restart of the daemon.
    """

    def __init__(self, config: DaemonConfig, environment: Mapping[str, str]) -> None:
        self._providers = _providers(config, environment)

    def __call__(self, spec: PipelineSpec) -> Mapping[str, str]:
        """Return values by name. Raises: OperationFailed naming the secret and where it was
        looked for, never a value (I11)."""
        return {
            name: resolve(name, self._providers).reveal() for name in sorted(secret_names(spec))
        }


def _providers(config: DaemonConfig, environment: Mapping[str, str]) -> tuple[SecretProvider, ...]:
    found = config.secrets
    providers: list[SecretProvider] = [
        EnvSecrets(environment, prefix=found.env_prefix or DEFAULT_PREFIX)
    ]
    if found.file_path:
        path = Path(config.base_dir) / found.file_path
        providers.append(FolderSecrets(path) if path.is_dir() else FileSecrets(path))
    return tuple(providers)
