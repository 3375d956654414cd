-- Sends requests that are made already: `wrk … -s wrk.lua URL -- REQUESTS`.
--
-- REQUESTS is a file of whole HTTP requests with a zero byte between them. One of them is picked
-- at random each time. A byte 1 within a request stands for ten digits that are never twice the
-- same in a row, so that each write changes something; the rest of such a request is made of its
-- pieces, all others are sent as they are.

local requests = {}
local count = 0
local number = 0
local random = math.random
local format = string.format
local concat = table.concat

function init(args)
   local file = assert(io.open(args[1], "rb"))
   local all = file:read("*a")
   file:close()
   math.randomseed(os.time())
   number = random(0, 4e9)
   for text in all:gmatch("[^%z]+") do
      count = count + 1
      if text:find("\1", 1, true) then
         local pieces = {}
         for piece in text:gmatch("[^\1]+") do
            pieces[#pieces + 1] = piece
         end
         requests[count] = pieces
      else
         requests[count] = text
      end
   end
end

function request()
   local picked = requests[random(count)]
   if type(picked) == "string" then
      return picked
   end
   number = number + 1
   return concat(picked, format("%010d", number))
end

function done(summary, latency)
   local errors = summary.errors
   io.write(format(
      'knownas-bench {"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, '
         .. '"p50": %d, "p99": %d, "p999": %d, "max": %d}\n',
      summary.requests, summary.duration, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max
   ))
end
