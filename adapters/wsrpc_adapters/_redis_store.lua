-- The steps of RedisStore, in Redis. Each call is one step: ARGV has the prefix of all keys, the name of the step, and
-- its arguments. RedisStore puts the constants FORMAT, LEASE, LOG_BYTES, PAYER_BYTES and PAYER_LOGS before this text.
-- Times are in milliseconds. (Redis Cluster would need the names of all keys before the call.)
local PREFIX, STEP = ARGV[1], ARGV[2]
local ENTRY, LOG = 32, 4096  -- bytes that an entry and a log take besides their own
local MOST_WRITERS = 256  -- whose last batch a log remembers, because they may repeat it
local MOST_FREED = 8  -- logs before a log, which have freed its key, that it remembers
local PAGE, SHORT_END = 65536, 1024  -- bytes of a page, and of an end that always has room
local GRACE = 600  -- how long a process may be without its connection, before it says that it lives
local call, time = redis.call, redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function name(kind, text)
  return PREFIX .. kind .. ':' .. text
end

local TYPES = {key = 'string', id = 'string', arguments = 'string', payer = 'string', topic = 'string', owned = 'number',
  dropped = 'string', first = 'number', last = 'number', bytes = 'number', keep = 'number', lapses = 'number'}

local function find(key)
  local packed = call('GET', name('log', key))
  local fine, log = pcall(cmsgpack.unpack, packed)
  if not fine or type(log) ~= 'table' or log.key ~= key or log.ending == nil then return false end  -- another program has written it
  for field, kind in pairs(TYPES) do
    if type(log[field]) ~= kind then return false end
  end
  if type(log.freed) ~= 'table' then log.freed = {} end  -- an earlier version did not write it
  return log
end

local function runs(log)  -- whether it has an owner, and has not ended
  return log.owned == 1 and not log.ending
end

local function is_lost(log)
  return runs(log) and log.lapses <= now
end

local function absent_since(process)  -- since when it is known to have no connection, if it has none
  if call('PUBSUB', 'NUMSUB', name('process', process))[2] > 0 then return end
  local since = call('GET', name('absent', process)) or now  -- the process deletes it when it is connected again
  if since == now then redis.pcall('SET', name('absent', process), now, 'PX', LEASE) end  -- a full server refuses it
  if since ~= 'lives' then return since end  -- else it has said so
end

local function silence(log)  -- how long the process that runs it has had no connection, so it has probably ended
  local process = log.process or ''  -- an earlier version did not write it
  if not runs(log) or process == '' or log.lapses ~= log.renews then return 0 end  -- or has renewed it
  local since = absent_since(process)
  return since and math.max(1, math.min(now - since, now - log.renewed)) or 0
end

local function is_gone(log)
  return silence(log) >= GRACE
end

local function left(silent)  -- until it is known whether a process that is silent has ended
  return silent > 0 and math.max(0, GRACE - silent) or 0
end

local function state(log, gone, known_in)
  local readers = 0
  for _, told in ipairs(call('HVALS', name('readers', log.key))) do
    local count, ends = told:match('^(%d+):(%d+)$')
    if tonumber(ends or 0) > now then readers = readers + count end
  end
  return {log.id, log.arguments, log.first, log.last, log.ending, readers, (gone or is_lost(log)) and 1 or 0, gone and 1 or 0,
    known_in or 0}
end

local function outlive(key, ms)
  if call('PTTL', key) < ms then call('PEXPIRE', key, ms) end
end

local function save(log)
  local ms = log.keep + (runs(log) and LEASE or 0)
  call('SET', name('log', log.key), cmsgpack.pack(log), 'PX', ms)
  call('PEXPIRE', name('entries', log.key), ms)
  call('PEXPIRE', name('writers', log.key), ms)
  call('ZADD', name('logs', log.payer), now + ms, log.key)
  outlive(name('logs', log.payer), ms)
  outlive(name('bytes', log.payer), ms)
  outlive(name('topic', log.topic), ms)
  if call('PTTL', PREFIX .. 'format') < ms then call('SET', PREFIX .. 'format', FORMAT, 'PX', ms) end
end

