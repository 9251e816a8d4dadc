"""What Kubernetes' HorizontalPodAutoscaler and KEDA do with what they read. Pure: the clock is an argument.

The HPA's arithmetic is that of kube-controller-manager (pkg/controller/podautoscaler), KEDA's that of its operator:
docs/benchmarks/scaling.md tells which of their parts are here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance


@dataclass(frozen=True, slots=True)
class Reading:
    """What Prometheus has of the queue after one scrape. `arrived`: jobs ever; `oldest_s`: of those that no worker has
    taken, 0 where none waits."""

    at: float
    queued: int
    running: int
    arrived: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class View:
    """What an autoscaler sees. `readings`: newest last. `replicas`: as asked for; `ready`: of these, those that work;
    `cpu`: of each pod its share of its request, None of one that is not ready."""

    now: float
    readings: Sequence[Reading]
    replicas: int
    ready: int
    cpu: Sequence[float | None] = ()


Trigger = Callable[[View], int]
"""How many replicas one metric asks for."""


def per_replica(value: float, target: float, replicas: int) -> int:
    """The HPA's `AverageValue`: as many as share the value at `target` each."""
    if replicas and abs(value / (target * replicas) - 1) <= TOLERANCE:
        return replicas
    return math.ceil(value / target - 1e-9)


def by_value(value: float, target: float, replicas: int, ready: int) -> int:
    """The HPA's `Value`: so many times what is ready now as the value is above its target."""
    ratio = value / target
    return replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * ready - 1e-9)


def rate(readings: Sequence[Reading], window_s: float) -> float:
    """Jobs a second over the last `window_s`, as far as readings go back."""
    last = readings[-1]
    first = next(one for one in readings if one.at >= last.at - window_s)
    return (last.arrived - first.arrived) / (last.at - first.at) if last.at > first.at else 0.0


def on_depth(jobs: float) -> Trigger:
    """So many jobs, waiting or running, for each replica."""
    return lambda view: per_replica(view.readings[-1].queued + view.readings[-1].running, jobs, view.replicas)


def on_rate(per_s: float, window_s: float) -> Trigger:
    """So many jobs a second for each replica."""
    return lambda view: per_replica(rate(view.readings, window_s), per_s, view.replicas)


def on_age(seconds: float) -> Trigger:
    """One replica for each `seconds` that the oldest job has waited."""
    return lambda view: per_replica(view.readings[-1].oldest_s, seconds, view.replicas)


def on_age_ratio(seconds: float) -> Trigger:
    """So many times the replicas that are ready as the oldest job is older than `seconds`."""
    return lambda view: by_value(view.readings[-1].oldest_s, seconds, view.replicas, view.ready)


def on_cpu(target: float) -> Trigger:
    """The HPA's own metric: the mean share of the requested CPU. Pods that are not ready count as idle before it adds
    some, and not at all before it takes some away."""

    def want(view: View) -> int:
        told = [share for share in view.cpu if share is not None]
        if not told:
            return view.replicas
        ratio, pods = sum(told) / len(told) / target, len(told)
        if ratio > 1 and pods < len(view.cpu):
            ratio, pods = ratio * pods / len(view.cpu), len(view.cpu)
            if ratio < 1:
                return view.replicas
        return view.replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * pods - 1e-9)

    return want


@dataclass(frozen=True, slots=True)
class Behavior:
    """The HPA's `behavior`: in each `up_period_s` it adds at most `up_pods`, or `up_percent` where that is more; in
    each `down_period_s` it takes at most `down_percent` away; it goes up to the least that it was told within
    `up_window_s`, and down to the most within `down_window_s`."""

    up_window_s: float = 0.0
    up_pods: int = 4
    up_percent: float = 100.0
    up_period_s: float = 15.0
    down_window_s: float = 300.0
    down_percent: float = 100.0
    down_period_s: float = 15.0


@dataclass(slots=True)
class Hpa:
    """One HorizontalPodAutoscaler; `want` is asked at each sync."""

    triggers: Sequence[Trigger]
    least: int
    most: int
    behavior: Behavior = Behavior()
    _told: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def want(self, view: View) -> int:
        """The replicas from now on."""
        told = max(trigger(view) for trigger in self.triggers)
        wanted = min(max(self._stabilised(view.now, view.replicas, told), self.least), self.most)
        wanted = self._at_pace(view.now, view.replicas, wanted)
        if wanted != view.replicas:
            self._changes.append((view.now, wanted - view.replicas))
        return wanted

    def _stabilised(self, now: float, replicas: int, told: int) -> int:
        behavior = self.behavior
        self._told.append((now, told))
        while self._told[0][0] <= now - max(behavior.up_window_s, behavior.down_window_s, 1.0):
            self._told.popleft()
        least = min([told, *(n for at, n in self._told if at > now - behavior.up_window_s)])
        most = max([told, *(n for at, n in self._told if at > now - behavior.down_window_s)])
        return min(max(replicas, least), most)

    def _at_pace(self, now: float, replicas: int, wanted: int) -> int:
        behavior = self.behavior
        while self._changes and self._changes[0][0] <= now - max(behavior.up_period_s, behavior.down_period_s):
            self._changes.popleft()
        if wanted > replicas:
            before = replicas - sum(n for at, n in self._changes if at > now - behavior.up_period_s)
            limit = max(before + behavior.up_pods, math.ceil(before * (1 + behavior.up_percent / 100)))
            return max(replicas, min(wanted, limit))
        if wanted < replicas:
            before = replicas - sum(n for at, n in self._changes if at > now - behavior.down_period_s)
            return min(replicas, max(wanted, math.floor(before * (1 - behavior.down_percent / 100))))
        return wanted


@dataclass(slots=True)
class Keda:
    """A ScaledObject: looks every `polling_s` whether there is anything to do, starts the first replica, and takes the
    last away when there was nothing for `cooldown_s`. In between it leaves the number to its HPA."""

    hpa: Hpa
    least: int
    polling_s: float = 30.0
    cooldown_s: float = 300.0
    _active_at: float = 0.0

    def poll(self, view: View) -> int:
        """The replicas from now on: another number only from none to the first ones, or to none."""
        last = view.readings[-1]
        if last.queued + last.running > 0:
            self._active_at = view.now
            return view.replicas or max(1, self.least)
        if self.least == 0 and view.now - self._active_at > self.cooldown_s:
            return 0
        return view.replicas

    def want(self, view: View) -> int:
        """At a sync of its HPA, which rests while there is no replica."""
        return self.hpa.want(view) if view.replicas else 0


@dataclass(slots=True)
class CpuHpa:
    """An HPA alone, with nobody to poll."""

    hpa: Hpa
    polling_s: float = math.inf

    def poll(self, view: View) -> int:
        """Never changes anything."""
        return view.replicas

    def want(self, view: View) -> int:
        """At a sync."""
        return self.hpa.want(view)


@dataclass(slots=True)
class Fixed:
    """As many all day."""

    replicas: int
    polling_s: float = math.inf

    def poll(self, view: View) -> int:
        """Never changes anything."""
        return view.replicas

    def want(self, view: View) -> int:
        """Always the same."""
        return self.replicas


Scaler = Keda | CpuHpa | Fixed
