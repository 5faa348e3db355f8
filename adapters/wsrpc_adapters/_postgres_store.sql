-- The tables of `PostgresStore`, and the statements of its transactions. All times are in seconds.
--
-- Each statement follows a line with its name. A name in braces stands for an earlier statement, which is a part of
-- several. `schema` and `format` are an option of the store, and the version of its contents.
--
-- A log is a row of "log", and is removed with its rows of the other tables:
--   entry: the items of calls, and the events of rooms. The oldest are removed when the log or its payer has too many bytes
--   writer: the last batch of each writer of a log, which may be repeated
--   reader: how many readers each process has
--   acquired: how many connections each user has at a process, whose log it is removed with
-- When a log begins, up to 100 others that have expired are removed.

-- name: now
extract(epoch FROM clock_timestamp())::float8

-- name: alive
expires > {now}

-- name: runs
owned AND ending IS NULL

-- name: listed
topic <> '' AND {runs} AND {alive}

-- name: size
length(entry) + length(id) + 40

-- name: state
id, arguments, first, last, ending,
    (SELECT coalesce(sum(count), 0) FROM reader WHERE reader.key = log.key AND until > {now}),
    {runs} AND lapses <= {now}, false,
    CASE WHEN topic <> '' AND {runs} THEN greatest(0, lapses - {now}) ELSE 0 END, attempt, moves

-- name: version
SELECT pg_advisory_xact_lock(0, hashtext('{schema}'));  -- processes that start together make the tables one by one
CREATE SCHEMA IF NOT EXISTS "{schema}";
CREATE TABLE IF NOT EXISTS format (version integer NOT NULL);
INSERT INTO format SELECT {format} WHERE NOT EXISTS (SELECT FROM format);

-- name: tables
SELECT pg_advisory_xact_lock(0, hashtext('{schema}'));
CREATE SEQUENCE IF NOT EXISTS place;
CREATE TABLE IF NOT EXISTS log (
    key text PRIMARY KEY, id text NOT NULL, arguments text NOT NULL, payer text NOT NULL, topic text NOT NULL,
    payload bytea NOT NULL, owned boolean NOT NULL, keep float8 NOT NULL, memory bigint NOT NULL,
    base bigint NOT NULL, bytes bigint NOT NULL DEFAULT 0,  -- the size: without the entries, and of the entries
    began float8 NOT NULL, within float8 NOT NULL, lapses float8 NOT NULL, expires float8 NOT NULL,
    place bigint NOT NULL,  -- its number in its list
    owner text NOT NULL, attempt integer NOT NULL DEFAULT 0,
    moves boolean NOT NULL DEFAULT false,  -- whether another process can adopt it when its lease has lapsed
    ending bytea, free boolean NOT NULL DEFAULT false,
    freed_before text[] NOT NULL,  -- the ids of the logs before it, which have freed its key
    first bigint NOT NULL DEFAULT 1, last bigint NOT NULL DEFAULT 0,
    dropped text NOT NULL DEFAULT '', newest text NOT NULL DEFAULT ''  -- the ids of the entries `first - 1` and `last`
);
CREATE INDEX IF NOT EXISTS log_of_payer ON log USING hash (payer);
CREATE INDEX IF NOT EXISTS log_of_topic ON log (topic, place) WHERE topic <> '' AND ending IS NULL;
CREATE INDEX IF NOT EXISTS log_lost ON log (lapses) WHERE moves;
CREATE INDEX IF NOT EXISTS log_expires ON log (expires);
CREATE TABLE IF NOT EXISTS entry (key text REFERENCES log ON DELETE CASCADE, number bigint, id text NOT NULL,
    entry bytea NOT NULL, PRIMARY KEY (key, number));
CREATE TABLE IF NOT EXISTS writer (key text REFERENCES log ON DELETE CASCADE, writer text,
    sequence bigint NOT NULL, after bigint NOT NULL,  -- those of the first entry of the last batch, and of the next one
    number bigint NOT NULL, before text NOT NULL, added float8 NOT NULL, PRIMARY KEY (key, writer));
CREATE TABLE IF NOT EXISTS reader (key text REFERENCES log ON DELETE CASCADE, process text,
    count integer NOT NULL, until float8 NOT NULL, PRIMARY KEY (key, process));
CREATE TABLE IF NOT EXISTS acquired (subject text, process text REFERENCES log ON DELETE CASCADE,
    count bigint NOT NULL, PRIMARY KEY (subject, process));

-- name: lock
SELECT pg_advisory_xact_lock($1, hashtext($2))

