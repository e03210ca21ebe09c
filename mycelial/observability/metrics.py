"""Counters and gauges with Prometheus text exposition, and nothing else to keep in memory.

Series are bounded: when a metric has `series_max` label sets, further ones are not made but
counted in `mycelial_metric_series_dropped_total` (I9). Format: Prometheus text 0.0.4.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DROPPED = "mycelial_metric_series_dropped_total"

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LabelSet = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Metric:
    kind: Literal["counter", "gauge"]
    series: dict[_LabelSet, float] = field(default_factory=dict)


class Registry:
    """A kernel Meter that can be scraped. Thread-safe.

    `help_texts` maps names to their HELP line. A counter's name ends in `_total`.
    """

    def __init__(
        self, *, series_max: int = 1000, help_texts: Mapping[str, str] | None = None
    ) -> None:
        self._series_max = series_max
        self._help = dict(help_texts or {})
        self._metrics: dict[str, _Metric] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise a counter. Raises: ValueError for a negative amount or a bad name."""
        if amount < 0:
            raise ValueError(f"counter {name} cannot go down")
        self._update(name, "counter", labels, lambda old: old + amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._update(name, "gauge", labels, lambda _: value)

    def forget(self, **labels: str) -> None:
        """Drop every series that carries all of `labels`, when its subject is gone."""
        wanted = set(labels.items())
        with self._lock:
            for metric in self._metrics.values():
                for key in [key for key in metric.series if wanted <= set(key)]:
                    del metric.series[key]

    def exposition(self) -> str:
        """Return all series as Prometheus text, sorted, so that equal states are equal texts."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for name, metric in sorted(self._metrics.items()):
            if name in self._help:
                yield f"# HELP {name} {_escape(self._help[name], quotes=False)}"
            yield f"# TYPE {name} {metric.kind}"
            for labels, value in sorted(metric.series.items()):
                inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
                yield f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}"

    def _update(
        self,
        name: str,
        kind: Literal["counter", "gauge"],
        labels: Mapping[str, str],
        change: Callable[[float], float],
    ) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            metric = self._metrics.get(name) or self._create(name, kind)
            if metric.kind != kind:
                raise ValueError(f"{name} is a {metric.kind}, not a {kind}")
            if key not in metric.series and len(metric.series) >= self._series_max:
                dropped = self._metrics.setdefault(DROPPED, _Metric("counter")).series
                where = (("metric", name),)
                dropped[where] = dropped.get(where, 0.0) + 1
                return
            metric.series[key] = change(metric.series.get(key, 0.0))

    def _create(self, name: str, kind: Literal["counter", "gauge"]) -> _Metric:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no metric name")
        if (kind == "counter") != name.endswith("_total"):
            raise ValueError(f"{name}: counters, and only they, end in _total")
        return self._metrics.setdefault(name, _Metric(kind))


def _escape(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
