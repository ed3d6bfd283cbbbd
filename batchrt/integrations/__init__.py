"""Bridges to other libraries, each for the extra of its name; `import batchrt` loads none of them."""
