//! The built-in service proxy of one node: what services and endpoint slices say, as packet rules.

mod dataplane;

pub use dataplane::{At, Backends, Dataplane, Desired, Endpoint, Frontend, Protocol};
