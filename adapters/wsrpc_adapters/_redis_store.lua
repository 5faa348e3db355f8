-- The steps of RedisStore, in Redis. Each call is one step: KEYS has the prefix of all keys, and ARGV the name of the step,
-- and its arguments. RedisStore puts the constants FORMAT, LEASE, LOG_BYTES, PAYER_BYTES, PAYER_LOGS and WAITING before this
-- text. Times are in milliseconds. In a Redis Cluster, the prefix has the hash tag of all keys, and no key has just this
-- name: while the slot moves to another node, the old one thus refuses a step before it begins.
--
-- The keys. KEY is that of a log, TOPIC that of a list, and a log "can move" if another process can continue it. Most keys
-- expire with a log, or with the last of their logs: when its lease is over or it has ended, and `keep` has passed.
--
-- key               type    has                                                                   expires
-- log:KEY           string  the state of a log, which `save` writes                               with the log
-- entries:KEY       stream  its entries: `NUMBER-0` has their id and their bytes                  with the log
-- writers:KEY       hash    the last batch of each writer, which may repeat it                    with the log
-- payload:KEY       string  what a process needs to continue it; deleted when none can            with the log
-- readers:KEY       hash    `COUNT:UNTIL` for each process that has readers                       after 2 leases, or with the log
-- acquired:KEY      hash    what a process, which has this log, has acquired of each subject      with the log
-- acquirers         set     the KEYs of these logs                                                with the last log
-- logs:PAYER        zset    the KEYs of a payer's logs, by the time at which each expires         with the last log
-- listed:PAYER      zset    the same for logs of lists, which do not count for PAYER_LOGS         with the last log
-- left:PAYER        zset    the KEYs of its logs of lists that have ended, which make room        with the last log
-- bytes:PAYER       hash    the bytes of each of its logs, and of `:all`                          with the last log
-- list:TOPIC        zset    the KEYs of the logs of a list that have not ended, by number         with the last log
-- lapses:TOPIC      zset    these KEYs by the end of their lease; `lapses:` has logs that can move  with the last log
-- lists             zset    the TOPICs of lists with logs, by the number of the last              with the last log
-- number            string  the last number that a log of a list, or that can move, has got       with the last log
-- runs:PROCESS      zset    the KEYs of logs that can move and that this process runs             with the last log
-- processes         zset    the PROCESSes that listen, by the time of their last sign of life     after 2 leases
-- absent:PROCESS    string  since when it does not listen, or `lives` if it has said so           after a lease
-- lost:KEY          string  nothing: a server that cannot write it must not report a loss         after a lease
-- format            string  FORMAT                                                                with the last log
--
-- The channels: `changed:KEY` has what was added to a log, and `process:PROCESS` is where that process listens, so that
-- the number of subscribers says whether it lives.
local PREFIX, STEP = KEYS[1], ARGV[1]
local ENTRY, LOG = 32, 4096  -- bytes that an entry and a log take besides their own
local MOST_WRITERS = 256  -- whose last batch a log remembers, because they may repeat it
local MOST_FREED = 8  -- logs before a log, which have freed its key, that it remembers
local PAGE, SHORT_END = 65536, 1024  -- bytes of a page, and of an end that always has room
local MOST_LISTED, MOST_TOPICS = 100, 200  -- logs and lists in a page
local GRACE = 600  -- how long a process may be without its connection, before it says that it lives
local call, time = redis.call, redis.call('TIME')
local now, micros = time[1] * 1000 + math.floor(time[2] / 1000), time[1] * 1000000 + time[2]

local function name(kind, text)
  return PREFIX .. kind .. ':' .. text
end

local TYPES = {key = 'string', id = 'string', arguments = 'string', payer = 'string', topic = 'string', payload = 'number',
  process = 'string', owner = 'string', dropped = 'string', owned = 'number', first = 'number', last = 'number', bytes = 'number',
  keep = 'number', memory = 'number', began = 'number', within = 'number', lapses = 'number', attempt = 'number', freed = 'table'}

local function find(key)
  local packed = call('GET', name('log', key))
  local fine, log = pcall(cmsgpack.unpack, packed)
  if not fine or type(log) ~= 'table' or log.key ~= key or log.ending == nil then return false end  -- another program has written it
  for field, kind in pairs(TYPES) do
    if type(log[field]) ~= kind then return false end
  end
  return log
end

