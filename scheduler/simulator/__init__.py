"""The paper's scheduling problem as a program: scenarios, arrivals, servers, rules and bounds."""

from scheduler.compiled_code import keep_by_sources

keep_by_sources()