-- name: remove_expired
DELETE FROM log WHERE key IN
    (SELECT key FROM log WHERE NOT {alive} ORDER BY expires LIMIT 100 FOR UPDATE SKIP LOCKED);
DELETE FROM reader WHERE (key, process) IN
    (SELECT key, process FROM reader WHERE until <= {now} LIMIT 100 FOR UPDATE SKIP LOCKED);

-- name: remove_if_expired
DELETE FROM log WHERE key = $1 AND NOT {alive}

-- name: find
SELECT *, lapses <= {now} AS lost FROM log WHERE key = $1 FOR UPDATE

-- name: find_state
SELECT {state}, dropped FROM log WHERE key = $1

-- name: share
SELECT coalesce(sum(base + bytes), 0)::bigint, count(*) FILTER (WHERE topic = '') FROM log WHERE payer = $1 AND {alive}

-- name: waiting
SELECT count(*) FROM log WHERE topic = $1 AND {listed} AND lapses > {now}

-- name: make_room
-- The logs of a payer that have left their lists, until they have freed $2 bytes.
DELETE FROM log WHERE key IN (
    SELECT key FROM (
        SELECT key, sum(base + bytes) OVER (ORDER BY ended, key) - base - bytes AS freed FROM (
            SELECT *, expires - keep AS ended FROM log WHERE payer = $1 AND topic <> '' AND ending IS NOT NULL
            FOR UPDATE SKIP LOCKED
        ) AS ended
    ) AS sized WHERE freed < $2
)

-- name: create
-- The numbers are those of the clock, so that a database which is restored gives none again.
INSERT INTO log (key, id, owner, arguments, payer, topic, payload, owned, keep, memory, base, freed_before, within,
    place, began, lapses, expires)
SELECT $1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
    CASE WHEN $5 = '' AND $6 = ''::bytea THEN 0 ELSE setval('place', greatest(nextval('place'), (1e6 * {now})::bigint)) END,
    {now}, {now} + $13, {now} + $8 + CASE WHEN $7 THEN $13 ELSE 0 END
RETURNING *

-- name: lapses
greatest({now} + $2, began + within)

-- name: renew
UPDATE log SET lapses = {lapses}, expires = CASE WHEN {runs} THEN {lapses} + keep ELSE expires END
WHERE key = ANY($1) AND ({runs} OR moves)

-- name: release
UPDATE log SET owner = '' WHERE key = ANY($1) AND moves

-- name: can_move
UPDATE log SET moves = true WHERE key = $1 AND topic = '' AND payload <> ''

-- name: adopt
UPDATE log SET owner = $2, attempt = attempt + CASE WHEN owner = '' OR ending IS NOT NULL THEN 0 ELSE 1 END
WHERE key = $1 AND CASE WHEN moves THEN lapses <= {now} ELSE {runs} AND began + within > {now} END RETURNING key

-- name: keep
UPDATE log SET keep = $2, expires = {now} + $2 WHERE key = $1

-- name: end
UPDATE log SET ending = $2, free = $3, base = base + $4, expires = {now} + keep, moves = moves AND NOT $3,
    payload = CASE WHEN moves AND NOT $3 THEN payload ELSE '' END WHERE key = $1

-- name: done
UPDATE log SET base = base - length(payload), payload = '', moves = false WHERE key = $1

-- name: remember
WITH old AS (DELETE FROM writer WHERE key = $1 AND writer <> $2 AND added <= greatest({now} - $7,
    (SELECT added FROM writer WHERE key = $1 ORDER BY added DESC OFFSET 255 LIMIT 1)))
INSERT INTO writer VALUES ($1, $2, $3, $4, $5, $6, {now})
ON CONFLICT (key, writer) DO UPDATE SET (sequence, after, number, before, added) = ($3, $4, $5, $6, excluded.added)

-- name: add
WITH added AS (
    INSERT INTO entry SELECT $1, $2::bigint + place - 1, $3::text || '.' || $4::bigint + place - 1, entry
    FROM unnest($5::bytea[]) WITH ORDINALITY AS new (entry, place) RETURNING number, id, {size} AS size
)
UPDATE log SET bytes = bytes + (SELECT sum(size) FROM added), last = (SELECT max(number) FROM added),
    newest = (SELECT id FROM added ORDER BY number DESC LIMIT 1)
WHERE key = $1 RETURNING bytes

