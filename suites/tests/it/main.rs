//! Rules about the catalogue and the house, each of which says which line to change.

mod catalogue;
mod house;
mod readme;
mod upstream;
