"""How nodes that share a store reach each other: by Redis, only by leases in MySQL, or not at all (a lone node)."""
