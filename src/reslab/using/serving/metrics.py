"""What a server counts, in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    """Counters of one server; the event loop's thread and the desk's add to their own."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.refused: Counter[str] = Counter({"full": 0, "memory": 0, "connections": 0})
        self.pictures: Counter[str] = Counter({"predicted": 0, "unreadable": 0, "explained": 0})
        self.accepted = 0
        self.answered = 0
        self.late = 0
        self.gone = 0
        self.batches = 0
        self.batched = 0
        self._within: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(_BOUNDS))
        self._seconds: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def note(self, path: str, status: int, seconds: float) -> None:
        """A request that was answered, with how long that took from its first line."""
        self.requests[path, status] += 1
        self._counted[path] += 1
        self._seconds[path] += seconds  # type: ignore[assignment]  # a Counter adds floats too
        within = self._within[path]
        for place, bound in enumerate(_BOUNDS):
            within[place] += seconds <= bound

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it; gauges: name to (what it is, value)."""
        parts = [
            _family("requests_total", "counter", "Requests answered.", (
                (f'{{path="{path}",status="{status}"}}', count)
                for (path, status), count in sorted(self.requests.items())
            )),
            _family("refused_total", "counter", "Requests refused with 503, by what was full.", (
                (f'{{reason="{reason}"}}', count) for reason, count in sorted(self.refused.items())
            )),
            _family("pictures_total", "counter", "Pictures, by what came of them.", (
                (f'{{outcome="{outcome}"}}', count)
                for outcome, count in sorted(self.pictures.items())
            )),
        ]  # fmt: skip
        plain = {
            "accepted_total": ("Requests that got a place in the queue.", self.accepted),
            "answered_total": ("Requests of the queue that were answered.", self.answered),
            "late_total": ("Requests that met their deadline first (504).", self.late),
            "gone_total": ("Requests whose client left before the answer.", self.gone),
            "batches_total": ("Passes through the network.", self.batches),
            "batch_pictures_total": ("Pictures in these passes.", self.batched),
        }
        parts += [
            _family(name, "counter", what, [("", value)]) for name, (what, value) in plain.items()
        ]
        parts += [
            _family(name, "gauge", what, [("", value)]) for name, (what, value) in gauges.items()
        ]
        parts.append(self._histogram())
        return "".join(parts)

    def _histogram(self) -> str:
        name = "reslab_request_seconds"
        lines = [f"# HELP {name} Seconds from a request's first line to its answer.",
                 f"# TYPE {name} histogram"]  # fmt: skip
        for path in sorted(self._counted):
            for bound, count in zip(_BOUNDS, self._within[path], strict=True):
                lines.append(f'{name}_bucket{{path="{path}",le="{bound:g}"}} {count}')
            lines.append(f'{name}_bucket{{path="{path}",le="+Inf"}} {self._counted[path]}')
            lines.append(f'{name}_sum{{path="{path}"}} {self._seconds[path]:.6f}')
            lines.append(f'{name}_count{{path="{path}"}} {self._counted[path]}')
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, what: str, values: Iterable[tuple[str, float]]) -> str:
    lines = [f"# HELP reslab_{name} {what}", f"# TYPE reslab_{name} {kind}"]
    lines += [f"reslab_{name}{labels} {value}" for labels, value in values]
    return "\n".join(lines) + "\n"