local function renew(log)
  if runs(log) then log.renewed, log.lapses, log.renews = now, now + LEASE, now + LEASE end
  save(log)
end

local function publish(log, number, before, ids, entries)  -- as texts that have their lengths before them
  local parts, size = {number, before}, #(log.ending or '')
  for i, field in ipairs({unpack(state(log), 1, 7)}) do parts[i + 2] = field or '' end
  parts[10] = log.ending and 1 or 0
  for i, entry in ipairs(entries) do
    parts[9 + 2 * i], parts[10 + 2 * i] = ids[i], entry
    size = size + #entry
  end
  if size > PAGE then parts = {} end  -- who waits has to read
  for i, part in ipairs(parts) do parts[i] = #tostring(part) .. ':' .. part end
  call('PUBLISH', name('changed', log.key), table.concat(parts))
end

local function charge(log, bytes)
  call('HINCRBY', name('bytes', log.payer), log.key, bytes)
  call('HINCRBY', name('bytes', log.payer), ':all', bytes)
end

local function excess(payer)  -- the bytes that the payer has too many, after its expired logs were dropped
  local logs, bytes = name('logs', payer), name('bytes', payer)
  for _, key in ipairs(call('ZRANGEBYSCORE', logs, '-inf', now)) do
    call('HINCRBY', bytes, ':all', -(call('HGET', bytes, key) or 0))
    call('HDEL', bytes, key)
    call('ZREM', logs, key)
  end
  return (call('HGET', bytes, ':all') or 0) - PAYER_BYTES
end

local function trim(log, too_much, too_long)  -- drops the oldest entries; if the log is only too long, not the last
  local entries, freed = name('entries', log.key), 0
  while log.first <= log.last and (freed < too_much or (freed < too_long and log.first < log.last)) do
    local oldest = call('XRANGE', entries, log.first .. '-0', '+', 'COUNT', 1)[1]
    log.dropped = oldest and oldest[2][1] or ''
    freed = freed + ENTRY + #log.dropped + (oldest and #oldest[2][2] or 0)
    log.first = log.first + 1
  end
  if freed > 0 then
    charge(log, -freed)  -- first, because a server without memory refuses it
    call('XTRIM', entries, 'MAXLEN', log.last + 1 - log.first)
    log.bytes = log.bytes - freed
  end
end

local function create(key, id, payer, keep, owned, arguments, topic, payload, memory, process)
  local log = {key = key, id = id, payer = payer, keep = tonumber(keep), owned = tonumber(owned), arguments = arguments, topic = topic,
    payload = payload, memory = tonumber(memory), process = process, first = 1, last = 0, bytes = 0, ending = false, dropped = '',
    began = now, nth = time[1] * 1000000 + time[2], lapses = 0, freed = {}}
  local cost = LOG + SHORT_END + #arguments + #payer + #topic + #payload + memory
  if excess(payer) + cost > 0 or call('ZCARD', name('logs', payer)) >= PAYER_LOGS then return false end
  charge(log, cost)  -- first, because a server without memory refuses it
  call('DEL', name('entries', key), name('readers', key), name('writers', key))
  if topic ~= '' then call('SADD', name('topic', topic), key) end
  return log
end

local function id_before(log, number)
  if number <= log.first then return log.dropped end
  local before = number - 1 .. '-0'
  local entry = call('XRANGE', name('entries', log.key), before, before)[1]
  return entry and entry[2][1] or ''
end

local function add(log, writer, sequence, entries)
  local ids, before = {}, log.bytes
  for i, entry in ipairs(entries) do
    ids[i] = writer .. '.' .. sequence + i - 1
    log.last = log.last + 1
    call('XADD', name('entries', log.key), log.last .. '-0', ids[i], entry)
    log.bytes = log.bytes + ENTRY + #ids[i] + #entry
  end
  charge(log, log.bytes - before)
  if log.topic == '' then trim(log, excess(log.payer), log.bytes - LOG_BYTES) end  -- else it has one short batch
  return ids
end

-- Not in the state of the log, which each step reads and writes: each process that adds something once is a writer.
local function last_batch(log, writer)
  local packed = call('HGET', name('writers', log.key), writer)
  return packed and cmsgpack.unpack(packed)
