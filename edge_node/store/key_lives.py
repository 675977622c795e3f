"""How idempotency keys are forgotten: by the node's clock, which no step of the machine's moves.

The store's own clock follows such steps. By it a key expires too, for a node of a version that does
not know `keys`, but only after so many times its life that a clock that is days off does no harm: a
request that is sent again while its key is remembered is never drawn twice.
"""

from __future__ import annotations

KEY_LIVES = 30
KEYS_AT_ONCE = 500
# KEYS: keys
# ARGV: unix second, most
FORGET_KEYS = """
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, key in ipairs(old) do redis.call('DEL', key) end
if #old > 0 then redis.call('ZREM', KEYS[1], unpack(old)) end
return #old
"""
