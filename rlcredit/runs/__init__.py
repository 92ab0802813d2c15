"""What a training run leaves behind: its folder, its log, groups of runs, and the page that shows them."""