end

local function remember(log, writer, batch)
  local writers = name('writers', log.key)
  call('HSET', writers, writer, cmsgpack.pack(batch))
  if call('HLEN', writers) <= MOST_WRITERS then return end
  local packed, all = call('HGETALL', writers), {}
  for i = 1, #packed, 2 do all[(i + 1) / 2] = {packed[i], cmsgpack.unpack(packed[i + 1]).number} end
  table.sort(all, function(one, other) return one[2] < other[2] end)
  for i = 1, MOST_WRITERS / 2 do call('HDEL', writers, all[i][1]) end
end

local function refusal(log, writer, sequence, some)  -- why a writer may not add to a log, or end it
  if log.owned == 0 or (log.ending and not some) then return end
  if log.ending or (writer ~= log.id and some) then return 'gone' end
  if writer == log.id and sequence ~= log.last + 1 then return 'gone' end
end

local function finish(log, ending, free)
  local more = math.max(0, #ending - SHORT_END) - log.memory
  local too_much = more > 0 and excess(log.payer) + more or 0
  if too_much > log.bytes then return 'full' end
  trim(log, too_much, 0)
  charge(log, more)
  log.ending, log.free = ending, free == '1'
  call('SREM', name('topic', log.topic), log.key)
end

local function listens(process)  -- a full server refuses it
  local known = PREFIX .. 'processes'
  redis.pcall('ZADD', known, now, process)
  redis.pcall('ZREMRANGEBYSCORE', known, '-inf', now - 2 * LEASE)
  redis.pcall('PEXPIRE', known, 2 * LEASE)
end

local steps = {}

function steps.listen(process)
  call('DEL', name('absent', process))
  listens(process)
end

function steps.look()  -- begins to count how long processes are absent, before anybody reads what they run
  for _, process in ipairs(call('ZRANGE', PREFIX .. 'processes', 0, -1)) do absent_since(process) end
end

function steps.open(key, ...)
  local log, freed = find(key), {}
  local silent = log and log.id ~= ... and select(-1, ...) == '1' and silence(log) or 0
  if log and log.free then
    for _, id in ipairs(log.freed) do
      if id == ... then return state(log) end  -- it comes late
    end
  end
  if not log or (log.free and log.id ~= ...) then
    if log then
      call('ZADD', name('logs', log.payer), 0, key)  -- as expired, so its payer no longer pays for it
      freed = {unpack(log.freed, math.max(1, #log.freed + 2 - MOST_FREED))}
      table.insert(freed, log.id)
    end
    log = create(key, ...)
    if not log then return 'full' end
    log.freed = freed
    renew(log)
  end
  return state(log, silent >= GRACE, left(silent))
end

function steps.append(key, id, payer, keep, writer, sequence, ends, ending, free, only_if_lost)
  local log, entries = find(key), {}
  if payer == '' then
    if not log or log.id ~= id then return 'gone' end
  else
    log = log or create(key, id, payer, keep, 0, '', '', '', 0, '')
    if not log then return 'full' end
    if log.owned == 1 then return 'gone' end
    log.keep = tonumber(keep)
  end
  for i = 13, #ARGV do entries[i - 12] = ARGV[i] end
  sequence = tonumber(sequence)
  local number, ids, batch, error = log.last + 1, {}, last_batch(log, writer), nil
  local before = id_before(log, number)
  if batch and sequence < batch.after then
    if sequence ~= batch.sequence then return 'later' end
    number, before, entries = batch.number, batch.before, {}
  else
    error = refusal(log, writer, sequence, entries[1])
    if error then return error end
  end
  if entries[1] then
    ids = add(log, writer, sequence, entries)
    remember(log, writer, {sequence = sequence, after = sequence + #entries, number = number, before = before})
  end
  local did_end = ends == '1' and runs(log) and (only_if_lost == '0' or is_lost(log) or is_gone(log))
  if did_end then error = finish(log, ending, free) end
  if runs(log) and writer == log.id then renew(log) elseif did_end or entries[1] or payer ~= '' then save(log) end
  if entries[1] or did_end and not error then publish(log, number, before, ids, entries) end
  return error or {number, before, state(log)}
end

function steps.read(key, after, watches)
  local log = find(key)
  if not log then return end
  local silent = watches == '1' and silence(log) or 0
  local gone = silent >= GRACE
  -- A server that refuses writes must not tell that a lease has lapsed, because it may have refused to renew it.
  if gone or is_lost(log) then call('SET', name('lost', key), '', 'PX', LEASE) end
  local number, entries, ids, size, found = math.min(math.max(after + 1, log.first), log.last + 1), {}, {}, 0, {}
  if number <= log.last then
    found = call('XRANGE', name('entries', key), number .. '-0', '+', 'COUNT', 256)
    if not found[1] or found[1][1] ~= number .. '-0' then return end  -- Redis has evicted it
  end
  for i, entry in ipairs(found) do
    if size >= PAGE or entry[1] ~= number + i - 1 .. '-0' then break end  -- the next read finds that one is missing
    ids[i], entries[i] = entry[2][1], entry[2][2]
    size = size + #entries[i]
  end
  return {state(log, gone), number, id_before(log, number), entries, ids, log.process or '', left(silent)}
end

local function each(list, stride, step)  -- the results of a step for each log, of which an error harms only its log
  local results, failed = {}, nil
  for i = 1, #list, stride do
    local fine, result = pcall(step, list[i], list[i + 1])
    if not fine then failed = result elseif result then table.insert(results, result) end
  end
  failed = failed and (type(failed) == 'table' and failed.err or tostring(failed))
  local refused = failed and (failed:find('OOM') or failed:find('MISCONF') or failed:find('READONLY'))
  if refused or (failed and not results[1]) then error(failed) end  -- what has ended needs no write
  return results
end

function steps.hold(process, ...)  -- the ids of logs by their keys
  if process ~= '' then listens(process) end
  return each({...}, 2, function(key, id)
    local log = find(key)
    if not log or log.id ~= id then return end
    if runs(log) then
      log.process = process
      renew(log)
    end
    return {key, state(log)}
  end)
end

function steps.release(...)  -- the ids of logs by their keys
  return each({...}, 2, function(key, id)
    local log = find(key)
    if log and log.id == id and runs(log) then
      log.lapses = now
      save(log)
    end
  end)
end

function steps.count(process, ...)  -- the numbers of readers by the keys of logs
  return each({...}, 2, function(key, count)
    local left = call('PTTL', name('log', key))
    if left > 0 then
      call('HSET', name('readers', key), process, count .. ':' .. now + LEASE)
      call('PEXPIRE', name('readers', key), math.min(left, 2 * LEASE))
    end
    return 1
  end)
end

local function found(log)  -- an earlier version did not write when it began
  return {log.key, log.id, log.payload, now - (log.began or now), log.last}
end

local function logs_of(topic)  -- the oldest first
  local logs = {}
  for _, key in ipairs(call('SMEMBERS', name('topic', topic))) do
    local fine, log = pcall(find, key)
    if fine and log and log.topic == topic then table.insert(logs, log) end
    if fine and not log and STEP == 'adopt' then call('SREM', name('topic', topic), key) end
  end
  table.sort(logs, function(one, other) return (one.nth or 0) < (other.nth or 0) end)  -- an earlier version wrote none
  return logs
end

function steps.adopt(topic, process, watches)
  return each(logs_of(topic), 1, function(log)
    local silent = watches == '1' and silence(log) or 0
    if is_lost(log) or silent >= GRACE then
      log.process = process
      renew(log)
      return found(log)
    elseif silent > 0 then
      return GRACE - silent  -- it may be lost then
    end
  end)
end

function steps.pending(topic)
  return each(logs_of(topic), 1, function(log)
    if runs(log) then return found(log) end
  end)
end

local format = call('GET', PREFIX .. 'format')
if format and format ~= FORMAT then
  return redis.error_reply('the store has the format ' .. format .. ', and this version of wsrpc ' .. FORMAT)
end
return steps[STEP](unpack(ARGV, 3, math.min(#ARGV, 500)))  -- append may have more, and reads them itself
