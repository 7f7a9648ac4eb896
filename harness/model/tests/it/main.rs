//! The model's own tests: what it says of given worlds, and laws that hold for every world.

mod laws;
mod listings;
mod routes;
