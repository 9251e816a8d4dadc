"""How many workers when: a discrete-event model of the service under Kubernetes' rules, on a bursty day.

`python -m benchmarks.scaling` (`make bench-scaling`) makes docs/benchmarks/scaling.md. The chart in deploy/kubernetes
has the rules that it picks.
"""
