"""Is the learned policy worse? Everything that asks it, and what follows from the answer.

| module | says | from | in |
|---|---|---|---|
| replay_check | may new weights replace the published ones? | decisions of all nodes | learner |
| service_times | how long did tasks really take? | decisions and outcomes of all nodes | learner |
| live_replay | would the rule have done better? | a node's latest decisions | learner |
| verdict | what a replay found, and of which weights | | both |
| alternation | is it worse now? | live tasks, in windows by turns | node |
| guard | so who decides this placement, and why? | verdicts, windows, errors | node |
| status | what the guard shows of itself | | node |

It lives in the scheduler's ring because nothing here is about nodes as processes: observations,
decisions and outcomes go in. What carries answers between learner and node through the store is
`edge_node.guard`. A node imports the last four (numpy at most); live_replay and
replay_check bring numba, so only those who run them may import them, which is why this file imports
nothing.
"""
