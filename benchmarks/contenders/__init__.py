"""The contenders: libraries and hand-written code that do the same work, each in the manner of its documentation."""
