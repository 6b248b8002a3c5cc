"""Where an app and a request keep their parts.

`request[CLIENT]` is who sent the request, as far as that can be trusted.  `middlewares` sets it
before any handler runs, on the original request as well as on its clones, so that the access line
and `on_response_prepare` see it too.
"""

from __future__ import annotations

from aiohttp import web

from storage import MongoStorage
from webapp.config.settings import Config
from webapp.database.client import Database
from webapp.http.in_flight import InFlight
from webapp.http.metrics import Metrics
from webapp.http.proxy import Client, ForwardedPolicy

CONFIG = web.AppKey("CONFIG", Config)
DATABASE: web.AppKey[Database] = web.AppKey("DATABASE")
STORAGE = web.AppKey("STORAGE", MongoStorage)
FORWARDED_POLICY = web.AppKey("FORWARDED_POLICY", ForwardedPolicy)
METRICS = web.AppKey("METRICS", Metrics)
IN_FLIGHT = web.AppKey("IN_FLIGHT", InFlight)

CLIENT = web.RequestKey("CLIENT", Client)
REQUEST_ID = web.RequestKey("REQUEST_ID", str)
