"""Models on the same images: a leaderboard, charts and a page."""
