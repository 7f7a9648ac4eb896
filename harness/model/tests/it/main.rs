//! The model's own tests: what it says of given worlds, and laws that hold for every world.

mod affinities;
mod environments;
mod healths;
mod ingresses;
mod laws;
mod listings;
mod names;
mod routes;
