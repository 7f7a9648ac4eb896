//! The reference semantics of Kubernetes Services: objects in, promises out.
//!
//! Pure functions of a [`World`] (API objects at one instant) and [`Promises`] (the version and
//! features held to) say what is promised:
//!
//! - [`endpoints`]: what Endpoints and EndpointSlices must show for one service;
//!   [`endpoints_object_matches`] and [`endpoint_slices_match`] compare it with what they do show;
//! - [`route`]: who may answer a connection from a [`Vantage`] to a [`Destination`];
//!   [`Route::allows`] compares it with what was [`Observed`];
//! - [`resolve`]: which records a name has, [`resolve_from`] after a pod's search path;
//!   [`Resolution::allows`] compares it with a [`Reply`];
//! - [`environment`]: the service variables a container gets; [`Environment::differences`]
//!   compares them with what it has;
//! - [`health`]: what a node answers on a service's health check port;
//! - [`ingress`]: who may answer an HTTP request that comes to an ingress controller, and
//!   [`certificates`] which Secret's certificate it must show;
//! - [`affinity_breaches`]: whether the answers a client got kept it with one backend.
//!
//! The answers are *sets* of what is allowed. Where upstream leaves an implementation free, the
//! answer says so ([`Route::NotPromised`], [`Route::AtMost`], [`Route::Nobody`]) and why; every
//! answer carries the [`Citation`] it rests on. No I/O, no clock, no async, no randomness.

mod affinity;
mod citation;
mod clusterip;
mod dns;
mod endpoints;
mod environment;
mod externalip;
mod health;
mod ingress;
mod listing;
mod nodeport;
mod podip;
mod ports;
mod promises;
mod reply;
mod route;
mod search;
mod selector;
mod vantage;
mod world;

pub use affinity::{AFFINITY_RULE, Members, Turn, affinity_breaches};
pub use citation::Citation;
pub use dns::{RecordType, Resolution, resolve};
pub use endpoints::{Conditions, Endpoint, Expected, ExpectedPort, endpoints};
pub use environment::{Environment, environment, service_variables};
pub use health::{Health, health};
pub use ingress::{IngressRequest, certificates, ingress};
pub use listing::{endpoint_slices_match, endpoints_object_matches};
pub use ports::{Protocol, UnknownProtocol};
pub use promises::{Promises, VersionError};
pub use reply::{Code, Promised, Record, Reply, Target};
pub use route::{Affinity, Backend, Observed, Route, Source, judge, route};
pub use search::{Lookup, resolve_from};
pub use vantage::{Destination, DestinationError, Vantage};
pub use world::{ObjectKey, Part, World, WorldError};
