"""From a user's function to one compiled call: signatures, the registry, middleware, the context."""
