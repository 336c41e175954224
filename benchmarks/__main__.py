"""`make bench`: the quick ones, in one run."""

from benchmarks import bounds_speed, pgd_speed, startup

startup.main()
pgd_speed.main()
bounds_speed.main()