local function runs(log)  -- whether it has an owner, and has not ended
  return log.owned == 1 and not log.ending
end

local function is_lost(log)
  return runs(log) and log.lapses <= now
end

local function can_move(log)  -- to another process, when its lease has lapsed; also to tell its end
  return log.moves and log.payload > 0
end

local function held_as(log)  -- the name by which its process holds and releases it
  return can_move(log) and log.owner or log.id
end

local function absent_since(process)  -- since when it is known to have no connection, if it has none
  if call('PUBSUB', 'NUMSUB', name('process', process))[2] > 0 then return end
  local since = call('GET', name('absent', process)) or now  -- the process deletes it when it is connected again
  if since == now then redis.pcall('SET', name('absent', process), now, 'PX', LEASE) end  -- a full server refuses it
  if since ~= 'lives' then return since end  -- else it has said so
end

local function silence(log)  -- how long the process that runs it has had no connection, so it has probably ended
  if not (runs(log) or can_move(log)) or log.process == '' or log.lapses ~= log.renews then return 0 end  -- it is released
  local since = absent_since(log.process)
  return since and math.max(1, math.min(now - since, now - log.renewed)) or 0
end

local function is_gone(log)
  return silence(log) >= GRACE
end

local function left(silent)  -- until it is known whether a process that is silent has ended
  return silent > 0 and math.max(0, GRACE - silent) or 0
end

local function state(log, gone)
  local readers = 0
  for _, told in ipairs(call('HVALS', name('readers', log.key))) do
    local count, ends = told:match('^(%d+):(%d+)$')
    if tonumber(ends or 0) > now then readers = readers + count end
  end
  return {log.id, log.arguments, log.first, log.last, log.ending, readers, (gone or is_lost(log)) and 1 or 0, gone and 1 or 0,
    log.topic ~= '' and runs(log) and math.max(0, log.lapses - now) or 0, log.attempt,
    can_move(log) and 1 or 0}
end

local function outlive(key, ms)
  if call('PTTL', key) < ms then call('PEXPIRE', key, ms) end
end

local function logs_of(log)  -- the logs of its payer: those of lists are not counted
  return name(log.topic == '' and 'logs' or 'listed', log.payer)
end

local function save(log)
  local ms = math.max(1, log.keep + (runs(log) and log.lapses or log.ended or now) - now)
  call('SET', name('log', log.key), cmsgpack.pack(log), 'PX', ms)
  call('PEXPIRE', name('entries', log.key), ms)
  call('PEXPIRE', name('writers', log.key), ms)
  if log.payload > 0 then call('PEXPIRE', name('payload', log.key), ms) end
  call('ZADD', logs_of(log), now + ms, log.key)
  outlive(logs_of(log), ms)
  outlive(name('bytes', log.payer), ms)
  if log.topic ~= '' or can_move(log) then
    if runs(log) or can_move(log) then call('ZADD', name('lapses', log.topic), log.lapses, log.key) end
    local names = {name('lapses', log.topic), name('runs', log.process), name('list', log.topic), name('left', log.payer)}
    for _, other in ipairs({PREFIX .. 'lists', PREFIX .. 'number', unpack(names)}) do outlive(other, ms) end
    if can_move(log) then call('ZADD', name('runs', log.process), now + ms, log.key) end  -- until it expires
  end
  if log.acquires then
    call('PEXPIRE', name('acquired', log.key), ms)
    call('SADD', PREFIX .. 'acquirers', log.key)
    outlive(PREFIX .. 'acquirers', ms)
  end
  if call('PTTL', PREFIX .. 'format') < ms then call('SET', PREFIX .. 'format', FORMAT, 'PX', ms) end
end

local function renew(log)
  if runs(log) or can_move(log) then
    log.renewed, log.lapses, log.renews = now, math.max(now + LEASE, log.began + log.within), now + LEASE
  end
  save(log)
end

local function move(log, process)  -- that process runs it
  if can_move(log) then
    call('ZREM', name('runs', log.process), log.key)
    call('ZREMRANGEBYSCORE', name('runs', process), '-inf', now)
  end
  log.process = log.topic == '' and process or ''  -- another process can continue one of a list
end

local function drop_payload(log)  -- no other process adopts it any more
  call('DEL', name('payload', log.key))
  call('ZREM', name('lapses', log.topic), log.key)
  call('ZREM', name('runs', log.process), log.key)
  log.payload = 0
end

