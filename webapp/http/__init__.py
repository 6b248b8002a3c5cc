"""What every request passes, whatever it asks for.

On the way in:

- `request_id`: the id of a request, and the address that it came from
- `unreadable`: requests that cannot be parsed
- `slow_clients`: clients that keep a connection by being slow
- `proxy`: which forwarded headers are believed
- `middlewares`: the client's address, allowed hosts, https, and the time limit
- `cross_site`: which requests may change anything
- `bodies`: from the bytes of a body to its fields
- `api_prefix`: which requests belong to the JSON API

On the way out:

- `headers`: the headers of every answer
- `refusals`: the answers that say no, each an exception
- `error_pages`: how every error looks

For the operator:

- `events`: the names of what is logged and counted
- `logs`, `metrics`: how it is written, and how it is counted
- `health`: `/healthz`, `/readyz` and `/metrics`
- `in_flight`: the requests that are being answered now
- `app_keys`: where an app and a request keep their parts
"""
