"""Hot paths beside their peers, each in one run, as ratios; and the long comparisons whose results are kept."""
