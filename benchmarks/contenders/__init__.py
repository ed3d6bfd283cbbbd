"""The contenders: libraries and hand-written code, each used in the manner of its documentation."""
