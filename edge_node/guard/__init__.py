"""The node's part of `scheduler.guard`: how answers to "is the learned policy worse?" travel.

`judge` asks in the learner process and writes the verdict to the store; `feed` reads verdicts and
weights in the node and tells its guard.
"""
