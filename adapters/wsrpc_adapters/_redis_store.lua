-- The steps of RedisStore, in Redis. Each call is one step: ARGV has the prefix of all keys, the name of the step, and
-- its arguments. RedisStore puts the constants LEASE, RUN_BYTES, PAYER_BYTES and PAYER_RUNS before this text. Times are
-- in milliseconds. (Redis Cluster would need the names of all keys before the call.)
local PREFIX, STEP = ARGV[1], ARGV[2]
local ITEM, RUN = 32, 4096  -- bytes that an item and a run take besides their own
local REMEMBERED = 600000  -- how long a writer of a log may repeat its last batch
local PAGE, SHORT_END = 65536, 1024  -- bytes of a page, and of an end that always has room
local call, time = redis.call, redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function name(kind, text)
  return PREFIX .. kind .. ':' .. text
end

local TYPES = {key = 'string', id = 'string', arguments = 'string', payer = 'string', topic = 'string',
  dropped = 'string', first = 'number', last = 'number', bytes = 'number', stopping = 'number'}

local function find(key)
  local packed = call('GET', name('run', key))
  local fine, run = pcall(cmsgpack.unpack, packed)
  if not fine or type(run) ~= 'table' or run.key ~= key or run.ending == nil then return false end  -- another program has written it
  for field, kind in pairs(TYPES) do
    if type(run[field]) ~= kind then return false end
  end
  return run
end

local function find_run(key, id)
  local run = find(key)
  return run and run.id == id and not run.writers and run
end

local function state(run)
  local readers = run.writers and 0 or call('ZCOUNT', name('readers', run.key), now, '+inf')
  local lost = not run.ending and not run.writers and run.lapses <= now
  return {run.id, run.arguments, run.first, run.last, run.ending, run.stopping, readers, lost and 1 or 0}
end

local function outlive(key, ms)
  if call('PTTL', key) < ms then call('PEXPIRE', key, ms) end
end

local function save(run, ms)
  call('SET', name('run', run.key), cmsgpack.pack(run), 'PX', ms)
  call('PEXPIRE', name('items', run.key), ms)
  call('ZADD', name('runs', run.payer), now + ms, run.key)
  outlive(name('runs', run.payer), ms)
  outlive(name('bytes', run.payer), ms)
  outlive(name('topic', run.topic), ms)
end

local function renew(run)
  run.lapses = now + LEASE
  save(run, LEASE + run.keep)
end

local function notify(run)
  for _, channel in ipairs(call('SMEMBERS', name('waiting', run.key))) do call('PUBLISH', channel, run.key) end
  call('DEL', name('waiting', run.key))
end

local function charge(run, bytes)
  call('HINCRBY', name('bytes', run.payer), run.key, bytes)
  call('HINCRBY', name('bytes', run.payer), ':all', bytes)
end

local function excess(payer)  -- the bytes that the payer has too many, after its expired runs were dropped
  local runs, bytes = name('runs', payer), name('bytes', payer)
  for _, key in ipairs(call('ZRANGEBYSCORE', runs, '-inf', now)) do
    call('HINCRBY', bytes, ':all', -(call('HGET', bytes, key) or 0))
    call('HDEL', bytes, key)
    call('ZREM', runs, key)
  end
  return (call('HGET', bytes, ':all') or 0) - PAYER_BYTES
end

local function trim(run, too_much, too_long)  -- drops the oldest items; if the run is only too long, not the last
  local items, freed = name('items', run.key), 0
  while run.first <= run.last and (freed < too_much or (freed < too_long and run.first < run.last)) do
    local oldest = call('XRANGE', items, run.first .. '-0', '+', 'COUNT', 1)[1]
    run.dropped = oldest and oldest[2][1] or ''
    freed = freed + ITEM + #run.dropped + (oldest and #oldest[2][2] or 0)
    run.first = run.first + 1
  end
  if freed > 0 then
    charge(run, -freed)  -- first, because a server without memory refuses it
    call('XTRIM', items, 'MAXLEN', run.last + 1 - run.first)
    run.bytes = run.bytes - freed
  end
end

local function create(run, cost)
  cost = cost + RUN + SHORT_END + #run.arguments + #run.payer + #run.topic
  if excess(run.payer) + cost > 0 or call('ZCARD', name('runs', run.payer)) >= PAYER_RUNS then return false end
  charge(run, cost)  -- first, because a server without memory refuses it
  call('DEL', name('items', run.key), name('readers', run.key))
  run.first, run.last, run.bytes, run.ending, run.stopping, run.dropped = 1, 0, 0, false, 0, ''
  return run
end

local function extend(run, from, writer, sequence)  -- by the items in ARGV
  local before = run.bytes
  for i = from, #ARGV do
    local id = writer and writer .. '.' .. sequence + i - from or ''
    run.last = run.last + 1
    call('XADD', name('items', run.key), run.last .. '-0', id, ARGV[i])
    run.bytes = run.bytes + ITEM + #id + #ARGV[i]
  end
  if run.bytes == before then return end
  charge(run, run.bytes - before)
  trim(run, excess(run.payer), run.bytes - RUN_BYTES)
  notify(run)
end

local function id_before(log, number)
  if number <= log.first then return log.dropped end
  local before = number - 1 .. '-0'
  local entry = call('XRANGE', name('items', log.key), before, before)[1]
  return entry and entry[2][1] or ''
