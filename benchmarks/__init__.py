"""What a session costs here and in the rivals, measured side by side in one run.

`make bench` starts every server and every peer by itself and needs `wrk`, `redis-server` and
Node.js for all of them; a peer that cannot run is named and left out.
Machines differ and are shared, so only the ratios of one run count, never its absolute numbers.

- `workload`   the visitors, and what one request of each kind asks for
- `apps`       the peers written in Python; `node/` the ones on Express
- `peers`      the table of peers: how each is started and what it needs
- `servers`    mongod, redis-server and the peers' processes: started, waited for, ended
- `load`       one run of wrk against one peer, with the CPU time that the peer spent on it
- `visitors`   sign-in, and the proof that a peer does what it is measured for
- `rounds`     the alternation of peers, and the medians
- `disk`       the bytes that one stored session takes
- `results`    what was measured, as data
- `machine`    what ran where, in which version
- `report`, `chart`   the table and the picture
- `scale`      the cost of a request as the collection grows (`filler`), and of `chores`
- `micro`      load and save without any server, over `stub`
"""
