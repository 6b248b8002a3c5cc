"""The cost of a session here and in other libraries, measured in turns in one run.

`make bench` starts every server and every peer. To run all of them it needs `wrk`, `redis-server`
and Node.js; a peer that cannot run is named and left out.
Machines differ and are shared, so compare only the ratios of one run, never its absolute numbers.

- `workload`   the visitors, and what one request of each kind does
- `apps`       the peers written in Python; `node/` has the ones with Express
- `peers`      the table of peers: how each is started and what it needs
- `servers`    starts and stops mongod, redis-server and the processes of the peers
- `distance`   databases that are further away: the proxy of `delay.c`
- `load`       one run of wrk against one peer, with the CPU time of the peer
- `visitors`   sign-in, and the check that a peer does what it is measured for
- `rounds`     the alternation of peers, and the medians
- `disk`       the size of one stored session in bytes
- `results`    the measurements, as data
- `machine`    the machine and the versions of all programs
- `report`, `chart`   the table and the chart
- `scale`      the cost of a request as the collection grows (`filler`), and of `maintenance`
- `micro`      load and save without any server, with `stub`
"""