local function publish(log, number, before, ids, entries)  -- as texts that have their lengths before them
  local parts, size = {number, before}, #(log.ending or '')
  for i, field in ipairs(state(log)) do parts[i + 2] = field or '' end
  parts[13] = log.ending and 1 or 0
  for i, entry in ipairs(entries) do
    parts[12 + 2 * i], parts[13 + 2 * i] = ids[i], entry
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

local function forget(payer, key)  -- so that the payer no longer pays for it
  local bytes = name('bytes', payer)
  call('HINCRBY', bytes, ':all', -(call('HGET', bytes, key) or 0))
  call('HDEL', bytes, key)
  for _, kind in ipairs({'logs', 'listed', 'left'}) do call('ZREM', name(kind, payer), key) end
end

local function excess(payer)  -- the bytes that the payer has too many, after its expired logs were dropped
  for _, kind in ipairs({'logs', 'listed'}) do
    for _, key in ipairs(call('ZRANGEBYSCORE', name(kind, payer), '-inf', now)) do forget(payer, key) end
  end
  return (call('HGET', name('bytes', payer), ':all') or 0) - PAYER_BYTES
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

local function join(log)  -- as the last one of its list
  local last = tonumber(call('GET', PREFIX .. 'number') or 0)
  log.number = math.max(micros, last + 1)
  call('INCRBY', PREFIX .. 'number', log.number - last)
  if log.topic == '' then return end
  call('ZADD', name('list', log.topic), log.number, log.key)
  call('ZADD', PREFIX .. 'lists', log.number, log.topic)
end

local function create(key, id, payer, keep, owned, arguments, topic, payload, memory, within, process)
  local log = {key = key, id = id, payer = payer, keep = tonumber(keep), owned = tonumber(owned), arguments = arguments, topic = topic,
    payload = #payload, memory = tonumber(memory), within = tonumber(within), process = process, owner = id, attempt = 0, first = 1,
    last = 0, bytes = 0, ending = false, dropped = '', began = now, lapses = now + within, freed = {}}
  local cost = LOG + SHORT_END + #arguments + #payer + #topic + #payload + memory
  local too_much = excess(payer) + cost
  if topic == '' and call('ZCARD', name('logs', payer)) >= PAYER_LOGS then return false end
  if topic ~= '' and call('ZCOUNT', name('lapses', topic), '(' .. now, '+inf') >= WAITING then return false end
  while topic ~= '' and too_much > 0 do
    local ended = call('ZRANGE', name('left', payer), 0, 0)[1]
    if not ended then break end
    for _, kind in ipairs({'log', 'entries', 'readers', 'writers', 'payload'}) do call('DEL', name(kind, ended)) end
    forget(payer, ended)
    too_much = excess(payer) + cost
  end
  if too_much > 0 then return false end
  charge(log, cost)  -- first, because a server without memory refuses it
  for _, kind in ipairs({'entries', 'readers', 'writers', 'payload', 'acquired'}) do call('DEL', name(kind, key)) end
  if payload ~= '' then call('SET', name('payload', key), payload, 'PX', LEASE) end
  if topic ~= '' then join(log) end
  move(log, process)
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
    ids[i] = (log.owned == 1 and log.id or writer) .. '.' .. sequence + i - 1
    log.last = log.last + 1
    call('XADD', name('entries', log.key), log.last .. '-0', ids[i], entry)
    log.bytes = log.bytes + ENTRY + #ids[i] + #entry
  end
  charge(log, log.bytes - before)
  trim(log, excess(log.payer), log.bytes - LOG_BYTES)
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
  if log.owned == 0 then return end
  if writer ~= log.owner and (some or writer ~= 'other') then return 'gone' end
  if log.ending then return some and 'gone' or nil end
  if writer == log.owner and sequence ~= log.last + 1 then return 'gone' end
end

