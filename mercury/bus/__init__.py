"""How the nodes that share a store hear of each other: through Redis, through MySQL's lease, or not at all."""
