"""What a policy means: effective rules, ordering, and the reference verdict that every dataplane is held to."""
