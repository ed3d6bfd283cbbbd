"""Ways to reach the mock: ASGI, an httpx transport in process, and a server on a socket."""
