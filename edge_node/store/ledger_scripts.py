"""What the ledger does to several keys at once, as scripts of the store: all of it or nothing.

Owns the scripts; which keys there are is said in task_ledger.py.
"""

from __future__ import annotations

# KEYS: open, key record ('' without), job ('' without), refusal, keys
# ARGV: value of the key record, its life in s, prefix of tasks, unix second, then id and record of
# each task
# Two connections need not be served in the order in which they were written to: an acceptance may
# come after its own retraction, and its client has long been told no.
ACCEPT = """
if redis.call('EXISTS', KEYS[4]) == 1 then return false end
if KEYS[2] ~= '' then
  local earlier = redis.call('GET', KEYS[2])
  if earlier then return earlier end
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
  redis.call('ZADD', KEYS[5], ARGV[4], KEYS[2])
end
for i = 5, #ARGV, 2 do
  local task = ARGV[3] .. ARGV[i]
  redis.call('HSET', task, 'record', ARGV[i + 1], 'job', KEYS[3])
  if KEYS[2] ~= '' then redis.call('HSET', task, 'keyed', '1') end
  redis.call('SADD', KEYS[1], ARGV[i])
  if KEYS[3] ~= '' then redis.call('ZADD', KEYS[3], (i - 5) / 2, ARGV[i]) end
end
return false
"""

# KEYS: open, key record ('' without), job ('' without), refusal, keys
# ARGV: value of the key record, prefix of tasks, life of the refusal in s, then the ids
RETRACT = """
redis.call('SET', KEYS[4], '1', 'EX', ARGV[3])
if KEYS[2] ~= '' and redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[5], KEYS[2])
end
for i = 4, #ARGV do
  redis.call('DEL', ARGV[2] .. ARGV[i])
  redis.call('SREM', KEYS[1], ARGV[i])
  if KEYS[3] ~= '' then redis.call('ZREM', KEYS[3], ARGV[i]) end
end
return 1
"""

# KEYS: open, finished, task, job ('' without), dead, prompted, then its lists once it is over
# ARGV: id, record, unix second of its end ('' while open), place in its job, '1' for a dead letter,
# unix second of its acceptance
# A state that comes after the end is ignored; NX keeps the place that the acceptance gave.
KEEP = """
if ARGV[3] == '' and redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('HSET', KEYS[3], 'record', ARGV[2], 'job', KEYS[4])
if KEYS[4] ~= '' then redis.call('ZADD', KEYS[4], 'NX', ARGV[4], ARGV[1]) end
if ARGV[3] == '' then
  redis.call('SADD', KEYS[1], ARGV[1])
else
  redis.call('SREM', KEYS[1], ARGV[1])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
  redis.call('ZADD', KEYS[6], ARGV[3], ARGV[1])
  if ARGV[5] == '1' then redis.call('ZADD', KEYS[5], ARGV[3], ARGV[1]) end
  for i = 7, #KEYS do redis.call('ZADD', KEYS[i], ARGV[6], ARGV[1]) end
  if #KEYS > 7 then redis.call('HSET', KEYS[3], 'lists', table.concat(KEYS, ' ', 7)) end
end
return 1
"""

# KEYS: finished, task, dead, prompted, listed; ARGV: id
FORGET = """
local of = redis.call('HMGET', KEYS[2], 'job', 'lists')
if of[1] and of[1] ~= '' then redis.call('ZREM', of[1], ARGV[1]) end
for list in string.gmatch(of[2] or KEYS[5], '%S+') do redis.call('ZREM', list, ARGV[1]) end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
"""

# KEYS: open, finished, task, dead, prompted, erasing, rewrite, then its lists
# ARGV: id, record without content, unix seconds of its end and its acceptance, what is still owed
ERASE = """
redis.call('HSET', KEYS[3], 'record', ARGV[2])
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
for i = 8, #KEYS do redis.call('ZADD', KEYS[i], 'NX', ARGV[4], ARGV[1]) end
if #KEYS > 8 then redis.call('HSET', KEYS[3], 'lists', table.concat(KEYS, ' ', 8)) end
redis.call('HSET', KEYS[6], ARGV[1], ARGV[5])
return redis.call('INCR', KEYS[7])
"""

# KEYS: task, dead, prompted, erasing, rewrite
# ARGV: id, record as it was read, record without its words, what is still owed ('' for nothing)
# What was written or erased meanwhile stays as it is now, and is looked at again.
UNPROMPT = """
if redis.call('HGET', KEYS[1], 'record') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[3], ARGV[1])
if ARGV[4] == '' then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[3])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[4])
redis.call('INCR', KEYS[5])
return 1
"""

# KEYS: counters; ARGV: what each was before the file was written anew
# What was taken out since is in the new file still.
REWRITTEN = """
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[i] then redis.call('DEL', KEYS[i]) end
end
return 1
"""
