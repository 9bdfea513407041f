"""What tests are made with: nodes, servers, clients, proxies. Each file is named for what it gives."""
