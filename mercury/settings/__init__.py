"""Every setting, declared once: its type, limits and default, where its value comes from, its flag."""
