"""Which requests the mock admits: quotas, rate limits, the queue, outages and random refusals."""
