"""One quota for several processes: a coordinator's state, leases on it, and carriers between the two."""
