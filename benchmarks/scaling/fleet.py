"""The model itself: one queue, pods that come and go, batches without waiting. Events by a heap, jobs in numpy.

A worker that is free takes what waits, oldest first, up to a batch; one that is stopped finishes its batch and goes.
(The real one also holds up to two batches beside the one that runs, which others then cannot take; they go back to the
queue at its stop.)
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.scaling.rules import Reading, Scaler, View
from benchmarks.scaling.service import Service

SYNC_S = 15.0  # --horizontal-pod-autoscaler-sync-period
SCRAPE_S = 15.0  # Prometheus's, and the metrics server's
KEPT_READINGS = 41  # ten minutes
PATIENCE_S = 6 * 3600.0  # after the last arrival; what is not done by then is late for ever
# Nobody's clock is anybody else's: a scrape, a sync and a poll do not come at the same moment.
_SCRAPE_AT, _SYNC_AT, _POLL_AT = 3.0, 7.0, 11.0


@dataclass(frozen=True, slots=True)
class Hosts:
    """`start_s`: from a pod's making to its first job on a node that has its image. `node_s` more where there is no
    such node; 0: there always is, and only pods are paid. A node that has lost its pod is paid for `linger_s` more,
    and serves another pod meanwhile."""

    start_s: float
    node_s: float = 0.0
    linger_s: float = 600.0


@dataclass(slots=True)
class Pod:
    """`busy_s`: ever, to the end of the batch in hand. `seen_s`: of these at the last scrape, `share` since the one
    before."""

    number: int
    born_at: float
    ready_at: float
    busy_s: float = 0.0
    until: float = 0.0
    stopped: bool = False
    seen_s: float = 0.0
    share: float | None = None


@dataclass(slots=True)
class Outcome:
    """`arrived`, `began`, `ended`: of each job, seconds; infinite of what nobody had done at the end. `paid_s`:
    seconds of pods, and of nodes that lingered. `looks`: at each scrape the moment, pods asked for, ready, jobs in the
    queue."""

    arrived: np.ndarray
    began: np.ndarray
    ended: np.ndarray
    paid_s: float
    looks: np.ndarray
    batches: int


class Fleet:
    """One run; `run` once."""

    def __init__(self, arrived: np.ndarray, service: Service, scaler: Scaler, hosts: Hosts, replicas: int) -> None:
        """`replicas`: that are ready at the beginning."""
        self._arrived, self._service, self._scaler, self._hosts = arrived.tolist(), service, scaler, hosts
        self._came, self._paid_s, self._batches = arrived, 0.0, 0
        self._began: list[float] = []  # in the order of the arrivals: first come, first served
        self._ended: list[float] = []
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = itertools.count()
        self._pods: dict[int, Pod] = {}  # in the order of their making; without those that were stopped
        self._running: dict[int, int] = {}  # jobs by pod
        self._idle: deque[Pod] = deque()
        self._warm: list[float] = []  # nodes without a pod: when each goes
        self._head = self._replicas = 0
        self._readings: deque[Reading] = deque(maxlen=KEPT_READINGS)
        self._looks: list[tuple[float, int, int, int]] = []
        self._end = (self._arrived[-1] if self._arrived else 0.0) + PATIENCE_S
        self._scale(0.0, replicas, ready=True)
        for at, kind in ((_SCRAPE_AT, "scrape"), (_SYNC_AT, "sync"), (_POLL_AT, "poll")):
            self._put(at, kind)

    def run(self) -> Outcome:
        """Until all jobs are done. Pods are paid to the first event (of a few seconds) after the last full hour."""
        now, midnight = 0.0, float(np.ceil((self._end - PATIENCE_S) / 3600) * 3600)
        while self._events[0][0] <= self._end:
            if self._idle and self._head < len(self._arrived) and self._arrived[self._head] < self._events[0][0]:
                now = max(now, self._arrived[self._head])
                self._take(now, self._idle.popleft())
                continue
            now, _, kind, pod = heapq.heappop(self._events)
            if now >= midnight and self._head == len(self._arrived) and not self._running:
                break
            self._happens(now, kind, pod)
        end = max(now, midnight)
        self._paid_s += sum(end - pod.born_at for pod in self._pods.values())
        never = [float("inf")] * (len(self._arrived) - self._head)
        began, ended = np.array(self._began + never), np.array(self._ended + never)
        return Outcome(self._came, began, ended, self._paid_s, np.array(self._looks), self._batches)

    def _put(self, at: float, kind: str, pod: Pod | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), kind, pod))

    def _happens(self, now: float, kind: str, pod: Pod | None) -> None:
        if kind == "free" and pod is not None:
            self._running.pop(pod.number, None)
            if pod.stopped:
                self._gone(now, pod)
            elif self._waiting(now):
                self._take(now, pod)
            else:
                self._idle.append(pod)
        elif kind == "scrape":
            self._scrape(now)
            self._put(now + SCRAPE_S, "scrape")
        elif kind == "sync" and self._readings:
            self._scale(now, self._scaler.want(self._view(now)))
            self._put(now + SYNC_S, "sync")
        elif kind == "poll" and self._scaler.polling_s < self._end:
            self._scale(now, self._scaler.poll(self._view(now)))
            self._put(now + self._scaler.polling_s, "poll")

    def _waiting(self, now: float) -> int:
        return bisect_right(self._arrived, now, lo=self._head) - self._head

    def _take(self, now: float, pod: Pod) -> None:
        jobs = min(self._waiting(now), self._service.most)
        took = self._service.time(jobs)
        self._began += [now] * jobs
        self._ended += [now + took] * jobs
        self._batches += 1
        self._head += jobs
        self._running[pod.number] = jobs
        pod.busy_s += took
        pod.until = now + took
        self._put(pod.until, "free", pod)

    def _scrape(self, now: float) -> None:
        waiting = self._waiting(now)
        oldest = now - self._arrived[self._head] if waiting else 0.0
        self._readings.append(Reading(now, waiting, sum(self._running.values()), self._head + waiting, oldest))
        ready = 0
        for pod in self._pods.values():
            if pod.ready_at <= now:
                ready += 1
                so_far = pod.busy_s - max(0.0, pod.until - now)
                pod.share, pod.seen_s = (so_far - pod.seen_s) / SCRAPE_S, so_far
        self._looks.append((now, self._replicas, ready, waiting))

    def _view(self, now: float) -> View:
        ready = sum(pod.ready_at <= now for pod in self._pods.values())
        return View(now, self._readings, self._replicas, ready, [pod.share for pod in self._pods.values()])

    def _scale(self, now: float, replicas: int, *, ready: bool = False) -> None:
        while len(self._pods) < replicas:
            self._start(now, ready=ready)
        if len(self._pods) > replicas:
            # A ReplicaSet takes those first that are not ready, then the youngest.
            ranked = sorted(self._pods.values(), key=lambda pod: (pod.ready_at <= now, -pod.born_at, -pod.number))
            for pod in ranked[: len(self._pods) - replicas]:
                self._stop(now, pod)
        self._replicas = replicas

    def _start(self, now: float, *, ready: bool) -> None:
        self._warm = [until for until in self._warm if until > now]
        wait = self._hosts.start_s
        if self._warm:
            self._paid_s -= self._warm.pop() - now  # its pod pays for it from now on
        elif self._hosts.node_s:
            wait += self._hosts.node_s
        pod = Pod(next(self._order), now, now if ready else now + wait)
        self._pods[pod.number] = pod
        if ready:
            self._idle.append(pod)
        else:
            self._put(pod.ready_at, "free", pod)

    def _stop(self, now: float, pod: Pod) -> None:
        del self._pods[pod.number]
        pod.stopped = True
        if pod.number in self._running:
            return  # it finishes its batch first
        if pod in self._idle:
            self._idle.remove(pod)
        self._gone(now, pod)

    def _gone(self, now: float, pod: Pod) -> None:
        if pod.born_at < 0:
            return
        self._paid_s += now - pod.born_at
        if self._hosts.node_s:
            self._paid_s += self._hosts.linger_s
            self._warm.append(now + self._hosts.linger_s)
        pod.born_at = -1.0  # paid


@dataclass(frozen=True, slots=True)
class Case:
    """A day on one kind of worker: what is the same for every rule."""

    arrived: np.ndarray
    service: Service
    hosts: Hosts
    replicas: int = 1


def run(case: Case, scaler: Scaler) -> Outcome:
    """One rule's day."""
    return Fleet(case.arrived, case.service, scaler, case.hosts, case.replicas).run()
