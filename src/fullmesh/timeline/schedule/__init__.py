"""Pipeline schedules: the order in which ranks work, the task graph that follows, and closed forms of both."""
