-- Takes from a bucket by the generic cell rate algorithm. A bucket is the moment at which it is full again, in
-- nanoseconds since 1970 as text. That is too much for Lua's numbers, which are exact up to 2^53, so the last three
-- digits are reckoned apart from the microseconds. What the take costs and what a full bucket holds come as time too.
local cost_micros, cost_nanos = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_micros, full_nanos = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local full_at = redis.call('GET', KEYS[1]) or '0000'
local micros = (tonumber(string.sub(full_at, 1, -4)) or 0) - now
local nanos = tonumber(string.sub(full_at, -3)) or 0
if micros < 0 then
    micros, nanos = 0, 0
elseif micros > full_micros then
    -- The quota has become smaller, or the clock was set back: nobody waits longer than for an empty bucket.
    micros, nanos = full_micros, full_nanos
end

local then_micros = micros + cost_micros + math.floor((nanos + cost_nanos) / 1000)
local then_nanos = (nanos + cost_nanos) % 1000
local allowed = then_micros < full_micros or (then_micros == full_micros and then_nanos <= full_nanos)
if allowed then
    micros, nanos = then_micros, then_nanos
    local value = string.format('%.0f%03d', now + micros, nanos)
    redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.floor(micros / 1000) + 1))
end
return { allowed and 1 or 0, micros, nanos }
