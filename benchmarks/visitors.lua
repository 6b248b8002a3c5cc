-- Many visitors for wrk: each request is the next line of a file, "METHOD PATH [COOKIE]".
--   wrk ... -s visitors.lua URL -- FILE again|once
-- "once" stops after the last line (a session can end only once), "again" starts from the first.

local ffi = require("ffi")
ffi.cdef[[
  typedef struct { long seconds; long nanoseconds; } instant;
  int clock_gettime(int clock, instant *now);
]]

local requests = {}
local position = 0
local once = false
local thread

-- done() reads these from the thread, and can see only globals.
began_us, ended_us = 0, 0

local function now_us()
  local now = ffi.new("instant")
  ffi.C.clock_gettime(1, now)  -- 1: the monotonic clock
  return tonumber(now.seconds) * 1e6 + tonumber(now.nanoseconds) / 1e3
end

function setup(the_one)
  thread = the_one
end

function init(args)
  once = args[2] == "once"
  for line in io.lines(args[1]) do
    local method, path, cookie = line:match("^(%S+) (%S+) ?(.*)$")
    local headers = {}
    if cookie ~= "" then headers["Cookie"] = cookie end
    requests[#requests + 1] = wrk.format(method, path, headers)
  end
end

function request()
  position = position + 1
  if position == 1 and began_us == 0 then began_us = now_us() end
  if position > #requests then
    -- wrk itself sleeps until its time has passed, and reports that time.
    if once and ended_us == 0 then ended_us = now_us(); wrk.thread:stop() end
    position = 1
  end
  return requests[position]
end

function done(summary, latency)
  local errors = summary.errors
  local ended_early = thread:get("ended_us") > 0
  local duration = ended_early and thread:get("ended_us") - thread:get("began_us")
  print(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "p50_us": %d, "p99_us": %d, '
      .. '"refused": %d, "broken": %d, "late": %d}',
    summary.requests, duration or summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write, errors.timeout
  ))
end
