"""Studies of a trained agent that go beyond one backtest."""
