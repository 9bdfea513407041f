"""The interface of goTalk: accounts, friends, sync by long polling, and its pages."""
