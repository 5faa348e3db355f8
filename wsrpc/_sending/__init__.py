"""From a public call to the transport: requests, events, their order, and what waits while nothing can be sent."""
