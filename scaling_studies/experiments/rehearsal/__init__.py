"""Points that only pass the time: to try out a machine, a cluster, or a kill."""
