"""What is learned: noise schedules, networks, training modules and priors."""
