"""The description of an API, as JSON Schema and as TypeScript."""
