"""The websockets library as a transport: dialling, listening, frames, heartbeat."""
