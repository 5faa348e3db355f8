"""HTTP on the side of a server: connections that requests carry, and URLs for calls, runs and rooms.

Nothing here knows a framework. An adapter makes an `HttpRequest` of each request of its framework, and sends the
`HttpResponse` that `HttpConnections` or `HttpRoutes` returns.
"""
