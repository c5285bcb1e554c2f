"""The interface of flow_matching, from its call shapes alone: paths, schedulers, solvers.

`fastgen.integrations.flow_matching.path` for `flow_matching.path`, and so on; data is at t = 1.
docs/from/flow_matching.md says what is identical and what differs.
"""