-- name: trim
-- Drops the oldest entries until they have freed $2 bytes, or, without the last entry, $3.
WITH old AS (
    SELECT number, id, {size} AS size, sum({size}) OVER (ORDER BY number) - ({size}) AS freed FROM entry WHERE key = $1
), dropped AS (
    DELETE FROM entry USING old JOIN log ON log.key = $1 WHERE entry.key = $1 AND entry.number = old.number
    AND (freed < $2::bigint OR freed < $3::bigint AND old.number < last) RETURNING old.number, old.id, size
)
UPDATE log SET bytes = bytes - (SELECT sum(size) FROM dropped), first = (SELECT max(number) + 1 FROM dropped),
    dropped = (SELECT id FROM dropped ORDER BY number DESC LIMIT 1)
WHERE key = $1 AND EXISTS (SELECT FROM dropped)

-- name: page
-- The entry with the number $2, for its id, and those after it until they have 64 KiB.
SELECT number, id, entry FROM (
    SELECT *, sum(CASE WHEN number > $2 THEN length(entry) ELSE 0 END) OVER (ORDER BY number) - length(entry) AS size
    FROM (SELECT * FROM entry WHERE key = $1 AND number >= $2 ORDER BY number LIMIT 256) AS next
) AS sized WHERE size < 65536 ORDER BY number

-- name: count
-- These two lock many rows, in the order of their keys, so that they do not wait for each other in a circle. What is
-- locked is updated by the next statement: the same one would try to lock the versions from before it waited, too.
INSERT INTO reader SELECT key, $1, count, {now} + $4 FROM unnest($2::text[], $3::int[]) AS asked (key, count)
    JOIN (SELECT key FROM log WHERE key = ANY($2) AND {alive} ORDER BY key FOR KEY SHARE) AS alive USING (key)
    ORDER BY key
ON CONFLICT (key, process) DO UPDATE SET (count, until) = (excluded.count, excluded.until)

-- name: held
SELECT key FROM log JOIN unnest($1::text[], $2::text[]) AS asked (key, name) USING (key)
WHERE {alive} AND name = CASE WHEN moves THEN owner ELSE id END ORDER BY key FOR NO KEY UPDATE OF log

-- name: behind
WITH this AS (SELECT topic AS list, place AS number FROM log WHERE key = $1 AND {runs})
SELECT id FROM log, this WHERE topic = list AND place < number AND {listed} ORDER BY place DESC LIMIT 1

-- name: pending
SELECT place, key, id, payload, {now} - began, attempt, lapses <= {now} FROM (
    SELECT *, sum(length(payload)) OVER (ORDER BY place) - length(payload) AS size FROM (
        SELECT * FROM log WHERE topic = $1 AND place > $2 AND {listed} ORDER BY place LIMIT 100
    ) AS next
) AS sized WHERE size < 65536 ORDER BY place

-- name: lost
SELECT place, key, id, payload, {now} - began, attempt, true, owner = '' FROM (
    SELECT *, sum(length(payload)) OVER (ORDER BY place) - length(payload) AS size FROM (
        SELECT * FROM log WHERE moves AND {alive} AND lapses <= {now} AND place > $1 ORDER BY place LIMIT 100
    ) AS next
) AS sized WHERE size < 65536 ORDER BY place

-- name: topics
-- The names come from the index, one step for each: GROUP BY would read all logs.
WITH RECURSIVE names AS (
    (SELECT topic FROM log WHERE {listed} ORDER BY topic LIMIT 1) UNION ALL
    SELECT (SELECT log.topic FROM log WHERE log.topic > names.topic AND {listed} ORDER BY log.topic LIMIT 1)
    FROM names WHERE topic IS NOT NULL
)
SELECT newest.place, names.topic, (SELECT count(*) FROM log WHERE topic = names.topic AND {listed}), (
    SELECT {now} - began FROM log WHERE topic = names.topic AND {listed} ORDER BY place LIMIT 1
), newest.id FROM names, LATERAL (
    SELECT place, id FROM log WHERE topic = names.topic AND {listed} ORDER BY place DESC LIMIT 1
) AS newest WHERE newest.place > $1 ORDER BY newest.place LIMIT 200

-- name: acquire
INSERT INTO acquired SELECT $1, $2, greatest($3::bigint, least($4::bigint, $5::bigint - (
    SELECT coalesce(sum(count), 0) FROM acquired JOIN log AS other ON other.key = process
    WHERE subject = $1 AND process <> $2 AND {runs} AND lapses > {now}
))) FROM log WHERE key = $2 AND {runs} AND {alive}
ON CONFLICT (subject, process) DO UPDATE SET count = excluded.count RETURNING count
