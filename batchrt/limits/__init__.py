"""When a request may be sent: quotas, the limits of providers, retries and outages."""
