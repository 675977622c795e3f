"""The asynchronous shell around the pure task machines: carries out what they say.

    front_desk    what clients of this node are told, wherever a task lives
    own_tasks     tasks accepted here: who waits for them, their place on disk
    offloads      where their attempts go: own queue, or a stream to a peer
    executor      attempts drawn here, whoever their origin
    placer        decisions: asked of the policy, recorded, joined with what became of them
    own_node      this node as others may count on it
    timekeeper    leases, deadlines, moves, heartbeats: what happens because time passes
    inbox         every event, one after the other
    dispatcher    how these fit together

It decides nothing about a task; `edge_node.tasks` does. The world is behind `edge_node.ports`, so
that tests/cluster runs these very classes on a simulated one.
"""
