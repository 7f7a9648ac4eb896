//! The harness's clock: what every time in a history is measured on.

/// Now, in microseconds since the UNIX epoch; it never steps while the process lives.
pub(crate) fn now_us() -> i64 {
    i64::try_from(stickler_pods::clock::now_us()).unwrap_or(i64::MAX)
}
