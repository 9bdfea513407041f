"""The store on Redis: one Lua script does each write in one step."""
