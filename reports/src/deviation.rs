//! Known deviations: what an implementation is known to do otherwise than promised, as data.

use serde::{Deserialize, Serialize};

/// A check that is expected to fail on an implementation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The id of the check.
    pub check: String,
    /// What the implementation does instead, in one sentence.
    pub reason: String,
    /// Where that can be read: an issue, a line of its source, its documentation.
    pub source: String,
    /// It does not always show: the check may pass as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sometimes: bool,
}