end

local steps = {}

function steps.start(key, id, arguments, payer, topic, keep, payload, memory)
  local run = find(key)
  if run and run.writers then return 'log' end
  if run and (run.id == id or not run.free) then return state(run) end
  if run then call('ZADD', name('runs', run.payer), 0, key) end  -- as expired, so its payer no longer pays for it
  run = create({key = key, id = id, arguments = arguments, payer = payer, topic = topic, payload = payload,
    memory = tonumber(memory), keep = tonumber(keep)}, memory + #payload)
  if not run then return 'full' end
  if topic ~= '' then call('SADD', name('topic', topic), key) end
  renew(run)
  return state(run)
end

function steps.append(key, id, number)
  local run = find_run(key, id)
  if not run or run.ending or tonumber(number) > run.last + 1 then return 'gone' end
  extend(run, 7 + run.last - number)
  renew(run)
  return state(run)
end

function steps.add(key, id, arguments, payer, keep, writer, sequence)
  local log = find(key)
  if log and not log.writers then return 'run' end
  log = log or create({key = key, id = id, arguments = arguments, payer = payer, topic = '', writers = {}}, 0)
  if not log then return 'full' end
  local batch = log.writers[writer]
  sequence = tonumber(sequence)
  if batch and sequence < batch.after then
    if sequence ~= batch.sequence then return 'later' end
    save(log, tonumber(keep))
    return {batch.number, batch.before, state(log)}
  end
  local number, before = log.last + 1, id_before(log, log.last + 1)
  extend(log, 10, writer, sequence)
  if #ARGV >= 10 then
    for name, old in pairs(log.writers) do
      if old.added < now - REMEMBERED then log.writers[name] = nil end
    end
    local after = sequence + #ARGV - 9
    log.writers[writer] = {sequence = sequence, after = after, number = number, before = before, added = now}
  end
  save(log, tonumber(keep))
  return {number, before, state(log)}
end

steps['end'] = function(key, id, ending, last, free, lapsed)
  local run = find_run(key, id)
  if not run then return 'gone' end
  if run.ending or (lapsed == '1' and run.lapses > now) then return end
  if last ~= '' and tonumber(last) ~= run.last then return 'gone' end
  local more = math.max(0, #ending - SHORT_END) - run.memory
  local too_much = more > 0 and excess(run.payer) + more or 0
  if too_much > run.bytes then return 'full' end
  trim(run, too_much, 0)
  charge(run, more)
  run.ending, run.free = ending, free == '1'
  call('SREM', name('topic', run.topic), key)
  save(run, run.keep)
  notify(run)
end

function steps.read(key, after, channel, reader, ms)
  local run = find(key)
  if not run then return end
  if reader ~= '' and not run.writers and not run.ending then
    -- First, because a server without memory refuses it: nobody must find a lease lapsed that cannot be renewed.
    call('ZADD', name('readers', key), now + ms, reader)
    call('ZREMRANGEBYSCORE', name('readers', key), '-inf', now)
    outlive(name('readers', key), tonumber(ms))
  end
  local number, items, ids, size, entries = math.max(after + 1, run.first), {}, {}, 0, {}
  if run.writers then number = math.min(number, run.last + 1) end
  if number <= run.last then
    entries = call('XRANGE', name('items', key), number .. '-0', '+', 'COUNT', 256)
    if not entries[1] or entries[1][1] ~= number .. '-0' then return end  -- Redis has evicted it
  elseif channel ~= '' and not run.ending then
    call('SADD', name('waiting', key), channel)
    call('PEXPIRE', name('waiting', key), math.max(ms, call('PTTL', name('run', key))))  -- a log may begin anew
  end
  for i, entry in ipairs(entries) do
    if size >= PAGE or entry[1] ~= number + i - 1 .. '-0' then break end  -- the next read finds that one is missing
    items[i], ids[i] = entry[2][2], run.writers and entry[2][1] or nil
    size = size + #items[i]
  end
  return {state(run), number, items, run.writers and id_before(run, number) or '', ids}
end

function steps.leave(key, reader)
  call('ZREM', name('readers', key), reader)
end

function steps.stop(key, id)
  local run = find_run(key, id)
  if not run then return end
  run.stopping = 1
  save(run, math.max(1, call('PTTL', name('run', key))))
end

local function each(list, stride, step)  -- the results of a step for each run, of which a corrupt one harms only itself
  local results, failed = {}, nil
  for i = 1, #list, stride do
    local fine, result = pcall(step, list[i], list[i + 1])
    if not fine then failed = result elseif result then table.insert(results, result) end
  end
  if failed and not results[1] then error(failed) end  -- perhaps the server has no memory, so all have failed
  return results
end

function steps.renew(...)
  return each({...}, 2, function(key, id)
    local run = find_run(key, id)
    if run and not run.ending then renew(run) end
    return run and {key, state(run)}
  end)
end

function steps.adopt(topic)
  return each(call('SMEMBERS', name('topic', topic)), 1, function(key)
    local run = find(key)
    if not run or run.topic ~= topic then
      call('SREM', name('topic', topic), key)
    elseif run.lapses <= now then
      renew(run)
      return {key, run.id, run.payload}
    end
  end)
end

return steps[STEP](unpack(ARGV, 3, math.min(#ARGV, 500)))  -- append may have more, and reads them itself
