"""The experts a gateway serves, as the request path sees them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gateway.config import AUTO as AUTO
from gateway.config import load_experts_file
from gateway.errors import ConfigError
from gateway.schema import Capability, ExpertsFile, Runtime, Timeouts

FORBIDDEN_LITELLM = {"1.82.7", "1.82.8", "1.107.0"}
"""Releases that were withdrawn; the first two were malicious."""
_INSTALL_LITELLM = f"{sys.executable} -m pip install 'coe-gateway[litellm]'"


@dataclass(frozen=True, slots=True)
class Expert:
    """A served model; see `gateway.schema.ExpertConfig` for what the keys mean.

    Attributes
    ----------
    weights : str
        Experts with equal `weights` share them; an expert without shared ones has its own name.
    """

    name: str
    description: str
    backend: str
    base_url: str | None
    model: str
    api_key_env: str | None
    active_params_b: float | None
    total_params_b: float | None
    latency_s: float | None
    usd_per_million_tokens: float | None
    weights: str
    context_window: int | None
    capabilities: frozenset[Capability]
    continuation: str | None
    max_concurrency: int | None
    max_queue: int
    max_retries: int
    open_after_failures: int | None
    system_prompt: str | None
    cache: bool
    explore_share: float
    timeout_s: Timeouts
    runtime: Runtime


class ExpertRegistry(Mapping[str, Expert]):
    """The experts by name, in the order of the file, with the mapping the operator wrote.

    Parameters
    ----------
    file : ExpertsFile
        A checked experts file.
    path : Path
        Where it lies; relative paths in it start from its folder.
    """

    def __init__(self, file: ExpertsFile, path: Path) -> None:
        self.file = file
        self.path = path
        self._experts = {
            config.name: Expert(
                **{
                    **{key: getattr(config, key) for key in type(config).model_fields},
                    "weights": config.weights or config.name,
                    "capabilities": frozenset(config.capabilities),
                }
            )
            for config in file.experts
        }

    @classmethod
    def load(cls, path: Path) -> ExpertRegistry:
        """Read an experts file; raises `ConfigError` as `load_experts_file` does."""
        return cls(load_experts_file(path), path)

    def __getitem__(self, name: str) -> Expert:
        return self._experts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._experts)

    def __len__(self) -> int:
        return len(self._experts)

    @property
    def general(self) -> Expert:
        """The expert for uncertain prompts."""
        return self._experts[self.file.general]

    @property
    def local_weights(self) -> dict[str, Expert]:
        """One expert for each process to run: weights -> the first local expert over them."""
        first: dict[str, Expert] = {}
        for expert in self._experts.values():
            if expert.backend == "local":
                first.setdefault(expert.weights, expert)
        return first

    @property
    def resident_params_b(self) -> float:
        """10^9 parameters of the distinct weights of known size; see `unknown_weights`."""
        return sum(size for size in self._weight_sizes().values() if size is not None)

    @property
    def largest_active_params_b(self) -> float:
        """10^9 active parameters of the largest expert of known size; 1 when none is known.

        What is charged for those of unknown size: a budget must come to an end.
        """
        return max((e.active_params_b for e in self.values() if e.active_params_b), default=1.0)

    @property
    def unknown_weights(self) -> tuple[str, ...]:
        """Weights without a `total_params_b`."""
        return tuple(name for name, size in self._weight_sizes().items() if size is None)

    def _weight_sizes(self) -> dict[str, float | None]:
        return {expert.weights: expert.total_params_b for expert in self._experts.values()}

    @property
    def router_path(self) -> Path:
        """Folder of the router: relative to the experts file, else the one that ships."""
        beside = self.path.parent / self.file.router
        shipped = Path(__file__).parents[1] / self.file.router
        return beside if beside.exists() or not shipped.exists() else shipped


def check_keys(experts: Mapping[str, Expert], environ: Mapping[str, str]) -> None:
    """Refuse experts whose key is not set, or whose backend is not installed.

    Raises
    ------
    ConfigError
        Naming the expert and the variable, or the package.
    """
    for expert in experts.values():
        if expert.backend == "litellm":
            _check_litellm(expert)
        if expert.api_key_env is None:
            continue
        key = environ.get(expert.api_key_env, "")
        if not key or not key.isprintable() or not key.isascii() or " " in key:
            found = "holds spaces, line ends or other characters" if key else "is not set"
            raise ConfigError(
                f"expert {expert.name!r}: the environment variable {_shown(expert.api_key_env)} "
                f"(api_key_env) must hold its key; it {found}. Set it, or remove api_key_env"
            )


def _shown(variable: str) -> str:
    """Return the name of a variable, or what stands for one that looks like the key itself."""
    return variable if variable.isupper() else "(not in capitals: not shown, it may be the key)"


def _check_litellm(expert: Expert) -> None:
    try:
        found = version("litellm")
    except PackageNotFoundError as error:
        raise ConfigError(
            f"expert {expert.name!r}: backend litellm needs the package litellm, which is not "
            f"installed. Run: {_INSTALL_LITELLM}"
        ) from error
    if found in FORBIDDEN_LITELLM:
        raise ConfigError(
            f"expert {expert.name!r}: backend litellm must not run litellm {found}, a release that "
            f"was withdrawn. Run: {_INSTALL_LITELLM} --upgrade"
        )
