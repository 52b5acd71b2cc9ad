"""Speed and money of other trading environments beside ours; see README.md in this folder."""