local function finish(log, ending, free)
  local stays = can_move(log) and free ~= '1'
  local more = math.max(0, #ending - SHORT_END) - log.memory - (stays and 0 or log.payload)
  local too_much = more > 0 and excess(log.payer) + more or 0
  if too_much > log.bytes then return 'full' end
  trim(log, too_much, 0)
  charge(log, more)
  log.ending, log.free, log.ended = ending, free == '1', now
  if not stays then drop_payload(log) end
  if log.topic == '' then return end
  call('ZADD', name('left', log.payer), micros, log.key)
  call('ZREM', name('list', log.topic), log.key)
  if call('EXISTS', name('list', log.topic)) == 0 then call('ZREM', PREFIX .. 'lists', log.topic) end
end

local function listed(topic, command, from, to, most)  -- up to so many logs of a list, or just so many bytes
  local list, logs, seen, size, dead = name('list', topic), {}, 0, 0, {}
  repeat
    local keys = call(command, list, from, to, 'LIMIT', seen, most - #logs)
    for _, key in ipairs(keys) do
      if size >= PAGE then break end
      local fine, log = pcall(find, key)
      if not fine or not log or log.topic ~= topic then
        table.insert(dead, key)
      else
        table.insert(logs, log)
        size = size + log.payload
      end
    end
    seen = seen + #keys
  until #keys == 0 or #logs == most or size >= PAGE
  for _, key in ipairs(dead) do  -- a full server refuses it
    redis.pcall('ZREM', list, key)
    redis.pcall('ZREM', name('lapses', topic), key)
  end
  return logs
end

local function behind(log)
  if log.topic == '' or not runs(log) then return '' end
  local before = listed(log.topic, 'ZREVRANGEBYSCORE', string.format('(%.0f', log.number), '-inf', 1)[1]
  return before and before.id or ''
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
  return call('PUBSUB', 'NUMSUB', name('process', process))[2]
end

function steps.look()  -- begins to count how long processes are absent, before anybody reads what they run
  for _, process in ipairs(call('ZRANGE', PREFIX .. 'processes', 0, -1)) do absent_since(process) end
end

function steps.open(key, ...)
  local log, freed = find(key), {}
  if log and log.free then
    for _, id in ipairs(log.freed) do
      if id == ... then return state(log) end  -- it comes late
    end
  end
  if not log or (log.free and log.id ~= ...) then
    if log then
      call('ZADD', logs_of(log), 0, key)  -- as expired, so its payer no longer pays for it
      freed = {unpack(log.freed, math.max(1, #log.freed + 2 - MOST_FREED))}
      table.insert(freed, log.id)
    end
    log = create(key, ...)
    if not log then return 'full' end
    log.freed = freed
    if log.topic == '' then renew(log) else save(log) end
  end
  local found = state(log)
  table.insert(found, behind(log))
  return found
end

function steps.append(key, id, payer, keep, writer, sequence, ends, ending, free, only_if_lost)
  local log, entries = find(key), {}
  if payer == '' then
    if not log or log.id ~= id then return 'gone' end
  else
    log = log or create(key, id, payer, keep, 0, '', '', '', 0, 0, '')
    if not log then return 'full' end
    if log.owned == 1 then return 'gone' end
    log.keep = tonumber(keep)
  end
  for i = 12, #ARGV do entries[i - 11] = ARGV[i] end
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
  if did_end then
    error = finish(log, ending, free)
  elseif ends == '1' and ending == '' and log.ending and can_move(log) and writer == log.owner then
    charge(log, -log.payload)
    drop_payload(log)
    did_end = true
  end
  if (runs(log) or can_move(log)) and writer == log.owner and log.topic == '' then renew(log) elseif did_end or entries[1] or payer ~= '' then save(log) end
  if entries[1] or did_end and not error then publish(log, number, before, ids, entries) end
  return error or {number, before, state(log), log.owned}
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
  return {state(log, gone), number, id_before(log, number), entries, ids, log.process, left(silent)}
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
    if not log or held_as(log) ~= id then return end
    if runs(log) or can_move(log) then
      move(log, process)
      renew(log)
    end
    return {key, state(log)}
  end)
end

function steps.release(...)  -- the ids of logs by their keys
  return each({...}, 2, function(key, id)
    local log = find(key)
    if not log or held_as(log) ~= id or not (runs(log) or can_move(log)) then return end
    log.owner, log.lapses = can_move(log) and '' or log.owner, math.max(now, log.began + log.within)
    save(log)
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

function steps.adopt(key, id, owner, process, watches)
  local log = find(key)
  if not log or log.id ~= id or not (runs(log) or can_move(log)) then return 'gone' end
  if owner ~= log.owner then
    local may_move = log.began + log.within > now
    if can_move(log) then may_move = log.lapses <= now or (watches == '1' and is_gone(log)) end
    if not may_move then return 'gone' end
    log.owner, log.attempt = owner, log.attempt + ((log.owner == '' or log.ending) and 0 or 1)
  end
  if log.topic == '' and log.payload > 0 and not log.moves then
    log.moves = true
    join(log)
  end
  move(log, process)
  renew(log)
  return state(log)
end

local function lost_after(number, most, watches)  -- up to so many logs that other processes can take over, or perhaps soon
  local lapses, found, logs, size = name('lapses', ''), {}, {}, 0
  local keys = call('ZRANGEBYSCORE', lapses, '-inf', now, 'LIMIT', 0, 10 * most)
  for _, process in ipairs(watches == '1' and call('ZRANGE', PREFIX .. 'processes', 0, -1) or {}) do
    if absent_since(process) then
      for _, key in ipairs(call('ZRANGEBYSCORE', name('runs', process), now, '+inf', 'LIMIT', 0, 10 * most)) do table.insert(keys, key) end
    end
  end
  for _, key in ipairs(keys) do
    local log = find(key)
    if not log or not can_move(log) then
      redis.pcall('ZREM', lapses, key)  -- a full server refuses it
    elseif log.number > number and (log.lapses <= now or (watches == '1' and silence(log) > 0)) then
      found[log.number] = log
    end
  end
  for each in pairs(found) do table.insert(logs, each) end
  table.sort(logs)
  for i, each in ipairs(logs) do
    logs[i] = i <= most and size < PAGE and found[each] or nil
    size = size + found[each].payload
  end
  return logs
end

function steps.pending(topic, after, watches)
  local logs = topic == '' and lost_after(tonumber(after), MOST_LISTED, watches)
    or listed(topic, 'ZRANGEBYSCORE', '(' .. after, '+inf', MOST_LISTED)
  -- As in `read`: a server that refuses writes may have refused to renew their leases.
  if topic == '' and logs[1] then call('SET', name('lost', ''), '', 'PX', LEASE) end
  for i, log in ipairs(logs) do
    local payload, lost = call('GET', name('payload', log.key)) or '', log.lapses <= now or (watches == '1' and is_gone(log))
    logs[i] = {log.number, log.key, log.id, payload, now - log.began, log.attempt, lost and 1 or 0, log.owner == '' and 1 or 0}
  end
  return logs
end

function steps.topics(after)
  local found, seen, dead = {}, 0, {}
  repeat
    local topics = call('ZRANGEBYSCORE', PREFIX .. 'lists', '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', seen, MOST_TOPICS - #found)
    for i = 1, #topics, 2 do
      local topic = topics[i]
      local first = listed(topic, 'ZRANGEBYSCORE', '-inf', '+inf', 1)[1]
      local last = listed(topic, 'ZREVRANGEBYSCORE', '+inf', '-inf', 1)[1]
      if last then
        table.insert(found, {tonumber(topics[i + 1]), topic, call('ZCARD', name('list', topic)), now - first.began, last.id})
      else
        table.insert(dead, topic)
      end
    end
    seen = seen + #topics / 2
  until #topics == 0 or #found == MOST_TOPICS
  for _, topic in ipairs(dead) do redis.pcall('ZREM', PREFIX .. 'lists', topic) end
  return found
end

function steps.acquire(subject, process, has, wants, most, watches)
  local log, acquired, known_in = find(process), name('acquired', process), 0
  if not log or not runs(log) then return 'gone' end
  for _, other in ipairs(call('SMEMBERS', PREFIX .. 'acquirers')) do
    local theirs = other ~= process and call('HGET', name('acquired', other), subject)
    local holder = theirs and find(other)
    if holder and runs(holder) and not is_lost(holder) then
      local silent = watches == '1' and silence(holder) or 0
      if silent < GRACE then most, known_in = most - theirs, math.max(known_in, left(silent)) end
    elseif other ~= process and not log.acquires and not find(other) then
      call('SREM', PREFIX .. 'acquirers', other)
    end
  end
  local count = math.max(has, math.min(wants, most))
  if count > 0 then call('HSET', acquired, subject, count) else call('HDEL', acquired, subject) end
  if not log.acquires then
    log.acquires = true
    call('HSET', acquired, '', 0)  -- an empty hash would be gone, and the next one would not expire
    save(log)
  end
  return {count, known_in}
end

local format = call('GET', PREFIX .. 'format')
if format and format ~= FORMAT then
  return redis.error_reply('the store has the format ' .. format .. ', and this version of wsrpc ' .. FORMAT)
end
return steps[STEP](unpack(ARGV, 2, math.min(#ARGV, 500)))  -- append may have more, and reads them itself
